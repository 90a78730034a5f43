"""Text in pictures: each character in a font that has it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from captioner.reports import lettering
from captioner.reports.attention_figure import attention_figure

FONTS = lettering.PLAIN.parent
NINE = "𝟿"  # what of matplotlib's fonts STIXGeneral has, and the plain one lacks
INK = (0, 0, 0)


def drawn(text: str, centred: bool = False) -> np.ndarray:
    picture = Image.new("RGB", (300, 60), "white")
    lettering.write(picture, (150 if centred else 20, 40), text, INK, 24, centred)
    return np.asarray(picture)


def has(*fonts: str) -> list[str]:
    return [str(FONTS / name) for name in fonts]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The font files that the system has: a list to fill."""
    cached = (lettering._font_of, lettering._say_lacking, lettering._system_fonts)
    fonts: list[str] = []
    monkeypatch.setattr(lettering, "findSystemFonts", lambda: fonts)
    for function in cached:
        function.cache_clear()
    yield fonts
    for function in cached:
        function.cache_clear()


@pytest.mark.parametrize("text", ["a dog runs", "Hütte, naïve: ½", "собака", "σκύλος", "", "a" + "\u0301" * 9, "\0"])
@pytest.mark.parametrize("centred", [False, True])
def test_what_the_plain_font_has_is_drawn_with_it_alone(
    text: str, centred: bool, system: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    system += has("STIXGeneral.ttf", "DejaVuSans-Bold.ttf")
    expected = Image.new("RGB", (300, 60), "white")
    place, anchor = ((150, 40), "ms") if centred else ((20, 40), "ls")
    ImageDraw.Draw(expected).text(place, text, INK, lettering.plain(24), anchor=anchor)
    np.testing.assert_array_equal(drawn(text, centred), expected)
    assert lettering.length(text, 24) == lettering.plain(24).getlength(text)
    assert capsys.readouterr().err == ""


def test_what_it_lacks_comes_from_a_font_of_the_system(system: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    system += has("LastResortHE-Regular.ttf", "STIXGeneral.ttf", "cmr10.ttf")
    parts = list(lettering._parts(f"a {NINE} {NINE}b"))
    assert parts == [("a ", lettering.PLAIN), (f"{NINE} {NINE}", FONTS / "STIXGeneral.ttf"), ("b", lettering.PLAIN)]
    assert capsys.readouterr().err == ""
    font, scale = lettering._at_size(FONTS / "STIXGeneral.ttf", 24)
    both = Image.new("RGB", (300, 60), "white")
    ImageDraw.Draw(both).text((20, 40), NINE, INK, font, anchor="ls")
    ImageDraw.Draw(both).text((20 + font.getlength(NINE), 40), "b", INK, lettering.plain(24), anchor="ls")
    assert scale == 1
    np.testing.assert_array_equal(drawn(f"{NINE}b"), both)
    columns = np.flatnonzero((drawn(f"{NINE}b", centred=True) < 255).any(axis=(0, 2)))
    assert abs((columns[0] + columns[-1]) / 2 - 150) < 3


def test_marks_and_joiners_stay_with_what_they_follow(system: list[str]) -> None:
    system += has("STIXGeneral.ttf")
    for text in (f"{NINE}\u0301\u200d{NINE}\ufe0f", "e\u0301\u200de\ufe0f"):
        [(part, _)] = lettering._parts(text)
        assert part == text


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("一只狗", "Chinese characters"),
        ("कुत्ता", "Devanagari characters"),
        ("สุนัข", "Thai characters"),
        ("한국어", "Hangul characters"),
        ("ひらがな", "Hiragana characters"),
        ("🐕🦮", "emoji and symbols"),
    ],
)
def test_a_script_that_no_font_has_is_named_once(
    text: str, script: str, system: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    system += [*has("cmr10.ttf"), str(Path(__file__))]  # of which one is no font
    for _ in range(2):
        assert (drawn(text) < 255).any()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"No font here has {script}, ") and "install" in line


def test_a_caption_without_spaces_stays_on_the_page(system: list[str]) -> None:
    system += has("STIXGeneral.ttf")
    figure = attention_figure(np.zeros((9, 9, 3), np.uint8), [NINE], np.ones((1, 1)), NINE * 300 + "\n" + "W" * 300)
    pixels = np.asarray(figure)
    assert (pixels[:, :10] == 255).all() and (pixels[:, -10:] == 255).all()
    shorter = attention_figure(np.zeros((9, 9, 3), np.uint8), [NINE], np.ones((1, 1)), f"{NINE}\nW")
    assert figure.height > shorter.height + 8 * 24


@pytest.mark.skipif(not features.check("raqm"), reason="this Pillow cannot lay out such scripts")
def test_letters_of_arabic_are_joined() -> None:
    joined, apart = (lettering.length(text, 24) for text in ("بيت", "ب\u200cي\u200cت"))
    assert joined < apart
