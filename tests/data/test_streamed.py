"""Data sets whose training pictures stay in their shards."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import tiny

from captioner.common.errors import CaptionerError
from captioner.data import store, streamed
from captioner.data.shards import Shard
from captioner.data.streamed import Described, TrainingCaptions


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "PART", 3)


def shard(number: int, pictures: int = 10, broken: int | None = None) -> tuple[Shard, list[Described]]:
    name = f"{number:05d}"
    described = [
        Described(
            f"{name}/{key}",
            {3: "validation", 6: "test"}.get(key, "train"),
            [f"dog {key}", "a cat"][: 1 + key % 2],
            tiny.photograph(key % 4)[: 40 if key == broken else None],
        )
        for key in range(pictures)
    ]
    return Shard(f"{name}.tar", 100 + number), described


def test_training_captions_lie_in_parts_of_one_shard(tmp_path: Path) -> None:
    given = [shard(0), shard(1), shard(2, 0), shard(3, 2)]
    packed = streamed.write(given, tmp_path)
    every = [(each.name, each.split, text) for _, pictures in given for each in pictures for text in each.captions]
    assert packed == store.Packed(22, len(every), {})
    captions = TrainingCaptions(tmp_path)
    assert list(captions.shards) == ["00000", "00001", "00002", "00003"]
    assert len({*captions.shards.values()}) == 4
    assert [len(parts) for parts in captions.parts_of.values()] == [3, 3, 0, 1]
    assert [(part.shard, part.place) for part in captions.parts[:4]] == [
        ("00000", 0),
        ("00000", 1),
        ("00000", 2),
        ("00001", 0),
    ]
    read = pd.concat(map(captions.of, captions.parts))
    assert list(read.itertuples(index=False, name=None)) == [row for row in every if row[1] == "train"]
    assert list(captions) == [caption for _, split, caption in every if split == "train"]
    for split in ("validation", "test"):
        rows = store.read_captions(tmp_path, split).itertuples(index=False, name=None)
        assert list(rows) == [row for row in every if row[1] == split]
    assert len(store.read_captions(tmp_path)) == len(every)


def test_only_pictures_for_validation_and_test_are_copied(tmp_path: Path) -> None:
    streamed.write([shard(0)], tmp_path)
    assert list(store.read_pictures(tmp_path, ["00000/6", "00000/3"])) == [tiny.photograph(2), tiny.photograph(3)]
    with pytest.raises(CaptionerError, match="00000/1"):
        list(store.read_pictures(tmp_path, ["00000/1"]))
    assert store.read_objects(tmp_path).empty


def test_pictures_that_cannot_be_read_are_named_or_left_out(tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=r"unreadable pictures \(1\): 00000/4: .*skip_unreadable"):
        streamed.write([shard(0, broken=4), shard(1)], tmp_path)
    assert not list(tmp_path.iterdir())
    packed = streamed.write([shard(0, broken=4), shard(1)], tmp_path, skip_unreadable=True)
    assert packed.pictures == 19 and set(packed.unreadable) == {"00000/4"}
    assert store.read_skipped(tmp_path) == 1


@pytest.mark.parametrize(
    ("pictures", "said"), [(0, "no picture .* can be used"), (4, "no pictures in test, of 4 in all")]
)
def test_each_split_needs_a_picture(tmp_path: Path, pictures: int, said: str) -> None:
    with pytest.raises(CaptionerError, match=said):
        streamed.write([shard(0, pictures)], tmp_path)


def test_a_picture_that_changes_changes_what_is_written(tmp_path: Path) -> None:
    (archive, pictures), changed = shard(0), shard(0)
    changed[1][1] = dataclasses.replace(changed[1][1], picture=tiny.photograph(2))
    for place, given in (("one", (archive, pictures)), ("other", changed), ("again", shard(0))):
        streamed.write([given], tmp_path / place)
    one, other, again = ((tmp_path / place / "captions.parquet").read_bytes() for place in ("one", "other", "again"))
    assert one == again != other


def test_an_interrupted_call_leaves_what_was_there(tmp_path: Path) -> None:
    streamed.write([shard(0)], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted() -> Iterator[Described]:
        yield from shard(1)[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streamed.write([shard(0), (shard(1)[0], interrupted())], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_data_set_that_is_copied_has_no_parts(tmp_path: Path) -> None:
    captions = tiny.captions().assign(split="train")
    pictures = [(name, tiny.photograph(0)) for name in captions["image"].unique()]
    store.write(store.Dataset(captions, pictures), tmp_path)
    found = TrainingCaptions(tmp_path)
    assert (found.parts, found.shards) == ([], {})
    assert list(found) == captions["caption"].tolist()


def test_a_file_that_is_cut_short_is_said_in_one_line(tmp_path: Path) -> None:
    streamed.write([shard(0)], tmp_path)
    path = tmp_path / store.CAPTIONS
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CaptionerError, match="damaged or cut short"):
        TrainingCaptions(tmp_path)
