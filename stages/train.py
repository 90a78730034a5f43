"""Train a decoder with one attention on the features."""

from stage import run

from captioner.common.startup import fast_start
from captioner.common.workspace import TRAINED, TRAINED_MODEL

with fast_start():
    from captioner.common import keras  # noqa: F401 - quietly, before what needs it

import learning
import processes

from captioner.model.saved_model import SavedModel
from captioner.params import Params


def train(params: Params) -> None:
    """Write `models/train/` and `results/train/`."""
    params = params.frozen()  # whether the encoder learns afterwards changes nothing here
    together = params.recipe.workers > 1
    processes.check(params)
    source = processes.Source.open()
    training = None if together else source.training(params)
    decoder, about_vectors = source.untrained(params)
    tags = {"encoder_sha256": source.features.weights_sha256}
    with learning.recorded(params, TRAINED, tags, about_vectors) as (results, tracked, checkpoints):
        if training is None:
            kept = processes.learn_together(params, decoder, results, checkpoints, tracked)
        else:
            kept = processes.learn(params, source, decoder, training, results, checkpoints, tracked)
        model = SavedModel(
            decoder,
            source.vocabulary,
            source.features.made_by,
            params.recipe.maximum_words,
            learning.made_with(params),
            about_vectors,
            source.features.network,
        )
        learning.leave(model, kept, results, TRAINED_MODEL, tracked)


if __name__ == "__main__":
    run(train)
