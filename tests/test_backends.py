"""JAX gives what TensorFlow gives, and needs no TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tiny
import trial
from checkout import ROOT
from eagerly import eager
from rounding import assert_same

pytestmark = pytest.mark.slow

ON_JAX = """
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.abc import MetaPathFinder
from pathlib import Path
from pkgutil import walk_packages


class NoTensorFlow(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ImportError(name)


sys.meta_path.insert(0, NoTensorFlow())

import captioner
for module in walk_packages(captioner.__path__, "captioner."):
    if module.name != "captioner.__main__":
        import_module(module.name)

import keras
import numpy as np
import tiny
import trial

assert keras.backend.backend() == "jax"
work = Path(sys.argv[1])
trial.learn(work / "first", work / "jax")
for trained in ("tensorflow", "jax"):
    np.savez(work / f"{trained} on jax.npz", **trial.use(work / trained))
forward = trial.encoder(work / "first")
with ThreadPoolExecutor(8) as pool:
    grids = list(pool.map(lambda _: forward(trial.PICTURES), range(64)))
for grid in grids:
    np.testing.assert_array_equal(grid, grids[0])
np.save(work / "grid.npy", grids[0])

model = captioner.inference.captioner.Captioner.load(work / "jax/gated/model")
generators = [model.generator(batch_size=4) for _ in range(2)]
with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda number: generators[number % 2].generate(tiny.features().grid), range(32)))
for one in found:
    np.testing.assert_array_equal(one.words, found[0].words)

(work / "checkpoints").mkdir()
for one, other in zip(trial.seeded(), trial.interrupted(work / "checkpoints"), strict=True):
    np.testing.assert_array_equal(one, other)
np.savez(work / "consumed on jax.npz", **trial.consumed())
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What TensorFlow trained, here, and JAX, in a process of its own, from the same first weights."""
    assert keras.backend.backend() == "tensorflow"
    work = tmp_path_factory.mktemp("backends")
    trial.begin(work / "first")
    with eager():
        trial.learn(work / "first", work / "tensorflow")
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests/helpers"), os.environ.get("PYTHONPATH", "")])
    # what is compiled runs for a moment only
    quickly = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {quickly}"
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": path, "XLA_FLAGS": flags}
    ended = subprocess.run(
        [sys.executable, "-c", ON_JAX, str(work)], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return work


@pytest.fixture(scope="module")
def consumed() -> dict[str, np.ndarray]:
    return trial.consumed()


def history(work: Path, backend: str, name: str) -> pd.DataFrame:
    return pd.read_csv(work / backend / name / "history.csv")


@pytest.mark.parametrize("name", trial.MODELS)
def test_losses_step_by_step(work: Path, name: str) -> None:
    found, expected = (history(work, backend, name) for backend in ("jax", "tensorflow"))
    assert len(found) == trial.STEPS
    for loss in ("loss", "nll", "val_loss", "val_nll"):
        assert expected[loss].iloc[-1] < 0.8 * expected[loss].iloc[0]
        # forward and backward, in each step; the table has all digits of float32
        assert_same(found[loss].astype("f"), expected[loss], 2 * trial.STEPS * tiny.TERMS)


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_each_epoch_takes_every_batch_once(work: Path, consumed: dict[str, np.ndarray], backend: str) -> None:
    taken = consumed if backend == "tensorflow" else dict(np.load(work / "consumed on jax.npz"))
    np.testing.assert_array_equal(taken["validation"], [range(20)] * 3)
    # each epoch has an order of its own
    orders, batches = divmod(taken["training"], 20)
    assert sorted(orders[:, 0]) == [0, 1, 2] and (orders == orders[:, :1]).all()
    np.testing.assert_array_equal(batches, [range(20)] * 3)
    np.testing.assert_array_equal(taken["training"], consumed["training"])


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("trained", ["tensorflow", "jax"])
def test_models_are_exchangeable(work: Path, trained: str) -> None:
    found: dict[str, Any] = dict(np.load(work / f"{trained} on jax.npz"))
    expected = trial.use(work / trained)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if name.endswith("words"):
            np.testing.assert_array_equal(found[name], values)
        else:
            assert_same(np.float32(found[name]), values, 3 * tiny.TERMS, tiny.LARGEST)


def test_features(work: Path) -> None:
    expected = trial.encoder(work / "first")(trial.PICTURES)
    assert expected.std() > 0.01
    np.testing.assert_allclose(np.load(work / "grid.npy"), expected, rtol=2**-11, atol=1e-4)
