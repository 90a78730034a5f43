"""Pictures from anywhere, in their order; what cannot be read is named, and nothing waits for ever."""

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from captioner.data import images
from captioner.data.images import UnreadableImage
from captioner.inference import pictures

PNG = tiny.photograph(1)
PIXELS = images.decode(PNG)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers: dict[str, Callable[[], object]] = {
            "/picture.png": lambda: self.answer(PNG, "image/png"),
            "/untyped": lambda: self.answer(PNG, "application/octet-stream"),
            "/page": lambda: self.answer(b"<!doctype html><p>Log in!", "text/html; charset=utf-8"),
            "/page.jpg": lambda: self.answer(b"<!doctype html><p>Log in!", "image/jpeg"),
            "/moved": lambda: self.move("/picture.png"),
            "/to-file": lambda: self.move(f"file://{Path(__file__).resolve()}"),
            "/to-ftp": lambda: self.move("ftp://127.0.0.1/picture.png"),
            "/in-circles": lambda: self.move("/in-circles"),
            "/large": lambda: self.answer(PNG + bytes(5000), "image/png"),
            "/short": lambda: self.answer(PNG, "image/png", len(PNG) + 9),
            "/hangs": self.hang,
            "/drips": self.drip,
            "/drips-headers": lambda: self.drip_headers(b"X: 1\r\n"),
            "/goes-on": lambda: self.drip_headers(b"HTTP/1.1 100 Continue\r\n\r\n", b""),
            "/nonsense": lambda: self.wfile.write(b"secret?\r\n\r\n"),
            "/odd-word": lambda: self.wfile.write(b"HTTP/1.1 404 secret of theirs\r\n\r\n"),
            "/odd-number": lambda: self.wfile.write(b"HTTP/1.1 777 secret of theirs\r\n\r\n"),
            "/odd-header": lambda: self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: secret\r\n\r\n" + PNG),
            "/moved-endlessly": self.move_endlessly,
            "/moved-with-user": lambda: self.move("http://secret:word@127.0.0.1:1/"),
            "/moved-to-5": lambda: self.move("/moved-to-4"),
            "/moved-to-4": lambda: self.move("/moved-to-3"),
            "/moved-to-3": lambda: self.move("/moved-to-2"),
            "/moved-to-2": lambda: self.move("/moved-to-1"),
            "/moved-to-1": lambda: self.move("/picture.png"),
            "/moved-to-6": lambda: self.move("/moved-to-5"),
        }
        with suppress(ConnectionError):
            answers.get(self.path, lambda: self.send_error(404))()

    def answer(self, body: bytes, kind: str, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def move(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.end_headers()

    def hang(self) -> None:
        self.server.released.wait(30)  # type: ignore[attr-defined]

    def drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        while not self.server.released.wait(0.02):  # type: ignore[attr-defined]
            self.wfile.write(b"x")

    def drip_headers(self, header: bytes, first: bytes = b"HTTP/1.1 200 OK\r\n") -> None:
        self.wfile.write(first)
        while not self.server.released.wait(0.02):  # type: ignore[attr-defined]
            self.wfile.write(header)

    def move_endlessly(self) -> None:
        self.send_response(302)
        self.send_header("Location", "/picture.png")
        self.end_headers()
        while not self.server.released.wait(0.001):  # type: ignore[attr-defined]
            self.wfile.write(bytes(1 << 16))

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        serving.released = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.released.set()  # type: ignore[attr-defined]
        serving.shutdown()
        thread.join()


# --- one picture -----------------------------------------------------------------------------------------------------


def test_a_picture_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(PNG)
    with Image.open(path) as opened:
        for form in (str(path), path, PNG, opened, np.asarray(opened)):
            assert not pictures.is_batch(form)
            np.testing.assert_array_equal(pictures.pixels(form), PIXELS)
    assert pictures.is_batch([path]) and pictures.is_batch(iter([path])) and pictures.is_batch(())


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("none.png", "none.png: there is no such file: give the path or the address of a picture"),
        (Path("none.png"), "none.png: there is no such file: give the path or the address of a picture"),
        ("folder", "folder: a folder: give the pictures in it"),
        ("pipe", "pipe: cannot be read (no file but a pipe, a socket or a device)"),
        ("/dev/zero", "/dev/zero: cannot be read (no file but a pipe, a socket or a device)"),
        ("huge.png", "huge.png: cannot be read (more than 535,048,576 bytes)"),
        ("no\0name", "no\0name: cannot be read (embedded null byte)"),
        ("x" * 300, f"{'x' * 300}: cannot be read (File name too long)"),
        (b"", "picture 7: the file is empty: put a picture in its place, or leave it out"),
        (b"%PDF-1.4", "picture 7: a PDF document: save its picture as JPEG or PNG"),
        (np.zeros((2, 2)), "picture 7: an array of float64 [2, 2]: allowed is uint8"),
        (5, "picture 7: received int: allowed are a path, an address, bytes, a Pillow image or an array"),
    ],
)
def test_what_cannot_be_read_is_named(
    picture: pictures.Picture, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(6 << 30)  # which takes no disk
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnreadableImage) as raised:
        pictures.pixels(picture, 7)
    assert str(raised.value).startswith(message)


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/picture.png", "/untyped", "/moved", "/moved-endlessly", "/moved-to-5"])
def test_a_picture_from_the_network(path: str, server: str) -> None:
    np.testing.assert_array_equal(pictures.pixels(server + path), PIXELS)
    np.testing.assert_array_equal(pictures.pixels(server.replace("http", "HTTP") + path), PIXELS)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/page", "the server answers an HTML page, no picture: give the address of the picture itself"),
        ("/page.jpg", "an HTML page: give the picture itself"),
        ("/gone", "the server answers 404 Not Found: check the address"),
        ("/odd-word", "the server answers 404 Not Found: check the address"),
        ("/odd-number", "the server answers 777: check the address"),
        ("/to-file", "the server answers 302, and leads on too often or to no http or https address: give the address"),
        ("/to-ftp", "cannot be fetched (unknown url type: ftp)"),
        ("/in-circles", "the server answers 302, and leads on too often"),
        ("/moved-to-6", "the server answers 302, and leads on too often"),
        ("/moved-with-user", "cannot be fetched (a user name in an address is not taken)"),
        ("/large", "more than 0 MB: scale it down"),
        ("/short", "the connection broke after"),
        ("/hangs", "no answer within 0.2 seconds: try again, or save the picture"),
        ("/drips", "not whole within 0.3 seconds: try again, or save the picture"),
        ("/drips-headers", "not whole within 0.3 seconds: try again, or save the picture"),
        ("/goes-on", "not whole within 0.3 seconds: try again, or save the picture"),
        ("/nonsense", "what answers there does not speak HTTP: check the address"),
        ("/a b", "cannot be fetched (URL can't contain control characters"),
    ],
)
def test_what_the_network_answers_otherwise(
    path: str, message: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "TIMEOUT", 0.2)
    monkeypatch.setattr(pictures, "DEADLINE", 0.3)
    monkeypatch.setattr(pictures, "LARGEST", 5000)
    with pytest.raises(UnreadableImage) as raised:
        pictures.pixels(server + path)
    assert str(raised.value).startswith(f"{server}{path}: {message}")
    assert "\n" not in str(raised.value) and "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "path", ["/picture.png", "/page", "/gone", "/nonsense", "/hangs", "/drips-headers", "/moved", "/moved-endlessly"]
)
def test_nothing_within_is_fetched_for_others(path: str, server: str) -> None:
    """Whoever asks learns the same, whatever is there."""
    for address in (server, server.replace("127.0.0.1", "localhost"), "http://127.0.0.1:1", "http://no.such.invalid"):
        with pytest.raises(UnreadableImage) as raised:
            pictures.fetch(address + path, public=True)
        assert str(raised.value) == (
            "no address of the public network, on the port 80 or 443: give base64 of the picture itself"
        )


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/x.png", "http://", "https://[::1", "http://no.such.invalid/x"])
def test_no_server(address: str) -> None:
    with pytest.raises(UnreadableImage, match="cannot be fetched") as raised:
        pictures.pixels(address)
    assert str(raised.value).startswith(f"{address}: ")


