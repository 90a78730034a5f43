"""Members of archives are whole, or refused in one line."""

import zipfile
from pathlib import Path

import pytest

from captioner.common.errors import CaptionerError
from captioner.data import archives
from captioner.data.archives import open_zip, read_member

CONTENT = b"a picture " * 500
COMPRESSIONS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


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


def test_a_member_that_says_it_is_huge_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAXIMUM_BYTES", len(CONTENT))
    with open_zip(packed(tmp_path)) as archive:
        read_member(archive, "one.png")
        archive.getinfo("one.png").file_size = 4 << 30
        with pytest.raises(CaptionerError, match=r"the member 'one\.png' of 4,294,967,296 bytes: at most 5,000 are"):
            read_member(archive, "one.png")
