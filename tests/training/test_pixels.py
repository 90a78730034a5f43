"""An encoder learns with the decoder where it is to, and only there; pictures change from step to step."""

import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

from captioner.common.errors import CaptionerError
from captioner.common.keras import keras
from captioner.data import images, store
from captioner.data.dataset import CAPTION_COLUMNS, Dataset
from captioner.encoders import networks
from captioner.features.extract import Extractor
from captioner.params import AUGMENTATIONS, Recipe
from captioner.training import fit
from captioner.training.batches import CaptionBatches
from captioner.training.pixels import EncodeValidation, EndToEnd, Pixels, as_features, compile_end_to_end

SIZE, SIDE, CHANNELS = 16, 4, 6
SIDED = "a square is to the left of it"


def photographs(directory: Path, names: dict[str, list[str]]) -> pd.DataFrame:
    """Write pictures of smooth colours, each unlike its mirror image, and return their captions."""
    generator = np.random.default_rng(5)
    rows = [(name, "train", text) for name, texts in names.items() for text in texts]
    captions = pd.DataFrame(rows, columns=CAPTION_COLUMNS)

    def encoded(name: str) -> bytes:
        small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), np.uint8))
        path = directory / name
        small.resize((40, 30), Image.Resampling.BICUBIC).save(path)
        data = path.read_bytes()
        path.unlink()
        return data

    store.write(Dataset(captions, ((name, encoded(name)) for name in names)), directory)
    return captions


@pytest.fixture
def captions(tmp_path: Path) -> pd.DataFrame:
    return photographs(tmp_path, {**tiny.CAPTIONS, "left.png": [SIDED]})


def encoder() -> keras.Model:
    """A network of three convolutions, the last of which gives the map of the grid's size."""
    keras.utils.set_random_seed(3)
    pictures = keras.Input((SIZE, SIZE, 3))
    values = keras.layers.Rescaling(1 / 127.5, -1)(pictures)
    for name, filters in (("first", 4), ("second", 5)):
        values = keras.layers.Conv2D(filters, 3, 2, "same", use_bias=False, name=name)(values)
        values = keras.layers.BatchNormalization(momentum=0.5, name=f"{name}_normalization")(values)
        values = keras.layers.ReLU()(values)
    return keras.Model(pictures, keras.layers.Conv2D(CHANNELS, 1, name="last")(values), name="small")


def batches(directory: Path, captions: pd.DataFrame, used: Recipe, *augmentation: str) -> CaptionBatches:
    names = captions["image"].drop_duplicates().tolist()
    return CaptionBatches(
        as_features(Pixels(directory, names, SIZE, "stretch", augmentation)),
        captions,
        tiny.vocabulary(),
        used.batch_size,
        used.captions_per_picture,
        used.maximum_words,
        seed=1,
        epochs=used.epochs,
    )


def end_to_end(
    directory: Path, captions: pd.DataFrame, layers: Literal["last_blocks", "all"], statistics: bool, **changes: Any
) -> tuple[EndToEnd, CaptionBatches]:
    used = tiny.recipe(**changes)
    network = encoder()
    networks.set_trainable(network, layers, statistics)
    data = batches(directory, captions, used)
    decoder = fit.build(tiny.SIZES, used, "dot", len(tiny.vocabulary()), CHANNELS, SIDE**2)
    return compile_end_to_end(network, decoder, data, used, used.learning_rate / 10, statistics), data


# --- pictures --------------------------------------------------------------------------------------------------------


def test_the_first_view_is_the_picture_as_it_is(tmp_path: Path, captions: pd.DataFrame) -> None:
    names = captions["image"].drop_duplicates().tolist()
    seen = Pixels(tmp_path, names, SIZE, "stretch", AUGMENTATIONS)[np.arange(len(names))]
    for pixels, data in zip(seen, store.read_pictures(tmp_path, names), strict=True):
        np.testing.assert_array_equal(pixels, images.decode(data, SIZE))


