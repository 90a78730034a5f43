"""What the stages share that train: how a training is recorded and watched, and what it leaves."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from stage import main_checkout, resumable, spent_before

from captioner.common import files
from captioner.common.keras import keras
from captioner.common.workspace import DATA, SECONDS
from captioner.data import images, store
from captioner.data.dataset import captions_by_image
from captioner.features.store import Features, rows_of
from captioner.model.decoder import Decoder
from captioner.model.saved_model import SavedModel
from captioner.params import Params, Recipe
from captioner.scoring.scorer import Scorer
from captioner.scoring.shares import shares
from captioner.search.generators import Generator
from captioner.text import word_vectors
from captioner.text.vocabulary import Vocabulary
from captioner.tracking import runs, tensorboard
from captioner.training import callbacks, fit
from captioner.training.batches import Batches
from captioner.training.checkpoints import Checkpoints
from captioner.training.history import HISTORY, Kept, history

RUN = "run_id"  # of MLflow, in a checkpoint's note
SHOWN = 3  # validation pictures whose attention is drawn after each epoch


def untrained(
    params: Params, recipe: Recipe, vocabulary: Vocabulary, channels: int, positions: int
) -> tuple[Decoder, dict[str, Any] | None]:
    """Return a decoder before training, and what a model says of the word vectors that it begins with, if any."""
    sizes = (len(vocabulary), channels, positions)
    found = word_vectors.files_of(params.model.word_vectors, main_checkout())
    if not found:
        return fit.build(params.model, recipe, params.attention, *sizes), None
    vectors = word_vectors.load(found[0], vocabulary.tokens, params.seed)
    broken = f" Rows that cannot be read, and are left out: {vectors.broken:,}." if vectors.broken else ""
    print(f"{found[0]} has vectors for {vectors.covered:.1%} of the vocabulary's words.{broken}", flush=True)
    about = {"file": found[0].name, "covered": round(100 * vectors.covered, 2)}
    return fit.build(params.model, recipe, params.attention, *sizes, vectors.matrix), about


@contextmanager
def recorded(
    params: Params,
    directory: Path,
    tags: Mapping[str, str],
    about_vectors: dict[str, Any] | None,
    stage: str = "train",
) -> Iterator[tuple[Path, runs.Run, Checkpoints]]:
    """Open a directory of results, which is whole or absent, and an MLflow run; those of an interrupted training."""
    tags = {"data_sha256": files.sha256(DATA / store.CAPTIONS), **tags}
    measured = {} if about_vectors is None else {"train/words-with-vectors": about_vectors["covered"]}
    with resumable(stage, params) as place, files.replacing(directory) as results:
        checkpoints = Checkpoints(place)
        spent_before(checkpoints.seconds_before)
        begun = (checkpoints.state.note[RUN], checkpoints.seconds_before) if checkpoints.state else None
        with runs.training(main_checkout(), params, SECONDS, tags, measured, stage, begun) as tracked:
            results.mkdir()
            checkpoints.follow(results, {RUN: tracked.record.run_id})
            if begun and begun[0] != tracked.record.run_id:  # the store does not know it any more
                for epoch, values in history(results).items():
                    tracked.log_epoch(epoch, values)
            yield results, tracked, checkpoints


def watching(
    results: Path,
    tracked: runs.Run | None,
    decoder: Decoder,
    vocabulary: Vocabulary,
    maximum_words: int,
    training: Batches,
    captions: pd.DataFrame,
    seen: Features,
) -> tuple[list[keras.callbacks.Callback], str]:
    """Return what writes pace, scores of generated validation captions and attention after each epoch.

    Args:
        results: the directory that the history goes to.
        tracked: the MLflow run; none where another process logs the epochs.
        decoder: what is trained.
        vocabulary: its words.
        maximum_words: the longest caption.
        training: the batches that it learns from.
        captions: of the validation pictures.
        seen: features of the validation pictures.

    Returns:
        The callbacks, and by which metric the best epoch is known.
    """
    references = captions_by_image(captions)
    names, scorer, objects = list(references), Scorer(references), store.read_objects(DATA)

    def judge(generated: dict[str, str]) -> dict[str, float]:
        scores = scorer.score(generated, ["BLEU", "CIDEr"]).corpus
        chosen = {name: scores[name] for name in ("CIDEr", "BLEU-4")}
        return chosen | shares(generated, objects).scores()

    print(fit.about_choice(training.pictures, len(names)), flush=True)
    greedy = Generator(decoder, beam=1, maximum=maximum_words, batch_size=min(64, len(names)), vocabulary=vocabulary)
    rows = rows_of(seen, names)
    shown = [images.decode(data, crop=seen.crop) for data in store.read_pictures(DATA, names[:SHOWN])]
    summaries = (results / "tensorboard", greedy, vocabulary, seen.grid, rows[:SHOWN], np.stack(shown))
    return [
        callbacks.Throughput(training.passes * training.captions),
        callbacks.GeneratedValidation(greedy, seen.grid, rows, names, vocabulary, judge),
        keras.callbacks.CSVLogger(results / HISTORY, append=True),
        *([keras.callbacks.LambdaCallback(on_epoch_end=tracked.log_epoch)] if tracked else []),
        tensorboard.TensorBoardLogger(*summaries),
    ], callbacks.chosen_by(len(names))


def leave(model: SavedModel, kept: Kept, results: Path, directory: Path, tracked: runs.Run) -> None:
    """Save a model and which epoch it is, and log both."""
    kept.write(results)
    print(f"Kept epoch {kept.epoch + 1}, with {kept.metric} {kept.value:.4f}.", flush=True)
    model.save(directory)
    tracked.record.tags["encoder_sha256"] = model.encoder["weights_sha256"]
    tracked.log_training(results, directory, model.weights_sha256)


def made_with(params: Params) -> dict[str, Any]:
    """Return the parameters that a model carries: how it is evaluated is no part of it, and may change."""
    return {name: value for name, value in params.flat().items() if not name.startswith("evaluate.")}
