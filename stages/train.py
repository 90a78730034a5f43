"""Train a decoder with one attention on the features."""

from stage import main_checkout, run

from captioner.common.startup import fast_start
from captioner.common.workspace import DATA, FEATURES, SECONDS, TRAINED, TRAINED_MODEL, VOCABULARY

with fast_start():
    from captioner.common.keras import keras

import learning

from captioner.common import files
from captioner.data import store
from captioner.features.store import Features
from captioner.model.saved_model import SavedModel
from captioner.params import Params, section_of
from captioner.text.vocabulary import Vocabulary
from captioner.tracking import runs
from captioner.training import callbacks, fit


def train(params: Params) -> None:
    """Write `models/train/` and `results/train/`."""
    params = params.frozen()  # whether the encoder learns afterwards changes nothing here
    keras.utils.set_random_seed(params.seed)
    recipe = params.recipe
    features, vocabulary = Features.open(FEATURES), Vocabulary.load(VOCABULARY)
    captions = store.read_captions(DATA)
    training = fit.batches(features, captions, "train", vocabulary, recipe, params.seed)
    validation = fit.batches(features, captions, "validation", vocabulary, recipe)
    decoder, about_vectors = learning.untrained(params, recipe, vocabulary, features.channels, features.positions)
    measured = {} if about_vectors is None else {"train/words-with-vectors": about_vectors["covered"]}
    print(learning.about_choice(captions), flush=True)
    identity = {"data_sha256": files.sha256(DATA / store.CAPTIONS), "encoder_sha256": features.weights_sha256}
    with (
        files.replacing(TRAINED) as results,
        runs.training(main_checkout(), params, SECONDS, identity, measured) as tracked,
    ):
        results.mkdir()
        watching = learning.watching(
            results, tracked, decoder, vocabulary, recipe.maximum_words, training, captions, features
        )
        monitor = callbacks.chosen_by(len(learning.names_of(captions, "validation")))
        kept = fit.train(decoder, training, validation, recipe, watching, monitor, section_of(params.dataset))
        model = SavedModel(
            decoder,
            vocabulary,
            features.made_by,
            recipe.maximum_words,
            learning.made_with(params),
            about_vectors,
            features.network,
        )
        learning.leave(model, kept, results, TRAINED_MODEL, tracked)


if __name__ == "__main__":
    run(train)