@pytest.mark.parametrize("kinds", [("crop",), ("colour",), ("crop", "flip", "colour")])
def test_views_differ_and_are_the_same_again(tmp_path: Path, captions: pd.DataFrame, kinds: tuple[str, ...]) -> None:
    names = captions["image"].drop_duplicates().tolist()
    rows = np.arange(0, 20 * len(names), len(names))  # views of the first picture
    seen = Pixels(tmp_path, names, SIZE, "stretch", kinds)[rows]
    assert seen.dtype == np.uint8 and seen.shape == (20, SIZE, SIZE, 3)
    assert len({pixels.tobytes() for pixels in seen}) >= 10
    np.testing.assert_array_equal(seen, Pixels(tmp_path, names, SIZE, "stretch", kinds)[rows])


def test_flips_alone_give_the_picture_and_its_mirror_image(tmp_path: Path, captions: pd.DataFrame) -> None:
    names = captions["image"].drop_duplicates().tolist()
    plain, mirrored, again = Pixels(tmp_path, names, SIZE, "stretch", ["flip"])[np.arange(3) * len(names)]
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])
    np.testing.assert_array_equal(again, plain)


def test_no_picture_is_mirrored_whose_caption_says_left(tmp_path: Path, captions: pd.DataFrame) -> None:
    data = batches(tmp_path, captions, tiny.recipe(batch_size=1, epochs=40), "flip")
    shown: dict[str, set[int]] = {}
    for _ in range(40):
        for index in range(len(data)):
            (example,) = data.chosen(index)
            row = int(data.views[data._place(index)[0]][example])
            shown.setdefault(data.images[example], set()).add(row // len(set(data.images)) % 2)
        data.on_epoch_end()
    assert shown.pop("left.png") == {0}
    assert set(map(frozenset, shown.values())) == {frozenset({0, 1})}


@pytest.mark.parametrize("kinds", [("crop",), ("colour",)])
def test_without_flips_none_is_mirrored(tmp_path: Path, captions: pd.DataFrame, kinds: tuple[str, ...]) -> None:
    data = batches(tmp_path, captions, tiny.recipe(), *kinds)
    assert all((rows // len(set(data.images)) % 2 == 0).all() for rows in data.views)


def test_without_augmentation_each_step_sees_the_plain_picture(tmp_path: Path, captions: pd.DataFrame) -> None:
    assert batches(tmp_path, captions, tiny.recipe()).views == []


# --- learning --------------------------------------------------------------------------------------------------------

MOVING = ("first_normalization", "second_normalization")


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("layers", "statistics", "learn"),
    [
        ("last_blocks", False, {"second", "last"}),
        ("all", False, {"first", "second", "last"}),
        ("all", True, {"first", "second", "last", *MOVING}),
    ],
)
def test_what_learns(
    tmp_path: Path, captions: pd.DataFrame, layers: Literal["last_blocks", "all"], statistics: bool, learn: set[str]
) -> None:
    model, data = end_to_end(tmp_path, captions, layers, statistics)
    before = {layer.name: layer.get_weights() for layer in model.encoder.layers}
    decoder_before = model.decoder.get_weights()
    model.train_on_batch(*data[0])
    changed = {
        layer.name
        for layer in model.encoder.layers
        if any((one != other).any() for one, other in zip(layer.get_weights(), before[layer.name], strict=True))
    }
    assert changed == learn
    assert any((a != b).any() for a, b in zip(model.decoder.get_weights(), decoder_before, strict=True))
    if statistics:
        # means and variances move, and not gain and offset alone
        for name in MOVING:
            assert (model.encoder.get_layer(name).get_weights()[2] != before[name][2]).any()


@pytest.mark.usefixtures("eager")
def test_the_encoder_learns_at_its_own_rate(tmp_path: Path, captions: pd.DataFrame) -> None:
    model, data = end_to_end(tmp_path, captions, "all", False, gradient_norm=1e30, learning_rate=0.05)
    encoder_before, decoder_before = model.encoder.get_weights(), model.decoder.get_weights()
    model.train_on_batch(*data[0])
    for weights, before, rate in (
        (model.encoder.get_weights(), encoder_before, 0.005),
        (model.decoder.get_weights(), decoder_before, 0.05),
    ):
        # the first step of Adam moves each weight by the learning rate, whatever its gradient
        moved = max(np.abs(one - other).max() for one, other in zip(weights, before, strict=True))
        assert moved == pytest.approx(rate, rel=1e-3)


@pytest.mark.usefixtures("eager")
def test_a_model_of_pixels_says_what_encoder_and_decoder_say(tmp_path: Path, captions: pd.DataFrame) -> None:
    model, data = end_to_end(tmp_path, captions, "all", False)
    inputs, _ = data[0]
    maps = np.asarray(model.encoder(inputs["features"], training=False)).reshape(-1, SIDE**2, CHANNELS)
    expected = model.teacher({**inputs, "features": maps}, training=False)
    np.testing.assert_allclose(np.asarray(model(inputs)), np.asarray(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_training_on_200_pictures_lowers_the_loss(tmp_path: Path) -> None:
    texts = [texts[0] for texts in tiny.CAPTIONS.values()]
    captions = photographs(tmp_path, {f"{number}.png": [texts[number % 4]] for number in range(200)})
    model, data = end_to_end(tmp_path, captions, "all", False, epochs=3, batch_size=20, learning_rate=0.01)
    losses = model.fit(data, epochs=3, verbose=0).history["loss"]
    assert losses[2] < losses[1] < losses[0]


def test_validation_pictures_are_encoded_by_the_encoder_of_the_moment(tmp_path: Path, captions: pd.DataFrame) -> None:
    names = captions["image"].drop_duplicates().tolist()
    pixels, network = Pixels(tmp_path, names, SIZE, "stretch"), encoder()
    grid = np.zeros((len(names), SIDE**2, CHANNELS), np.float16)
    encode = EncodeValidation(lambda: Extractor("small", "fine_tuned", batch_size=2, model=network), pixels, grid, "")
    for factor in (1, 2):
        network.get_layer("last").set_weights([factor * weight for weight in network.get_layer("last").get_weights()])
        encode.on_epoch_end(0)
        expected = np.asarray(network(pixels[np.arange(len(names))], training=False)).reshape(grid.shape)
        np.testing.assert_allclose(grid, expected, rtol=2e-3, atol=2e-3)


def test_an_encoder_that_overflows_ends_the_training(tmp_path: Path, captions: pd.DataFrame) -> None:
    names = captions["image"].drop_duplicates().tolist()
    pixels, network = Pixels(tmp_path, names, SIZE, "stretch"), encoder()
    network.get_layer("last").set_weights([1e6 + weight for weight in network.get_layer("last").get_weights()])
    grid = np.zeros((len(names), SIDE**2, CHANNELS), np.float16)
    encode = EncodeValidation(lambda: Extractor("small", "fine_tuned", model=network), pixels, grid, "lower the rate")
    with pytest.raises(CaptionerError, match=r"ended after epoch 3, since the encoder gives .*: lower the rate$"):
        encode.on_epoch_end(2)


@pytest.mark.usefixtures("eager")
def test_attention_is_penalized_from_pixels_too(tmp_path: Path, captions: pd.DataFrame) -> None:
    losses = [end_to_end(tmp_path, captions, "all", False, attention_penalty=penalty) for penalty in (0.0, 1.0)]
    plain, penalized = (model.train_on_batch(*data[0]) for model, data in losses)
    assert penalized > plain


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, captions: pd.DataFrame) -> None:
    with zipfile.ZipFile(tmp_path / store.IMAGES, "w") as archive:
        archive.writestr("sun.png", b"no picture")
    with pytest.raises(images.UnreadableImage, match=r"picture 'sun.png': no picture"):
        Pixels(tmp_path, ["sun.png"], SIZE, "stretch")[np.arange(1)]
