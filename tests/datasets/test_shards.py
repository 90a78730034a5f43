"""Shards become a data set, and a change of theirs is noticed."""

import json
from pathlib import Path

import fsspec
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from tarballs import pack

from captioner.common.errors import CaptionerError
from captioner.common.fingerprints import FileHashes
from captioner.data import store, streamed
from captioner.data.dataset import SPLITS
from captioner.data.streamed import TrainingCaptions
from captioner.datasets import shards, splits
from captioner.datasets.checks import judge


def crawl(directory: Path, count: int = 4, pictures: int = 10) -> Path:
    for shard in range(count):
        members = []
        for number in range(pictures):
            members += [(f"{number}.png", tiny.photograph(number % 4)), (f"{number}.txt", f"dog  {number}".encode())]
        pack(directory / f"{shard:05d}.tar", members)
    return directory


def test_pictures_have_the_names_of_their_shard_and_key(tmp_path: Path) -> None:
    dataset = shards.load(str(crawl(tmp_path / "crawl")), 0.2, 0.2)
    assert judge(dataset) == []
    assert dataset.captions["image"].tolist() == [f"{shard:05d}/{number}" for shard in range(4) for number in range(10)]
    assert dataset.captions["caption"].tolist() == [f"dog {number}" for number in range(10)] * 4
    assert set(dataset.captions["split"]) == set(SPLITS)
    packed = store.write(dataset, tmp_path / "data", SPLITS)
    assert (packed.pictures, packed.captions, packed.unreadable) == (40, 40, {})
    [picture] = store.read_pictures(tmp_path / "data", ["00003/6"])
    assert picture == tiny.photograph(2)


def test_a_split_is_the_same_whatever_else_is_there(tmp_path: Path) -> None:
    def of(count: int, whole: bool) -> dict[str, str]:
        captions = shards.load(str(crawl(tmp_path / f"{count}", count)), 0.2, 0.2, whole).captions
        return dict(zip(captions["image"], captions["split"], strict=True))

    few, many = of(4, False), of(6, False)
    assert few.items() <= many.items()
    by_shard = of(6, True)
    assert {len({split for name, split in by_shard.items() if name[:5] == f"{n:05d}"}) for n in range(6)} == {1}
    assert set(by_shard.values()) == set(SPLITS)


@given(st.sets(st.text(max_size=5), max_size=40), st.floats(0.01, 0.98), st.floats(0.01, 0.9))
def test_no_split_is_empty(names: set[str], train: float, validation: float) -> None:
    drawn = splits.draw(names, train, validation)
    assert drawn.keys() == names
    assert set(drawn.values()) == (set(SPLITS) if len(names) > 2 else {"train"} if names else set())


def test_what_no_model_can_learn_from_is_left_out_and_counted(tmp_path: Path) -> None:
    members = [(f"{number}.png", tiny.photograph(0)) for number in range(5)]
    texts = [b"a dog", b"...", b"<start> a dog", b"", b"a \x07 dog"]
    members += [(f"{number}.txt", text) for number, text in enumerate(texts)]
    pack(tmp_path / "0.tar", sorted(members))
    dataset = shards.load(str(tmp_path), 0.1, 0.1)
    assert dataset.captions["image"].tolist() == ["0/0"]
    assert judge(dataset) == [
        f"{shards.UNUSABLE}, which are left out (3): first 0/1, '...'",
        "pictures without captions, which are left out (1): first 0/3",
    ]
    assert [name for name, _ in dataset.pictures] == ["0/0"]


@pytest.mark.parametrize("whole", [False, True])
def test_pictures_that_stay_in_their_shards_have_the_same_captions_and_splits(tmp_path: Path, whole: bool) -> None:
    place = str(crawl(tmp_path / "crawl", 8))
    copied = shards.load(place, 0.2, 0.2, whole).captions
    found = shards.Streamed(place, 0.2, 0.2, whole)
    streamed.write(found, tmp_path / "data")
    read = store.read_captions(tmp_path / "data")
    assert sorted(read.itertuples(index=False, name=None)) == sorted(copied.itertuples(index=False, name=None))
    assert list(TrainingCaptions(tmp_path / "data").shards) == [f"{number:05d}" for number in range(8)]
    assert found.remarks == []


