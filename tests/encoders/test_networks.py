import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import ROOT

from captioner.common import weights as weights_module
from captioner.common.errors import CaptionerError
from captioner.common.startup import silence_stderr
from captioner.data import images
from captioner.encoders import ENCODERS, efficientnet_lite, networks
from captioner.encoders import torch_file as torch_file_module

with silence_stderr():
    import keras


def shared(file: str) -> Path:
    """A file of the shared folder beside the checkout."""
    path = ROOT.parent / "shared" / file
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


@cache
def built(name: str) -> keras.Model:
    return networks.build(name)


@pytest.fixture(scope="session")
def lite0() -> keras.Model:
    return built("efficientnet_lite0")


@pytest.fixture
def random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are built with random weights."""
    monkeypatch.setattr(networks, "weights_file", lambda *_: Path())
    monkeypatch.setattr(networks, "_load", lambda *_: None)


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)


def test_importing_needs_no_keras() -> None:
    code = "import sys, captioner.features.extract; sys.exit('keras' in sys.modules or 'tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})


# --- what a model is -------------------------------------------------------------------------------------------------


def test_efficientnet_lite0_is_frozen_and_of_the_published_size(lite0: keras.Model) -> None:
    assert lite0.output_shape == (None, 7, 7, 1280)
    assert not lite0.trainable_variables
    # 4,652,008 are published for the whole network, of which the classifier has 1,281,000 and normalisation's
    # running means and variances, which are counted here, are left out.
    statistics = sum(
        layer.gamma.shape[0] * 2 for layer in lite0.layers if isinstance(layer, keras.layers.BatchNormalization)
    )
    assert lite0.count_params() - statistics == 4_652_008 - 1_281_000


APPLICATIONS = [name for name in ENCODERS if name not in efficientnet_lite.VARIANTS]


def application(network: str) -> tuple[Callable[..., keras.Model], Callable[[np.ndarray], np.ndarray]]:
    """Return what builds a network in `keras.applications`, and the preprocessing of its module there."""
    modules = [each for each in vars(keras.applications).values() if hasattr(each, "preprocess_input")]
    # that of MobileNetV3 has a preprocessing, and no network
    module = next((each for each in modules if hasattr(each, network)), keras.applications.mobilenet_v3)
    return getattr(keras.applications, network), module.preprocess_input


def test_every_network_of_keras_applications_can_be_chosen() -> None:
    theirs = {name.lower() for name, each in vars(keras.applications).items() if name[0].isupper() and callable(each)}
    assert theirs == set(APPLICATIONS)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_preprocessing_is_that_of_keras(name: str, pictures: np.ndarray) -> None:
    encoder = ENCODERS[name]
    source = keras.Input((224, 224, 3))
    model = keras.Model(source, networks.preprocessed(encoder.preprocessing, source))
    expected = application(encoder.network)[1](pictures.astype(np.float32))
    np.testing.assert_allclose(np.asarray(model(pictures)), expected, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(encoder.preprocessing(pictures), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet", "resnet50", "mobilenetv3small"])
def test_a_network_is_that_of_keras_on_preprocessed_pictures(name: str, pictures: np.ndarray, tmp_path: Path) -> None:
    build, preprocess = application(ENCODERS[name].network)
    plain = build(include_top=False, weights=None, input_shape=(224, 224, 3))
    plain.save_weights(tmp_path / "random.weights.h5")
    expected = np.asarray(plain(preprocess(pictures.astype(np.float32)), training=False))

    model = networks.build(name, tmp_path / "random.weights.h5")

    assert model.output_shape == (None, 7, 7, expected.shape[-1])
    assert not model.trainable_variables
    assert weights_module.weights_hash(model) == weights_module.weights_hash(plain)
    found = np.asarray(model(pictures, training=False))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


SMALLEST = ("efficientnet_lite2", "densenet121", "vgg16", "efficientnetb0", "efficientnetv2b0", "convnexttiny")
"""Of most families that no other test here builds."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SMALLEST else pytest.mark.exhaustive) for name in ENCODERS]
)
@pytest.mark.slow
def test_every_network_has_a_square_map(name: str, random: None) -> None:
    model = networks.build(name, "random", 96)
    _, rows, columns, channels = model.output_shape
    assert rows == columns == (1 if name.startswith("inception") else 3)
    assert channels >= 320 and not model.trainable_variables


