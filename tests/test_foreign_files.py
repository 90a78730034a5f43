"""Models and arrays from elsewhere are data: none of them runs code of its own, and none leads out of its folder."""

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tiny

from captioner.common.errors import CaptionerError
from captioner.encoders import networks, torch_file
from captioner.features.store import GRID, INDEX, Features
from captioner.inference.captioner import Captioner
from captioner.text import word_vectors
from captioner.tracking import registry, store
from captioner.training.checkpoints import ARRAYS, RESULTS, STATE, Checkpoints

MODULE = "module_of_a_stranger"


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once a stranger's code has run; that is in a module, which makes it when it is imported."""
    place = tmp_path / "mark"
    (tmp_path / "modules").mkdir()
    (tmp_path / f"modules/{MODULE}.py").write_text(f"open({str(place)!r}, 'w').close()\ndef call(*_): pass\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return place


class Stranger:
    """Makes the mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.mark,)


def of_strangers(mark: Path) -> np.ndarray:
    array = np.empty(2, object)
    array[:] = Stranger(mark)
    return array


# --- networks --------------------------------------------------------------------------------------------------------


def with_lambda(mark: Path, path: Path) -> None:
    """A layer whose code is in the file."""
    pictures = keras.Input((8, 8, 3))
    code = f"open({str(mark)!r}, 'w').close()"
    called = eval(f"lambda x: (x, exec({code!r}))[0]")
    model = keras.Model(pictures, keras.layers.Lambda(called, output_shape=(8, 8, 3))(pictures))
    mark.unlink(missing_ok=True)  # it was called just now
    model.save(path)
    mark.unlink(missing_ok=True)


def with_another(layer: bool = False, **named: Any) -> Callable[[Path, Path], None]:
    """A network whose file names what Keras is to import and call."""

    def save(_: Path, path: Path) -> None:
        pictures = keras.Input((8, 8, 3))
        keras.Model(pictures, keras.layers.Conv2D(2, 1, activation="relu")(pictures)).save(path)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        config = json.loads(members["config.json"])
        (known,) = (each for each in config["config"]["layers"] if each["class_name"] == "Conv2D")
        if layer:
            known.update(named)
        else:
            known["config"]["activation"] = named
        members["config.json"] = json.dumps(config).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)

    return save


NETWORKS: dict[str, Callable[[Path, Path], None]] = {
    "a lambda": with_lambda,
    "a function of a module": with_another(
        module=MODULE, class_name="function", config="call", registered_name="function"
    ),
    "a class of a module": with_another(module=MODULE, class_name="call", config={}, registered_name=None),
    "a layer of a module": with_another(layer=True, module=MODULE, class_name="call", registered_name=f"{MODULE}>call"),
    "a function of Python": with_another(
        module="builtins", class_name="function", config="exec", registered_name="function"
    ),
    "a function of the system": with_another(
        module="os", class_name="function", config="system", registered_name="function"
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_runs_nothing(kind: str, mark: Path, tmp_path: Path) -> None:
    NETWORKS[kind](mark, tmp_path / "network.keras")
    with pytest.raises(CaptionerError):
        networks.build(str(tmp_path / "network.keras"), image_size=8)
    assert not mark.exists() and MODULE not in sys.modules


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_models_decoder_runs_nothing(kind: str, mark: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    Captioner(tiny.decoder(), tiny.vocabulary(), tiny.features().made_by, 3, {}).save(model)
    (model / "decoder.keras").unlink()
    NETWORKS[kind](mark, model / "decoder.keras")
    with pytest.raises(CaptionerError):
        Captioner.load(model)
    assert not mark.exists() and MODULE not in sys.modules


@pytest.mark.parametrize("file", ["../other.keras", "/etc", ".."])
def test_features_have_their_encoder_beside_them(file: str, tmp_path: Path) -> None:
    made = tiny.features()
    np.save(tmp_path / GRID, made.grid)
    index = {**made.made_by, "encoder": "mine", "shape": made.grid.shape, "images": list(made.rows), "network": file}
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CaptionerError, match=r"is no name of a file in "):
        Features.open(tmp_path)


def test_a_pytorch_file_runs_nothing(mark: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    for data in (
        b"cos\nsystem\n(S'touch %s'\ntR." % str(mark).encode(),
        b"c%s\ncall\n(tR." % MODULE.encode(),
        b"cbuiltins\nexec\n(S'import %s'\ntR." % MODULE.encode(),
    ):
        file.write_bytes(data)
        with pytest.raises(CaptionerError, match=r"is not a whole PyTorch file of tensors only"):
            torch_file.read_torch(file)
    assert not mark.exists() and MODULE not in sys.modules


# --- arrays ----------------------------------------------------------------------------------------------------------


def test_word_vectors_run_nothing(mark: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", of_strangers(mark), allow_pickle=True)
    (tmp_path / "vectors.txt").write_text("a\nb")
    with pytest.raises(CaptionerError, match="cannot be read as word vectors"):
        word_vectors.load(tmp_path / "vectors.npy", tiny.vocabulary().tokens, 1)
    assert not mark.exists()


def test_a_checkpoint_runs_nothing(mark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "checkpoints/1-1"
    (place / RESULTS).mkdir(parents=True)
    (place / STATE).write_text("{}")
    buffer = io.BytesIO()
    np.savez(buffer, of_strangers(mark), allow_pickle=True)
    (place / ARRAYS).write_bytes(buffer.getvalue())
    assert Checkpoints(tmp_path / "checkpoints").arrays == []
    assert "is damaged, and passed over" in capsys.readouterr().out
    assert not mark.exists()


# --- MLflow ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flavor",
    [
        {"loader_module": MODULE, "data": "data"},
        {"loader_module": "mlflow.pyfunc.model", "python_model": "python_model.pkl"},
        {"loader_module": "captioner.serving.pyfunc", "data": "../elsewhere"},
        {"loader_module": "captioner.serving.pyfunc", "data": "/etc"},
        {"loader_module": "captioner.serving.pyfunc"},
        {},
    ],
)
def test_a_logged_model_runs_nothing_and_stays_in_its_folder(
    flavor: dict[str, str], mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = tmp_path / "fetched"
    (fetched / "data").mkdir(parents=True)
    (fetched / "MLmodel").write_text(json.dumps({"flavors": {"python_function": flavor}}))
    mlflow = store.load_mlflow()
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda *_, **__: str(fetched))
    (tmp_path / "mlflow.db").touch()
    monkeypatch.setattr(registry, "connect", lambda _: (None, ""))
    with pytest.raises(CaptionerError, match="a model that is not one of Captioner's"):
        registry.fetch_model(tmp_path, "models:/captioner-scenes/1", tmp_path / "here")
    assert not mark.exists() and MODULE not in sys.modules
