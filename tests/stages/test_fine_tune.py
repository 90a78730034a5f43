"""The stage that lets the encoder learn: what it leaves, and that a frozen run pays nothing for it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import parameters
import pytest
from checkout import ROOT

from captioner.common.keras import keras
from captioner.common.workspace import FEATURES, FINE_TUNED, MODEL, TEST_FEATURES, TRAINED, TRAINED_MODEL
from captioner.data import store
from captioner.features.store import Features, rows_of
from captioner.inference.captioner import Captioner

pytestmark = pytest.mark.slow

SMALL = {
    "download.scenes.train": 24,
    "download.scenes.validation": 4,
    "download.scenes.test": 4,
    "vocabulary.minimum_count": 1,
    "features.encoder": "networks/small.keras",
    "features.preprocessing": "symmetric",
    "model.embedding_size": 8,
    "model.state_size": 8,
    "model.attention_size": 8,
    "train.scenes.epochs": 1,
    "train.scenes.maximum_words": 4,
}


def run(stage: str, directory: Path, **changes: Any) -> str:
    parameters.write(directory, **SMALL | changes)
    done = subprocess.run(
        [sys.executable, str(ROOT / f"stages/{stage}.py")], cwd=directory, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which a decoder was trained on features of a small network."""
    place = tmp_path_factory.mktemp("workspace")
    pictures = keras.Input((32, 32, 3))
    early = keras.layers.Conv2D(4, 4, 4, activation="relu", name="early")(pictures)
    (place / "networks").mkdir()
    keras.Model(pictures, keras.layers.Conv2D(6, 3, 2, "same", name="late")(early)).save(place / "networks/small.keras")
    for stage in ("fingerprint", "download", "vocabulary", "features", "train"):
        run(stage, place)
    return place


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_where_the_encoder_is_frozen_the_trained_model_is_passed_on(workspace: Path) -> None:
    run("fine_tune", workspace)
    assert content(workspace / MODEL) == content(workspace / TRAINED_MODEL)
    assert content(workspace / FINE_TUNED) == content(workspace / TRAINED)
    assert not (workspace / TEST_FEATURES).exists()
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "stages/fine_tune.py")],
        cwd=workspace,
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert " captioner.params" in imported
    assert not [name for name in (" keras", " tensorflow", " mlflow", " pandas") if f"{name}\n" in imported]


@pytest.mark.parametrize("training", ["fine_tuned", "random"])
def test_the_model_has_its_encoder_and_its_features_are_its_own(workspace: Path, training: str) -> None:
    said = run("fine_tune", workspace, encoder_training=training)
    early, late = 4 * (4 * 4 * 3 + 1), 6 * (3 * 3 * 4 + 1)
    assert (
        f"Of the encoder's {early + late} weights {late if training == 'fine_tuned' else early + late} learn." in said
    )
    trained, frozen = Features.open(workspace / TEST_FEATURES), Features.open(workspace / FEATURES)
    model = Captioner.load(workspace / MODEL)
    model.check_features(trained)
    assert (model.encoder["weights"], model.encoder["preprocessing"]) == (training, "auto")
    assert trained.weights_sha256 != frozen.weights_sha256
    with pytest.raises(Exception, match="The model was trained on features of"):
        model.check_features(frozen)
    # the pictures' pixels, through the encoder in the model, give the stored features
    names = list(trained.rows)
    assert len(names) == 4 and all(name.startswith("test") for name in names)
    pictures = list(store.read_pictures(workspace / "data", names))
    found = model.caption(pictures, beam=1)
    expected = model.captions(model.generator(1), trained.grid, rows_of(trained, names))
    assert [caption.text for caption in found] == [caption.text for caption in expected]
    np.testing.assert_allclose(
        [caption.log_probability for caption in found], [caption.log_probability for caption in expected], rtol=1e-3
    )
    early = keras.saving.load_model(workspace / MODEL / "encoder.keras", compile=False)
    before = keras.saving.load_model(workspace / "networks/small.keras", compile=False)
    one, other = (_weights(each, "early") for each in (early, before))
    assert (training == "fine_tuned") == all((mine == yours).all() for mine, yours in zip(one, other, strict=True))
    recorded = json.loads((workspace / FINE_TUNED / "run.json").read_text("utf-8"))
    assert recorded["tags"]["encoder_training"] == recorded["params"]["encoder_training"] == training


def _weights(model: keras.Model, name: str) -> list[np.ndarray]:
    """Return the weights of a layer of a model or of the model in it."""
    inner = next((layer for layer in model.layers if getattr(layer, "layers", None)), model)
    return list(inner.get_layer(name).get_weights())
