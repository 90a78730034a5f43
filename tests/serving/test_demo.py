"""The demo answers each with what is theirs and refuses in one line; in a browser it can be used."""

import base64
import dataclasses
import hashlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from importlib import util
from pathlib import Path
from typing import Any
from urllib import error, request

import numpy as np
import pandas as pd
import pytest
import tiny
import uvicorn
from browser import LEFT, RIGHT, TAB, Browser
from checkout import ROOT
from fastapi.testclient import TestClient
from PIL import Image
from rounding import tolerance
from typer.testing import CliRunner

from captioner.cli import app as cli
from captioner.common.errors import CaptionerError
from captioner.common.ports import reserve
from captioner.data import images, store
from captioner.data.dataset import Dataset
from captioner.inference.captioner import Alternative, Captioner
from captioner.search.caption import Caption
from captioner.serving import demo
from captioner.serving.demo import SIDE, Settings, answer, application, crop_of, named, sample_pictures


class Fake:
    """Says how light a picture is and how it searched, looks at one place a word, and notices being called twice."""

    def __init__(self, attention: str = "dot", first: int = 0):
        self.params = {"attention": attention}
        self.encoder: dict[str, Any] = {}
        self.first = first  # place it looks at for the first word; for the next ones, those after
        self.go_on = threading.Event()
        self.go_on.set()
        self.began = threading.Semaphore(0)
        self.seen: list[int] = []
        self._alone = threading.Lock()

    def pixels(self, picture: bytes) -> np.ndarray:
        return images.decode(picture)

    def caption(self, pixels: np.ndarray, beam: int) -> Caption:
        assert self._alone.acquire(blocking=False), "two at once"
        self.began.release()
        assert self.go_on.wait(20)
        self.seen.append(int(pixels[0, 0, 0]))
        self._alone.release()
        return self._said(["grey", str(pixels[0, 0, 0]), "beam", str(beam)])

    def samples(self, pixels: np.ndarray, samples: int, temperature: float) -> list[Caption]:
        drawn = [self._said(["drawn", str(number), str(temperature)]) for number in range(samples - 1)]
        return [self.caption(pixels, 3), *drawn]

    def alternatives(self, pixels: np.ndarray, words: Sequence[str], most: int = 5) -> list[list[Alternative]]:
        others = [Alternative(f"other{number}", 0.1 / 2**number) for number in range(5)]
        return [[Alternative(word, 0.75), *others] for word in [*words, "<end>"]]

    def _said(self, words: list[str]) -> Caption:
        places = [(self.first + number) % 49 for number in range(len(words))]
        return Caption(words, -1.5, np.eye(49)[places].reshape(-1, 7, 7))


class TwoHeads(Fake):
    """Has a second head, which looks at the next place but one, and says that it has looked by half."""

    def _said(self, words: list[str]) -> Caption:
        one, other = super()._said(words).attention, np.roll(super()._said(words).attention, 2, axis=2)
        return Caption(words, -1.5, (one + other) / 2, np.stack([one, other], axis=1), np.full(len(words), 0.5))


