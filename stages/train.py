"""Train a decoder with one attention on the features."""

from typing import Any

import numpy as np
from stage import main_checkout, run

from captioner.common.startup import fast_start
from captioner.common.workspace import DATA, FEATURES, MODEL, SECONDS, TRAINED, VOCABULARY

with fast_start():
    from captioner.common.keras import keras

from captioner.common import files
from captioner.data import images, store
from captioner.data.dataset import captions_by_image
from captioner.features.store import Features, rows_of
from captioner.model.saved_model import SavedModel
from captioner.params import Params, section_of
from captioner.scoring.scorer import Scorer
from captioner.scoring.shares import shares
from captioner.search.generators import Generator
from captioner.text import word_vectors
from captioner.text.vocabulary import Vocabulary
from captioner.tracking import runs, tensorboard
from captioner.training import callbacks, fit
from captioner.training.history import HISTORY

SHOWN = 3  # validation pictures whose attention is drawn after each epoch


def pretrained(params: Params, vocabulary: Vocabulary) -> tuple[np.ndarray | None, dict[str, Any] | None]:
    """Return the vectors that the embeddings begin with and what a model says of them, or nothing."""
    found = word_vectors.files_of(params.model.word_vectors, main_checkout())
    if not found:
        return None, None
    vectors = word_vectors.load(found[0], vocabulary.tokens, params.seed)
    broken = f" Rows that cannot be read, and are left out: {vectors.broken:,}." if vectors.broken else ""
    print(f"{found[0]} has vectors for {vectors.covered:.1%} of the vocabulary's words.{broken}", flush=True)
    return vectors.matrix, {"file": found[0].name, "covered": round(100 * vectors.covered, 2)}


def train(params: Params) -> None:
    """Write `models/captioner/` and `results/train/`."""
    keras.utils.set_random_seed(params.seed)
    recipe = params.recipe
    features, vocabulary = Features.open(FEATURES), Vocabulary.load(VOCABULARY)
    captions, objects = store.read_captions(DATA), store.read_objects(DATA)
    training_batches = fit.batches(features, captions, "train", vocabulary, recipe, params.seed)
    validation = fit.batches(features, captions, "validation", vocabulary, recipe)
    references = captions_by_image(captions[captions["split"] == "validation"])
    scorer = Scorer(references)

    def judge(generated: dict[str, str]) -> dict[str, float]:
        scores = scorer.score(generated, ["BLEU", "CIDEr"]).corpus
        chosen = {name: scores[name] for name in ("CIDEr", "BLEU-4")}
        return chosen | shares(generated, objects).scores()

    sizes = (len(vocabulary), features.channels, features.positions)
    vectors, about_vectors = pretrained(params, vocabulary)
    measured = {} if about_vectors is None else {"train/words-with-vectors": about_vectors["covered"]}
    decoder = fit.build(params.model, recipe, params.attention, *sizes, vectors)

    names = list(references)
    print(fit.about_choice(captions["image"][captions["split"] == "train"].nunique(), len(names)), flush=True)
    rows = rows_of(features, names)
    greedy = Generator(
        decoder, beam=1, maximum=recipe.maximum_words, batch_size=min(64, len(names)), vocabulary=vocabulary
    )
    shown = np.stack([images.decode(data, crop=features.crop) for data in store.read_pictures(DATA, names[:SHOWN])])
    identity = {
        "data_sha256": files.sha256(DATA / store.CAPTIONS),
        "encoder_sha256": features.weights_sha256,
    }
    with (
        files.replacing(TRAINED) as results,
        runs.training(main_checkout(), params, SECONDS, identity, measured) as tracked,
    ):
        results.mkdir()
        kept = fit.train(
            decoder,
            training_batches,
            validation,
            recipe,
            [
                callbacks.Throughput(training_batches.passes * len(training_batches.lengths)),
                callbacks.GeneratedValidation(greedy, features.grid, rows, names, vocabulary, judge),
                keras.callbacks.CSVLogger(results / HISTORY),
                keras.callbacks.LambdaCallback(on_epoch_end=tracked.log_epoch),
                tensorboard.TensorBoardLogger(
                    results / "tensorboard", greedy, vocabulary, features.grid[rows[:SHOWN]], shown
                ),
            ],
            callbacks.chosen_by(len(names)),
            section_of(params.dataset),
        )
        kept.write(results)
        print(f"Kept epoch {kept.epoch + 1}, with {kept.metric} {kept.value:.4f}.", flush=True)
        # how it is evaluated is no part of the model, and may change
        made_with = {name: value for name, value in params.flat().items() if not name.startswith("evaluate.")}
        model = SavedModel(
            decoder,
            vocabulary,
            features.made_by,
            recipe.maximum_words,
            made_with,
            about_vectors,
            features.network,
        )
        model.save(MODEL)
        tracked.log_training(results, MODEL, model.weights_sha256)


if __name__ == "__main__":
    run(train)
