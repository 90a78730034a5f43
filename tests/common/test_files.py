"""Files are whole or absent."""

import hashlib
import json
import math
import os
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from captioner.common.errors import CaptionerError
from captioner.common.files import STALE, file_names, json_of, link, read_bytes, read_text, replacing, sha256


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("directory", [False, True])
def test_what_succeeds_takes_the_place(tmp_path: Path, directory: bool) -> None:
    path = tmp_path / "deep" / "results"
    for text in ("first", "second"):
        with replacing(path) as beside:
            if directory:
                beside.mkdir()
                beside /= "file"
            beside.write_text(text)
            assert not path.exists() or text == "second"
        assert (path / "file" if directory else path).read_text() == text
    assert names(path.parent) == ["results"]


@pytest.mark.parametrize("directory", [False, True])
def test_what_succeeds_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, directory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, on_disk = tmp_path / "results", list[tuple[str, bool]]()

    def fsync(number: int) -> None:
        (same,) = (each for each in [tmp_path, *tmp_path.rglob("*")] if each.stat().st_ino == os.fstat(number).st_ino)
        on_disk.append((same.name, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with replacing(path) as beside:
        if directory:
            (beside / "deep").mkdir(parents=True)
            (beside / "deep/file").touch()
        else:
            beside.touch()
    inside = [("file", False), ("deep", False)] if directory else []
    assert on_disk == [*inside, (beside.name, False), (tmp_path.name, True)]


@pytest.mark.parametrize("directory", [False, True])
def test_what_fails_leaves_what_was(tmp_path: Path, directory: bool) -> None:
    path = tmp_path / "results"
    path.write_text("before")

    def fail() -> None:
        with replacing(path) as beside:
            if directory:
                beside.mkdir()
                (beside / "half").touch()
            else:
                beside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "before"
    assert names(tmp_path) == ["results"]


@pytest.mark.parametrize("reaped", [True, False])
def test_what_a_killed_process_left_is_swept_up(reaped: bool, tmp_path: Path) -> None:
    path = tmp_path / "results"
    script = "import os, pathlib, sys\nfrom captioner.common.files import replacing\n"
    script += "with replacing(pathlib.Path(sys.argv[1])) as beside:\n    beside.write_text('half')\n    os._exit(9)\n"
    process = subprocess.Popen([sys.executable, "-c", script, str(path)])
    if reaped:
        assert process.wait() == 9
    else:  # its parent has not asked about it
        end = time.monotonic() + 10
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert len(names(tmp_path)) == 1
    with replacing(path) as beside:
        beside.write_text("whole")
    assert names(tmp_path) == ["results"]
    process.wait()


@pytest.mark.parametrize("name", ["x" * 255, "字" * 85, "[x]*" * 60])
def test_a_name_as_long_as_may_be(name: str, tmp_path: Path) -> None:
    for text in ("first", "second"):
        with replacing(tmp_path / name) as beside:
            beside.write_text(text)
    assert names(tmp_path) == [name] and (tmp_path / name).read_text() == "second"


def test_files_of_others_beside_stay(tmp_path: Path) -> None:
    (tmp_path / ".results.of-mine.part").touch()
    with replacing(tmp_path / "results") as beside:
        beside.touch()
    assert names(tmp_path) == [".results.of-mine.part", "results"]


@pytest.mark.parametrize(("age", "left"), [(0, True), (STALE + 60, False)])
def test_what_another_machine_writes_stays_until_it_is_stale(tmp_path: Path, age: float, left: bool) -> None:
    part = tmp_path / f".results.0000f-{os.getpid()}.part"
    part.touch()
    (tmp_path / ".results.0000f-1.part").mkdir()  # of a folder one cannot see whether it is written to
    os.utime(part, (time.time() - age,) * 2)
    with replacing(tmp_path / "results") as beside:
        beside.touch()
    assert names(tmp_path) == sorted([".results.0000f-1.part", *([part.name] if left else []), "results"])


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        ("test-00000.png", "test-00000.png.png"),
        ("garden/7.png", "garden_7.png.png"),
        ("a cat, asleep (2).jpg", "a cat, asleep (2).jpg.png"),
        ("Hütte 犬 कुत्ता.jpg", "Hütte 犬 कुत्ता.jpg.png"),
        ('a<b>c:d"e\\f|g?h*i#j%k', "a_b_c_d_e_f_g_h_i_j_k.png"),
        ("a\0b\nc\u202ed\udcffe", "a_b_c_d_e.png"),
        (".hidden.jpg", "_.hidden.jpg.png"),
        ("..", "_...png"),
        ("con.jpg", "_con.jpg.png"),
        ("LPT1", "_LPT1.png"),
        ("concert.jpg", "concert.jpg.png"),
        ("", "unnamed.png"),
        ("folder/" * 20 + "dog.jpg", "…" + ("folder_" * 20)[-108:] + "dog.jpg.png"),
        ("字" * 84 + ".jpg", "…" + "字" * 37 + ".jpg.png"),
    ],
)
def test_a_file_name_can_be_read(thing: str, name: str) -> None:
    assert list(file_names([thing], ".png")) == [name]