def picture(level: int = 100, form: str = "PNG", size: tuple[int, int] = (40, 20), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (level,) * 3).save(buffer, form, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def client(*models: Any, pictures: Sequence[tuple[str, bytes]] = ()) -> TestClient:
    given = named([(f"model {number}", model) for number, model in enumerate(models or [Fake()])])
    return TestClient(application(given, pictures), base_url="http://127.0.0.1:7860")


@contextmanager
def served(*models: Any, pictures: Sequence[tuple[str, bytes]] = ()) -> Iterator[str]:
    """Serve on a port that is free, and yield the address."""
    app = application(named([("here", model) for model in models]), pictures)
    taken = reserve(0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def ask(address: str, data: bytes, query: str = "") -> tuple[int, dict[str, Any], Any]:
    try:
        with request.urlopen(request.Request(f"{address}/caption{query}", data), timeout=30) as response:
            return response.status, json.load(response), response.headers
    except error.HTTPError as refused:
        return refused.code, json.load(refused), refused.headers


# --- what models say -------------------------------------------------------------------------------------------------


def test_a_model_says_what_it_says_elsewhere(model: Captioner, seeing: None) -> None:
    data = tiny.photograph(1)
    told = json.loads(json.dumps(answer({"a": model}, data, Settings(beam=2))))
    (said,) = told["models"]
    (caption,) = said["captions"]
    expected = model.caption(data, 2)
    assert said["name"] == "a"
    assert caption["words"] == expected.words == tiny.SAID[1].split()
    assert caption["log_probability"] == pytest.approx(
        expected.log_probability,
        rel=0,
        abs=1e-4 + tolerance(tiny.TERMS, tiny.LARGEST),  # written with four decimals
    )
    assert np.array(caption["weights"]) == pytest.approx(
        expected.attention, rel=0, abs=1e-6 + tolerance(tiny.TERMS, tiny.LARGEST)
    )
    for word, place in zip([*expected.words, "<end>"], caption["alternatives"], strict=True):
        chances = [each["probability"] for each in place]
        assert chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1.001
        assert word in [each["word"] for each in place]


def test_drawn_captions_come_besides_and_none_twice(model: Captioner, seeing: None) -> None:
    # hotter than visitors may ask for, since this model knows its captions by heart
    told = answer({"a": model}, tiny.photograph(0), Settings.model_construct(samples=10, temperature=9.0))
    captions = [tuple(each["words"]) for each in told["models"][0]["captions"]]
    assert captions[0] == tuple(tiny.SAID[0].split())
    assert 1 < len(captions) == len(set(captions)) <= 11


def test_an_unlikely_word_is_among_the_alternatives() -> None:
    class Odd(Fake):
        def alternatives(self, pixels: np.ndarray, words: Sequence[str], most: int = 5) -> list[list[Alternative]]:
            likely = [Alternative(f"likely{number}", 0.1) for number in range(9)]
            return [[*likely, Alternative(word, 0.01)] for word in [*words, "<end>"]]

    told: Any = answer({"a": Odd()}, picture(7), Settings())  # type: ignore[dict-item]
    places = told["models"][0]["captions"][0]["alternatives"]
    for word, place in zip(["grey", "7", "beam", "3", "<end>"], places, strict=True):
        assert [each["word"] for each in place] == [*(f"likely{number}" for number in range(5)), word]


def test_several_models_see_the_same_picture() -> None:
    told = client(Fake("uniform"), Fake("dot")).post("/caption?beam=2", content=picture(50)).json()
    assert [(each["name"], each["captions"][0]["words"][1]) for each in told["models"]] == [
        ("uniform", "50"),
        ("dot", "50"),
    ]
    assert told["size"] == [40, 20]
    with Image.open(io.BytesIO(base64.b64decode(told["photograph"]))) as shown:
        assert shown.size == (40, 20)


@pytest.mark.parametrize(
    ("attentions", "names"),
    [
        (["dot"], ["dot"]),
        (["uniform", "dot"], ["uniform", "dot"]),
        (["dot", "uniform", "dot"], ["dot · place 0", "uniform", "dot · place 2"]),
    ],
)
def test_names_tell_models_apart(attentions: list[str], names: list[str]) -> None:
    models: Any = [(f"place {number}", Fake(attention)) for number, attention in enumerate(attentions)]
    assert list(named(models)) == names
    assert list(named(models).values()) == [model for _, model in models]


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "captions"),
    [
        ("", [["grey", "100", "beam", "3"]]),
        ("?beam=10", [["grey", "100", "beam", "10"]]),
        ("?samples=2&temperature=0.5", [["grey", "100", "beam", "3"], ["drawn", "0", "0.5"]]),
    ],
)
def test_settings_reach_the_model(query: str, captions: list[list[str]]) -> None:
    response = client().post(f"/caption{query}", content=picture())
    assert response.status_code == 200
    assert [each["words"] for each in response.json()["models"][0]["captions"]] == captions


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("beam=0", "received beam '0'; give a whole number from 1 to 10"),
        ("beam=11", "received beam '11'; give a whole number from 1 to 10"),
        ("beam=many", "received beam 'many'; give a whole number from 1 to 10"),
        ("samples=-1", "received samples '-1'; give a whole number from 0 to 10"),
        ("samples=1.5", "received samples '1.5'; give a whole number from 0 to 10"),
        ("temperature=0", "received temperature '0'; give a number from 0.1 to 2"),
        ("temperature=nan", "received temperature 'nan'; give a number from 0.1 to 2"),
        ("temperature=inf", "received temperature 'inf'; give a number from 0.1 to 2"),
        ("beams=3", "received 'beams', which nobody knows: there are beam, samples, temperature"),
    ],
)
def test_settings_out_of_bounds_are_told(query: str, told: str) -> None:
    response = client().post(f"/caption?{query}", content=picture())
    assert (response.status_code, response.json()) == (422, {"error": told})


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "the file is empty"),
        (b"these are words", "no picture (it is text): allowed are JPEG, "),
        (picture(200, size=(9_440, 9_440)), "too large, 9440 × 9440 pixels"),
        (picture()[:50], "a broken or truncated picture"),
        (bomb(), "too large, more than twice the 89,000,000 pixels"),
        (b"%PDF-1.7", "a PDF document: save its picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture, as telephones take: save it as JPEG"),
    ],
    ids=["empty", "words", "wide", "cut", "bomb", "pdf", "heic"],
)
def test_what_is_no_picture_is_told(data: bytes, told: str) -> None:
    response = client().post("/caption", content=data)
    assert response.status_code == 422
    assert response.json()["error"].startswith(told) and "\n" not in response.json()["error"]


