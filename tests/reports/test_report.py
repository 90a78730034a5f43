"""The page holds what it is given, as text; a browser can search, order and look at it without a network."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import ESCAPE, LEFT, RIGHT, TAB, Browser
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from captioner.common.errors import CaptionerError
from captioner.reports import attention_figure
from captioner.reports.report import FULL_LIGHT, SIDE, Row, quantized_light, write

POSITIONS = 49
EVEN = np.full(POSITIONS, 1 / POSITIONS)
HOSTILE = "</script><img src=x onerror=\"document.title='broken'\"><!--<script>'`${1}{{title}}{{rows}}&amp;\u2028"
SCORES: dict[str, dict[str, Any]] = {
    "BLEU-4": {"value": 21.34, "low": 20.0, "high": 22.5, "signature": "BLEU-4|tok:ptb"},
    "CIDEr": {"value": 331.4, "low": 322.1, "high": 340.0, "signature": "CIDEr-D|n:4"},
    "distinct": {"value": 57.0},
}


class Page(HTMLParser):
    """What a browser's parser makes of a page: its elements, the text in each kind of them, and its rows."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._open: list[str] = []
        self.feed(path.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            self.text[tag] = self.text.get(tag, "") + data
        if self._open[-1:] == ["script"]:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(text) for attributes, text in self.scripts if "data-row" in attributes]

    @property
    def photographs(self) -> list[Image.Image]:
        texts = [text for attributes, text in self.scripts if attributes.get("type") == "text/plain"]
        return [Image.open(io.BytesIO(base64.b64decode(text, validate=True))) for text in texts]


def encoded(width: int = 8, height: int = 8, form: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (120, 120, 120)).convert(mode, palette=Image.Palette.ADAPTIVE).save(
        buffer, form, **options
    )
    return buffer.getvalue()


def looks(*positions: int) -> np.ndarray:
    """Attention to one position a word, to all alike where it is -1."""
    return np.stack([EVEN if position < 0 else np.eye(POSITIONS)[position] for position in positions])


def row(
    image: str = "a.png",
    caption: str = "a red dog",
    references: Sequence[str] = ("a dog", "the red dog"),
    scores: Mapping[str, float] | None = None,
    **changes: Any,
) -> Row:
    words = caption.split()
    given = {"picture": encoded(), "attention": np.tile(EVEN, (len(words), 1)), "words": words} | changes
    return Row(image=image, references=references, scores={"CIDEr": 50.0} if scores is None else scores, **given)


def page(path: Path, *rows: Row, title: str = "A title", **given: Any) -> Page:
    write(path / "page.html", title, given.pop("scores", SCORES), iter(rows or [row()]), **given)
    return Page(path / "page.html")


# --- what is in the page ---------------------------------------------------------------------------------------------


def test_rows_are_kept_in_their_order(tmp_path: Path) -> None:
    half: Any = np.float32(0.5)
    rows = [
        row("b.png", scores={"CIDEr": 12.345678, "BLEU-1": half}),
        row("a.png", "two dogs", ["x"], {"METEOR": 100.0}),
    ]
    kept = page(tmp_path, *rows).rows
    assert [one["image"] for one in kept] == ["b.png", "a.png"]
    assert [one["words"] for one in kept] == [["a", "red", "dog"], ["two", "dogs"]]
    assert [one["references"] for one in kept] == [["a dog", "the red dog"], ["x"]]
    assert [one["scores"] for one in kept] == [{"CIDEr": 12.35, "BLEU-1": 0.5}, {"METEOR": 100.0}]


def test_heads_and_grounding_are_kept_where_there_are_any(tmp_path: Path) -> None:
    heads = np.stack([looks(0, 8, 16), looks(24, 48, -1)], axis=1)  # [T, N, P]
    several = row(attention=heads.mean(axis=1), heads=heads, grounding=np.array([0.5, 0.12345, 1]))
    first, second = page(tmp_path, several, row("b.png")).rows
    assert first["grounding"] == [0.5, 0.123, 1.0]
    for head, stored in enumerate(first["heads"]):
        light = np.frombuffer(base64.b64decode(stored), np.uint8).reshape(3, POSITIONS)
        np.testing.assert_array_equal(light, quantized_light(heads[:, head]))
    assert not {"heads", "grounding"} & second.keys()


