"""One directory is the whole model; parts that do not belong together are refused."""

import dataclasses
import io
import itertools
import json
import math
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tiny
from PIL import Image
from rounding import assert_same, tolerance

from captioner.common.errors import CaptionerError
from captioner.data.images import BARS, UnreadableImage
from captioner.features.extract import Extractor
from captioner.inference.captioner import BATCH, Captioner
from captioner.inference.pictures import Picture
from captioner.model.decoder import Decoder
from captioner.model.description import FORMAT, other_keras
from captioner.search.caption import Caption
from captioner.search.generators import Generator
from captioner.text.vocabulary import SPECIAL_TOKENS, Vocabulary

ROUNDING = tolerance(tiny.TERMS, tiny.LARGEST)  # of a caption's log-probability

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
    assert loaded.vocabulary.tokens == model.vocabulary.tokens
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
    assert refusal(tmp_path / "none").startswith(f"There is no model in {tmp_path / 'none'}")
    (tmp_path / "file").touch()
    assert "There is no model" in refusal(tmp_path / "file")


def saved_by_keras(version: str, saved: Path, config: bytes | None = None) -> None:
    """Make a model one that another Keras has saved, with a configuration of its own."""
    with zipfile.ZipFile(saved / "decoder.keras") as file:
        content = {name: file.read(name) for name in file.namelist()}
    content["metadata.json"] = json.dumps({"keras_version": version}).encode()
    content["config.json"] = content["config.json"] if config is None else config
    with zipfile.ZipFile(saved / "decoder.keras", "w") as file:
        for name, data in content.items():
            file.writestr(name, data)


def test_a_model_of_another_keras_is_said_where_it_does_not_load(saved: Path) -> None:
    assert other_keras(saved) == ""
    saved_by_keras("3.0.1", saved)
    assert other_keras(saved) == f"saved by Keras 3.0.1, here is {keras.__version__}"
    rewrite(saved, lambda described: described.update(weights_sha256="0" * 64))
    assert "saved by Keras 3.0.1, here is" in refusal(saved)
    saved_by_keras("3.0.1", saved, b"{}")
    assert "saved by Keras 3.0.1, here is" in refusal(saved)


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


@pytest.mark.parametrize("content", ["[]", "null", "5", "{}", '{"format": 1}', "[" * 100_000])
def test_a_description_that_is_none(content: str, saved: Path) -> None:
    (saved / "model.json").write_text(content, "utf-8")
    refusal(saved)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder": None}, "encoder: "),
        ({"encoder": {}}, "encoder.name: field required"),
        ({"encoder": {"name": "mobilenet", "weights": "imagenet", "weights_sha256": 5}}, "encoder.weights_sha256: "),
        ({"encoder": {"name": "a", "weights": "b", "weights_sha256": "c", "image_size": "3"}}, "encoder.image_size: "),
        ({"maximum_words": 0}, "maximum_words: "),
        ({"maximum_words": 10**30}, "maximum_words: "),
        ({"maximum_words": 3.5}, "maximum_words: "),
        ({"maximum_words": True}, "maximum_words: "),
        ({"weights_sha256": ["x"]}, "weights_sha256: "),
        ({"params": []}, "params: "),
        ({"word_vectors": {"file": "x"}}, "word_vectors.covered: field required"),
    ],
)
def test_a_description_with_other_values(change: dict[str, Any], said: str, saved: Path) -> None:
    rewrite(saved, lambda described: described.update(change))
    assert f"model.json, {said}" in refusal(saved)


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


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_weights_that_are_not_finite(model: Captioner, wrong: float, tmp_path: Path) -> None:
    decoder = tiny.decoder("bahdanau")
    weights = decoder.get_weights()
    weights[-1][-1] = wrong
    decoder.set_weights(weights)
    dataclasses.replace(model, decoder=decoder).save(tmp_path / "broken")
    with pytest.raises(CaptionerError, match=r"decoder\.keras has weights that are not finite .* lower learning_rate"):
        Captioner.load(tmp_path / "broken")


