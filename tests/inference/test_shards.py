"""Shards become files of captions, on one machine or many, and what is there is not made again."""

import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
import tiny
from tarballs import pack

from captioner.common.errors import CaptionerError
from captioner.data import shards
from captioner.data.shards import Shard
from captioner.features.extract import Extractor
from captioner.inference.captioner import Captioner
from captioner.inference.shards import Captions, Done, Search, caption
from captioner.training import fit

SEARCH = Search(beam=2)


@pytest.fixture(name="crawl")
def _crawl(tmp_path: Path) -> list[Shard]:
    """Four shards of pictures, of which the third has one that cannot be read."""
    for shard in range(4):
        pictures = [(f"{shard}{number}.png", tiny.photograph((shard + number) % 4)) for number in range(3)]
        if shard == 2:
            pictures[1] = ("21.png", pictures[1][1][:50])
        pack(tmp_path / f"crawl/{shard:05d}.tar", [*pictures, (f"{shard}2.txt", b"a text")])
    return shards.find([str(tmp_path / "crawl")])


def expected(shard: int) -> list[tuple[str, str | None]]:
    rows: list[tuple[str, str | None]] = [(f"{shard}{n}", tiny.SAID[(shard + n) % 4]) for n in range(3)]
    if shard == 2:
        rows[1] = ("21", None)
    return rows


def run(model: Path, crawl: list[Shard], output: Path | str, **options: Any) -> dict[str, tuple[Done, bool]]:
    return {done.shard: (done, there) for done, there in caption(model, crawl, str(output), search=SEARCH, **options)}


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if "_stats" not in path.name}


