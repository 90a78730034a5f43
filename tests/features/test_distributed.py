"""Features that a cluster computes are those of one machine, whoever dies meanwhile."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import tiny

from captioner.common.errors import CaptionerError
from captioner.data import store
from captioner.data.dataset import Dataset
from captioner.features import distributed
from captioner.features.compiled import Compiled
from captioner.features.distributed import PartEncoder
from captioner.features.extract import Extractor
from captioner.features.store import GRID, INDEX, Features

pytestmark = pytest.mark.slow

COUNT = 11
NAMES = [f"{number}.png" for number in range(COUNT)]
TRAINED = NAMES[:4]


@pytest.fixture(scope="module", name="extractor")
def _extractor() -> Extractor:
    return Extractor("efficientnet_lite0", image_size=96)


@pytest.fixture(scope="module", name="data")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    captions = tiny.captions({name: ["a dog"] for name in NAMES}).assign(split="train")
    pictures = [(name, tiny.photograph(number % 4)) for number, name in enumerate(NAMES)]
    directory = tmp_path_factory.mktemp("data")
    store.write(Dataset(captions, pictures), directory)
    return directory


@pytest.fixture(scope="module", name="expected")
def _expected(extractor: Extractor, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("one") / "features"
    viewed = (store.read_pictures(data, TRAINED), TRAINED)
    extractor.extract(store.read_pictures(data, NAMES), NAMES, directory, 3, viewed)
    return directory


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "PART", 4)


def assert_same(directory: Path, expected: Path) -> None:
    for name in (GRID, INDEX):
        assert (directory / name).read_bytes() == (expected / name).read_bytes()
    assert sorted(path.name for path in directory.parent.iterdir()) == [directory.name]


def test_an_extractor_runs_where_it_is_sent_to(extractor: Extractor) -> None:
    sent = pickle.loads(pickle.dumps(extractor))
    pixels = np.random.default_rng(1).integers(0, 256, (3, 96, 96, 3), np.uint8)
    np.testing.assert_array_equal(sent(pixels), extractor(pixels))
    assert (sent.encoder, sent.positions, sent.weights_sha256) == ("efficientnet_lite0", 9, extractor.weights_sha256)


def test_an_extractor_that_keras_runs_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(batch: np.ndarray) -> np.ndarray:
        return batch[:, ::32, ::32, :1].astype(np.float16)

    monkeypatch.setattr("captioner.features.extract.compile_forward", lambda *_, **__: Compiled(forward, 4))
    extractor = Extractor("efficientnet_lite0", image_size=96, crop="pad", batch_size=4)
    sent = pickle.loads(pickle.dumps(extractor))
    assert (sent.image_size, sent.crop, sent.batch_size) == (96, "pad", 4)
    assert sent.weights_sha256 == extractor.weights_sha256


def test_parts_make_the_whole(extractor: Extractor, data: Path, expected: Path, tmp_path: Path) -> None:
    distributed.extract(extractor, data, NAMES, tmp_path / "features", 3, TRAINED)
    assert_same(tmp_path / "features", expected)


def test_parts_that_are_there_are_not_computed_again(
    extractor: Extractor, data: Path, expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    compute = PartEncoder.__call__

    def interrupted(self: PartEncoder, part: distributed.Part) -> bool:
        if part.first == 8 and len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(part.first)
        return compute(self, part)

    monkeypatch.setattr(PartEncoder, "__call__", interrupted)
    (tmp_path / "kept").mkdir()
    with pytest.raises(KeyboardInterrupt):
        distributed.extract(extractor, data, NAMES, tmp_path / "features", 3, TRAINED, tmp_path / "kept")
    assert not (tmp_path / "features").exists()
    torn = tmp_path / "kept/parts/000000004.npy"
    torn.write_bytes(torn.read_bytes()[:-100])
    distributed.extract(extractor, data, NAMES, tmp_path / "features", 3, TRAINED, tmp_path / "kept")
    assert computed == [0, 4, 4, 8, 12, 16]
    np.testing.assert_array_equal(Features.open(tmp_path / "features").grid, Features.open(expected).grid)


def test_other_rounding_is_said(
    extractor: Extractor, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    noises = iter(range(9))
    monkeypatch.setattr(distributed, "noise", lambda _: np.array([next(noises)]))
    distributed.extract(extractor, data, NAMES, tmp_path / "features")
    assert "3 of 3 parts were computed on processors that round otherwise than this one" in capsys.readouterr().err


def test_a_picture_that_cannot_be_read_is_named(extractor: Extractor, data: Path, tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=r"has no member none\.png"):
        distributed.extract(extractor, data, [*NAMES, "none.png"], tmp_path / "features")
    assert not (tmp_path / "features").exists()


@pytest.mark.usefixtures("machines")
def test_a_cluster_gives_the_same_bytes(extractor: Extractor, data: Path, expected: Path, tmp_path: Path) -> None:
    distributed.extract(extractor, data, NAMES, tmp_path / "features", 3, TRAINED)
    assert_same(tmp_path / "features", expected)
