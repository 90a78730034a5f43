"""Features of training pictures that stay in their shards."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
from tarballs import pack

from captioner.common import cluster
from captioner.common.errors import CaptionerError
from captioner.data import shards, streamed
from captioner.data.shards import Shard
from captioner.data.streamed import TrainingCaptions
from captioner.datasets.shards import Streamed
from captioner.features.extract import Extractor
from captioner.features.shard_files import FeatureShards
from captioner.features.shards import ShardEncoder, extract

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", name="extractor")
def _extractor() -> Extractor:
    return Extractor("efficientnet_lite0", image_size=96)


@pytest.fixture(scope="module", name="crawl")
def _crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards with ten pictures each, and their captions."""
    place = tmp_path_factory.mktemp("crawl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed, "PART", 4)
        for shard in range(3):
            members = []
            for key in range(10):
                members += [(f"{key}.png", tiny.photograph(key % 4)), (f"{key}.txt", b"a dog")]
            pack(place / f"shards/{shard}.tar", members)
        streamed.write(Streamed(str(place / "shards"), 0.2, 0.2), place)
    return place


def found(crawl: Path) -> list[Shard]:
    return shards.find([str(crawl / "shards")])


def contents(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir()}


@pytest.fixture(scope="module", name="whole")
def _whole(extractor: Extractor, crawl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("features") / "train"
    extract(extractor, found(crawl), crawl, place)
    return place


def test_features_are_those_of_pictures_that_are_copied(extractor: Extractor, crawl: Path, whole: Path) -> None:
    captions = TrainingCaptions(crawl)
    files = FeatureShards(whole, extractor.positions, extractor.channels)
    for part in captions.parts:
        names, maps = files.read(part)
        assert names == captions.images(part)
        keys = [int(name.partition("/")[2]) for name in names]
        expected = extractor.in_order([("", tiny.photograph(key % 4), 0) for key in keys])
        np.testing.assert_array_equal(maps, np.concatenate(list(expected)))


def test_only_files_that_are_missing_or_torn_are_made_again(
    extractor: Extractor, crawl: Path, whole: Path, tmp_path: Path
) -> None:
    expected = contents(whole)
    for name, content in expected.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "0.parquet").unlink()
    (tmp_path / "1.parquet").write_bytes(expected["1.parquet"][:-8])
    before = (tmp_path / "2.parquet").stat().st_mtime_ns
    extract(extractor, found(crawl), crawl, tmp_path)
    assert contents(tmp_path) == expected
    assert (tmp_path / "2.parquet").stat().st_mtime_ns == before


def test_a_worker_makes_the_same_bytes_of_an_extractor_that_was_sent(
    extractor: Extractor, crawl: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent(worker: type, given: tuple, parts: list[Shard]) -> Iterator[bool]:
        work = worker(*pickle.loads(pickle.dumps(given)))
        return map(work, reversed(pickle.loads(pickle.dumps(parts))))

    monkeypatch.setattr(cluster, "each", sent)
    extract(extractor, found(crawl), crawl, tmp_path / "train")
    assert contents(tmp_path / "train") == contents(whole)


def test_shards_that_changed_are_named(extractor: Extractor, crawl: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match="the shard 1 is not there any more: run `dvc repro"):
        extract(extractor, found(crawl)[:1], crawl, tmp_path)


@pytest.mark.parametrize("change", ["fewer", "another", "other order"])
def test_a_shard_with_other_pictures_gets_no_file(
    extractor: Extractor, crawl: Path, tmp_path: Path, change: str
) -> None:
    members = [(f"{key}.png", tiny.photograph(key % 4)) for key in range(10)]
    given = {
        "fewer": members[:3],
        "another": [(name, tiny.photograph(0)) for name, _ in members],
        "other order": members[::-1],
    }[change]
    archive = pack(tmp_path / "0.tar", given)
    encode = ShardEncoder(extractor, np.zeros(1), str(crawl), str(tmp_path / "train"))
    with pytest.raises(CaptionerError, match="the shard 0 has other pictures than when its captions were read"):
        encode(Shard(str(archive), 1))
    assert not list((tmp_path / "train").iterdir())
