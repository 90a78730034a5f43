"""Train a decoder that never sees a picture: what a model has to beat to show that it looks."""

from stage import resumable, run, spent_before

from captioner.common.startup import fast_start
from captioner.common.workspace import BLIND, DATA, VOCABULARY

with fast_start():
    from captioner.common.keras import keras

from captioner.common import files
from captioner.data import store
from captioner.features.store import Features
from captioner.model.hyperparameters import ModelParams
from captioner.params import Params, section_of
from captioner.scoring.statistics import STATISTICS
from captioner.text.vocabulary import Vocabulary
from captioner.training import fit
from captioner.training.checkpoints import Checkpoints
from captioner.training.history import HISTORY, LIKELIHOOD
from captioner.training.likelihood import nll_of_decoder
from captioner.training.streamed import training_batches


def blind(params: Params) -> None:
    """Write `results/blind/`: the history of training, and the likelihood of the test captions."""
    keras.utils.set_random_seed(params.seed)
    own = params.recipe
    recipe = own.model_copy(
        update={"epochs": own.blind_epochs, "learning_rate": own.blind_learning_rate, "attention_penalty": 0.0}
    )
    vocabulary = Vocabulary.load(VOCABULARY)
    captions = store.read_captions(DATA, "validation", "test")
    blank = Features.blank(captions["image"])
    training = training_batches(DATA, None, vocabulary, recipe, params.seed)
    validation, test = (fit.batches(blank, captions, split, vocabulary, recipe) for split in ("validation", "test"))
    sizes = ModelParams(
        embedding_size=params.model.embedding_size,
        state_size=params.model.state_size,
        attention_size=1,  # uniform attention compares nothing
        spatial_encoding="none",
    )
    decoder = fit.build(sizes, recipe, "uniform", len(vocabulary), blank.channels, blank.positions)
    with resumable("blind", params) as directory, files.replacing(BLIND) as results:
        results.mkdir()
        checkpoints = Checkpoints(directory)
        spent_before(checkpoints.seconds_before)
        checkpoints.follow(results)
        history = keras.callbacks.CSVLogger(results / HISTORY, append=True)
        section = section_of(params.dataset)
        fit.train(decoder, training, validation, recipe, [history], LIKELIHOOD, section, checkpoints)
        nll_of_decoder(decoder, test, "nll-picture-blind").write(results / STATISTICS)


if __name__ == "__main__":
    run(blind)
