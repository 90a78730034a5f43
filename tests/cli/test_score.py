"""`captioner score --shards`: what it prints, writes and refuses."""

import json
from pathlib import Path

import captioned
import pytest
from tarballs import pack
from typer.testing import CliRunner

from captioner.cli.app import app
from captioner.inference import shard_scores

CRAWL: dict[str, dict[str, captioned.Told]] = {
    "00000": {"a": (["A brown dog runs.", "..."], "a brown dog runs"), "b": (["two cats"], None)},
    "00001": {"a": (["two cats sit on a mat"], "a brown cat sits on a mat"), "b": ([], "a dog"), "c": ([], "a cat")},
}


@pytest.fixture(name="here", autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with shards and captions; tokens are what stands between spaces."""
    captioned.write(tmp_path, CRAWL)
    monkeypatch.setattr(shard_scores, "tokenize", lambda captions: [one.lower().strip(".") for one in captions])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["score", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def test_scores_are_printed_with_what_is_left_out(here: Path) -> None:
    code, out, _ = call("--shards", "crawl", "--captions", "said/", "--metrics", "CIDEr,BLEU")
    assert code == 0
    *table, last = out.splitlines()
    assert [line.split()[0] for line in table] == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr"]
    assert table[0] == "BLEU-1     63.64"
    assert last == (
        "2 pictures in 2 shards; left out: 1 picture that cannot be read, 2 pictures without a usable caption in their "
        "shard, 1 unusable caption; statistics of each picture: said/scores."
    )
    assert (here / "said/scores/00000.parquet").exists()
    code, out, _ = call("--shards", "crawl/*.tar", "--captions", "said", "--metrics", "BLEU CIDEr", "--json")
    found = json.loads(out)
    assert found["scores"].pop("BLEU-1") == pytest.approx(63.636, abs=1e-3)
    assert list(found["scores"]) == ["BLEU-2", "BLEU-3", "BLEU-4", "CIDEr"]
    assert {name: value for name, value in found.items() if name != "scores"} == {
        **{"shards": 2, "pictures": 2, "unreadable": 1, "without_references": 2, "unusable": 1, "there": 2},
        "statistics": "said/scores",
    }


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["crawl"], 2, "received no --shards; give both"),
        (["--shards", "crawl"], 2, "received no --captions; give both"),
        (
            ["--shards", "crawl", "--captions", "said", "--metrics", "BLUE"],
            1,
            "score: --metrics has 'BLUE': allowed are",
        ),
        (
            ["--shards", "crawl", "--captions", "said", "--metrics", "SPICE"],
            1,
            "allowed are BLEU, METEOR, ROUGE-L, CIDEr",
        ),
        (["--shards", "crawl", "--captions", "said", "--metrics", ","], 1, "score: --metrics is ',': give one or more"),
        (["--shards", "none", "--captions", "said"], 1, "score: there is no none: give the path or the address of"),
        (["--shards", "crawl", "--captions", "none"], 1, "score: none has no captions of shards: give the --output of"),
    ],
)
def test_wrong_usage(here: Path, arguments: list[str], code: int, message: str) -> None:
    found, out, err = call(*arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert not (here / "said/scores").exists()


def test_captions_of_other_shards(here: Path) -> None:
    pack(here / "crawl/00002.tar", [])
    code, out, err = call("--shards", "crawl", "--captions", "said", "--output", "scores")
    assert (code, out) == (1, "")
    assert err.startswith("score: said lacks the captions of 1 of 3 shards as they are now, such as 00002: call")
    assert not (here / "scores").exists()
