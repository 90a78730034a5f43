import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tarballs import pack

from captioner.common.errors import CaptionerError
from captioner.data import shards
from captioner.data.shards import Sample, Shard


def shard(path: Path) -> Shard:
    return Shard(str(path), path.stat().st_size)


def samples(path: Path) -> list[Sample]:
    return list(shards.read(shard(path)))


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("0.jpg", b"a"), ("0.txt", b" a dog \n")], [Sample("0", b"a", ("a dog",))]),
        ([("0.json", b'{"caption": "a cat"}'), ("0.png", b"a")], [Sample("0", b"a", ("a cat",))]),
        ([("0.jpg", b"a"), ("0.json", b'{"caption": ["one", "two", 3, ""]}')], [Sample("0", b"a", ("one", "two"))]),
        ([("0.jpg", b"a"), ("0.json", b'{"caption": null}')], [Sample("0", b"a", ())]),
        ([("0.jpg", b"a"), ("0.json", b"[")], [Sample("0", b"a", ())]),
        ([("0.jpg", b"a"), ("0.json", b"[]")], [Sample("0", b"a", ())]),
        ([("0.jpg", b"a"), ("0.txt", b""), ("0.json", b'{"caption": "no"}')], [Sample("0", b"a", ())]),
        ([("0.jpg", b"a"), ("0.txt", "grüß".encode("latin-1"))], [Sample("0", b"a", ("gr��",))]),
        (
            [("0.JPG", b"a"), ("0.mask.png", b"b"), ("1.depth.png", b"c"), ("1.png", b"d")],
            [Sample("0", b"a", ()), Sample("1", b"d", ())],
        ),
        ([("._0.jpg", b"x"), ("__MACOSX/._0.jpg", b"x"), (".jpg", b"x"), ("0.jpg", b"a")], [Sample("0", b"a", ())]),
        ([("a.b/0.jpg", b"a"), ("a.b/1.jpg", b"b")], [Sample("a.b/0", b"a", ()), Sample("a.b/1", b"b", ())]),
        ([("0.txt", b"no picture"), ("1.jpg", b"a"), ("1.parquet", b"b")], [Sample("1", b"a", ())]),
        ([], []),
    ],
)
def test_members_of_one_key_are_a_sample(
    tmp_path: Path, members: Iterable[tuple[str, bytes]], expected: list[Sample]
) -> None:
    assert samples(pack(tmp_path / "0.tar", members)) == expected


@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9/_-]{0,119}[a-z0-9_-]", fullmatch=True), st.binary(max_size=2000), max_size=8
    )
)
def test_what_was_packed_comes_back(tmp_path_factory: pytest.TempPathFactory, pictures: dict[str, bytes]) -> None:
    path = pack(tmp_path_factory.mktemp("packed") / "0.tar", ((f"{name}.jpg", data) for name, data in pictures.items()))
    assert {each.key: each.picture for each in samples(path)} == pictures


def test_a_shard_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = pack(tmp_path / "0.tar", [(f"{number}.jpg", bytes([number]) * 700) for number in range(1, 4)]).read_bytes()
    end = 3 * (512 + 1024)
    cut = tmp_path / "cut.tar"
    for size in range(0, end, 256):
        cut.write_bytes(whole[:size])
        with pytest.raises(CaptionerError, match=r"cut\.tar is damaged or cut short after \d members \(.+\): get it"):
            samples(cut)
    cut.write_bytes(whole[: end + 512])
    assert len(samples(cut)) == 3


@pytest.mark.parametrize("place", [0, 100, 148, 512 + 1024 + 3])
def test_a_damaged_header_is_no_end(tmp_path: Path, place: int) -> None:
    path = pack(tmp_path / "0.tar", [(f"{number}.jpg", b"a" * 700) for number in range(3)])
    data = bytearray(path.read_bytes())
    data[place] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(CaptionerError, match="damaged or cut short"):
        samples(path)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(b"no archive" * 1000)
    with pytest.raises(CaptionerError, match="damaged"):
        samples(tmp_path / "0.tar")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz"):
        pass
    (tmp_path / "1.tar").write_bytes(packed.getvalue())
    with pytest.raises(CaptionerError, match="damaged"):
        samples(tmp_path / "1.tar")


def test_a_key_in_two_places_is_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "0.tar", [("0.jpg", b"a"), ("1.jpg", b"b"), ("0.txt", b"a dog")])
    with pytest.raises(CaptionerError, match="'0' in two places, with others between: pack it again in the order"):
        samples(path)


@pytest.mark.parametrize("behind", ["another archive", "a zeroed header", "one byte"])
def test_what_is_behind_the_end_is_no_rest(tmp_path: Path, behind: str) -> None:
    data = bytearray(pack(tmp_path / "0.tar", [(f"{number}.jpg", b"a" * 700) for number in range(3)]).read_bytes())
    if behind == "another archive":
        data += bytes(data)
    elif behind == "one byte":
        data += b"\0" * 30_000 + b"x"
    else:
        data[1536:2048] = bytes(512)
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(CaptionerError, match="there is something behind its end"):
        samples(tmp_path / "0.tar")