def learning(model: keras.Model) -> set[str]:
    """The layers of a network, and of the networks in it, of which a weight can be trained."""
    return {layer.name for layer in networks._layers(model) if layer.trainable_weights}


def kernels(model: keras.Model) -> set[str]:
    normalization = keras.layers.BatchNormalization
    return {layer.name for layer in networks._layers(model) if layer.weights and not isinstance(layer, normalization)}


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("efficientnet_lite0", "blocks11_depthwise_conv"),
        ("mobilenet", "conv_dw_12"),
        ("vgg16", "block5_conv1"),
        # their squeezed maps of one position are no last blocks
        ("efficientnetb0", "block6a_dwconv"),
        ("mobilenetv3small", "expanded_conv_8_depthwise"),
    ],
)
def test_the_last_blocks_give_maps_of_the_size_of_the_grid(name: str, first: str, random: None) -> None:
    model = networks.build(name, "random", 96)
    networks.set_trainable(model, "last_blocks", batch_statistics=False)
    layers = [layer.name for layer in model.layers]
    expected = kernels(model) & set(layers[layers.index(first) :])
    assert learning(model) == expected and expected < kernels(model)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "convnexttiny"])
def test_all_layers_learn_and_batch_statistics_if_asked_for(name: str, random: None) -> None:
    model = networks.build(name, "random", 96)
    networks.set_trainable(model, "all", batch_statistics=False)
    assert learning(model) == kernels(model)
    networks.set_trainable(model, "all", batch_statistics=True)
    assert {layer.name for layer in networks._layers(model) if layer.weights} == learning(model)


def test_the_last_blocks_of_a_network_of_ones_own(tmp_path: Path) -> None:
    pictures = keras.Input((32, 32, 3))
    values = keras.layers.Conv2D(4, 3, 4, "same", name="early")(pictures)
    inner = keras.Sequential([keras.layers.Conv2D(4, 3, 2, "same", name="late")], name="block")
    keras.Model(pictures, inner(values)).save(tmp_path / "own.keras")
    model = networks.build(str(tmp_path / "own.keras"))
    networks.set_trainable(model, "last_blocks", batch_statistics=False)
    assert learning(model) == {"late"}


QUICKEST = ("efficientnet_lite0", "vgg16")