def test_title_remarks_and_scores_can_be_read(tmp_path: Path) -> None:
    made = page(tmp_path, title="Dots & stars", remarks=["It is no better than the blind decoder.", "1 < 2"])
    assert made.text["title"] == made.text["h1"] == "Dots & stars"
    assert "It is no better than the blind decoder." in made.text["body"] and "1 < 2" in made.text["body"]
    assert re.sub(r"\s", "", made.text["tbody"]) == ("BLEU-421.320.0to22.5100CIDEr331.4322.1to340.0500distinct57.0–100")
    assert "BLEU-4|tok:ptb" in made.text["details"] and "CIDEr-D|n:4" in made.text["details"]


@pytest.mark.parametrize(
    ("score", "told", "bands"),
    [
        ({"value": 50.0, "low": 40.0, "high": 60.0}, "50.040.0to60.0100", [("40.00", "20.00")]),
        ({"value": 50.0, "low": None, "high": None}, "50.0–100", []),
        ({"value": 50.0, "low": 40.0}, "50.0–100", []),
        ({"value": 50.0, "low": float("nan"), "high": 60.0}, "50.0–100", []),
        ({"value": float("nan"), "low": 40.0, "high": 60.0}, "–40.0to60.0", []),
        ({"value": -5.0, "low": -10.0, "high": 10.0}, "-5.0-10.0to10.0100", [("0.00", "10.00")]),
        ({"value": 100.0, "low": 100.0, "high": 101.0}, "100.0100.0to101.0200", [("50.00", "0.50")]),
        ({"value": 4000.5}, "4000.5–4001", []),
    ],
)
def test_intervals_are_drawn_on_their_scale(
    tmp_path: Path, score: dict[str, Any], told: str, bands: list[tuple[str, str]]
) -> None:
    made = page(tmp_path, scores={"S": score})
    assert re.sub(r"\s", "", made.text["tbody"]) == "S" + told
    assert [(at["x"], at["width"]) for tag, at in made.elements if tag == "rect" and at["class"] == "band"] == bands


def test_the_band_is_explained_where_there_is_one(tmp_path: Path) -> None:
    some, none = {"low": 1, "high": 3}, {"low": None, "high": None}
    assert page(tmp_path, scores={"S": {"value": 2} | some}).text["caption"] == (
        "In percent; the band is the 95 % interval."
    )
    assert page(tmp_path, scores={"S": {"value": 2} | none}).text["caption"] == "In percent."


def test_no_scores_no_intervals_no_remarks(tmp_path: Path) -> None:
    made = page(tmp_path, scores={})
    assert "No scores" in made.text["section"] and "table" not in made.text


def test_missing_scores_and_those_that_are_no_numbers_lack(tmp_path: Path) -> None:
    made = page(tmp_path, row(scores={}), row(scores={"CIDEr": float("nan"), "METEOR": float("inf"), "BLEU-1": 0.0}))
    assert [one["scores"] for one in made.rows] == [{}, {"BLEU-1": 0.0}]


def test_empty_caption_and_no_references(tmp_path: Path) -> None:
    (kept,) = page(tmp_path, row(caption="", references=[], attention=np.zeros((0, POSITIONS)))).rows
    assert (kept["words"], kept["light"], kept["references"]) == ([], "", [])


def test_no_rows_are_refused_and_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("before")
    with pytest.raises(CaptionerError, match="no rows"):
        write(tmp_path / "page.html", "title", SCORES, [])
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("page.html", "before")]


def test_equal_data_gives_equal_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    for path in (first, second):
        write(path, "title", SCORES, [row()], ["remark"])
    assert first.read_bytes() == second.read_bytes()


def test_rows_are_taken_one_by_one(tmp_path: Path) -> None:
    written = []

    def rows() -> Iterator[Row]:
        for number in range(30):
            yield row(f"{number}.png", picture=noise())
            (beside,) = tmp_path.iterdir()
            written.append(beside.stat().st_size)

    write(tmp_path / "page.html", "title", SCORES, rows())
    # all but what the file's buffer holds
    assert written[-1] - written[10] > 15 * 20_000


