"""What the documentation says is so: links resolve, commands and parameters exist, its code runs."""

import ast
import re
import sys
import types
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import parameters
import pytest
import tiny
import typer
import yaml
from checkout import ROOT
from rounding import assert_same

from captioner import __version__
from captioner.cli.app import app
from captioner.common.errors import CaptionerError
from captioner.data import store
from captioner.encoders import ENCODERS
from captioner.model import attention
from captioner.model.attention import ATTENTIONS

PAGES = sorted(
    page
    for page in chain(ROOT.glob("*.md"), ROOT.glob("docs/*.md"), ROOT.glob("benchmarks/*.md"))
    if not page.name.startswith(".")
)
EVERY = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
SOURCES = sorted(chain(ROOT.glob("src/**/*.py"), ROOT.glob("stages/*.py")))
PARAMS = parameters.values()
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(text: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one of its rank."""
    level = heading.split()[0]
    return re.split(rf"^#{{1,{len(level)}}} ", text.split(f"\n{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def code(text: str) -> list[str]:
    """Return lines of code: those of blocks, indented ones, and what stands between backticks; no comments."""
    fenced = [line for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S) for line in block.splitlines()]
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (.+)$", outside, re.MULTILINE)
    lines = [*fenced, *indented, *re.findall(r"`([^`\n]+)`", outside)]
    return [re.sub(r"\s#\s.*", "", line).strip() for line in lines]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@EVERY
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text("utf-8"))):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text("utf-8")
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"({page.name}" not in index] == ["README.md"]


@EVERY
def test_make_knows_its_targets(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    used = {
        match[1] for line in code(page.read_text("utf-8")) if (match := re.search(r"(?:^|= ?\S+ )make ([a-z]+)", line))
    }
    assert used <= targets


@EVERY
def test_the_command_has_what_is_called(page: Path) -> None:
    for line in code(page.read_text("utf-8")):
        called = re.match(r"captioner ([a-z]+)\b(.*)", line)
        if called:
            assert called[1] in COMMANDS, line
            known = {option for each in COMMANDS[called[1]].params for option in each.opts}
            assert {*re.findall(r"(?<=\s)--[a-z-]+", called[2])} <= known, line


@EVERY
def test_parameters_that_are_set_exist(page: Path) -> None:
    for key in re.findall(r"-S '?([\w.]+)=", page.read_text("utf-8")):
        found: Any = PARAMS
        for name in key.split("."):
            assert name in found, key
            found = found[name]


def keys(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def first_column(text: str) -> list[str]:
    return [name for row in re.findall(r"^\| (`.+?) \|", text, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)]


PARAMETERS = (ROOT / "docs/parameters.md").read_text("utf-8")


def test_every_parameter_is_explained_and_none_besides() -> None:
    before = PARAMETERS.split("\n## The environment\n")[0]
    others = Counter(first_column(before))
    for name, title in (("train", "## Training"), ("fine_tune", "## An encoder that learns")):
        recipe = first_column(section(before, title))
        for kind in PARAMS[name].values():
            assert sorted(recipe) == sorted(kind)
        others.subtract(recipe)
    expected = {key for key in keys(PARAMS) if not key.startswith(("train.", "fine_tune."))}
    assert +others == Counter(expected)


def test_every_variable_of_the_environment_is_explained_and_none_besides() -> None:
    source = "".join(path.read_text("utf-8") for path in SOURCES)
    asked = r"""(?:environ(?:\.get|\.setdefault)?|from_environment)[(\[]["']([A-Z_]+)"""
    text = section(PARAMETERS, "## The environment")
    named = {name for name in re.findall(r"`([A-Z_]+)`", text) if not name.endswith("_")}
    assert {*re.findall(asked, source)} <= named
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert {name for name in named if name not in source and name not in makefile} == set()


def messages() -> Iterator[str]:
    """Yield every string of the source, `…` where a value is put in."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_are_quoted_as_they_are_printed() -> None:
    own = section((ROOT / "docs/troubleshooting.md").read_text("utf-8"), "## What Captioner says")
    quoted = re.findall(r"^\| `(.+?)` \|", own, re.MULTILINE)
    said = list(messages())
    assert len(quoted) > 10
    assert [quote for quote in quoted if not any(quote in message for message in said)] == []


SHOWN = ("hyperparameters", "attention/scaled_dot")
"""The modules whose lines the section about a hyper-parameter shows, in order."""
EXTENDING = (ROOT / "docs/extending.md").read_text("utf-8")


def test_the_attention_of_the_documentation(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    definition, entry = blocks(section(EXTENDING, "## An attention"), "python")
    names = ast.literal_eval(f"{{{entry}}}")
    for name, place in names.items():
        monkeypatch.setitem(ATTENTIONS, name, place)
        module = types.ModuleType(f"captioner.model.attention.{place.partition(':')[0]}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(definition, vars(module))
        layer = attention.create(name, tiny.SIZES.model_copy(update={"attention_size": 5}))
        vectors, state = rng.normal(size=(2, 4, 3)).astype("f"), rng.normal(size=(2, 6)).astype("f")
        context, weights = layer(vectors, state)
        query, key = (
            state @ np.asarray(layer.query_projection.kernel),
            vectors @ np.asarray(layer.key_projection.kernel),
        )
        lengths = np.linalg.norm(query, axis=-1)[:, None] * np.linalg.norm(key, axis=-1)
        scores = np.e * np.einsum("ba,bpa->bp", query, key) / lengths
        expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        terms = 3 + 6 + 5 + 5 + 5 + 4 + 4  # channels, state, units three times, positions twice
        largest = max(1, np.abs(scores).max())
        assert_same(weights, expected, terms, largest)
        assert_same(context, np.einsum("bp,bpe->be", expected, vectors), terms, largest * np.abs(vectors).max())
        assert tiny.decoder(name).attention.name == "attention"


def test_the_hyper_parameter_of_the_documentation() -> None:
    shown = re.findall("^```text\n(.*?)```", section(EXTENDING, "### A hyper-parameter"), re.MULTILINE | re.DOTALL)
    sources = [(ROOT / f"src/captioner/model/{name}.py").read_text("utf-8") for name in SHOWN]
    assert len(shown) == len(sources)
    assert [code for code, source in zip(shown, sources, strict=True) if code not in source] == []


def test_every_encoder_is_listed() -> None:
    listed = section((ROOT / "docs/encoders.md").read_text("utf-8"), "## Which there are")
    assert set(re.findall(r"`([a-z0-9_]+)`", listed)) >= ENCODERS.keys()


def test_the_data_set_of_the_documentation(tmp_path: Path) -> None:
    definition, _ = blocks(section(EXTENDING, "## A data set"), "python")
    module = types.ModuleType("sidecar")
    exec(definition, vars(module))
    with pytest.raises(CaptionerError, match=r"has a \.txt beside it"):
        module.load(tmp_path)
    for number in range(10):
        (tmp_path / f"{number}.jpg").write_bytes(tiny.photograph(number % 4, "JPEG"))
        (tmp_path / f"{number}.txt").write_text(f"a picture\nthe picture {number}\n", "utf-8")
    store.write(module.load(tmp_path), tmp_path / "data")
    captions = store.read_captions(tmp_path / "data")
    assert captions["split"].value_counts().to_dict() == {"train": 16, "validation": 2, "test": 2}
    pd.testing.assert_series_equal(
        captions["caption"][:2], pd.Series(["a picture", "the picture 0"]), check_names=False, check_dtype=False
    )


def test_the_version_is_one() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == __version__
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
