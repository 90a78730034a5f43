"""What stands between MLflow's server and the model, without a server."""

import threading

import pytest

from captioner.common.errors import CaptionerError
from captioner.serving import guard, model_server
from captioner.serving.model_server import HOSTS, Refused


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("", []),
        ("a.example.org", ["a.example.org"]),
        ("A.example.org, 10.0.0.5,fe80::1 *", ["a.example.org", "10.0.0.5", "fe80::1", "*"]),
    ],
)
def test_further_names(said: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOSTS, said)
    assert model_server._further_hosts() == names


@pytest.mark.parametrize("said", ["a.org:5001", "http://a.org", "[::1]", "a.org/x", "*.a.org", "a.org;b.org"])
def test_what_is_no_name(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOSTS, said)
    with pytest.raises(CaptionerError, match="give names of hosts, without ports and brackets"):
        model_server._further_hosts()


def test_nothing_is_done_for_who_has_left() -> None:
    asked: list[bytes] = []
    gone = threading.Event()
    token = guard._gone.set(gone)
    try:
        model_server._invocations(lambda data, *_: asked.append(data), b"1", "application/json")
        gone.set()
        with pytest.raises(Refused, match="nobody waits"):
            model_server._invocations(lambda data, *_: asked.append(data), b"2", "application/json")
    finally:
        guard._gone.reset(token)
    assert asked == [b"1"]