def test_of_an_animation_the_first_frame_is_seen() -> None:
    frames = [Image.new("RGB", (8, 8), (level,) * 3) for level in (30, 200)]
    data = picture(30, "GIF", (8, 8), save_all=True, append_images=frames)
    told = client().post("/caption", content=data).json()
    assert told["models"][0]["captions"][0]["words"][:2] == ["grey", "30"]


def limit(monkeypatch: pytest.MonkeyPatch, **changes: int) -> None:
    monkeypatch.setattr(demo, "LIMITS", dataclasses.replace(demo.LIMITS, **changes))


def test_too_large_a_file_is_told_whether_announced_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, largest=1 << 20)
    asked = client()
    for content in (bytes((1 << 20) + 1), (bytes(1 << 18) for _ in range(5))):
        response = asked.post("/caption", content=content)
        assert response.status_code == 413
        assert response.json() == {"error": "a picture may have at most 1 MB"}


def test_test_pictures_are_given_as_they_are() -> None:
    asked = client(pictures=[("a.png", picture(1)), ("b.jpg", picture(2, "JPEG"))])
    response = asked.get("/pictures/1")
    assert (response.content, response.headers["content-type"]) == (picture(2, "JPEG"), "image/jpeg")
    for number in ("2", "-1"):
        response = asked.get(f"/pictures/{number}")
        assert (response.status_code, list(response.json())) == (404, ["error"])
    assert asked.get("/pictures/x").json() == {"error": "received number 'x'; give a whole number"}


def test_test_pictures_are_those_of_the_test_split(tmp_path: Path) -> None:
    assert sample_pictures(tmp_path) == []
    by_name = {f"{split}-{number:03d}.png": split for split in ("train", "test") for number in range(40)}
    data = {name: picture(number) for number, name in enumerate(by_name)}
    captions = pd.DataFrame([(name, split, "a picture") for name, split in by_name.items()])
    store.write(Dataset(captions.set_axis(["image", "split", "caption"], axis=1), data.items()), tmp_path)
    found = dict(sample_pictures(tmp_path))
    assert len(found) == demo.PICTURES
    assert all(by_name[name] == "test" and data[name] == given for name, given in found.items())


# --- many at once ----------------------------------------------------------------------------------------------------


def test_ten_at_once_are_answered_each_with_their_own() -> None:
    levels = [20 * number for number in range(10)]
    with served(Fake("uniform"), Fake("dot")) as address, ThreadPoolExecutor(10) as people:
        answers = list(people.map(lambda level: ask(address, picture(level)), levels))
    for level, (status, told, _) in zip(levels, answers, strict=True):
        assert status == 200
        assert [each["captions"][0]["words"][1] for each in told["models"]] == [str(level)] * 2
        with Image.open(io.BytesIO(base64.b64decode(told["photograph"]))) as shown:
            assert np.abs(np.asarray(shown, int) - level).max() <= 2


def test_too_many_at_once_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, waiting=2)
    slow = Fake()
    slow.go_on.clear()
    with served(slow) as address, ThreadPoolExecutor(3) as people:
        first = people.submit(ask, address, picture(1))
        assert slow.began.acquire(timeout=20)
        others = [people.submit(ask, address, picture(level)) for level in (2, 3)]
        refused = next(each for each in iter(lambda: [one for one in others if one.done()], None) if each)[0]
        status, told, headers = refused.result()
        assert (status, headers["Retry-After"]) == (503, "10")
        assert told["error"].startswith("2 others are waiting already")
        slow.go_on.set()
        assert [each.result()[0] for each in (first, *others) if each is not refused] == [200, 200]
        assert ask(address, picture(4))[0] == 200


