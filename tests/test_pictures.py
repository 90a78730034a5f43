"""Pictures from anywhere, in their order; what cannot be read is named, and nothing waits for ever."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from captioner import images, pictures
from captioner.images import UnreadableImage

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
            "/nonsense": lambda: self.wfile.write(b"what?\r\n\r\n"),
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
            assert not pictures.many(form)
            np.testing.assert_array_equal(pictures.pixels(form), PIXELS)
    assert pictures.many([path]) and pictures.many(iter([path])) and pictures.many(())


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("none.png", "none.png: there is no such file: give the path or the address of a picture"),
        (Path("none.png"), "none.png: there is no such file: give the path or the address of a picture"),
        ("folder", "folder: a folder: give the pictures in it"),
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
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnreadableImage) as raised:
        pictures.pixels(picture, 7)
    assert str(raised.value).startswith(message)


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/picture.png", "/untyped", "/moved"])
def test_a_picture_from_the_network(path: str, server: str) -> None:
    np.testing.assert_array_equal(pictures.pixels(server + path), PIXELS)
    np.testing.assert_array_equal(pictures.pixels(server.replace("http", "HTTP") + path), PIXELS)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/page", "the server answers an HTML page, no picture: give the address of the picture itself"),
        ("/page.jpg", "an HTML page: give the picture itself"),
        ("/gone", "the server answers 404 Not Found: check the address"),
        ("/to-file", "the server answers 302"),
        ("/to-ftp", "cannot be fetched (unknown url type: ftp)"),
        ("/in-circles", "the server answers 302"),
        ("/large", "more than 0 MB: scale it down"),
        ("/short", "the connection broke after"),
        ("/hangs", "no answer within 0.2 seconds: try again, or save the picture"),
        ("/drips", "not whole within 0.3 seconds: try again, or save the picture"),
        ("/nonsense", "cannot be fetched (what?"),
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
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/x.png", "http://", "https://[::1", "http://no.such.invalid/x"])
def test_no_server(address: str) -> None:
    with pytest.raises(UnreadableImage, match="cannot be fetched") as raised:
        pictures.pixels(address)
    assert str(raised.value).startswith(f"{address}: ")


def test_other_schemes_are_paths() -> None:
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
    found = list(pictures.found(["odd.name", "b", "http://x/y", "empty", "none.png", "b/a"]))
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
    batches = list(pictures.ahead(given, 4))
    assert [len(batch) for batch in batches] == [1, 4, 4, 3]
    flat = [each for batch in batches for each in batch]
    for number, each in enumerate(flat):
        if number == 5:
            assert isinstance(each, UnreadableImage) and str(each).startswith("picture 6: a PDF")
        else:
            assert isinstance(each, np.ndarray) and each[0, 0, 0] // 60 == number % 4


def test_errors_are_passed_on() -> None:
    [[found]] = pictures.ahead([UnreadableImage("why")], 4)
    assert str(found) == "why"
    assert list(pictures.ahead([], 4)) == []


def test_pictures_are_asked_for_as_they_are_needed() -> None:
    asked = 0

    def endless() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield PNG

    with closing(pictures.ahead(endless(), 4)) as batches:
        taken = 0
        for _ in range(20):
            taken += len(next(batches))
            assert taken <= asked <= taken + 2 * 4 + 1


def test_one_picture_given_many_times() -> None:
    picture = Image.open(io.BytesIO(PNG))
    for batch in pictures.ahead([picture] * 40, 16):
        for each in batch:
            np.testing.assert_array_equal(each, PIXELS)


def test_who_stops_early_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []

    def slow(picture: pictures.Picture, number: int) -> np.ndarray:
        begun.append(number)
        time.sleep(0.01)
        return PIXELS

    monkeypatch.setattr(pictures, "pixels", slow)
    with closing(pictures.ahead([PNG] * 1000, 200)) as batches:
        next(batches)
    assert len(begun) < 400