# --- markup ----------------------------------------------------------------------------------------------------------


def outline(made: Page) -> list[tuple[str, list[str]]]:
    return [(tag, sorted(attributes)) for tag, attributes in made.elements]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(HOSTILE)
@example("\udcff.png")
@example("<!--<script>")
@example("]]>\x00")
@given(st.text(alphabet=st.one_of(st.sampled_from("<>/!-&'\"`{}=\\"), st.characters()), min_size=1))
def test_any_text_is_text(tmp_path: Path, text: str) -> None:
    def made(one: str) -> Page:
        scores = {one: {"value": 1.0, "signature": one}}
        given = row(one, words=[one], attention=EVEN[None], references=[one], scores={one: 1.0})
        return page(tmp_path, given, title=one, remarks=[one], scores=scores)

    found = made(text)
    assert outline(found) == outline(made("harmless"))
    (kept,) = found.rows
    assert (kept["image"], kept["words"], kept["references"], kept["scores"]) == (text, [text], [text], {text: 1.0})
    # parsers differ in what ends a script: </script with a space or a slash after it does, too
    (data,) = (content for attributes, content in found.scripts if "data-row" in attributes)
    assert not set("<>&") & set(data)


def test_hostile_text_is_shown_as_it_is(tmp_path: Path) -> None:
    made = page(tmp_path, title=HOSTILE, remarks=[HOSTILE], scores={HOSTILE: {"value": 1.0, "signature": HOSTILE}})
    for tag in ("title", "h1", "th", "dd"):
        assert HOSTILE in made.text[tag]
    assert not [tag for tag, _ in made.elements if tag == "img"]


def test_nothing_of_the_page_lies_elsewhere(tmp_path: Path) -> None:
    made = page(tmp_path)
    for tag, attributes in made.elements:
        assert "src" not in attributes and (attributes.get("href") or "#").startswith("#"), tag
        assert not [name for name in attributes if name.startswith("on")]
    assert "://" not in (tmp_path / "page.html").read_text("utf-8")


def test_policy_forbids_the_network(tmp_path: Path) -> None:
    made = page(tmp_path)
    (policy,) = (at["content"] for _, at in made.elements if at.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data: blob:"
    assert set(rules) == {"default-src", "img-src", "style-src", "script-src", "base-uri", "form-action"}
    program = made.scripts[-1][1]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()}'" in rules["script-src"]


# --- photographs -----------------------------------------------------------------------------------------------------