def test_who_has_left_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Fake()
    slow.go_on.clear()
    with served(slow) as address, ThreadPoolExecutor(2) as people:
        first = people.submit(ask, address, picture(1))
        assert slow.began.acquire(timeout=20)
        data = picture(2)
        with upload(address, len(data), data):
            request.urlopen(address).read()  # by when the server has taken what came before
        request.urlopen(address).read()
        slow.go_on.set()
        assert first.result()[0] == 200
        assert ask(address, picture(3))[0] == 200
    assert slow.seen == [1, 3]


def upload(address: str, length: int, begins: bytes) -> socket.socket:
    """Begin to send a picture of that length."""
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(b"POST /caption HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % length + begins)
    return connection


def test_slow_pictures_take_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, waiting=2)
    with served(Fake()) as address, ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(upload(address, 1000, b"a"))
        assert ask(address, picture(1))[0] == 200


def test_pictures_that_come_at_once_take_so_much_memory_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture(1)
    limit(monkeypatch, together=5 * len(data) // 2)
    with served(Fake()) as address:
        with upload(address, 1 << 20, bytes(len(data))), upload(address, 1 << 20, bytes(len(data))):
            end = time.monotonic() + 10
            while (answer := ask(address, data))[0] == 200:  # until the server has taken what came before
                assert time.monotonic() < end
            status, told, headers = answer
            assert (status, headers["Retry-After"]) == (503, "10")
            assert told == {"error": "too much is being sent at once: try again in some 10 seconds"}
        end = time.monotonic() + 10
        while ask(address, data)[0] != 200:  # once they have left
            assert time.monotonic() < end


def test_who_leaves_while_a_picture_comes_leaves_no_trace(capfd: pytest.CaptureFixture[str]) -> None:
    with served(Fake()) as address:
        with upload(address, 1000, b"a"):
            request.urlopen(address).read()
        request.urlopen(address).read()
        assert ask(address, picture(1))[0] == 200
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err + captured.out


# --- strangers -------------------------------------------------------------------------------------------------------


def test_nothing_is_kept_by_browsers_and_the_page_talks_to_us_alone() -> None:
    asked = client(pictures=[("a.png", picture())])
    responses = [asked.get(path) for path in ("/", "/pictures/0", "/pictures/9", "/nothing")]
    responses += [asked.post("/caption", content=content) for content in (picture(), b"")]
    assert [each.status_code for each in responses] == [200, 200, 404, 404, 200, 422]
    for each in responses:
        assert each.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in each.headers
    policy = responses[0].headers["content-security-policy"]
    program = responses[0].text.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert f"script-src 'sha256-{digest}';" in policy
    assert "{{" not in responses[0].text


def test_names_of_pictures_are_text() -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    page = client(pictures=[(hostile, picture())]).get("/").text
    assert hostile not in page and page.count("</script>") == 2


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "169.254.1.1:7860"])
def test_under_another_name_nobody_is_answered(host: str) -> None:
    for method, path in (("GET", "/"), ("POST", "/caption")):
        assert client().request(method, path, headers={"Host": host}, content=picture()).status_code == 400


@pytest.mark.parametrize(
    ("site", "status"), [("same-origin", 200), ("none", 200), ("cross-site", 403), ("same-site", 403)]
)
def test_other_sites_pages_cannot_ask(site: str, status: int) -> None:
    assert client().post("/caption", headers={"Sec-Fetch-Site": site}, content=picture()).status_code == status


