"""The stage `fine_tune` where the encoder learns."""

import math
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from stage import find_keras_home, main_checkout

from captioner.common.startup import fast_start
from captioner.common.workspace import DATA, FINE_TUNED, MODEL, TEST_FEATURES, TRAINED, TRAINED_MODEL, VOCABULARY

find_keras_home()
with fast_start():
    from captioner.common.keras import keras

import learning

from captioner.common.weights import weights_hash
from captioner.data import store
from captioner.data.dataset import SPLITS
from captioner.encoders import networks
from captioner.encoders.registry import RANDOM
from captioner.features.compiled import runs_on_litert
from captioner.features.extract import Extractor
from captioner.features.store import Features, kept_name
from captioner.model.description import image_size_and_crop
from captioner.model.saved_model import SavedModel
from captioner.params import Params, Recipe, section_of
from captioner.text.vocabulary import Vocabulary
from captioner.tracking.record import Record
from captioner.training import fit
from captioner.training.pixels import EncodeValidation, Pixels, as_features, compile_end_to_end


def learn(params: Params) -> None:
    """Write `models/captioner/` and `results/fine_tune/`."""
    keras.utils.set_random_seed(params.seed)
    from_scratch = params.encoder_training == RANDOM
    recipe, encoder_learning_rate, remedy = recipe_and_remedy(params, from_scratch)
    vocabulary, captions = Vocabulary.load(VOCABULARY), store.read_captions(DATA)
    trained = SavedModel.load(TRAINED_MODEL)
    encoder = encoder_of(trained, params)
    size, crop = image_size_and_crop(trained.encoder)
    _, *sides, channels = encoder.output_shape
    decoder, about_vectors = trained.decoder, trained.word_vectors
    if from_scratch:
        encoder = networks.untrained(encoder)
        decoder, about_vectors = learning.untrained(params, recipe, vocabulary, channels, math.prod(sides))
    networks.set_trainable(encoder, "all" if from_scratch else params.fine_tuning.layers, from_scratch)
    print(about_weights(encoder), flush=True)

    names = {split: captions["image"][captions["split"] == split].drop_duplicates().tolist() for split in SPLITS}
    seen = Pixels(DATA, names["validation"], size, crop)
    augmented = Pixels(DATA, names["train"], size, crop, params.fine_tuning.augmentation)
    training = fit.batches(as_features(augmented), captions, "train", vocabulary, recipe, params.seed)
    validation = fit.batches(as_features(seen), captions, "validation", vocabulary, recipe)
    fit.in_one_shape(training, validation)
    model = compile_end_to_end(encoder, decoder, training, recipe, encoder_learning_rate, from_scratch)
    grid = np.zeros((len(names["validation"]), math.prod(sides), channels), np.float16)

    def extractor() -> Extractor:
        name, batch_size = trained.encoder["name"], params.features.batch_size
        return Extractor(name, params.encoder_training, batch_size=batch_size, crop=crop, model=encoder)

    # LiteRT has the weights as they are when it compiles; Keras has those of the moment
    encode = extractor if runs_on_litert() else cache(extractor)
    tags = {} if from_scratch else {"begun_with_run": Record.read(TRAINED).run_id}
    with (
        learning.recorded(params, FINE_TUNED, tags, about_vectors, "fine_tune") as (results, tracked, checkpoints),
        TemporaryDirectory() as temporary,
    ):
        maps = Features.at_hand(grid, names["validation"], image_size=size, crop=crop)
        watching, monitor = learning.watching(
            results,
            tracked,
            decoder,
            vocabulary,
            recipe.maximum_words,
            training,
            captions[captions["split"] == "validation"],
            maps,
        )
        encoding = EncodeValidation(encode, seen, grid, remedy)
        kept = fit.run(model, training, validation, recipe, [encoding, *watching], monitor, remedy, checkpoints)
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


def encoder_of(trained: SavedModel, params: Params) -> keras.Model:
    """Return the encoder that a decoder was trained with: its weights may lie elsewhere on this machine."""
    options = trained.encoder_options
    if not trained.network:
        file = networks.weights_file(params.features.encoder, params.features.weights, main_checkout())
        options["weights"] = file or "imagenet"
    encoder = networks.build(**options)
    trained.check_encoder(weights_hash(encoder))
    return encoder


def recipe_and_remedy(params: Params, from_scratch: bool) -> tuple[Recipe, float, str]:
    """Return the recipe, the encoder's learning rate, and what to do where training does not stay finite."""
    own, recipe, dataset = params.fine_tuning, params.recipe, params.dataset
    if from_scratch:
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
    learn, every = (
        sum(math.prod(weight.shape) for weight in weights) for weights in (encoder.trainable_weights, encoder.weights)
    )
    return f"Of the encoder's {every:,} weights {learn:,} learn."
