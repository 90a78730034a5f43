"""Members of archives are whole, or refused in one line."""

import tracemalloc
import zipfile
from pathlib import Path

import pytest

from captioner.common.errors import CaptionerError
from captioner.data import archives
from captioner.data.archives import open_zip, read_member

CONTENT = b"a picture " * 500
COMPRESSIONS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]


def packed(directory: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    path = directory / "images.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("one.png", CONTENT)
    return path


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_member_however_it_is_compressed(compression: int, tmp_path: Path) -> None:
    with open_zip(packed(tmp_path, compression)) as archive:
        assert read_member(archive, "one.png") == CONTENT
        with pytest.raises(CaptionerError, match=r"images\.zip has no member two\.png: delete"):
            read_member(archive, "two.png")


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("place", [0.1, 0.5])
def test_a_damaged_member_is_one_line(compression: int, place: float, tmp_path: Path) -> None:
    path = packed(tmp_path, compression)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("one.png").compress_size
    begin = 30 + len("one.png") + int(place * size)
    for number in range(begin, begin + 8):
        data[number] ^= 0xFF
    path.write_bytes(data)
    with open_zip(path) as archive, pytest.raises(CaptionerError, match="is damaged or cut short") as caught:
        read_member(archive, "one.png")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_is_unpacked_whole_is_refused(compression: int, tmp_path: Path) -> None:
    with (
        open_zip(packed(tmp_path, compression)) as archive,
        pytest.raises(CaptionerError, match="which is not deflated"),
    ):
        read_member(archive, "one.png")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_no_more_is_read_than_is_allowed(compression: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAXIMUM_BYTES", len(CONTENT))
    with open_zip(packed(tmp_path, compression)) as archive:
        assert read_member(archive, "one.png") == CONTENT
        monkeypatch.setattr(archives, "MAXIMUM_BYTES", len(CONTENT) - 1)
        with pytest.raises(CaptionerError, match=r"the member 'one\.png' of more than 4,999 bytes: get it from"):
            read_member(archive, "one.png")


def test_a_member_that_is_larger_than_it_says(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(50 << 20))
    with open_zip(path) as archive:
        archive.getinfo("bomb.png").file_size = 10
        tracemalloc.start()
        with pytest.raises(CaptionerError, match="is damaged or cut short"):
            read_member(archive, "bomb.png")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 5 << 20
