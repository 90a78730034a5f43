"""`captioner caption --shards`: what it writes, says and refuses."""

import json
from pathlib import Path

import pytest
import tiny
from tarballs import pack
from typer.testing import CliRunner

from captioner.cli.app import app

pytestmark = pytest.mark.usefixtures("seeing")


@pytest.fixture(name="here", autouse=True)
def _here(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in a checkout with the tiny model, and shards."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "models").mkdir()
    saved.rename(tmp_path / "models/captioner")
    for shard in range(2):
        pictures = [(f"{shard}{number}.png", tiny.photograph(number)) for number in range(3)]
        pack(tmp_path / f"crawl/{shard:05d}.tar", [*pictures, (f"{shard}9.png", b"no picture")])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["caption", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def test_each_shard_has_a_file(here: Path) -> None:
    code, out, _ = call("--shards", "crawl", "--output", "said")
    assert code == 0
    assert out.startswith("said has the captions of 6 pictures in 2 shards; 2 pictures cannot be read. 8 pictures took")
    assert out.count("\n") == 1
    first = [json.loads(line) for line in (here / "said/00000.jsonl").read_text().splitlines()]
    assert [row.get("caption") for row in first] == [*tiny.SAID[:3], None]
    code, out, _ = call("--shards", "crawl/*.tar", "--output", "said")
    assert (code, out) == (
        0,
        "said has the captions of 6 pictures in 2 shards; 2 pictures cannot be read; 2 shards were there already.\n",
    )


def test_a_damaged_shard_is_named_and_the_others_have_captions(here: Path) -> None:
    (here / "crawl/00000.tar").write_bytes(b"no archive")
    code, out, err = call("--shards", "crawl", "--output", "said", "--format", "parquet")
    assert code == 1
    assert out.startswith("said has the captions of 3 pictures in 1 shard; 1 picture cannot be read; 1 shard could ")
    assert f"caption: {here}/crawl/00000.tar is damaged or cut short" in err
    assert (here / "said/00001.parquet").exists() and not (here / "said/00000.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--shards", "crawl"], 2, "received --shards alone; give both"),
        (["crawl", "--output", "said"], 2, "received --output alone; give both"),
        (["--shards", "crawl", "--output", "said", "--json"], 2, "received --json with --shards; leave that out"),
        (
            ["--shards", "crawl", "--output", "said", "--samples", "3", "--figure", "f"],
            2,
            "received --samples, --figure",
        ),
        (["--shards", "crawl", "--output", "said", "--format", "csv"], 2, "'csv' is not one of 'jsonl', 'parquet'"),
        (["--shards", "none", "--output", "said"], 1, "caption: there is no none: give the path or the address of"),
        (["--shards", "crawl", "--output", "said", "--model", "none"], 1, "caption: There is no model in none"),
    ],
)
def test_wrong_usage(here: Path, arguments: list[str], code: int, message: str) -> None:
    found, out, err = call(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert not (here / "said").exists()


def test_a_folder_that_cannot_be_written(here: Path) -> None:
    (here / "said").write_text("a file")
    code, _, err = call("--shards", "crawl", "--output", "said")
    assert (code, err) == (
        1,
        "caption: cannot reach 'said' (File exists): check the place, the network and the credentials",
    )