def test_what_is_left_out_of_shards_that_are_streamed_is_counted(tmp_path: Path) -> None:
    pack(tmp_path / "0.tar", [("0.png", tiny.photograph(0)), ("1.png", tiny.photograph(0)), ("1.txt", b"...")])
    found = shards.Streamed(str(tmp_path), 0.1, 0.1)
    assert [list(pictures) for _, pictures in found] == [[]]
    assert found.remarks == [
        "pictures without captions, which are left out (1): first 0/0",
        f"{shards.UNUSABLE}, which are left out (1): first 0/1, '...'",
    ]


def test_several_captions_of_a_picture(tmp_path: Path) -> None:
    pack(tmp_path / "0.tar", [("0.png", tiny.photograph(0)), ("0.json", b'{"caption": ["a dog", "one dog"]}')])
    dataset = shards.load(str(tmp_path), 0.1, 0.1)
    assert dataset.captions["caption"].tolist() == ["a dog", "one dog"]
    assert dataset.captions["image"].tolist() == ["0/0", "0/0"]


def test_unreadable_pictures_are_left_out_if_that_is_asked_for(tmp_path: Path) -> None:
    place = crawl(tmp_path / "crawl", 1, 9)
    pack(place / "more.tar", [("0.png", b"no picture"), ("0.txt", b"a dog")])
    with pytest.raises(CaptionerError, match=r"unreadable pictures .*more/0: "):
        store.write(shards.load(str(place), 0.3, 0.3), tmp_path / "data", SPLITS)
    packed = store.write(shards.load(str(place), 0.3, 0.3), tmp_path / "data", SPLITS, skip_unreadable=True)
    assert (packed.pictures, list(packed.unreadable)) == (9, ["more/0"])


def test_what_a_crawl_brings_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.data.shards.MAXIMUM_PICTURE", 1000)
    half = json.dumps({"caption": ["a \ud800 dog", "a dog"]}).encode()
    names = ["../0", "/etc/0", "a\nb", "a\u00a0b", "large", "plain"]
    members = []
    for name in names:
        picture = tiny.photograph(0) if name != "large" else b"a" * 1001
        members += [(f"{name}.png", picture), (f"{name}.json", half)]
    pack(tmp_path / "0.tar", members)
    dataset = shards.load(str(tmp_path), 0.1, 0.1)
    assert dataset.captions[["image", "caption"]].to_numpy().tolist() == [["0/plain", "a dog"]]
    assert [remark.partition(": first")[0] for remark in judge(dataset)] == [
        "pictures whose names lead out of the archive or cannot be printed, which are left out (4)",
        "pictures of more than 1,000 bytes, which are left out (1)",
        f"{shards.UNUSABLE}, which are left out (1)",
    ]
    assert [name for name, _ in dataset.pictures] == ["0/plain"]


def test_without_captions(tmp_path: Path) -> None:
    pack(tmp_path / "0.tar", [("0.png", b"a")])
    with pytest.raises(CaptionerError, match=r"has no captions: each picture needs a .txt, or a .json with a caption"):
        shards.load(str(tmp_path), 0.1, 0.1)


def test_too_few_shards_to_divide(tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=r"has 2 of the three shards .* set download.shards.split to pictures"):
        shards.load(str(crawl(tmp_path, 2, 1)), 0.1, 0.1, whole_shards=True)


def test_a_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    place = crawl(tmp_path / "crawl", 2, 1)
    hashes = FileHashes(tmp_path / "hashes.json")
    first = shards.fingerprint(str(place), hashes)
    assert first and shards.fingerprint(f"{place}/{{00000..00001}}.tar", hashes) == first
    pack(place / "00001.tar", [])
    assert shards.fingerprint(str(place), hashes) not in (first, {})
    assert shards.fingerprint(str(tmp_path / "none"), hashes) == {}


def test_a_fingerprint_of_what_lies_elsewhere(tmp_path: Path) -> None:
    memory, hashes = fsspec.filesystem("memory"), FileHashes(tmp_path / "hashes.json")
    memory.pipe_file("/prints/0.tar", b"one")
    first = shards.fingerprint("memory://prints", hashes)
    assert first and shards.fingerprint("memory://prints", hashes) == first
    memory.pipe_file("/prints/0.tar", b"other")
    assert shards.fingerprint("memory://prints", hashes) not in (first, {})