@keras.saving.register_keras_serializable("tests")
class Opaque(keras.Model):
    """A network that does not say what its layers give."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.inner = keras.layers.Conv2D(4, 3, 2, "same")

    def call(self, values: Any) -> Any:
        return self.inner(values)


def test_last_blocks_that_cannot_be_told_from_others(tmp_path: Path) -> None:
    pictures = keras.Input((32, 32, 3))
    keras.Model(pictures, Opaque(name="opaque")(pictures)).save(tmp_path / "own.keras")
    model = networks.build(str(tmp_path / "own.keras"))
    with pytest.raises(CaptionerError, match="no layers that tell its last blocks from others: set the `layers` of"):
        networks.set_trainable(model, "last_blocks", batch_statistics=False)
    networks.set_trainable(model, "all", batch_statistics=False)
    assert len(model.trainable_weights) == 2


def test_running_statistics_of_an_untrained_network_move_soon_enough(random: None) -> None:
    model = networks.build("mobilenetv3small", "random", 64)
    for network, momentum in ((model, 0.999), (networks.untrained(model), 0.99)):
        layers = [layer for layer in networks._layers(network) if isinstance(layer, keras.layers.BatchNormalization)]
        assert {layer.momentum for layer in layers} == {momentum}


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vgg16"])
def test_an_untrained_network_has_the_same_layers_and_weights_of_its_own(name: str, random: None) -> None:
    model = networks.build(name, "random", 64)
    keras.utils.set_random_seed(1)
    first, second = networks.untrained(model), networks.untrained(model)
    assert first.output_shape == model.output_shape
    assert [weight.shape for weight in first.weights] == [weight.shape for weight in model.weights]
    hashes = {weights_module.weights_hash(each) for each in (model, first, second)}
    keras.utils.set_random_seed(1)
    assert len(hashes) == 3 and weights_module.weights_hash(networks.untrained(model)) in hashes


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICKEST else pytest.mark.exhaustive) for name in ENCODERS],
)
def test_a_network_that_has_learned_is_read_as_one_of_ones_own(
    name: str, random: None, pictures: np.ndarray, tmp_path: Path
) -> None:
    # about the smallest that it takes, and that has four positions
    size = 139 if name.startswith("inception") else 96 if name == "xception" else 64
    model = networks.build(name, "random", size)
    model.save(tmp_path / "encoder.keras")
    read = networks.build(str(tmp_path / "encoder.keras"))
    assert weights_module.weights_hash(read) == weights_module.weights_hash(model)
    seen = pictures[:1, :size, :size]
    np.testing.assert_allclose(np.asarray(read(seen)), np.asarray(model(seen)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "side"),
    [("efficientnet_lite0", 448, 14), ("efficientnet_lite1", None, 8), ("mobilenet", 320, 10), ("resnet50", 64, 2)],
)
def test_the_grid_follows_the_size_of_the_pictures(name: str, size: int | None, side: int, random: None) -> None:
    model = networks.build(name, "random", size)
    assert model.input_shape == (None, *[size or ENCODERS[name].image_size] * 2, 3)
    assert model.output_shape[1:3] == (side, side)


def test_a_size_that_a_network_does_not_take(random: None) -> None:
    with pytest.raises(CaptionerError, match="encoder 'xception' takes no pictures of 64 pixels: Input size must be"):
        networks.build("xception", "random", 64)


@pytest.mark.slow
def test_weights_of_efficientnet_b_from_a_file_are_used_as_keras_uses_its_own(
    pictures: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras.applications.EfficientNetB0(include_top=False, weights=None).save_weights(tmp_path / "random.weights.h5")
    small = pictures[:, :64, :64]
    of_file = networks.build("efficientnetb0", tmp_path / "random.weights.h5", 64)
    monkeypatch.setattr(
        "keras.src.applications.efficientnet.file_utils.get_file", lambda *_, **__: str(tmp_path / "random.weights.h5")
    )
    downloaded = networks.build("efficientnetb0", "imagenet", 64)
    assert (of_file.name, of_file.output_shape) == (downloaded.name, downloaded.output_shape)
    assert weights_module.weights_hash(of_file) == weights_module.weights_hash(downloaded)
    found, expected = (np.asarray(model(small)) for model in (of_file, downloaded))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_weights_hash_tells_values_apart(lite0: keras.Model, tmp_path: Path) -> None:
    lite0.save_weights(tmp_path / "copy.weights.h5")
    copy = networks.build("efficientnet_lite0", str(tmp_path / "copy.weights.h5"))
    assert weights_module.weights_hash(copy) == weights_module.weights_hash(lite0)
    copy.layers[-2].gamma.assign(copy.layers[-2].gamma * 1.001)
    assert weights_module.weights_hash(copy) != weights_module.weights_hash(lite0)
    with pytest.raises(CaptionerError, match="do not fit encoder 'mobilenet'"):
        networks.build("mobilenet", tmp_path / "copy.weights.h5")


def test_weights_that_are_not_finite(lite0: keras.Model, tmp_path: Path) -> None:
    copy = keras.models.clone_model(lite0)
    weights = lite0.get_weights()
    weights[3] = np.full_like(weights[3], np.nan)
    copy.set_weights(weights)
    copy.save_weights(tmp_path / "broken.weights.h5")
    with pytest.raises(CaptionerError, match=r"broken\.weights\.h5' of encoder 'efficientnet_lite0' are not finite"):
        networks.build("efficientnet_lite0", tmp_path / "broken.weights.h5")


def test_unknown_encoder() -> None:
    with pytest.raises(CaptionerError, match=r"'MobilNet' is unknown: did you mean mobilenet\? allowed are eff.*keras"):
        networks.build("MobilNet")


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=r"nowhere\.h5' of encoder 'mobilenet' are no file: give 'imagenet' or"):
        networks.build("mobilenet", tmp_path / "nowhere.h5")


def test_damaged_weights(tmp_path: Path) -> None:
    (tmp_path / "damaged.weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n and then nothing")
    with pytest.raises(CaptionerError, match="do not fit encoder 'mobilenet'"):
        networks.build("mobilenet", tmp_path / "damaged.weights.h5")


def build_elsewhere(keras_home: Path) -> subprocess.CompletedProcess[str]:
    """Build MobileNet in a process of its own, since Keras reads KERAS_HOME when it is imported; no network there."""
    code = """
