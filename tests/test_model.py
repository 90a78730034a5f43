"""One directory is the whole model; parts that do not belong together are refused."""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny
from PIL import Image

from captioner.encoders import ENCODERS
from captioner.errors import CaptionerError
from captioner.features import Extractor
from captioner.model import FORMAT, Caption, Captioner
from captioner.vocabulary import Vocabulary

LITE0 = "efficientnet_lite0"


def texts(model: Captioner) -> list[str]:
    return [caption.text for caption in model.captions(model.generator(1, batch_size=4), tiny.features().grid)]


def refusal(directory: Path) -> str:
    with pytest.raises(CaptionerError) as error:
        Captioner.load(directory)
    assert "\n" not in str(error.value) and "dvc repro" in str(error.value)
    return str(error.value)


def rewrite(directory: Path, change: Callable[[dict], object]) -> None:
    described = json.loads((directory / "model.json").read_text("utf-8"))
    change(described)
    (directory / "model.json").write_text(json.dumps(described), "utf-8")


# --- saving and loading ----------------------------------------------------------------------------------------------


def test_a_loaded_model_says_the_same(model: Captioner, saved: Path) -> None:
    loaded = Captioner.load(saved)
    assert texts(loaded) == texts(model) == [captions[0] for captions in tiny.CAPTIONS.values()]
    assert (loaded.encoder, loaded.maximum_words, loaded.params) == (model.encoder, model.maximum_words, model.params)
    assert loaded.vocabulary.words == model.vocabulary.words
    assert loaded.weights_sha256 == model.weights_sha256


def test_the_directory_can_be_moved(model: Captioner, saved: Path, tmp_path: Path) -> None:
    shutil.move(saved, tmp_path / "elsewhere")
    assert Captioner.load(tmp_path / "elsewhere").weights_sha256 == model.weights_sha256


def test_identity_is_that_of_the_weights(model: Captioner, saved: Path, tmp_path: Path) -> None:
    model.save(tmp_path / "again")
    one, other = (json.loads((path / "model.json").read_text("utf-8")) for path in (saved, tmp_path / "again"))
    assert one == other and one["weights_sha256"] == model.weights_sha256
    untrained = dataclasses.replace(model, decoder=tiny.decoder("bahdanau"))
    assert untrained.weights_sha256 != model.weights_sha256


def test_files(saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {"model.json", "vocabulary.json", "decoder.keras"}
    described = json.loads((saved / "model.json").read_text("utf-8"))
    assert described.keys() == {
        *("format", "encoder", "maximum_words", "vocabulary_sha256", "weights_sha256", "params")
    }


def test_saving_replaces_and_a_failure_leaves_what_was(
    model: Captioner, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save", full)
    with pytest.raises(OSError, match="No space"):
        model.save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["captioner"]
    monkeypatch.undo()
    model.save(saved)
    assert Captioner.load(saved).weights_sha256 == model.weights_sha256


# --- what is refused -------------------------------------------------------------------------------------------------


def test_no_directory(tmp_path: Path) -> None:
    assert "holds no whole model" in refusal(tmp_path / "none")


@pytest.mark.parametrize("name", ["model.json", "vocabulary.json", "decoder.keras"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "noise", "directory"])
def test_a_damaged_file(name: str, damage: str, saved: Path) -> None:
    path = saved / name
    content = path.read_bytes()
    path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "noise": bytes(range(256)) * 9}[damage])
    assert str(saved) in refusal(saved)


def test_a_flipped_byte_in_the_weights(saved: Path) -> None:
    content = bytearray((saved / "decoder.keras").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (saved / "decoder.keras").write_bytes(content)
    refusal(saved)


@pytest.mark.parametrize("content", ["[]", "null", "5", "{}", '{"format": 1}'])
def test_a_description_that_is_none(content: str, saved: Path) -> None:
    (saved / "model.json").write_text(content, "utf-8")
    refusal(saved)


def test_another_format(saved: Path) -> None:
    rewrite(saved, lambda described: described.update(format=FORMAT + 1))
    message = refusal(saved)
    assert f"format {FORMAT + 1}" in message and f"reads {FORMAT}" in message


@pytest.mark.parametrize("captions", [["a red dog"], ["red a circle the blue square two stars small"]])
def test_the_vocabulary_of_another_model(captions: list[str], saved: Path) -> None:
    Vocabulary.build(captions).save(saved / "vocabulary.json")
    assert "vocabulary.json is of another model" in refusal(saved)


def test_the_decoder_of_another_model(saved: Path) -> None:
    tiny.decoder("uniform").save(saved / "decoder.keras")
    assert "decoder.keras is of another model" in refusal(saved)


def test_a_keras_model_that_is_no_captioner(saved: Path) -> None:
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(saved / "decoder.keras")
    refusal(saved)


def test_features_of_another_encoder(model: Captioner) -> None:
    model.check_features(tiny.features())
    other = dataclasses.replace(tiny.features(), encoder="mobilenet", weights_sha256="fedcba98" * 8)
    with pytest.raises(CaptionerError, match=r"efficientnet_lite0 \(01234567\).*mobilenet \(fedcba98\).*dvc repro"):
        model.check_features(other)


# --- captions --------------------------------------------------------------------------------------------------------


def test_captions_of_chosen_rows(model: Captioner) -> None:
    found = model.captions(model.generator(2, batch_size=2), tiny.features().grid, np.array([3, 0, 1]))
    expected = list(tiny.CAPTIONS.values())
    assert [caption.text for caption in found] == [expected[3][0], expected[0][0], expected[1][0]]
    for caption in found:
        assert caption.text == " ".join(caption.words)
        assert caption.attention.shape == (len(caption.words), tiny.POSITIONS)
        np.testing.assert_allclose(caption.attention.sum(axis=1), 1, atol=1e-5)
        assert -5 < caption.log_probability < 0


def test_text_of_no_words() -> None:
    assert Caption([], 0.0, np.zeros((0, 4))).text == ""


def jpeg(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def test_captions_of_encoded_pictures_with_the_real_encoder(model: Captioner) -> None:
    extractor = Extractor(LITE0, batch_size=1)
    decoder = tiny.training.build(
        tiny.SIZES, tiny.recipe(), "dot", len(model.vocabulary), ENCODERS[LITE0].channels, extractor.positions
    )
    encoder = {"name": LITE0, "weights": "imagenet", "weights_sha256": extractor.weights_sha256}
    real = Captioner(decoder, model.vocabulary, encoder, 4, {})
    real._extractor = extractor
    together = real.caption([jpeg("red"), jpeg("blue")], beam=2)
    assert [caption.attention.shape for caption in together] == [(len(one.words), 49) for one in together]
    assert all(caption.words for caption in together)
    features = np.concatenate([extractor(_decoded(colour)) for colour in ("red", "blue")])
    expected = real.captions(real.generator(2, batch_size=2), features)
    assert [caption.text for caption in together] == [caption.text for caption in expected]
    assert real.caption([]) == []
    with pytest.raises(CaptionerError, match="no picture"):
        real.caption([jpeg("red"), b"GIF and not"])


def test_weights_of_the_encoder_that_changed(model: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        weights_sha256 = "ffffffff" * 8

    monkeypatch.setattr("captioner.model.Extractor", lambda *_: Other())
    with pytest.raises(CaptionerError, match=r"not those the model was trained with \(ffffffff, not 01234567\)"):
        dataclasses.replace(model).caption([jpeg("red")])


def _decoded(colour: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg(colour))).resize((224, 224)))[None]