def test_a_keras_model_that_is_no_captioner(saved: Path) -> None:
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(saved / "decoder.keras")
    refusal(saved)


def test_features_of_another_encoder(model: Captioner) -> None:
    model.check_features(tiny.features())
    other = dataclasses.replace(tiny.features(), encoder="mobilenet", weights_sha256="fedcba98" * 8)
    with pytest.raises(CaptionerError, match=r"_lite0 \(01234567, .*\).*mobilenet \(fedcba98, .*\).*dvc repro"):
        model.check_features(other)


# --- captions --------------------------------------------------------------------------------------------------------


def test_captions_of_chosen_rows(model: Captioner) -> None:
    found = model.captions(model.generator(2, batch_size=2), tiny.features().grid, np.array([3, 0, 1]))
    expected = list(tiny.CAPTIONS.values())
    assert [caption.text for caption in found] == [expected[3][0], expected[0][0], expected[1][0]]
    for caption in found:
        assert caption.text == " ".join(caption.words)
        assert caption.attention.shape == (len(caption.words), 2, 2)
        assert_same(caption.attention.sum(axis=(1, 2)), np.ones(len(caption.words)), 2 * tiny.POSITIONS)
        np.testing.assert_array_equal(caption.attention_by_position[:, 2], caption.attention[:, 1, 0])
        assert -5 < caption.log_probability < 0


def test_text_of_no_words() -> None:
    nothing = Caption([], 0.0, np.zeros((0, 7, 7)))
    assert nothing.text == ""
    assert nothing.attention_by_position.shape == (0, 49)