def noise(side: int = SIDE) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("width", "height", "shown"),
    [
        (8, 8, (8, 8)),
        (224, 224, (224, 224)),
        (500, 375, (224, 168)),
        (375, 500, (168, 224)),
        (1, 1, (1, 1)),
        (3000, 2, (224, 1)),
        (1, 3000, (1, 224)),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_photographs_keep_their_shape_and_become_small(
    tmp_path: Path, width: int, height: int, shown: tuple[int, int], form: str
) -> None:
    made = page(tmp_path, row(picture=encoded(width, height, form)))
    (photograph,) = made.photographs
    assert photograph.format == "JPEG" and photograph.size == shown == tuple(made.rows[0]["size"])
    assert np.abs(np.asarray(photograph, np.int16) - 120).max() <= 3


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photographs_stand_upright(tmp_path: Path, form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    made = page(tmp_path, row(picture=encoded(40, 20, form, exif=exif)))
    assert made.photographs[0].size == ((20, 40) if orientation > 4 else (40, 20))
    assert not made.photographs[0].getexif()


@pytest.mark.parametrize(
    ("form", "mode"), [("PNG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "CMYK"), ("GIF", "P"), ("WEBP", "RGB")]
)
def test_every_kind_of_picture_can_be_shown(tmp_path: Path, form: str, mode: str) -> None:
    (photograph,) = page(tmp_path, row(picture=encoded(form=form, mode=mode))).photographs
    assert photograph.mode == "RGB" and np.abs(np.asarray(photograph, np.int16) - 120).max() <= 8


@pytest.mark.parametrize("picture", [b"", b"no picture", encoded(50, 50)[:60]])
def test_broken_pictures_are_named(tmp_path: Path, picture: bytes) -> None:
    with pytest.raises(CaptionerError, match=r"'b\.png'"):
        page(tmp_path, row(), row("b.png", picture=picture))
    assert not list(tmp_path.iterdir())


def test_a_thousand_of_the_heaviest_pictures_stay_under_60_mb(tmp_path: Path) -> None:
    words = "word " * 20
    rows = [row(caption=words, references=[words] * 5, picture=noise(400)) for _ in range(2)]
    page(tmp_path, rows[0])
    one = (tmp_path / "page.html").stat().st_size
    page(tmp_path, *rows)
    assert 1000 * ((tmp_path / "page.html").stat().st_size - one) + one < 60e6


# --- weights ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 14), st.floats(0.01, 30), st.integers(0, 2**32 - 1))
def test_light_is_kept_to_half_a_step(side: int, sharpness: float, seed: int) -> None:
    scores = np.exp(sharpness * np.random.default_rng(seed).normal(size=(3, side**2)))
    weights = scores / scores.sum(axis=1, keepdims=True)
    exact = weights / (weights + 1 / side**2)
    assert np.abs(quantized_light(weights) / FULL_LIGHT - exact).max() <= 0.5 / FULL_LIGHT + 1e-12


def test_even_weight_is_met_exactly_and_small_ones_survive() -> None:
    ratios = np.array([0, 1 / 500, 1 / 100, 1, 2])
    found = quantized_light(np.concatenate([ratios, np.zeros(POSITIONS - 5)])[None] / POSITIONS)[0, :5]
    assert found.dtype == np.uint8 and found.tolist() == [0, 1, 3, FULL_LIGHT // 2, 169]


def test_weights_are_in_the_page_word_by_word(tmp_path: Path) -> None:
    (kept,) = page(tmp_path, row(attention=looks(3, -1, 48).astype(np.float16))).rows
    stored = np.frombuffer(base64.b64decode(kept["light"]), np.uint8).reshape(3, POSITIONS)
    assert stored.argmax(axis=1).tolist() == [3, 0, 48]
    assert set(stored[1]) == {FULL_LIGHT // 2} and np.count_nonzero(stored[0]) == 1


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (EVEN, "one row a word"),
        (looks(1, 2), "one row a word"),
        (np.full((3, 50), 1 / 50), "square"),
        (np.zeros((3, 0)), "square"),
        (np.full((3, 49), 1.0), "distribution"),
        (np.full((3, 49), np.nan), "distribution"),
    ],
)
def test_wrong_attention_is_refused(tmp_path: Path, weights: np.ndarray, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        page(tmp_path, row(attention=weights))


# --- in a browser ----------------------------------------------------------------------------------------------------


def names(browser: Browser) -> list[str]:
    return browser.run("return [...document.querySelectorAll('.name')].map(one => one.textContent)")


def test_in_a_browser(tmp_path: Path, browser: Browser) -> None:
    side = attention_figure.TILE
    looked = looks(-1, 0, 24, 48)
    caption = "a wide look here"
    rows = [
        row(f"{number:03d}.png", caption, [f"number {number}"], {"CIDEr": float(number), "METEOR": -number / 2})
        for number in range(120)
    ]
    rows[60] = row("060.png", caption, ["a Naïve café"], picture=encoded(side, side), attention=looked)
    rows += [row(HOSTILE, words=[HOSTILE], attention=EVEN[None], references=[HOSTILE]), row("z.png", "", scores={})]
    page(tmp_path, *rows, title="Looks")
    browser.driver.get((tmp_path / "page.html").as_uri())
    browser.wait("performance.getEntriesByName('ready').length")

    # the median by CIDEr, then the best and the worst, then all, as far as the window reaches
    assert len(names(browser)) == 24
    for choice, first in {"best": "119.png", "worst": "000.png", "all": "119.png"}.items():
        browser.run("document.querySelector(`input[value=${arguments[0]}]`).click()", choice)
        assert names(browser)[0] == first
    assert len(names(browser)) == 40
    browser.run("document.getElementById('more').scrollIntoView()")
    browser.wait("document.querySelectorAll('.card').length === 80")

    # another score, and names
    change = "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
    change += "one.dispatchEvent(new Event('change'))"
    browser.run(change, "by", "METEOR")
    assert names(browser)[0] == "000.png"
    browser.run(change, "order", "name")
    assert names(browser)[:2] == ["000.png", "001.png"]

    # text that looks like markup
    browser.run("document.getElementById('search').focus()")
    browser.press("</script><img")
    browser.wait("document.querySelectorAll('.card').length === 1")
    assert names(browser) == [HOSTILE] and browser.driver.title == "Looks"

    # search without regard to case and accents, then the keyboard alone
    browser.run("document.getElementById('search').value = ''")
    browser.press("CAFE naive")
    browser.wait("document.querySelector('.name')?.textContent === '060.png'")
    assert "1 picture" in browser.run("return document.getElementById('found').textContent")
    browser.press(TAB)
    while browser.run("return !document.activeElement.matches('.word')"):
        browser.press(TAB)
    words = caption.split()
    expected = attention_figure.attention_figure(np.full((side, side, 3), 120, np.uint8), words, looked)
    for number, word in enumerate(words):
        assert browser.run("return document.activeElement.textContent") == word
        assert np.abs(browser.seen() - tile(expected, 1 + number)).max() <= 2
        browser.press(RIGHT)
    assert browser.run("return document.activeElement.textContent") == "here"
    browser.press(LEFT)
    assert browser.run("return document.activeElement.textContent") == "look"
    browser.press(ESCAPE)
    browser.wait("!document.querySelector('.frame canvas')")

    # one picture without scores, and without words
    page(tmp_path, row("only.png", "", scores={}), title="One")
    browser.driver.refresh()
    browser.wait("document.title === 'One' && performance.getEntriesByName('ready').length")
    assert names(browser) == ["only.png"]
    assert browser.run("return document.getElementById('found').textContent") == "1 picture."
    assert browser.run("return document.getElementById('show').disabled")
    assert browser.run("return document.querySelector('.caption').textContent") == "The model said nothing."

    assert all(url.startswith(("file:", "data:", "blob:")) for url in browser.requested())
    assert not browser.driver.get_log("browser")


def test_heads_and_grounding_in_a_browser(tmp_path: Path, browser: Browser) -> None:
    side = attention_figure.TILE
    heads = np.stack([looks(0, 8), looks(24, 48)], axis=1)  # [T, N, P]
    given = {"attention": heads.mean(axis=1), "heads": heads.reshape(2, 2, 7, 7), "grounding": np.array([0.25, 1.0])}
    page(tmp_path, row(caption="two looks", picture=encoded(side, side), **given), title="Heads")
    browser.driver.get((tmp_path / "page.html").as_uri())
    browser.wait("performance.getEntriesByName('ready').length")
    offered = browser.run("return [...document.getElementById('head').options].map(one => one.textContent)")
    assert offered == ["mean of the heads", "head 1 of 2", "head 2 of 2"]
    picture = np.full((side, side, 3), 120, np.uint8)
    for choice, weights in {"-1": given["attention"], "0": heads[:, 0], "1": heads[:, 1]}.items():
        browser.run("document.getElementById('head').value = arguments[0]", choice)
        browser.run("document.querySelector('.word').focus()")
        expected = attention_figure.attention_figure(picture, ["two", "looks"], weights)
        assert np.abs(browser.seen() - tile(expected, 1)).max() <= 2
        assert browser.run("return document.querySelector('.look').textContent").endswith(" · looked 25 %")
        browser.run("document.activeElement.blur()")
    page(tmp_path, row(), title="One head")
    browser.driver.refresh()
    browser.wait("document.title === 'One head' && performance.getEntriesByName('ready').length")
    assert not browser.run("return document.getElementById('head').checkVisibility()")
    assert not browser.driver.get_log("browser")


def tile(figure: Image.Image, number: int) -> np.ndarray:
    """Red of one tile in the first row of an attention figure without caption, `[TILE, TILE]`."""
    left = attention_figure.MARGIN + number * (attention_figure.TILE + attention_figure.GAP)
    upper = attention_figure.MARGIN + attention_figure.TITLE
    return np.asarray(
        figure.crop((left, upper, left + attention_figure.TILE, upper + attention_figure.TILE)), np.float64
    )[..., 0]
