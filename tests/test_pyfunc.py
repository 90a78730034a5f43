import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny

from captioner import pyfunc
from captioner.images import UnreadableImage
from captioner.pictures import LARGEST

SUN = tiny.photograph(0)
SUN_BASE64 = base64.b64encode(SUN).decode()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with pictures."""
    monkeypatch.chdir(tmp_path)
    for name in ("sun.png", "a sun.png", "sunshine"):
        Path(name).write_bytes(SUN)
    return tmp_path


class TestPicture:
    @pytest.mark.parametrize(
        "given",
        [
            SUN,
            SUN_BASE64,
            base64.encodebytes(SUN).decode(),
            f"data:image/png;base64,{SUN_BASE64}",
            f"DATA:;Base64,{SUN_BASE64}",
        ],
    )
    def test_bytes(self, given: str | bytes) -> None:
        assert pyfunc.picture(given, 1) == SUN

    @pytest.mark.parametrize("address", ["http://example.org/sun.png", "HTTPS://example.org/sun"])
    def test_addresses_are_left_to_the_captioner(self, address: str) -> None:
        assert pyfunc.picture(address, 1) == address

    def test_files(self, here: Path) -> None:
        assert pyfunc.picture("sun.png", 1) == Path("sun.png")
        assert pyfunc.picture(here / "sun.png", 1) == here / "sun.png"
        assert pyfunc.picture("sunshine", 1) == Path("sunshine")  # base64, by its letters
        assert pyfunc.picture((here / "a sun.png").as_uri(), 1) == here / "a sun.png"
        assert pyfunc.picture(f"file://localhost{here}/a%20sun.png", 1) == here / "a sun.png"

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (None, "picture 3: received NoneType: give base64 of a picture, a data:, http:, https: or file: address"),
            (1.5, "picture 3: received float: give"),
            ("", "picture 3: received '', neither base64 nor a file that is here: give"),
            ("nonsense", "picture 3: received 'nonsense', neither"),
            ("ftp://example.org/sun.png", "picture 3: received 'ftp://example.org/sun.png', neither"),
            ("none.png\0", "picture 3: received 'none.png\\x00', neither"),
            (SUN_BASE64[:-1], f"picture 3: received '{SUN_BASE64[:60]}...', neither"),
            (f"data:image/png,{SUN_BASE64}", "picture 3: no data:<type>;base64,<base64 of a picture>"),
            ("data:image/png;base64,%%", "picture 3: no data:<type>;base64,<base64 of a picture>"),
            ("file:///none.png", "picture 3: /none.png: there is no such file: give"),
            ("file://sun.png", "picture 3: file://sun.png: a file's address has three slashes, as in file:///a/b.jpg"),
            ("file:///dev/zero", "picture 3: /dev/zero: there is no such file: give"),
            ("/dev/zero", "picture 3: received '/dev/zero', neither"),
            (".", "picture 3: received '.', neither"),
        ],
    )
    def test_what_is_not_allowed(self, given: Any, message: str, here: Path) -> None:
        with pytest.raises(UnreadableImage) as raised:
            pyfunc.picture(given, 3)
        assert str(raised.value).startswith(message)
        assert "\n" not in str(raised.value)

    def test_a_file_is_no_larger_than_a_picture_from_the_network(self, here: Path) -> None:
        Path("large.png").touch()
        os.truncate("large.png", LARGEST)
        assert pyfunc.picture("large.png", 1) == Path("large.png")
        os.truncate("large.png", LARGEST + 1)
        with pytest.raises(UnreadableImage, match=r"picture 1: large.png: more than 64 MB: scale it down"):
            pyfunc.picture("large.png", 1)


class TestPredict:
    @pytest.fixture
    def loaded(self) -> pyfunc.PicturesToCaptions:
        def caption(pictures: list[Any]) -> list[Any]:
            if b"bad" in pictures:
                raise UnreadableImage("picture 2: a PDF document")
            return [SimpleNamespace(text=f"{type(each).__name__} {number}") for number, each in enumerate(pictures)]

        return pyfunc.PicturesToCaptions(SimpleNamespace(caption=caption))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "wrap", [list, tuple, lambda given: np.array(given, object), lambda given: pd.DataFrame({"picture": given})]
    )
    def test_a_caption_each(
        self, loaded: pyfunc.PicturesToCaptions, here: Path, wrap: Callable[[list[Any]], Any]
    ) -> None:
        assert loaded.predict(wrap([SUN, str(here / "sun.png"), SUN_BASE64])) == ["bytes 0", "PosixPath 1", "bytes 2"]

    def test_nothing(self, loaded: pyfunc.PicturesToCaptions) -> None:
        assert loaded.predict([]) == []

    @pytest.mark.parametrize(
        ("given", "message"),
        [([SUN, b"bad"], "picture 2: a PDF document"), ([SUN, 7], f"picture 2: received int: {pyfunc.ALLOWED}")],
    )
    def test_refused(self, loaded: pyfunc.PicturesToCaptions, given: list[Any], message: str) -> None:
        with pytest.raises(pyfunc.Refused) as raised:
            loaded.predict(given)
        assert str(raised.value) == raised.value.message == message
        assert raised.value.get_http_status_code() == 400
        raised.value.message = f"Failed to predict data '{given}'. Error: {message}"  # so does MLflow's server
        assert json.loads(raised.value.serialize_as_json())["message"] == message