@pytest.mark.usefixtures("seeing")
class TestHere:
    def test_each_shard_has_its_rows_in_order(self, saved: Path, crawl: list[Shard], tmp_path: Path) -> None:
        made = run(saved, crawl, tmp_path / "said")
        for number in range(4):
            found = rows(tmp_path / f"said/{number:05d}.jsonl")
            assert [(row["key"], row.get("caption")) for row in found] == expected(number)
        [broken] = [row for row in rows(tmp_path / "said/00002.jsonl") if "error" in row]
        assert broken == {"key": "21", "error": "a broken or truncated picture: put a whole one in its place"}
        assert [(done.pictures, done.unreadable, there) for done, there in made.values()] == [
            *((3, 0, False), (3, 0, False), (3, 1, False), (3, 0, False))
        ]
        stats = json.loads((tmp_path / "said/00002_stats.json").read_text())
        assert stats["bytes"] == (tmp_path / "said/00002.jsonl").stat().st_size
        assert stats["shard_bytes"] == crawl[2].size
        assert not list(tmp_path.glob("said/.*"))

    def test_parquet_says_the_same(self, saved: Path, crawl: list[Shard], tmp_path: Path) -> None:
        run(saved, crawl, tmp_path / "lines")
        run(saved, crawl, tmp_path / "tables", form="parquet")
        for number in range(4):
            table = pq.read_table(tmp_path / f"tables/{number:05d}.parquet")
            assert table.column_names == ["key", "caption", "log_probability", "error"]
            told = [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]
            assert told == rows(tmp_path / f"lines/{number:05d}.jsonl")

    def test_many_pictures_are_as_the_model_says_them(self, saved: Path, tmp_path: Path) -> None:
        pictures = [tiny.photograph(number % 4) for number in range(70)]
        path = pack(tmp_path / "0.tar", ((f"{number:03d}.png", data) for number, data in enumerate(pictures)))
        run(saved, shards.find([str(path)]), tmp_path / "said")
        told = [(row["caption"], row["log_probability"]) for row in rows(tmp_path / "said/0.jsonl")]
        found = Captioner.load(saved).caption(pictures, beam=2)
        assert [text for text, _ in told] == [each.text for each in found]
        assert [nats for _, nats in told] == pytest.approx([each.log_probability for each in found], abs=2e-4)

    def test_an_empty_shard_has_no_rows(self, saved: Path, tmp_path: Path) -> None:
        for form in ("jsonl", "parquet"):
            made = run(saved, shards.find([str(pack(tmp_path / "0.tar", []))]), tmp_path / form, form=form)
            assert made["0"][0].pictures == 0
        assert files(tmp_path / "jsonl")["0.jsonl"] == b"" and len(pq.read_table(tmp_path / "parquet/0.parquet")) == 0

    def test_what_is_there_and_whole_is_not_made_again(self, saved: Path, crawl: list[Shard], tmp_path: Path) -> None:
        said = tmp_path / "said"
        run(saved, crawl, said)
        before = files(said)
        (said / "00000.jsonl").unlink()
        (said / "00001.jsonl").write_bytes(before["00001.jsonl"][:-5])
        (said / "00003_stats.json").write_text("{")
        made = run(saved, crawl, said)
        assert {name: there for name, (_, there) in made.items()} == {
            **dict.fromkeys(("00000", "00001", "00003"), False),
            "00002": True,
        }
        assert files(said) == before
        assert all(there for _, there in run(saved, crawl, said).values())

    def test_a_shard_that_has_changed_is_captioned_again(self, saved: Path, crawl: list[Shard], tmp_path: Path) -> None:
        run(saved, crawl, tmp_path / "said")
        pack(Path(crawl[1].url), [(f"{number}.png", tiny.photograph(number % 4)) for number in range(20)])
        made = run(saved, shards.find([str(tmp_path / "crawl")]), tmp_path / "said")
        assert [name for name, (_, there) in made.items() if not there] == ["00001"]
        assert len(rows(tmp_path / "said/00001.jsonl")) == 20

    def test_an_interrupted_run_goes_on(
        self, saved: Path, crawl: list[Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run(saved, crawl, tmp_path / "whole")
        write = Captions.write_file

        def killed(self: Captions, name: str, content: bytes) -> None:
            if name == "00002_stats.json":
                raise KeyboardInterrupt
            write(self, name, content)

        with monkeypatch.context() as patch:
            patch.setattr(Captions, "write_file", killed)
            with pytest.raises(KeyboardInterrupt):
                run(saved, crawl, tmp_path / "said")
        made = run(saved, crawl, tmp_path / "said")
        assert [there for _, there in made.values()] == [True, True, False, False]
        assert files(tmp_path / "said") == files(tmp_path / "whole")

    def test_captions_made_otherwise_are_left(
        self, saved: Path, crawl: list[Shard], tmp_path: Path, model: Captioner
    ) -> None:
        run(saved, crawl, tmp_path / "said")
        before = files(tmp_path / "said")
        with pytest.raises(CaptionerError, match=r"said has captions that were made with another beam: give another"):
            list(caption(saved, crawl, str(tmp_path / "said"), search=Search(beam=3)))
        with pytest.raises(CaptionerError, match="made with another format"):
            run(saved, crawl, tmp_path / "said", form="parquet")
        assert files(tmp_path / "said") == before
        (tmp_path / "said/index.json").write_text("[")
        with pytest.raises(CaptionerError, match="made with another version, format, model"):
            run(saved, crawl, tmp_path / "said")

    def test_files_of_others_are_not_replaced(self, saved: Path, crawl: list[Shard], tmp_path: Path) -> None:
        for name in ("00001_stats.json", "00001.parquet"):
            (tmp_path / "crawl" / name).write_text("of img2dataset")
            with pytest.raises(CaptionerError, match=f"crawl has {name}, which is not of this command and would be"):
                run(saved, crawl, tmp_path / "crawl", form="parquet")
            assert not (tmp_path / "crawl/index.json").exists()
            (tmp_path / "crawl" / name).unlink()

    def test_an_index_without_captions_says_nothing(self, saved: Path, crawl: list[Shard], tmp_path: Path) -> None:
        (tmp_path / "said").mkdir()
        (tmp_path / "said/index.json").write_text("[")
        assert not any(there for _, there in run(saved, crawl, tmp_path / "said").values())
        stats = json.loads((tmp_path / "said/00000_stats.json").read_text())
        (tmp_path / "said/00000_stats.json").write_text(json.dumps(stats | {"pictures": "x"}))
        assert [name for name, (_, there) in run(saved, crawl, tmp_path / "said").items() if not there] == ["00000"]

    def test_a_wrong_search_is_told_once(self, saved: Path, crawl: list[Shard], tmp_path: Path) -> None:
        with pytest.raises(CaptionerError, match="received beam 100; give 1 to 50"):
            list(caption(saved, crawl, str(tmp_path / "said"), search=Search(beam=100)))

    def test_a_damaged_shard_is_told_and_the_others_go_on(
        self, saved: Path, crawl: list[Shard], tmp_path: Path
    ) -> None:
        Path(crawl[1].url).write_bytes(Path(crawl[1].url).read_bytes()[:2000])
        made = run(saved, shards.find([str(tmp_path / "crawl")]), tmp_path / "said")
        assert [bool(done.problem) for done, _ in made.values()] == [False, True, False, False]
        assert "00001.tar is damaged or cut short after 2 members" in made["00001"][0].problem
        assert not list(tmp_path.glob("said/*00001*"))

    def test_wherever_fsspec_writes(self, saved: Path, crawl: list[Shard], tmp_path: Path) -> None:
        memory = fsspec.filesystem("memory")
        for shard in crawl:
            memory.pipe_file(f"/crawl/{shard.name}.tar", Path(shard.url).read_bytes())
        run(saved, crawl, tmp_path / "said")
        found = shards.find(["memory://crawl"])
        assert [shard.size for shard in found] == [shard.size for shard in crawl]
        assert not any(there for _, there in run(saved, found, "memory://said").values())
        assert all(there for _, there in run(saved, found, "memory://said/").values())
        for name, content in files(tmp_path / "said").items():
            assert memory.cat_file(f"/said/{name}") == content

    def test_no_model(self, crawl: list[Shard], tmp_path: Path) -> None:
        with pytest.raises(CaptionerError, match="There is no model in"):
            run(tmp_path / "none", crawl, tmp_path / "said")
        assert not (tmp_path / "said").exists()

    def test_a_damaged_model_is_named(self, saved: Path, crawl: list[Shard], tmp_path: Path) -> None:
        (saved / "decoder.keras").write_bytes(b"")
        with pytest.raises(CaptionerError, match=f"^{saved} has no complete model"):
            run(saved, crawl, tmp_path / "said")


@pytest.mark.slow
@pytest.mark.usefixtures("machines")
def test_a_cluster_gives_the_same_bytes(crawl: list[Shard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = Extractor("efficientnet_lite0")
    encoder = {"name": "efficientnet_lite0", "weights": "imagenet", "weights_sha256": extractor.weights_sha256}
    decoder = fit.build(
        tiny.SIZES, tiny.recipe(), "dot", len(tiny.vocabulary()), extractor.channels, extractor.positions
    )
    model = tmp_path / "model"
    Captioner(decoder, tiny.vocabulary(), encoder, 3, {}).save(model)
    (model / "decoder.keras").rename(tmp_path / "cached")  # as DVC may link it
    (model / "decoder.keras").symlink_to(tmp_path / "cached")
    monkeypatch.chdir(tmp_path)  # where no worker is
    made = run(model, crawl, "many")
    monkeypatch.delenv("RAY_ADDRESS")
    run(model, crawl, tmp_path / "one")
    assert not any(there or done.problem for done, there in made.values())
    assert files(tmp_path / "many") == files(tmp_path / "one")
    assert not list(tmp_path.glob("many/.*"))
