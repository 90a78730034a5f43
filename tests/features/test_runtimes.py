"""Encoders in files of one's own, of every format: each gives what the network gives that it was made from."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import tensorflow
import tiny
from onnx import TensorProto, helper, numpy_helper

from captioner.cli.about import about, table
from captioner.common.errors import CaptionerError
from captioner.encoders.registry import PREPROCESSINGS, is_path
from captioner.features.extract import Extractor
from captioner.features.store import Features
from captioner.inference.captioner import Captioner
from captioner.training import fit

SIZE, CHANNELS = 32, 5
FORMS = ("network.keras", "folder/network", "network.tflite", "network.onnx")


@pytest.fixture(scope="module")
def network() -> keras.Model:
    keras.utils.set_random_seed(3)
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), layers.Conv2D(CHANNELS, 8, 8, activation="relu", bias_initializer="ones")]
    )


def write_onnx(network: keras.Model, path: Path, sides: tuple[int | str, int | str] = (SIZE, SIZE)) -> None:
    """Write the convolution as ONNX has it: channels before rows and columns."""
    kernel, bias = network.get_weights()
    nodes = [
        helper.make_node("Conv", ["pictures", "kernel", "bias"], ["sums"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Relu", ["sums"], ["map"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ["batch", 3, *sides])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, ["batch", CHANNELS, None, None])],
        [numpy_helper.from_array(kernel.transpose(3, 2, 0, 1).copy(), "kernel"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def write_tflite(network: keras.Model, path: Path, **options: Any) -> None:
    converter = tensorflow.lite.TFLiteConverter.from_keras_model(network)
    for name, value in options.items():
        setattr(converter, name, value)
    path.write_bytes(converter.convert())


@pytest.fixture(scope="module")
def files(network: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("networks")
    (place / "folder").mkdir()
    network.save(place / "network.keras")
    network.save(place / "folder/network", zipped=False)
    write_tflite(network, place / "network.tflite")
    write_onnx(network, place / "network.onnx")
    return place


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize("preprocessing", ["auto", *PREPROCESSINGS])
@pytest.mark.parametrize("form", FORMS)
def test_features_are_those_of_the_network(
    form: str, preprocessing: str, files: Path, network: keras.Model, pixels: np.ndarray
) -> None:
    wanted = PREPROCESSINGS["none" if preprocessing == "auto" else preprocessing]
    expected = np.asarray(network(wanted(pixels.astype(np.float32)).astype(np.float32)))
    assert is_path(str(files / form))
    extractor = Extractor(str(files / form), preprocessing=preprocessing)
    assert (extractor.image_size, extractor.positions, extractor.channels) == (SIZE, 16, CHANNELS)
    assert len(extractor.weights_sha256) == 64
    for given in (pixels, pixels[:1]):
        found = extractor(given)
        assert found.dtype == np.float16
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found, expected[: len(given)].reshape(found.shape), rtol=2**-10, atol=largest / 1000)


def test_where_litert_gives_another_map_keras_is_taken(
    tmp_path: Path, rng: np.random.Generator, capfd: pytest.CaptureFixture[str]
) -> None:
    # of a stride larger than the kernel, LiteRT 2.21 makes a map of zeros
    source = keras.Input((32, 32, 3))
    network = keras.Model(source, keras.layers.Conv2D(4, 3, 4, "same", name="strided")(source))
    network.save(tmp_path / "strided.keras")
    pictures = rng.integers(0, 256, (3, 32, 32, 3), np.uint8)
    found = Extractor(str(tmp_path / "strided.keras"), batch_size=2)(pictures)
    expected = np.asarray(network(pictures)).reshape(3, 64, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2 * np.abs(expected).max())
    said = capfd.readouterr().err
    assert ("LiteRT gives another map" in said) == (keras.backend.backend() == "tensorflow")


def test_one_hash_for_the_same_network_as_file_and_folder(files: Path) -> None:
    one, other = (Extractor(str(files / form)).weights_sha256 for form in FORMS[:2])
    assert one == other


def test_a_network_of_pictures_of_any_size(network: keras.Model, tmp_path: Path, pixels: np.ndarray) -> None:
    write_onnx(network, tmp_path / "any.onnx", ("height", "width"))
    with pytest.raises(CaptionerError, match=r"any\.onnx' does not say of which size .*: set features\.image_size"):
        Extractor(str(tmp_path / "any.onnx"))
    assert Extractor(str(tmp_path / "any.onnx"), image_size=64).positions == 64
    any_size = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(4, 8, 8)])
    any_size.save(tmp_path / "any.keras")
    write_tflite(any_size, tmp_path / "any.tflite")
    with pytest.raises(CaptionerError, match=r"any\.tflite' does not say of which size"):
        Extractor(str(tmp_path / "any.tflite"))
    assert Extractor(str(tmp_path / "any.tflite"), image_size=64).positions == 64
    with pytest.raises(CaptionerError, match=r"of the shape \[None, None, 3\], and features.image_size is auto"):
        Extractor(str(tmp_path / "any.keras"))
    assert Extractor(str(tmp_path / "any.keras"), image_size=64).positions == 64


@pytest.mark.parametrize("form", FORMS)
def test_another_size_than_that_of_the_file(form: str, files: Path) -> None:
    with pytest.raises(CaptionerError, match=rf"{form}.*(pictures of 32 pixels|\[32, 32, 3\]).*image_size is 64"):
        Extractor(str(files / form), image_size=64)


@pytest.mark.parametrize("form", ["a.keras", "a.tflite", "a.onnx"])
def test_what_is_no_network(form: str, tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match="is no file: give the path of a network"):
        Extractor(str(tmp_path / form))
    (tmp_path / form).write_bytes(b"these are words")
    with pytest.raises(CaptionerError, match=rf"{form}' (cannot be read|has no network from pictures)"):
        Extractor(str(tmp_path / form))


def test_a_classifier_has_no_map(tmp_path: Path) -> None:
    layers = keras.layers
    classifier = keras.Sequential([keras.Input((SIZE, SIZE, 3)), layers.GlobalAveragePooling2D(), layers.Dense(7)])
    classifier.save(tmp_path / "classifier.keras")
    write_tflite(classifier, tmp_path / "classifier.tflite")
    for form in ("classifier.keras", "classifier.tflite"):
        with pytest.raises(CaptionerError, match="a square map of at least 2 × 2 is needed, no classifier"):
            Extractor(str(tmp_path / form))


def test_a_map_that_is_not_square(tmp_path: Path) -> None:
    oblong = keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Conv2D(4, 4, (4, 16), padding="same")])
    assert oblong.output_shape == (None, 8, 2, 4)  # 16 positions, which are no square of 4 x 4
    oblong.save(tmp_path / "oblong.keras")
    write_tflite(oblong, tmp_path / "oblong.tflite")
    for form in ("oblong.keras", "oblong.tflite"):
        with pytest.raises(CaptionerError, match=r"8, 2, 4\]: a square map of at least 2 × 2 is needed"):
            Extractor(str(tmp_path / form))


def test_a_quantized_network(network: keras.Model, tmp_path: Path, pixels: np.ndarray) -> None:
    def examples() -> Iterator[list[np.ndarray]]:
        for picture in pixels:
            yield [picture[None].astype(np.float32)]

    write_tflite(
        network,
        tmp_path / "quantized.tflite",
        optimizations=[tensorflow.lite.Optimize.DEFAULT],
        representative_dataset=examples,
        inference_input_type=tensorflow.uint8,
        inference_output_type=tensorflow.uint8,
    )
    found = Extractor(str(tmp_path / "quantized.tflite"))(pixels)
    expected = np.asarray(network(pixels.astype(np.float32))).reshape(found.shape)
    assert np.abs(found - expected).max() < 0.02 * expected.max()
    with pytest.raises(CaptionerError, match="takes whole numbers from 0 to 255: leave feat"):
        Extractor(str(tmp_path / "quantized.tflite"), preprocessing="symmetric")


def test_onnx_with_its_weights_in_another_file(
    network: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_onnx(network, tmp_path / "whole.onnx")
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.load("whole.onnx"), "apart.onnx", save_as_external_data=True, location="data", size_threshold=0)
    with pytest.raises(CaptionerError, match=r"apart\.onnx' cannot be read"):
        Extractor("apart.onnx")


def test_several_outputs(tmp_path: Path) -> None:
    source = keras.Input((SIZE, SIZE, 3))
    outputs = [keras.layers.Conv2D(4, 8, 8)(source) for _ in range(2)]
    keras.Model(source, outputs).save(tmp_path / "several.keras")
    with pytest.raises(CaptionerError, match=r"gives no map of pictures of 32 pixels .*: one output is needed"):
        Extractor(str(tmp_path / "several.keras"))


@pytest.mark.parametrize("form", FORMS)
def test_a_model_carries_its_encoder(form: str, network: keras.Model, files: Path, tmp_path: Path) -> None:
    shutil.copytree(files, tmp_path / "mine")
    names = list(tiny.CAPTIONS)
    pictures = [tiny.photograph(row) for row in range(len(names))]
    Extractor(str(tmp_path / "mine" / form), preprocessing="symmetric").extract(pictures, names, tmp_path / "features")
    features = Features.open(tmp_path / "features")
    assert features.encoder == Path(form).name and features.network is not None
    decoder = fit.build(tiny.SIZES, tiny.recipe(), "dot", len(tiny.vocabulary()), features.channels, features.positions)
    made = Captioner(decoder, tiny.vocabulary(), features.made_by, 3, {}, network=features.network)
    made.save(tmp_path / "model")
    for gone in ("mine", "features"):
        shutil.rmtree(tmp_path / gone)
    (tmp_path / "model").rename(tmp_path / "moved")

    model = Captioner.load(tmp_path / "moved")
    np.testing.assert_array_equal(model._extractor(np.stack(list(map(model.pixels, pictures)))), features.grid)
    assert model.caption(pictures[0], 1).attention.shape[1:] == (4, 4)
    model.save(tmp_path / "again")
    assert (tmp_path / "again/model.json").read_bytes() == (tmp_path / "moved/model.json").read_bytes()
    assert "its own weights" in "\n".join(table(about(tmp_path / "again")))

    kept = model.network
    assert kept is not None and kept.parent == tmp_path / "moved"
    kept.rename(tmp_path / "elsewhere")
    with pytest.raises(CaptionerError, match="The model lacks its encoder"):
        Captioner.load(tmp_path / "moved").caption(pictures[0])


@pytest.mark.parametrize("file", ["../encoder.onnx", "/etc/passwd", "..", "", 7])
def test_a_model_has_its_encoder_inside(file: Any, model: Captioner, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    described = json.loads((tmp_path / "model/model.json").read_text("utf-8"))
    described["encoder"]["file"] = file
    (tmp_path / "model/model.json").write_text(json.dumps(described), "utf-8")
    with pytest.raises(CaptionerError, match=r"is no name of a file in |encoder\.file: "):
        Captioner.load(tmp_path / "model")