@pytest.mark.usefixtures("seeing")
class TestPictures:
    """What the tiny model says of pictures; the encoder is a stand-in."""

    def test_one_or_many(self, model: Captioner, tmp_path: Path) -> None:
        path = tmp_path / "sea.png"
        path.write_bytes(tiny.photograph(1))
        with Image.open(path) as opened:
            for form in (path, str(path), path.read_bytes(), opened, np.asarray(opened)):
                one = model.caption(form)
                assert isinstance(one, Caption) and one.text == tiny.SAID[1]
                [alone] = model.caption([form])
                assert alone.text == tiny.SAID[1]
        assert model.caption([]) == []
        assert [each.text for each in model.caption(tiny.photograph(row) for row in (3, 0))] == [
            tiny.SAID[3],
            tiny.SAID[0],
        ]

    def test_many_are_as_each_alone(self, model: Captioner) -> None:
        rows = [number % 4 for number in range(BATCH * 2 + 3)]
        together = model.caption([tiny.photograph(row) for row in rows], beam=2)
        assert [each.text for each in together] == [tiny.SAID[row] for row in rows]
        for row in range(4):
            alone = model.caption(tiny.photograph(row), beam=2)
            assert alone.log_probability == pytest.approx(together[row].log_probability, rel=0, abs=ROUNDING)
            assert_same(alone.attention, together[row].attention, tiny.TERMS, tiny.LARGEST)

    def test_says_what_generated_captions_of_features_say(self, model: Captioner) -> None:
        expected = model.captions(model.generator(3, batch_size=4), tiny.features().grid)
        found = model.caption([tiny.photograph(row) for row in range(4)], beam=3)
        assert [each.text for each in found] == [each.text for each in expected]
        probabilities = [each.log_probability for each in expected]
        assert [each.log_probability for each in found] == pytest.approx(probabilities, rel=0, abs=ROUNDING)

    def test_an_unreadable_one_is_named(self, model: Captioner) -> None:
        with pytest.raises(UnreadableImage, match=r"^picture 2: no picture"):
            model.caption([tiny.photograph(0), b"GIF and not", tiny.photograph(1)])
        with pytest.raises(UnreadableImage, match=r"^none.jpg: there is no such file"):
            model.caption("none.jpg")

    def test_a_stream_goes_on(self, model: Captioner) -> None:
        given: list[Picture | UnreadableImage] = [
            b"",
            tiny.photograph(2),
            "none.jpg",
            UnreadableImage("passed on"),
            tiny.photograph(3),
        ]
        found = list(model.stream(given))
        assert [each.text for each in found if isinstance(each, Caption)] == [tiny.SAID[2], tiny.SAID[3]]
        assert [str(found[number]).split(":")[0] for number in (0, 2, 3)] == ["picture 1", "none.jpg", "passed on"]

    def test_a_stream_ends_nowhere(self, model: Captioner) -> None:
        found = model.stream(itertools.repeat(tiny.photograph(1)))
        assert {str(getattr(each, "text", each)) for each in itertools.islice(found, 3 * BATCH)} == {tiny.SAID[1]}

    def test_searches_are_made_once(self, model: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
        fresh = dataclasses.replace(model)
        made = []

        def make(decoder: Decoder, *arguments: Any, **options: Any) -> Generator:
            made.append(arguments)
            return Generator(decoder, *arguments, **options)

        monkeypatch.setattr("captioner.inference.captioner.Generator", make)
        for _ in range(3):
            fresh.caption([tiny.photograph(0)] * 4, beam=2)
        assert sorted(made) == [(2, 4, 1.0, 1), (2, 4, 1.0, BATCH)]

    def test_threads_get_what_one_alone_gets(self, model: Captioner) -> None:
        fresh = dataclasses.replace(model)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(fresh.caption, [tiny.photograph(number % 4) for number in range(24)]))
        assert [each.text for each in found] == [tiny.SAID[number % 4] for number in range(24)]

    @pytest.mark.parametrize("words", [1, 2, 9])
    def test_maximum_of_words(self, words: int, model: Captioner) -> None:
        captions = model.caption([tiny.photograph(row) for row in range(4)], maximum_words=words)
        assert all(1 <= len(caption.words) <= words for caption in captions)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"beam": 0}, "received beam 0; give 1 to 50"),
            ({"beam": 51}, "received beam 51; give 1 to 50"),
            ({"maximum_words": 0}, "received maximum_words 0; give 1 to 1000"),
            ({"length_normalization": -1.0}, "received length_normalization -1.0; give 0 or more"),
        ],
    )
    def test_arguments_out_of_bounds(self, arguments: dict[str, Any], message: str, model: Captioner) -> None:
        for call in (model.caption, model.stream):  # a stream refuses before it is read
            with pytest.raises(CaptionerError, match=message):
                call([tiny.photograph(0)], **arguments)

    def test_samples_differ_and_the_most_probable_comes_first(self, model: Captioner) -> None:
        found = model.samples(tiny.photograph(2), 30, temperature=3.0, top_p=1.0, seed=1)
        assert 1 < len(found) <= 30
        assert len({each.text for each in found}) == len(found)
        probabilities = [each.log_probability for each in found]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(each.attention.shape == (len(each.words), 2, 2) for each in found)
        again = model.samples(tiny.photograph(2), 30, temperature=3.0, top_p=1.0, seed=1)
        assert [each.text for each in again] == [each.text for each in found]

    def test_cold_samples_are_the_greedy_caption(self, model: Captioner) -> None:
        for settings in ({"temperature": 1e-4}, {"top_p": 1e-6}):
            [only] = model.samples(tiny.photograph(3), 8, **settings)  # type: ignore[arg-type]
            greedy = model.caption(tiny.photograph(3), beam=1)
            assert only.text == greedy.text
            assert only.log_probability == pytest.approx(greedy.log_probability, rel=0, abs=ROUNDING)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"samples": 0}, "received samples 0; give 1 to 100"),
            ({"temperature": 0.0}, "received temperature 0.0; give a number above 0"),
            ({"temperature": math.nan}, "received temperature nan"),
            ({"top_p": 0.0}, "received top_p 0.0; give a number above 0, at most 1"),
            ({"top_p": 1.1}, "received top_p 1.1"),
            ({"maximum_words": 0}, "received maximum_words 0"),
        ],
    )
    def test_samples_out_of_bounds(self, arguments: dict[str, Any], message: str, model: Captioner) -> None:
        with pytest.raises(CaptionerError, match=message):
            model.samples(tiny.photograph(0), **arguments)

    def test_alternatives_hold_what_was_said(self, model: Captioner) -> None:
        caption = model.caption(tiny.photograph(0), beam=1)
        places = model.alternatives(tiny.photograph(0), caption.words, most=3)
        assert [len(place) for place in places] == [3] * (len(caption.words) + 1)
        assert [place[0].word for place in places] == [*caption.words, "<end>"]  # greedy: the most probable
        for place in places:
            probabilities = [each.probability for each in place]
            assert probabilities == sorted(probabilities, reverse=True)
            assert 0 < sum(probabilities) < 1 + 1e-6
        assert sum(math.log(place[0].probability) for place in places) == pytest.approx(
            caption.log_probability, rel=0, abs=ROUNDING
        )

    def test_all_alternatives_are_words_or_the_end(self, model: Captioner) -> None:
        [first, after] = model.alternatives(tiny.photograph(1), ["a"], most=1000)
        assert {each.word for each in first} == {*model.vocabulary.tokens[len(SPECIAL_TOKENS) :], "<end>"}
        assert len(first) == len(after) == len(model.vocabulary) - 3

    @pytest.mark.parametrize("word", ["zebra", "<pad>", "<unk>", "<start>", "<end>", ""])
    def test_alternatives_to_unknown_words(self, word: str, model: Captioner) -> None:
        with pytest.raises(CaptionerError, match=f"received {word!r}, a word that the model does not know"):
            model.alternatives(tiny.photograph(0), ["a", word])


