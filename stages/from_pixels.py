"""The stage `fine_tune` where the encoder learns."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from stage import main_checkout

from captioner.common.startup import fast_start
from captioner.common.workspace import (
    DATA,
    FINE_TUNED,
    MODEL,
    SECONDS,
    TEST_FEATURES,
    TRAINED,
    TRAINED_MODEL,
    VOCABULARY,
)

with fast_start():
    from captioner.common.keras import keras

import learning

from captioner.common import files
from captioner.common.weights import weights_hash
from captioner.data import store
from captioner.encoders import networks
from captioner.features.extract import Extractor
from captioner.features.store import Features, kept_name
from captioner.model.description import image_size_and_crop
from captioner.model.saved_model import SavedModel
from captioner.params import Params, Recipe, section_of
from captioner.text.vocabulary import Vocabulary
from captioner.tracking import runs
from captioner.tracking.record import Record
from captioner.training import callbacks, fit
from captioner.training.pixels import EncodeValidation, Pixels, as_features, compile_end_to_end


def learn(params: Params) -> None:
    """Write `models/captioner/` and `results/fine_tune/`."""
    keras.utils.set_random_seed(params.seed)
    from_nothing = params.encoder_training == "random"
    recipe, encoder_learning_rate, remedy = rates(params, from_nothing)
    vocabulary, captions = Vocabulary.load(VOCABULARY), store.read_captions(DATA)
    trained = SavedModel.load(TRAINED_MODEL)
    encoder = networks.build(**trained.encoder_options)
    trained.check_encoder(weights_hash(encoder))
    size, crop = image_size_and_crop(trained.encoder)
    _, *sides, channels = encoder.output_shape
    decoder, about_vectors = trained.decoder, trained.word_vectors
    if from_nothing:
        encoder = networks.untrained(encoder)
        decoder, about_vectors = learning.untrained(params, recipe, vocabulary, channels, math.prod(sides))
    networks.let_learn(encoder, "all" if from_nothing else params.fine_tuning.layers, statistics=from_nothing)
    print(about_weights(encoder), learning.about_choice(captions), sep="\n", flush=True)

    names = {split: learning.names_of(captions, split) for split in ("train", "validation", "test")}
    seen = Pixels(DATA, names["validation"], size, crop)
    looks = as_features(Pixels(DATA, names["train"], size, crop, params.fine_tuning.augmentation))
    training = fit.batches(looks, captions, "train", vocabulary, recipe, params.seed)
    validation = fit.batches(as_features(seen), captions, "validation", vocabulary, recipe)
    fit.in_one_shape(training, validation)
    model = compile_end_to_end(encoder, decoder, training, recipe, encoder_learning_rate, statistics=from_nothing)
    grid = np.zeros((len(names["validation"]), math.prod(sides), channels), np.float16)
    maps = Features(
        grid, {name: row for row, name in enumerate(names["validation"])}, "none", "none", "none", size, crop
    )

    def extractor() -> Extractor:
        return Extractor(trained.encoder["name"], params.encoder_training, crop=crop, model=encoder)

    identity = {
        "data_sha256": files.sha256(DATA / store.CAPTIONS),
        "encoder_sha256": trained.encoder["weights_sha256"],
    } | ({} if from_nothing else {"begun_with_run": Record.read(TRAINED).run_id})
    with (
        files.replacing(FINE_TUNED) as results,
        runs.training(main_checkout(), params, SECONDS, identity, stage="fine_tune") as tracked,
        TemporaryDirectory() as temporary,
    ):
        results.mkdir()
        watching = learning.watching(
            results, tracked, decoder, vocabulary, recipe.maximum_words, training, captions, maps
        )
        kept = fit.run(
            model,
            training,
            validation,
            recipe,
            [EncodeValidation(extractor, seen, grid), *watching],
            callbacks.chosen_by(len(names["validation"])),
            remedy,
        )
        features = results / TEST_FEATURES.name
        extractor().extract(store.read_pictures(DATA, names["test"]), names["test"], features)
        network = Path(temporary) / kept_name(Path("network.keras"))
        encoder.save(network)
        saved = SavedModel(
            decoder,
            vocabulary,
            Features.open(features).made_by,
            recipe.maximum_words,
            learning.made_with(params),
            about_vectors,
            network,
        )
        learning.leave(saved, kept, results, MODEL, tracked)


def rates(params: Params, from_nothing: bool) -> tuple[Recipe, float, str]:
    """Return the recipe, the encoder's learning rate, and what to do where training does not stay finite."""
    own, recipe, dataset = params.fine_tuning, params.recipe, params.dataset
    if from_nothing:
        remedy = f"lower {section_of(dataset)}.learning_rate, which is {recipe.learning_rate:g}"
        return recipe.model_copy(update={"epochs": own.random_epochs}), recipe.learning_rate, remedy
    remedy = (
        f"lower fine_tune.{dataset}.learning_rate, which is {own.learning_rate:g}, or encoder_learning_rate, which is "
        f"{own.encoder_learning_rate:g}"
    )
    update = {"epochs": own.epochs, "learning_rate": own.learning_rate}
    return recipe.model_copy(update=update), own.encoder_learning_rate, remedy


def about_weights(encoder: keras.Model) -> str:
    """Say how much of an encoder learns."""
    learning_weights, all_weights = (
        sum(math.prod(weight.shape) for weight in weights) for weights in (encoder.trainable_weights, encoder.weights)
    )
    return f"Of the encoder's {all_weights:,} weights {learning_weights:,} learn."