def test_the_first_keeps_its_name() -> None:
    assert list(file_names(["a_00.jpg", "a/00.jpg", "A/00.JPG", "00.jpg", "a_00.jpg-2"], ".png", ["00.jpg.png"])) == [
        *("a_00.jpg.png", "a_00.jpg-2.png", "A_00.JPG-3.png", "00.jpg-2.png", "a_00.jpg-2-2.png")
    ]


AWKWARD = st.text(st.sampled_from("aAäÄ\u0308ßsS1-2./\\:_ …字ſ\0\udcff") | st.characters(), max_size=300)


@given(st.lists(AWKWARD | st.sampled_from(["dog", "dog.png", "Dog", "a/dog", "a_dog", "dog-2"]), max_size=30))
@example(["é", "e\u0301", "É", "É", "ﬁ", "fi", "x" * 400, "y" + "x" * 399])
def test_file_names_are_two_files_everywhere(things: list[str]) -> None:
    found = list(file_names(things, ".png"))
    same = {unicodedata.normalize("NFD", name).casefold().upper() for name in found}
    assert len(same) == len(found) == len(things)
    for name in found:
        assert name.endswith(".png") and name[0] != "." and not set(name) & set('<>:"/\\|?*\0')
        assert len(f".{name}.old.00000-4194304.part".encode()) <= 255
        assert name.isprintable()


@pytest.mark.parametrize("same", [True, False], ids=["hard links", "no hard links"])
def test_a_second_place_has_the_same_content(same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    if not same:
        monkeypatch.setattr(os, "link", refused)
    (tmp_path / "one/inner").mkdir(parents=True)
    (tmp_path / "one/inner/file").write_text("content")
    link(tmp_path / "one", tmp_path / "other")
    link(tmp_path / "one/inner/file", tmp_path / "file")
    for place in (tmp_path / "other/inner/file", tmp_path / "file"):
        assert place.read_text() == "content"
        assert place.samefile(tmp_path / "one/inner/file") == same


def test_sha256_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"captions" * 100_000)
    assert sha256(path) == hashlib.sha256(b"captions" * 100_000).hexdigest()


def test_json_has_no_word_for_what_is_not_finite() -> None:
    value = {"a": [1.5, math.nan, (math.inf, -math.inf)], "é": {"b": None, "c": "NaN"}}
    assert json.loads(json_of(value), parse_constant=pytest.fail) == {
        "a": [1.5, None, [None, None]],
        "é": {"b": None, "c": "NaN"},
    }
    assert "é" in json_of(value, indent=2)


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_bytes(tmp_path / "file", 4)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="no file but a pipe, a socket or a device"):
            read_bytes(path, 5)
        with pytest.raises(CaptionerError, match="give a file of text that you may read"):
            read_text(path)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path, 5)
