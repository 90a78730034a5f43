"""Signals end a process in order, at once or when it is ready."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from captioner.common.interruption import SIGNALS, Deferred, Interrupted, raising


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_raises_and_names_the_exit_code(number: int, code: int) -> None:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    with pytest.raises(Interrupted) as caught, raising():
        os.kill(os.getpid(), number)
    assert (caught.value.number, caught.value.exit_code, caught.value.left) == (number, code, "")
    assert {each: signal.getsignal(each) for each in SIGNALS} == before


def test_the_first_signal_waits_and_the_second_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    deferred = Deferred("one moment")
    with raising():
        with pytest.raises(Interrupted) as caught, deferred.handling():
            assert deferred.number is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert deferred.number == signal.SIGTERM
            assert capsys.readouterr().out == "one moment\n"
            os.kill(os.getpid(), signal.SIGINT)
        assert caught.value.number == signal.SIGINT
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_that_nobody_has_asked_about_is_not_lost() -> None:
    deferred = Deferred("one moment")
    deferred.left = "all of it"
    with pytest.raises(Interrupted) as caught, deferred.handling():
        os.kill(os.getpid(), signal.SIGTERM)
    assert (caught.value.number, caught.value.left) == (signal.SIGTERM, "all of it")


def test_a_signal_counts_though_nobody_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError

    deferred = Deferred("one moment")
    with pytest.raises(Interrupted), deferred.handling():
        monkeypatch.setattr("builtins.print", gone)
        os.kill(os.getpid(), signal.SIGTERM)
        assert deferred.number == signal.SIGTERM


def test_other_threads_leave_signals_alone() -> None:
    found = []

    def work() -> None:
        with raising():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.skipif(sys.platform != "linux", reason="the signal is Linux's")
def test_a_process_ends_with_the_one_that_started_it() -> None:
    child = "from captioner.common.interruption import end_with_parent; end_with_parent(); "
    child += "print('ready', flush=True); import time; time.sleep(60)"
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    process = subprocess.Popen([sys.executable, "-c", parent, child], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    (orphan,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.05)