def header(kind: bytes, size: bytes, name: str = "0.jpg") -> bytes:
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf())
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "data",
    [
        header(tarfile.XHDTYPE, b"00000100000\0") + b"9" * 32768,
        header(tarfile.GNUTYPE_LONGNAME, b"00000100000\0") + b"a" * 32768,
        header(tarfile.XHDTYPE, b"00000000020\0") + b"0 a=b\n".ljust(512, b"\0"),
        header(tarfile.REGTYPE, b"\xff" * 11 + b"\x00"),
        b"".join(header(tarfile.GNUTYPE_LONGNAME, b"00000000002\0") + b"ab".ljust(512, b"\0") for _ in range(1500)),
    ],
    ids=["long PAX", "long name", "PAX record of no length", "negative size", "names of names"],
)
def test_hostile_headers_are_refused_at_once(tmp_path: Path, data: bytes) -> None:
    whole = pack(tmp_path / "0.tar", [("0.jpg", b"a")]).read_bytes()
    (tmp_path / "0.tar").write_bytes(data + whole)
    with pytest.raises(CaptionerError, match="damaged or cut short after 0 members"):
        samples(tmp_path / "0.tar")


def test_a_sparse_member_is_passed_over(tmp_path: Path) -> None:
    member = tarfile.TarInfo("0.jpg")
    member.size = 512
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "300000000"}
    member.pax_headers["GNU.sparse.name"] = "0.jpg"
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(b"0\n".ljust(512, b"\0")))
    assert samples(tmp_path / "0.tar") == []


def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=r"has '0\.jpg' twice: leave one out"):
        samples(pack(tmp_path / "0.tar", [("0.jpg", b"a"), ("0.jpg", b"b")]))


def test_names_with_dots_are_not_taken_for_one_picture(tmp_path: Path) -> None:
    path = pack(tmp_path / "0.tar", [(f"2024.01.0{number}.jpg", b"a") for number in range(3)])
    with pytest.raises(CaptionerError, match=r"no picture whose name is a key and an ending, but '2024.01.00.jpg'"):
        samples(path)


def test_a_link_is_what_it_leads_to(tmp_path: Path) -> None:
    pack(tmp_path / "store/abc", [("0.jpg", b"a")])
    (tmp_path / "crawl").mkdir()
    (tmp_path / "crawl/0.tar").symlink_to("../store/abc")
    for place in ("crawl", "crawl/*.tar", "crawl/0.tar"):
        assert [each.size for each in shards.find([str(tmp_path / place)])] == [10240]


def test_links_and_holes_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, kind in (("0.jpg", tarfile.SYMTYPE), ("1.jpg", tarfile.LNKTYPE), ("2.jpg", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert samples(tmp_path / "0.tar") == []


def test_a_large_member_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAXIMUM_PICTURE", 10)
    monkeypatch.setattr(shards, "MAXIMUM_TEXT", 10)
    path = pack(
        tmp_path / "0.tar", [("0.jpg", b"a" * 11), ("0.txt", b"a dog"), ("1.jpg", b"a" * 10), ("1.txt", b"a" * 11)]
    )
    assert samples(path) == [Sample("0", None, ("a dog",), "more than 10 bytes"), Sample("1", b"a" * 10, ())]


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(8, 12):
        pack(tmp_path / f"crawl/{number:03d}.tar", [])
    (tmp_path / "crawl/008.json").write_text("{}")
    (tmp_path / "crawl/more.tar").mkdir()

    def names(*places: str) -> list[str]:
        return [each.name for each in shards.find(places)]

    every = ["008", "009", "010", "011"]
    assert names("crawl") == names("crawl/") == names(str(tmp_path / "crawl")) == every
    assert names("crawl/*.tar") == names("crawl/{008..011}.tar") == names(f"file://{tmp_path}/crawl") == every
    assert names("crawl/010.tar", "crawl/{009..010}.tar") == ["010", "009"]
    assert shards.find(["crawl/008.tar"]) == [Shard(str(tmp_path / "crawl/008.tar"), 10240)]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("absent", "there is no absent: give the path"),
        ("absent/*.tar", "no shard at 'absent/\\*.tar'"),
        ("empty", "no shard at 'empty'"),
        ("{3..1}.tar", r"received the range \{3..1\}"),
        ("nothing://here", "cannot reach 'nothing://here' .*Protocol not known"),
        ("http://[bad/0.tar", "there is no http://.bad/0.tar"),
        ("a\0b", "cannot reach "),
        ("{1..99999999999999999999}.tar", "there is no {1..99999999999999999999}.tar"),
        ("odd", r"the name of '.*/odd/a\\x07.tar' cannot be printed"),
        ("one/0.tar", "two shards are called 0: .*/0.tar and .*/one/0.tar"),
    ],
)
def test_wrong_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("0.tar", "one/0.tar", "odd/a\a.tar"):
        pack(tmp_path / name, [])
    with pytest.raises(CaptionerError, match=message):
        shards.find(["0.tar", place])


def test_json_of_img2dataset(tmp_path: Path) -> None:
    said = {"caption": "a dog", "url": "http://a.example/0.jpg", "key": "0", "status": "success", "width": 640}
    path = pack(tmp_path / "00000.tar", [("000000000.jpg", b"a"), ("000000000.json", json.dumps(said).encode())])
    assert samples(path) == [Sample("000000000", b"a", ("a dog",))]