def jpeg(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.slow
def test_captions_of_encoded_pictures_with_the_real_encoder(model: Captioner) -> None:
    extractor = Extractor(LITE0, batch_size=1)
    decoder = tiny.fit.build(
        tiny.SIZES, tiny.recipe(), "dot", len(model.vocabulary), extractor.channels, extractor.positions
    )
    encoder = {"name": LITE0, "weights": "imagenet", "weights_sha256": extractor.weights_sha256}
    real = Captioner(decoder, model.vocabulary, encoder, 4, {})
    real._extractor = extractor
    together = real.caption([jpeg("red"), jpeg("blue")], beam=2)
    assert [caption.attention.shape for caption in together] == [(len(one.words), 7, 7) for one in together]
    assert all(caption.words for caption in together)
    features = np.concatenate([extractor(_decoded(colour)) for colour in ("red", "blue")])
    expected = real.captions(real.generator(2, batch_size=2), features)
    assert [caption.text for caption in together] == [caption.text for caption in expected]


def test_pictures_come_to_the_encoder_as_in_training(
    model: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    class Seeing(tiny.Extractor):
        def __init__(self, encoder: str, weights: str, *, image_size: int, crop: str, preprocessing: str) -> None:
            seen.append((image_size, crop == "pad", preprocessing == "auto"))

        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            seen.append(tuple(pixels[0, :, 0, 0]))
            return tiny.features().grid[: len(pixels)]

    monkeypatch.setattr("captioner.inference.captioner.Extractor", Seeing)
    encoder = model.encoder | {"image_size": 6, "crop": "pad"}
    dataclasses.replace(model, encoder=encoder).save(tmp_path / "captioner")
    Captioner.load(tmp_path / "captioner").caption(Image.new("RGB", (60, 20), (7, 7, 7)), 1)
    bar = BARS[0]
    assert seen == [(6, True, True), (bar, bar, 7, 7, bar, bar)]


def test_weights_of_the_encoder_that_changed(model: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        weights_sha256 = "ffffffff" * 8

    monkeypatch.setattr("captioner.inference.captioner.Extractor", lambda *_, **__: Other())
    with pytest.raises(CaptionerError, match=r"not what the model was trained with \(ffffffff, not 01234567\)"):
        dataclasses.replace(model).caption([jpeg("red")])


def _decoded(colour: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg(colour))).resize((224, 224)))[None]
