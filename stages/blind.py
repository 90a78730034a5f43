"""Train a decoder that never sees a picture: what a model has to beat to show that it looks."""

from stage import BLIND, DATA, VOCABULARY, run

from captioner.lean import lean

with lean():
    from captioner.configured import keras

from captioner import files, training
from captioner.bootstrap import STATISTICS
from captioner.datasets import pack
from captioner.features import Features
from captioner.history import HISTORY, LIKELIHOOD
from captioner.likelihood import nll_of_decoder
from captioner.params import Params, section_of
from captioner.vocabulary import Vocabulary


def blind(params: Params) -> None:
    """Write `results/blind/`: the history of training, and the likelihood of the test captions."""
    keras.utils.set_random_seed(params.seed)
    recipe = params.recipe.model_copy(update={"epochs": params.recipe.blind_epochs})
    vocabulary = Vocabulary.load(VOCABULARY)
    captions = pack.read_captions(DATA)
    blank = Features.blank(captions["image"])
    learnt_from = training.batches(blank, captions, "train", vocabulary, recipe, params.seed)
    validation = training.batches(blank, captions, "validation", vocabulary, recipe)
    test = training.batches(blank, captions, "test", vocabulary, recipe)
    sizes = params.model.model_copy(update={"spatial_encoding": "none"})
    decoder = training.build(sizes, recipe, "uniform", len(vocabulary), blank.channels, blank.positions)
    with files.replacing(BLIND) as results:
        results.mkdir()
        history = keras.callbacks.CSVLogger(results / HISTORY)
        section = section_of(params.dataset)
        training.train(decoder, learnt_from, validation, recipe, [history], LIKELIHOOD, section)
        nll_of_decoder(decoder, test, "nll-picture-blind").write(results / STATISTICS)


if __name__ == "__main__":
    run(blind)
