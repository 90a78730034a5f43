"""Train a decoder with one attention on the features."""

from stage import run

from captioner.common.startup import fast_start
from captioner.common.workspace import DATA, FEATURES, TRAINED, TRAINED_MODEL, VOCABULARY

with fast_start():
    from captioner.common.keras import keras

import learning

from captioner.features.store import Features
from captioner.model.saved_model import SavedModel
from captioner.params import Params, section_of
from captioner.text.vocabulary import Vocabulary
from captioner.training import fit
from captioner.training.streamed import batches_of


def train(params: Params) -> None:
    """Write `models/train/` and `results/train/`."""
    params = params.frozen()  # whether the encoder learns afterwards changes nothing here
    keras.utils.set_random_seed(params.seed)
    recipe = params.recipe
    features, vocabulary = Features.open(FEATURES), Vocabulary.load(VOCABULARY)
    training, validation, captions = batches_of(DATA, features, vocabulary, recipe, params.seed)
    decoder, about_vectors = learning.untrained(params, recipe, vocabulary, features.channels, features.positions)
    tags = {"encoder_sha256": features.weights_sha256}
    with learning.recorded(params, TRAINED, tags, about_vectors) as (results, tracked, checkpoints):
        watching, monitor = learning.watching(
            results, tracked, decoder, vocabulary, recipe.maximum_words, training, captions, features
        )
        section = section_of(params.dataset)
        kept = fit.train(decoder, training, validation, recipe, watching, monitor, section, checkpoints)
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