from captioner.common.errors import CaptionerError
from captioner.common.weights import weights_hash
from captioner.encoders import networks
try:
    print(weights_hash(networks.build("mobilenet")))
except CaptionerError as error:
    print(error)
"""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **proxies, "KERAS_HOME": str(keras_home), "PYTHONPATH": str(ROOT / "src")}
    environment.pop("no_proxy", None)
    return subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)


def test_mobilenet_finds_its_weights_in_keras_home() -> None:
    file = shared("keras/models/mobilenet_1_0_224_tf_no_top.h5").resolve()
    process = build_elsewhere(file.parents[1])
    assert process.stdout.strip() == weights_module.weights_hash(networks.build("mobilenet", file))
    assert process.stderr == ""


@pytest.mark.slow
def test_no_network_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    process = build_elsewhere(tmp_path)
    [line] = [line for line in process.stdout.splitlines() if not line.startswith("Downloading data")]
    assert line.startswith("the ImageNet weights of MobileNet cannot be downloaded: ")
    for way_out in ("KERAS_HOME", "`weights`", "efficientnet_lite0"):
        assert way_out in line


# --- the reader of PyTorch files -------------------------------------------------------------------------------------

HEAD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03." + b"\x80\x02}."


def torch_file(
    values: np.ndarray, shape: str = "(I2\nI3\nt", strides: str = "(I3\nI1\nt", offset: int = 0, view: str = "N"
) -> bytes:
    """A file of one tensor `w`, as PyTorch before 1.6 writes it; shape and strides are pickled tuples."""
    storage = f"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI{values.size}\n{view}tQ"
    tensor = (
        f"ctorch._utils\n_rebuild_tensor_v2\n({storage}I{offset}\n{shape}{strides}I00\nccollections\nOrderedDict\n(tRtR"
    )
    pickled = f"(dS'w'\n{tensor}s."
    return HEAD + pickled.encode() + b"(lS'0'\na." + np.int64(values.size).tobytes() + values.astype("<f4").tobytes()


def read(data: bytes, tmp_path: Path) -> dict[str, np.ndarray]:
    (tmp_path / "file.pth").write_bytes(data)
    return torch_file_module.read_torch(tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [[0, 1, 2], [3, 4, 5]]),
        ({"offset": 2}, [[2, 3, 4], [5, 6, 7]]),
        ({"strides": "(I1\nI2\nt"}, [[0, 2, 4], [1, 3, 5]]),
        ({"shape": "(t", "strides": "(t", "offset": 7}, 7),
    ],
)
def test_read_torch(arguments: dict, expected: list, tmp_path: Path) -> None:
    tensors = read(torch_file(np.arange(8), **arguments), tmp_path)
    assert list(tensors) == ["w"]
    np.testing.assert_array_equal(tensors["w"], np.array(expected, np.float32), strict=True)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Ran out of input"),
        (b"PK\x03\x04 a file of PyTorch 1.6", "file.pth is not a whole PyTorch file of tensors only"),
        (b"\x80\x02K\x01.", "does not begin as such a file does"),
        (HEAD + b"\x80\x02]." + b"(l.", "something else than a dictionary of tensors"),
        (HEAD + b"\x80\x02}S'a'\nK\x01s." + b"(l.", "something else than a dictionary of tensors"),
        (torch_file(np.arange(8))[:-1], "file.pth is not a whole PyTorch file"),
        (torch_file(np.arange(8), offset=3), "reaches beyond its values"),
        (torch_file(np.arange(8), offset=-1), "reaches beyond its values"),
        (torch_file(np.arange(8), strides="(I-1\nI1\nt"), "reaches beyond its values"),
        (torch_file(np.arange(8), view="(t"), "has a view of a storage"),
    ],
)
def test_read_torch_refuses_what_is_damaged(data: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=reason):
        read(data, tmp_path)


@pytest.mark.parametrize(
    "call",
    [
        "cposix\nsystem\n(S'touch {}'\ntR",
        "cbuiltins\neval\n(S\"open('{}', 'w')\"\ntR",
        "cpathlib\nPath\n(S'{}'\ntR",
        "ctorch\nload\n(S'{}'\ntR",
        "ccollections\nCounter\n(S'{}'\ntR",
    ],
)
@pytest.mark.parametrize("before", [b"", HEAD])
def test_read_torch_calls_nothing_that_a_file_names(call: str, before: bytes, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    module, name = call.splitlines()[:2]
    with pytest.raises(CaptionerError, match=rf"it names {module[1:]}\.{name}"):
        read(before + call.format(trace).encode() + b".", tmp_path)
    assert not trace.exists()


# --- does it see? ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def captions() -> dict[str, list[list[str]]]:
    """The words of the five captions of every photograph of Flickr8k."""
    captions: dict[str, list[list[str]]] = {}
    with zipfile.ZipFile(shared("datasets/flickr8k/Flickr8k_text.zip")) as archive:
        for line in archive.read("Flickr8k.token.txt").decode().splitlines():
            image, _, rest = line.partition("#")
            captions.setdefault(image, []).append(rest.split("\t")[1].lower().split())
    return captions


@pytest.mark.parametrize("name", efficientnet_lite.VARIANTS)
@pytest.mark.parametrize(
    ("word", "classes"),
    [
        ("dog", range(151, 269)),  # every breed
        ("basketball", [430]),
        ("snowboarder", [795, 970]),  # ski, alp
    ],
)
def test_a_lite_network_classifies(
    name: str, word: str, classes: list[int], captions: dict[str, list[list[str]]]
) -> None:
    """Of the first photographs whose five captions all have the word, nearly all have the class in their top five."""
    chosen = [image for image, five in captions.items() if all(word in caption for caption in five)][:12]
    tensors = torch_file_module.read_torch(efficientnet_lite.weights_path(name))
    network = built(name)
    with zipfile.ZipFile(shared("datasets/flickr8k/Flickr8k_Dataset.zip")) as archive:
        photographs = [archive.read(f"Flicker8k_Dataset/{image}") for image in chosen]
    pixels = np.stack([images.decode(photograph, network.input_shape[1]) for photograph in photographs])
    pooled = network.predict_on_batch(pixels).mean((1, 2))  # [B, 1280]
    logits = pooled @ tensors["_fc.weight"].T + tensors["_fc.bias"]  # [B, 1000]
    top_five = np.argsort(-logits)[:, :5]
    assert np.isin(top_five, classes).any(axis=1).mean() > 0.8
