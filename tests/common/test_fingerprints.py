import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner.common import files
from captioner.common.fingerprints import FileHashes, combined

LONG_AGO = 10**9 * 1_000_000_000


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose content was read."""
    read: list[Path] = []
    original = files.sha256

    def sha256(path: Path) -> str:
        read.append(path)
        return original(path)

    monkeypatch.setattr(files, "sha256", sha256)
    return read


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two files that were written long before they are looked at."""
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path in paths:
        path.write_text(path.name)
    later = max(path.stat().st_ctime_ns for path in paths) + 60 * 10**9
    monkeypatch.setattr("time.time_ns", lambda: later)
    return paths


def look(tmp_path: Path, paths: list[Path]) -> dict[Path, str]:
    hashes = FileHashes(tmp_path / "cache/hashes.json")
    found = hashes.of(paths)
    hashes.save()
    return found


def test_what_did_not_change_is_read_once(tmp_path: Path, old: list[Path], hashed: list[Path]) -> None:
    first = look(tmp_path, old)
    assert first == {path: files.sha256(path) for path in old}
    hashed.clear()
    assert look(tmp_path, old) == first
    assert hashed == []


def test_a_touched_file_is_read_again_and_its_hash_is_the_same(
    tmp_path: Path, old: list[Path], hashed: list[Path]
) -> None:
    first = look(tmp_path, old)
    os.utime(old[0], ns=(LONG_AGO, LONG_AGO))
    hashed.clear()
    assert look(tmp_path, old) == first
    assert hashed == [old[0]]


def test_a_change_that_keeps_size_and_time_is_noticed(tmp_path: Path, old: list[Path]) -> None:
    first = look(tmp_path, old)
    before = old[0].stat()
    old[0].write_text("A.txt")
    os.utime(old[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    second = look(tmp_path, old)
    assert second[old[0]] != first[old[0]] and second[old[1]] == first[old[1]]


def test_a_file_just_written_is_read_again(tmp_path: Path, hashed: list[Path]) -> None:
    path = tmp_path / "new.txt"
    path.write_text("new")
    look(tmp_path, [path])
    look(tmp_path, [path])
    assert hashed == [path, path]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', "null"])
def test_a_damaged_cache_only_costs_time(content: str, tmp_path: Path, old: list[Path]) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/hashes.json").write_text(content)
    assert look(tmp_path, old) == {path: files.sha256(path) for path in old}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        look(tmp_path, [tmp_path / "absent"])


@given(st.lists(st.tuples(st.text(), st.text(alphabet="0123456789abcdef", min_size=1)), unique=True), st.randoms())
def test_order_does_not_matter_and_every_name_and_hash_does(pairs: list[tuple[str, str]], random: object) -> None:
    shuffled = sorted(pairs, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert combined(pairs) == combined(shuffled)
    assert combined([*pairs, ("x", "0")]) != combined(pairs)
    if pairs:
        (name, one), *others = pairs
        assert combined([(f"{name} ", one), *others]) != combined(pairs) != combined([(name, f"{one}0"), *others])