# --- the command -----------------------------------------------------------------------------------------------------


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["demo", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is in use, by a demo whose models are still being loaded."""
    with reserve(0) as taken:
        yield taken.getsockname()[1]


def test_without_a_model_one_is_told_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    free = reserve(0)
    number = str(free.getsockname()[1])
    free.close()
    (tmp_path / ".dvc").mkdir()
    expected = f"demo: There is no model in {tmp_path / 'models/captioner'}: make one with `dvc repro`.\n"
    assert call("--port", number) == (1, expected)
    assert call("--port", number, "--model", "x") == (1, "demo: There is no model in x: make one with `dvc repro`.\n")


def test_a_port_in_use_is_told(port: int) -> None:
    other = port + 1 if port < 65535 else port - 1
    expected = f"demo: Port {port} is in use: choose another, as in --port {other}.\n"
    assert call("--port", str(port)) == (1, expected)
    with pytest.raises(CaptionerError, match="in use"):
        reserve(port)


@pytest.mark.parametrize("arguments", [("--port", "0"), ("--port", "65536"), ("--port", "x"), ("photo.jpg",)])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    code, err = call(*arguments)
    assert code == 2 and "Usage: " in err


def test_without_its_packages_one_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    expected = "demo: fastapi is not installed: in the checkout, pip install -e '.[demo]' brings what this needs.\n"
    assert call() == (1, expected)


def test_models_and_pictures_of_the_checkout_are_served(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(demo, "serve", lambda *arguments: given.extend(arguments))
    monkeypatch.setattr("captioner.common.ports.reserve", nullcontext)
    monkeypatch.chdir(tmp_path)
    assert call("--model", "captioner", "--model", str(saved), "--port", "7999") == (0, "")
    models, pictures, taken = given
    assert list(models) == ["bahdanau · captioner", f"bahdanau · {saved}"]
    assert (pictures, taken) == ([], 7999)


def test_models_that_see_different_parts_of_a_picture_are_not_shown_together() -> None:
    middle = Fake("bahdanau")
    middle.encoder = {"image_size": 448, "crop": "center"}
    told: Any = answer({"a": middle}, picture(7, size=(300, 200)), Settings())  # type: ignore[dict-item]
    assert told["size"] == (SIDE, SIDE)
    with pytest.raises(CaptionerError, match=r"features.crop is dot: stretch, bahdanau: center"):
        crop_of({"dot": Fake(), "bahdanau": middle})  # type: ignore[dict-item]


def test_it_tells_its_address_serves_and_ends_with_ctrl_c() -> None:
    script = """
import types, captioner.serving.demo as demo
from captioner.data import images
from captioner.common.ports import reserve
class Model:
    encoder = {}
    pixels = staticmethod(images.decode)
    def caption(self, pixels, beam):
        words = [str(pixels[0, 0, 0])]
        return types.SimpleNamespace(words=words, described={"words": words})
    def alternatives(self, pixels, words, most=5):
        return [[], []]
demo.serve({"model": Model()}, [], reserve(0))
print("ended")
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline()
            assert line.startswith("The demo is at http://127.0.0.1:") and line.endswith(" (end with Ctrl-C)\n")
            assert ask(line.split()[4], picture(9))[1]["models"][0]["captions"][0]["words"] == ["9"]
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=30) == ("ended\n", "")
        finally:
            process.kill()
    assert process.returncode == 0


# --- in a browser ----------------------------------------------------------------------------------------------------


def said(browser: Browser, card: int = 0) -> str:
    script = "return [...document.querySelectorAll('.card')[arguments[0]].querySelectorAll('.caption')]"
    return browser.run(f"{script}.map(one => one.textContent).join('|')", card)


def place(seen: np.ndarray) -> int:
    """Number of the place, row by row, that is lit."""
    row, column = np.unravel_index(seen.argmax(), seen.shape)
    return 7 * int(7 * row / seen.shape[0]) + int(7 * column / seen.shape[1])


def test_heads_and_grounding(browser: Browser) -> None:
    with served(TwoHeads("heads"), Fake(), pictures=[("test.png", picture(200, size=(70, 70)))]) as address:
        _, told, _ = ask(address, picture())
        caption, plain = (model["captions"][0] for model in told["models"])
        assert np.array(caption["heads"]).shape == (4, 2, 7, 7) and caption["grounding"] == [0.5] * 4
        assert not {"heads", "grounding"} & plain.keys()

        browser.driver.get(address)
        browser.wait("performance.getEntriesByName('ready').length")
        browser.run("document.querySelector('#tests button').click()")
        browser.wait("document.querySelector('.card') && !document.querySelector('.word.coming')")
        heads = "return [...document.querySelectorAll('.card select')].map(one => one.checkVisibility())"
        assert browser.run(heads) == [True, False]
        for choice, looked in (("0", 1), ("1", 3)):
            browser.run("document.querySelector('.card select').value = arguments[0]", choice)
            browser.point("#cards > li:first-child .word", 1)
            assert place(browser.seen()) == looked
            assert browser.run("return document.querySelector('.look').textContent").endswith("· looked 50 %")
            browser.point("#file")
        assert not browser.driver.get_log("browser")


