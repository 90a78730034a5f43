import base64
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import tiny

from captioner.common.errors import CaptionerError
from captioner.data.images import UnreadableImage
from captioner.inference import pictures
from captioner.inference.captioner import Captioner
from captioner.serving import pyfunc
from captioner.serving.pyfunc import Sources

SUN = tiny.photograph(0)
SUN_BASE64 = base64.b64encode(SUN).decode()
NOTHING = Sources()
EVERYTHING = Sources(urls=True, folder=Path("/"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of pictures, in a place with others, and with links that lead out of it."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("sun.png", "a sun.png", "sunshine", "../secret.png"):
        (folder / name).write_bytes(SUN)
    (folder / "link.png").symlink_to("../secret.png")
    (folder / "circle").symlink_to("circle")
    (folder / "inner.png").symlink_to("sun.png")
    os.mkfifo(folder / "pipe.png")
    return folder


class TestPicture:
    @pytest.mark.parametrize(
        "given",
        [
            SUN,
            SUN_BASE64,
            base64.encodebytes(SUN).decode(),
            f"data:image/png;base64,{SUN_BASE64}",
            f"DATA:;Base64,{SUN_BASE64}",
            f"data:image/png;base64,{quote(SUN_BASE64, safe='')}",
        ],
    )
    @pytest.mark.parametrize("sources", [NOTHING, EVERYTHING], ids=["bytes", "everything"])
    def test_bytes(self, given: str | bytes, sources: Sources) -> None:
        assert pyfunc.picture(given, 1, sources) == SUN

    @pytest.mark.parametrize(
        ("given", "why"),
        [
            (None, "received NoneType"),
            (1.5, "received float"),
            (["sun.png"], "received list"),
            ("", "no base64 of a picture (0 characters, too few for one)"),
            ("hello", "no base64 of a picture (5 characters, too few for one)"),
            ("aGVsbG8=", "no base64 of a picture (8 characters, too few for one)"),
            ("sun.png", "no base64 of a picture (7 characters, too few for one)"),
            ("pictures/../pictures/sun.png", "no base64 of a picture (28 characters, too few for one)"),
            ("/etc/passwd", "no base64 of a picture (11 characters, too few for one)"),
            ("ftp://example.org/sun.png", "no base64 of a picture (25 characters, too few for one)"),
            ("none.png\0", "no base64 of a picture (9 characters, too few for one)"),
            (
                f"{SUN_BASE64[:60]}?{SUN_BASE64[61:]}",
                "no base64 of a picture (other characters than A-Z, a-z, 0-9, + and /, with = at the end)",
            ),
            (
                f"{SUN_BASE64[:60]}={SUN_BASE64[61:]}",
                "no base64 of a picture (other characters than A-Z, a-z, 0-9, + and /, with = at the end)",
            ),
            (
                SUN_BASE64[:-1],
                f"no base64 of a picture ({len(SUN_BASE64) - 1:,} characters, where whole base64 has a multiple of 4)",
            ),
            (Path("sun.png"), "a file, and none of this name is read here"),
            ("file:///etc/passwd", "a file, and none of this name is read here"),
            ("FILE:/etc/passwd", "a file, and none of this name is read here"),
            ("file://127.0.0.1/etc/passwd", "a file, and none of this name is read here"),
            ("http://127.0.0.1/", "an address, and none is fetched here"),
            ("HTTPS://localhost:8080/a", "an address, and none is fetched here"),
        ],
    )
    def test_nothing_but_bytes_is_taken(
        self, given: Any, why: str, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(folder)
        with pytest.raises(UnreadableImage) as raised:
            pyfunc.picture(given, 3, NOTHING)
        assert str(raised.value) == (
            f"picture 3: {why}: give base64 of an encoded picture, plain or as data:<type>;base64,..."
        )

    @pytest.mark.parametrize("given", [f"data:image/png,{SUN_BASE64}", "data:image/png;base64,%%", "data:"])
    def test_an_address_with_other_data(self, given: str) -> None:
        with pytest.raises(UnreadableImage, match="picture 3: no data:<type>;base64,<base64 of a picture>"):
            pyfunc.picture(given, 3, EVERYTHING)

    @pytest.mark.parametrize("address", ["http://example.org/sun.png", "HTTPS://example.org/sun"])
    def test_addresses(self, address: str) -> None:
        assert pyfunc.picture(address, 1, Sources(urls=True)) == address

    @pytest.mark.parametrize(
        ("given", "name"),
        [
            ("sun.png", "sun.png"),
            ("./a sun.png", "a sun.png"),
            ("sunshine", "sunshine"),  # base64, by its letters
            ("inner.png", "sun.png"),
            ("FOLDER/sun.png", "sun.png"),
            (Path("sun.png"), "sun.png"),
            ("file://FOLDER/a%20sun.png", "a sun.png"),
            ("file://localhostFOLDER/sun.png", "sun.png"),
        ],
    )
    def test_files_of_the_folder(self, given: str | Path, name: str, folder: Path) -> None:
        given = given.replace("FOLDER", str(folder)) if isinstance(given, str) else given
        assert pyfunc.picture(given, 1, Sources(folder=folder)) == folder / name

    @pytest.mark.parametrize(
        "given",
        [
            "../secret.png",
            "link.png",
            "circle",
            "pipe.png",
            "none.png",
            ".",
            "x" * 300 + ".png",
            "FOLDER/../secret.png",
            "/etc/passwd",
            "/dev/zero",
            "/proc/self/environ",
            "file:///etc/passwd",
            "file://FOLDER/../secret.png",
            "file://FOLDER/%2e%2e/secret.png",
            "file://elsewhereFOLDER/sun.png",
            "file:",
        ],
    )
    def test_no_other_files(self, given: str, folder: Path) -> None:
        with pytest.raises(UnreadableImage) as raised:
            pyfunc.picture(given.replace("FOLDER", str(folder)), 3, Sources(folder=folder))
        assert str(raised.value).startswith("picture 3: ")
        assert str(raised.value).endswith(
            "give base64 of an encoded picture, plain or as data:<type>;base64,..., or a path in the folder of pictures"
        )
        assert str(folder) not in str(raised.value)

    def test_none_is_larger_than_pictures_from_the_network(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sources = Sources(folder=folder)
        monkeypatch.setattr(pyfunc, "LARGEST", len(SUN))
        for given in ("sun.png", SUN, SUN_BASE64):
            pyfunc.picture(given, 1, sources)
        monkeypatch.setattr(pyfunc, "LARGEST", len(SUN) - 3)
        for given in ("sun.png", SUN, SUN_BASE64, f"data:;base64,{SUN_BASE64}"):
            with pytest.raises(UnreadableImage, match=r"^picture 1: more than \d+ MB: scale it down$"):
                pyfunc.picture(given, 1, sources)


class TestSources:
    @pytest.mark.parametrize("value", [None, "", "0", " "])
    def test_nothing_of_itself(self, value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in (pyfunc.URLS, pyfunc.PATHS):
            monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(pyfunc.URLS, value)
        assert Sources.of_environment() == NOTHING

    def test_what_the_environment_allows(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder.parent / ".dvc").mkdir()
        (folder / "below").mkdir()
        monkeypatch.chdir(folder / "below")
        monkeypatch.setenv(pyfunc.URLS, "1")
        for place in ("pictures", str(folder), "below/../pictures/below/.."):
            monkeypatch.setenv(pyfunc.PATHS, place.replace("below/../", ""))
            assert Sources.of_environment() == Sources(urls=True, folder=folder.resolve())

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            (pyfunc.URLS, "maybe", "CAPTIONER_SERVE_URLS is 'maybe': set it to 1 to have addresses fetched, or unset"),
            (pyfunc.PATHS, "/no/such", "CAPTIONER_SERVE_PATHS is '/no/such', which is no folder: give one, or unset"),
            (pyfunc.PATHS, "/etc/passwd", "CAPTIONER_SERVE_PATHS is '/etc/passwd', which is no folder: give one, or"),
        ],
    )
    def test_what_it_cannot_say(self, name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, value)
        with pytest.raises(CaptionerError) as raised:
            Sources.of_environment()
        assert str(raised.value).startswith(message)


class TestPredict:
    @pytest.fixture
    def loaded(self) -> pyfunc.PicturesToCaptions:
        def caption(pictures: Iterable[np.ndarray]) -> list[Any]:
            return [SimpleNamespace(text=f"light {pixels[0, 0, 0]}") for pixels in pictures]

        return pyfunc.PicturesToCaptions(SimpleNamespace(caption=caption, pixels=pictures.pixels))  # type: ignore[arg-type]

    def test_a_model_that_sees_the_middle(self, model: Captioner, seeing: None) -> None:
        of_middle = replace(model, encoder=model.encoder | {"crop": "center"})
        for each, said in ((of_middle, tiny.SAID[1]), (model, tiny.SAID[3])):
            assert pyfunc.PicturesToCaptions(each).predict([tiny.wide(middle=1, sides=3)]) == [said]

    @pytest.mark.parametrize(
        "wrap", [list, tuple, lambda given: np.array(given, object), lambda given: pd.DataFrame({"picture": given})]
    )
    def test_a_caption_each(self, loaded: pyfunc.PicturesToCaptions, wrap: Callable[[list[Any]], Any]) -> None:
        given = [SUN, base64.b64encode(tiny.photograph(2)).decode(), SUN_BASE64]
        assert loaded.predict(wrap(given)) == ["light 20", "light 140", "light 20"]

    def test_a_file(self, loaded: pyfunc.PicturesToCaptions, folder: Path) -> None:
        loaded.sources = Sources(folder=folder)
        assert loaded.predict(["a sun.png", SUN]) == ["light 20", "light 20"]
        (folder / "words.png").write_text("root:x:0:0", "utf-8")
        with pytest.raises(pyfunc.Refused) as raised:
            loaded.predict(["sun.png", "words.png"])
        assert str(raised.value).startswith("picture 2: no picture (it is text): allowed are JPEG")

    @pytest.mark.parametrize(
        "address", ["http://127.0.0.1:1/x", "http://localhost/", "http://[::1]/", "http://2130706433/"]
    )
    def test_an_address_within(self, loaded: pyfunc.PicturesToCaptions, address: str) -> None:
        loaded.sources = Sources(urls=True)
        with pytest.raises(pyfunc.Refused) as raised:
            loaded.predict([SUN, address])
        assert str(raised.value) == (
            "picture 2: no address of the public network, on the port 80 or 443: give base64 of the picture itself"
        )

    def test_no_more_than_there_is_time_for(self, loaded: pyfunc.PicturesToCaptions) -> None:
        with pytest.raises(pyfunc.Refused, match=r"^received 10,000 pictures: give at most 1,000 at a time$"):
            loaded.predict([SUN] * 10_000)
        loaded.sources = Sources(urls=True)
        with pytest.raises(pyfunc.Refused, match=r"^received 33 addresses: give at most 32 at a time$"):
            loaded.predict(["http://127.0.0.1/"] * 33)

    def test_nothing(self, loaded: pyfunc.PicturesToCaptions) -> None:
        assert loaded.predict([]) == []

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([SUN, b"%PDF"], "picture 2: a PDF document: save its picture as JPEG or PNG"),
            ([SUN, 7], f"picture 2: received int: {NOTHING.allowed}"),
        ],
    )
    def test_refused(self, loaded: pyfunc.PicturesToCaptions, given: list[Any], message: str) -> None:
        with pytest.raises(pyfunc.Refused) as raised:
            loaded.predict(given)
        assert str(raised.value) == raised.value.message == message
        assert raised.value.get_http_status_code() == 400
        raised.value.message = f"Failed to predict data '{given}'. Error: {message}"  # so does MLflow's server
        assert json.loads(raised.value.serialize_as_json())["message"] == message

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"beam": 3}, "received params {'beam': 3}: none are taken, leave them out"),
            ({}, "received params: none are taken, leave them out"),  # what MLflow makes of those of a request
            ([1], "received params [1]: none are taken, leave them out"),
        ],
    )
    def test_params_are_refused(self, loaded: pyfunc.PicturesToCaptions, params: Any, message: str) -> None:
        with pytest.raises(pyfunc.Refused) as raised:
            loaded.predict([SUN], params)
        assert str(raised.value) == message
        assert raised.value.get_http_status_code() == 400

    def test_params_are_quoted_in_short(self, loaded: pyfunc.PicturesToCaptions) -> None:
        with pytest.raises(pyfunc.Refused) as raised:
            loaded.predict([SUN], {"b" * 100_000: "x" * 100_000})
        assert len(str(raised.value)) < 300
