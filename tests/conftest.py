"""What all tests share."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import isolation  # noqa: F401 - before Keras, which reads its settings when it is imported
import pytest

from captioner.common.startup import fast_start

with fast_start():
    import keras
import numpy as np
import tiny
from browser import Browser
from eagerly import eager
from machines import cluster

from captioner.inference.captioner import Captioner
from captioner.model.decoder import Decoder
from captioner.scoring.meteor import Meteor
from captioner.scoring.scorer import Scorer
from captioner.search.generators import Generator

LONGEST = tuple(f"test_{name}.py" for name in ("notebook", "queue", "backends", "runs", "server", "parallel"))
SLOW = {"browser", "machines", "scorer_of"}  # fixtures that start a program


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is exhaustive, unless it is asked for, and begin with the files that take minutes.

    One worker does a whole file: begun last, they would end alone.
    """
    if "exhaustive" not in config.option.markexpr:
        items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]
    items.sort(key=lambda item: item.path.name not in LONGEST)
    for item in items:
        if isinstance(item, pytest.Function) and SLOW & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _seed() -> None:
    keras.utils.set_random_seed(7)


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A Ray cluster of two machines, to which `RAY_ADDRESS` leads."""
    with cluster() as found:
        yield found


@pytest.fixture(name="eager")
def _eager() -> Iterator[None]:
    with eager():
        yield


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Layers compute in float64, where what is equal but for rounding is equal to twelve digits or more."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    made = Decoder.__init__

    def init(self: Decoder, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        self.vocabulary_logits.dtype_policy = "float64"  # float32 by itself, whatever the others are

    monkeypatch.setattr(Decoder, "__init__", init)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@pytest.fixture(scope="session")
def overfit() -> Decoder:
    """A decoder that knows the tiny data set by heart. Shared: leave its weights as they are."""
    return tiny.overfit()


@pytest.fixture(scope="session")
def generator(overfit: Decoder) -> Generator:
    return Generator(overfit, beam=2, maximum=4, batch_size=3)


@pytest.fixture(scope="session")
def model(overfit: Decoder) -> Captioner:
    features = tiny.features()
    encoder = {"name": features.encoder, "weights": features.weights, "weights_sha256": features.weights_sha256}
    return Captioner(overfit, tiny.vocabulary(), encoder, 4, {"attention": "bahdanau", "seed": 1})


@pytest.fixture(scope="session")
def scorer_of() -> Iterator[Callable[[Mapping[str, Sequence[str]]], Scorer]]:
    """Makes scorers that share METEOR's program, which takes ten seconds to start."""
    program = Meteor(keep=True)

    def make(references: Mapping[str, Sequence[str]]) -> Scorer:
        return Scorer(references, meteor=program)

    yield make
    program.close()


@pytest.fixture
def saved(model: Captioner, tmp_path: Path) -> Path:
    """A saved model that a test may damage."""
    model.save(tmp_path / "captioner")
    return tmp_path / "captioner"


@pytest.fixture
def seeing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models see the pictures of `tiny.photograph` as those of the tiny data set."""
    monkeypatch.setattr("captioner.inference.captioner.Extractor", tiny.Extractor)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.fixture
def browser() -> Iterator[Browser]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("chromium and chromedriver are not on PATH")
    opened = Browser(webdriver, program, driver)
    yield opened
    opened.driver.quit()