def test_in_a_browser(tmp_path: Path, browser: Browser) -> None:
    (tmp_path / "photo.png").write_bytes(picture(100, size=(70, 70)))
    (tmp_path / "paper.jpg").write_bytes(b"%PDF-1.7")
    models = Fake("uniform", 0), Fake("dot", 24)
    with served(*models, pictures=[("test.png", picture(200, size=(70, 70)))]) as address:
        browser.driver.get(address)
        browser.wait("performance.getEntriesByName('ready').length")
        upload = browser.driver.find_element("id", "file")

        # upload; each model's caption comes word by word, and then nothing is lit
        upload.send_keys(str(tmp_path / "photo.png"))
        browser.wait("document.querySelectorAll('.word.coming').length")
        browser.wait("document.querySelector('.card') && !document.querySelector('.word.coming')")
        browser.wait("!document.querySelector('.frame canvas')")
        assert [said(browser, card) for card in (0, 1)] == ["grey100beam3."] * 2
        assert browser.run("return [...document.querySelectorAll('.card h3')].map(one => one.textContent)") == [
            "uniform",
            "dot",
        ]

        # pointing at a word shows where each model looked for it, and what else it could have said
        browser.point("#cards > li:first-child .word", 2)
        assert [place(browser.seen(card)) for card in (0, 1)] == [2, 26]
        shown = "document.querySelectorAll('.card')[1].querySelector('.instead').innerText"
        assert "beam\n75.0 %\nother0\n10.0 %" in browser.wait(shown).replace("\n\n", "\n")
        browser.point("#file")
        browser.wait("!document.querySelector('.frame canvas') && !document.querySelector('.word.shown')")

        # by keyboard alone
        browser.run("document.getElementById('results').focus()")
        browser.press(TAB, RIGHT, RIGHT, LEFT)
        assert browser.run("return document.activeElement.textContent") == "100"
        assert [place(browser.seen(card)) for card in (0, 1)] == [1, 25]

        # settings ask again
        change = "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
        change += "for (const name of ['input', 'change']) one.dispatchEvent(new Event(name))"
        browser.run(change, "beam", "7")
        browser.wait("document.querySelector('.caption')?.textContent === 'grey100beam7.'")
        browser.run(change, "samples", "2")
        browser.wait("document.querySelectorAll('#cards > li:first-child .caption').length === 3")
        assert said(browser, 1) == "grey100beam7.|grey100beam3.|drawn01.0."
        assert not browser.driver.get_log("browser")

        # what is no picture is told, and takes the captions of the one before away
        upload.send_keys(str(tmp_path / "paper.jpg"))
        browser.wait("document.getElementById('wrong').textContent.startsWith('paper.jpg: a PDF document')")
        assert not browser.run("return document.querySelector('.card')")

        # a test picture, then one dropped and one pasted
        browser.run("document.querySelector('#tests button').click()")
        browser.wait("document.querySelector('.caption')?.textContent.startsWith('grey200')")
        assert not browser.run("return document.getElementById('wrong').textContent")
        for number, (kind, transfer) in enumerate((("DragEvent", "dataTransfer"), ("ClipboardEvent", "clipboardData"))):
            level = 60 + number
            browser.run(
                "const bytes = Uint8Array.from(atob(arguments[0]), one => one.charCodeAt(0));"
                "const held = new DataTransfer();"
                "held.items.add(new File([bytes], 'given.png', {type: 'image/png'}));"
                "const options = {bubbles: true, cancelable: true, [arguments[2]]: held};"
                f"document.body.dispatchEvent(new {kind}(arguments[1], options))",
                base64.b64encode(picture(level)).decode(),
                "drop" if kind == "DragEvent" else "paste",
                transfer,
            )
            browser.wait(f"document.querySelector('.caption')?.textContent.startsWith('grey{level}')")

        # on a telephone nothing sticks out
        browser.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        )
        browser.wait("innerWidth === 360")
        assert browser.run("return document.documentElement.scrollWidth") <= 360
        assert all(url.startswith((f"{address}/", "data:", "blob:")) for url in browser.requested())