def test_other_schemes_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for address in (f"file://{__file__}", "ftp://127.0.0.1/x.png", "data:image/png;base64,AAAA"):
        with pytest.raises(UnreadableImage, match="there is no such file"):
            pictures.pixels(address)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_what_places_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.JPG", "b/a/1.png", "b/10.heic", "b/notes.txt", "b/.hidden.png", "b/.git/x.png", "odd.name"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("empty/deeper").mkdir(parents=True)
    found = list(pictures.expand(["odd.name", "b", "http://x/y", "empty", "none.png", "b/a"]))
    assert [str(each) for each in found] == [
        "odd.name",
        "b/10.heic",
        "b/2.JPG",
        "b/a/1.png",
        "http://x/y",
        "empty: a folder with no picture: give one that has files such as .jpg or .png",
        "none.png: there is no such file: give the path or the address of a picture",
        "b/a/1.png",
    ]
    assert [isinstance(each, UnreadableImage) for each in found] == [False] * 5 + [True] * 2 + [False]


def test_every_format_has_a_suffix() -> None:
    Image.init()
    for suffix, form in Image.registered_extensions().items():
        usual = suffix not in (".apng", ".jpc", ".jpf", ".jpx", ".j2c", ".pfm", ".dib", ".avifs")
        if form in images.FORMATS and usual:
            assert suffix in pictures.SUFFIXES, (suffix, form)


# --- ahead -----------------------------------------------------------------------------------------------------------


def test_batches_are_in_order_and_the_first_has_one() -> None:
    given = [tiny.photograph(number % 4) for number in range(12)]
    given[5] = b"%PDF"
    batches = list(pictures.prefetch(given, 4))
    assert [len(batch) for batch in batches] == [1, 4, 4, 3]
    flat = [each for batch in batches for each in batch]
    for number, each in enumerate(flat):
        if number == 5:
            assert isinstance(each, UnreadableImage) and str(each).startswith("picture 6: a PDF")
        else:
            assert isinstance(each, np.ndarray) and each[0, 0, 0] // 60 == number % 4


def test_errors_are_passed_on() -> None:
    [[found]] = pictures.prefetch([UnreadableImage("why")], 4)
    assert str(found) == "why"
    assert list(pictures.prefetch([], 4)) == []


def test_pictures_are_asked_for_as_they_are_needed() -> None:
    asked = 0

    def endless() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield PNG

    with closing(pictures.prefetch(endless(), 4)) as batches:
        taken = 0
        for _ in range(20):
            taken += len(next(batches))
            assert taken <= asked <= taken + 2 * 4 + 1


def test_one_picture_given_many_times() -> None:
    picture = Image.open(io.BytesIO(PNG))
    for batch in pictures.prefetch([picture] * 40, 16):
        for each in batch:
            np.testing.assert_array_equal(each, PIXELS)


def test_who_stops_early_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def slow(picture: pictures.Picture, number: int, *_: Any) -> np.ndarray:
        begun.append(number)
        time.sleep(0.01)
        return PIXELS

    monkeypatch.setattr(pictures, "pixels", slow)
    with closing(pictures.prefetch([PNG] * 1000, 200)) as batches:
        next(batches)
    assert len(begun) < 400
