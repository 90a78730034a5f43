"""Archives from a server with whims, from a mirror, and archives that cannot be trusted."""

import hashlib
import io
import socket
import stat
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from captioner.common.errors import CaptionerError
from captioner.data.archives import open_zip, read_member
from captioner.datasets import fetch as module
from captioner.datasets.fetch import fetch

CONTENT = bytes(range(256)) * 4000


class Server(ThreadingHTTPServer):
    """Serves `content` at any path, each request in its own way.

    `ways`: what happens to the next requests, in order; afterwards all goes well.
    `seen`: the Range header of each request.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ways: list[str] = []
        self.seen: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/some/where/archive.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep the test's output quiet."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.seen.append(asked)
        way = self.server.ways.pop(0) if self.server.ways else ""
        content = self.server.content
        if way.isdigit():
            self.send_error(int(way))
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and way != "ignore range" else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if way != "no length":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        sent = {"break": len(rest) // 2, "silence": len(rest) // 2, "stall": 0}.get(way, len(rest))
        self.wfile.write(rest[:sent])
        if way == "silence":
            time.sleep(0.5)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "PAUSE", 0.0)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def get(server: Server, directory: Path) -> Path:
    return fetch(server.url, dataset="some", directory=directory, mirror=None).path


def test_a_download_is_whole_and_done_once(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        path = get(server, tmp_path / "new")
        assert path == tmp_path / "new" / "archive.zip"
        assert path.read_bytes() == CONTENT
    assert server.seen == [None]
    assert sorted(path.name for path in path.parent.iterdir()) == ["archive.zip", "archive.zip.sha256"]


def test_what_was_downloaded_stays_what_it_was(server: Server, tmp_path: Path) -> None:
    path = get(server, tmp_path)
    kept = path.with_name("archive.zip.sha256").read_text()
    assert kept == f"{hashlib.sha256(CONTENT).hexdigest()}  archive.zip\n"
    path.write_bytes(CONTENT + b"more")
    with pytest.raises(CaptionerError, match=r"archive\.zip is not what was downloaded: .* delete both and run again"):
        get(server, tmp_path)
    path.unlink()  # and what comes instead is taken
    server.content = CONTENT + b"other"
    assert get(server, tmp_path).read_bytes() == server.content
    assert path.with_name("archive.zip.sha256").read_text() != kept


def test_an_archive_from_before_hashes_were_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.zip").write_bytes(CONTENT)
    get(server, tmp_path)
    assert server.seen == [] and (tmp_path / "archive.zip.sha256").is_file()


@pytest.mark.parametrize(
    "ways, requests",
    [
        (["break"], 2),
        (["break", "break", "break", "break", "break", "break"], 7),
        (["break", "ignore range"], 2),
        (["stall", "stall"], 3),
        (["503"], 2),
        (["429", "break", "500"], 4),
        (["no length"], 1),
    ],
    ids=str,
)
def test_a_whim_of_the_server_is_got_over(ways: list[str], requests: int, server: Server, tmp_path: Path) -> None:
    server.ways = list(ways)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert len(server.seen) == requests


def test_a_break_is_resumed_where_it_was(server: Server, tmp_path: Path) -> None:
    server.ways = ["break"]
    get(server, tmp_path)
    assert server.seen == [None, f"bytes={len(CONTENT) // 2}-"]


@pytest.mark.parametrize(
    "part, seen",
    [
        (CONTENT[:1000], ["bytes=1000-"]),
        (CONTENT, [f"bytes={len(CONTENT)}-"]),
        (CONTENT + b"of another file", [f"bytes={len(CONTENT) + 15}-", None]),
        (b"", [None]),
    ],
    ids=["begun", "whole", "too long", "empty"],
)
def test_a_part_of_an_earlier_run_is_used(part: bytes, seen: list[str | None], server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.zip.part").write_bytes(part)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.seen == seen


def test_a_server_that_always_breaks_is_given_up_and_the_part_kept(server: Server, tmp_path: Path) -> None:
    server.ways = ["break"] + ["stall"] * 50
    with pytest.raises(CaptionerError, match=r"cannot download http.*connection broke after .*CAPTIONER_MIRROR"):
        get(server, tmp_path)
    assert len(server.seen) == 1 + module.ATTEMPTS
    assert [path.name for path in tmp_path.iterdir()] == ["archive.zip.part"]
    server.ways = []
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_server_that_breaks_and_ignores_ranges_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "do_GET", always_half)
    with pytest.raises(CaptionerError, match="cannot download"):
        get(server, tmp_path)
    assert not (tmp_path / "archive.zip").exists()


def always_half(self: Handler) -> None:
    self.send_response(200)
    self.send_header("Content-Length", str(len(CONTENT)))
    self.end_headers()
    self.wfile.write(CONTENT[: len(CONTENT) // 2])


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_not_asked_again(status: int, server: Server, tmp_path: Path) -> None:
    server.ways = [str(status)] * 9
    with pytest.raises(CaptionerError, match=f"{status}.*CAPTIONER_MIRROR"):
        get(server, tmp_path)
    assert len(server.seen) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reason", [socket.gaierror(-3, "Temporary failure in name resolution"), TimeoutError("slow")])
def test_no_network_is_one_line_at_once(reason: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(*_: object, **__: object) -> None:
        raise urllib.error.URLError(reason)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(module.time, "sleep", lambda _: pytest.fail("waited for a network that is not there"))
    with pytest.raises(CaptionerError, match="CAPTIONER_MIRROR") as raised:
        fetch("https://example.org/a.zip", dataset="some", directory=tmp_path, mirror=None)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_no_broken_network(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archive.zip.part").symlink_to("/dev/full")
    with pytest.raises(CaptionerError, match=r"cannot write to .* \(No space left on device\)"):
        get(server, tmp_path)
    assert len(server.seen) == 1
    assert not (tmp_path / "archive.zip").exists()


def test_a_silent_server_is_asked_again(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    server.ways = ["silence"]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.seen == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_mirror_stands_in_for_the_network(tmp_path: Path) -> None:
    archive = tmp_path / "some" / "a b.zip"
    archive.parent.mkdir()
    archive.write_bytes(b"here")
    url = "https://example.org/x/a%20b.zip?download=1"
    assert fetch(url, dataset="some", directory=tmp_path / "unused", mirror=tmp_path).path == archive
    assert not (tmp_path / "unused").exists()


def test_a_mirror_without_the_archive_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=r"no .*some/a\.zip: put https://example.org/a\.zip there, or unset"):
        fetch("https://example.org/a.zip", dataset="some", directory=tmp_path, mirror=tmp_path)


def archive_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_an_intact_archive_opens(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(archive_of({"a/b..c.jpg": b"1", "ü.jpg": b"2"}))
    with open_zip(path) as archive:
        assert [read_member(archive, name) for name in archive.namelist()] == [b"1", b"2"]


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_archive_is_named(share: float, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    whole = archive_of({f"{number}.jpg": CONTENT[:1000] for number in range(20)})
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CaptionerError, match=r"a\.zip is damaged or cut short .*: delete it and run again"):
        open_zip(path)


def test_an_absent_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=r"there is no .*a\.zip"):
        open_zip(tmp_path / "a.zip")


def test_a_folder_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match="cannot read"):
        open_zip(tmp_path)


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "a\\..\\b", "C:/a", "c:a", "..", "a/.."])
def test_members_that_climb_out_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(archive_of({"fine.jpg": b"", name: b""}))
    with pytest.raises(CaptionerError, match="leads out of the archive"):
        open_zip(path)


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(CaptionerError, match="'link', which leads out"):
        open_zip(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_with_damaged_bytes_is_an_error_of_the_archive(compression: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a.jpg", CONTENT[:5000])
    data = bytearray(path.read_bytes())
    data[60:90] = b"x" * 30
    path.write_bytes(data)
    with (
        open_zip(path) as archive,
        pytest.raises(CaptionerError, match=r"a\.zip is damaged or cut short .*: delete it"),
    ):
        read_member(archive, "a.jpg")


def test_an_absent_member_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(archive_of({"a.jpg": b""}))
    with open_zip(path) as archive, pytest.raises(CaptionerError, match=r"has no member b\.jpg"):
        read_member(archive, "b.jpg")
