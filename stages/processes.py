"""How the stage `train` trains a decoder: in this process, or in several on the machines of a Ray cluster."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stage import main_checkout

from captioner.common.startup import BACKENDS, backend, fast_start
from captioner.common.workspace import DATA, FEATURES, VOCABULARY

with fast_start():
    from captioner.common.keras import keras

import learning
import numpy as np
import pandas as pd

from captioner.common import cluster, files
from captioner.common.errors import CaptionerError
from captioner.common.interruption import Interrupted
from captioner.data import store
from captioner.features.store import Features
from captioner.model.decoder import Decoder
from captioner.params import Params, section_of
from captioner.text.vocabulary import Vocabulary
from captioner.tracking import runs
from captioner.training import fit, workers
from captioner.training.batches import Batches, CaptionBatches
from captioner.training.checkpoints import Checkpoints
from captioner.training.history import Kept, history
from captioner.training.parallel import Peers
from captioner.training.streamed import training_batches

BEGUN = ".begun.json"
"""What the first process tells of the training that it has begun; what it prints is in Ray's logs."""
LAST_SAVED = "what was learned up to the last checkpoint is saved: `dvc repro` goes on from there."
PASSED_ON = ("CAPTIONER_CHECKPOINT_SECONDS", "KERAS_HOME", "XLA_FLAGS")
"""Variables of this process that the others have, too."""


@dataclass(frozen=True)
class Source:
    """What a decoder learns from."""

    features: Features
    captions: pd.DataFrame  # of validation
    vocabulary: Vocabulary

    @classmethod
    def open(cls) -> "Source":
        """Open what the stages before have written."""
        return cls(Features.open(FEATURES), store.read_captions(DATA, "validation"), Vocabulary.load(VOCABULARY))

    def untrained(self, params: Params) -> tuple[Decoder, dict[str, Any] | None]:
        """Return a decoder, see `learning.untrained`; the same in each process."""
        keras.utils.set_random_seed(params.seed)
        return learning.untrained(
            params, params.recipe, self.vocabulary, self.features.channels, self.features.positions
        )

    def training(self, params: Params, share: tuple[int, int] = (0, 1)) -> Batches:
        """Return the batches of training, or the shares that a process has of them."""
        return training_batches(DATA, self.features, self.vocabulary, params.recipe, params.seed, share)

    def validation(self, params: Params) -> CaptionBatches:
        """Return the batches of validation."""
        return fit.batches(self.features, self.captions, "validation", self.vocabulary, params.recipe)


def check(params: Params) -> None:
    """Check that there are the processes that the recipe asks for.

    Raises:
        CaptionerError: there are not.
    """
    count, key = params.recipe.workers, f"{section_of(params.dataset)}.workers"
    if count > 1 and backend() != BACKENDS[0]:
        raise CaptionerError(
            f"{key} is {count}, and KERAS_BACKEND is {backend()}, which trains in one process: set {key} to 1, or "
            f"KERAS_BACKEND to {BACKENDS[0]}"
        )
    if count > 1 and not cluster.on_cluster():
        raise CaptionerError(
            f"{key} is {count}, and {cluster.ADDRESS} is not set: set it to local, for processes on this machine, or "
            f"to the address of a Ray cluster; or set {key} to 1"
        )


def learn(
    params: Params,
    source: Source,
    decoder: Decoder,
    training: Batches,
    results: Path,
    checkpoints: Checkpoints,
    tracked: runs.Run | None = None,
    peers: Peers | None = None,
) -> Kept:
    """Train in this process, which is the first where there are several, and return which epoch is kept."""
    watching, monitor = learning.watching(
        *(results, tracked, decoder, source.vocabulary, params.recipe.maximum_words),
        *(training, source.captions, source.features),
    )
    batches = (training, source.validation(params))
    return fit.train(
        decoder, *batches, params.recipe, watching, monitor, section_of(params.dataset), checkpoints, peers
    )


def learn_together(
    params: Params, decoder: Decoder, results: Path, checkpoints: Checkpoints, tracked: runs.Run
) -> Kept:
    """Train in several processes, leave the decoder with the weights that they keep; return of which epoch they are.

    They reach the checkout at the same path as this process.
    """
    sources = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "src")]
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment = passed_on | {
        "DVC_ROOT": str(main_checkout()),
        "PYTHONPATH": os.pathsep.join(filter(None, [*sources, os.environ.get("PYTHONPATH")])),
    }
    given = (params, Path.cwd(), results.resolve(), checkpoints.directory, checkpoints.note)
    checkpoints.arrays = []  # which the first process reads for itself
    following = _following(results, tracked, params.recipe.epochs)
    if checkpoints.state:
        print(checkpoints.state.about(params.recipe.epochs), flush=True)
    try:
        found = workers.together(_share, given, params.recipe.workers, environment, following)
    except Interrupted as interrupted:
        interrupted.left = LAST_SAVED if checkpoints.any() else ""
        raise
    (results / BEGUN).unlink(missing_ok=True)
    assert found is not None  # by the first process
    kept, weights = found
    decoder.set_weights(weights)
    return kept


def _share(
    peers: Peers, params: Params, workspace: Path, results: Path, place: Path | None, note: dict[str, str]
) -> tuple[Kept, list[np.ndarray]] | None:
    """Do what one of several processes does; the first one returns which epoch is kept, and its weights."""
    try:
        os.chdir(workspace)
        source = Source.open()
    except OSError as error:
        raise CaptionerError(
            f"a machine of the cluster does not reach {workspace} ({error.strerror or error}): the checkout has to lie "
            "where all machines find it, at the same path"
        ) from None
    decoder, _ = source.untrained(params)
    training = source.training(params, (peers.rank, peers.count))
    if peers.rank:
        fit.follow(decoder, training, params.recipe, peers)
        return None
    shutil.rmtree(results)  # which has what those have written who were here before, and died
    results.mkdir()
    checkpoints = Checkpoints(place)
    checkpoints.follow(results, note)
    begun = {"training": training.pictures, "validation": source.captions["image"].nunique(), "processes": peers.count}
    files.write_json(results / BEGUN, begun)
    kept = learn(params, source, decoder, training, results, checkpoints, peers=peers)
    return kept, decoder.get_weights()


def _begun(results: Path) -> dict[str, int]:
    try:
        return json.loads((results / BEGUN).read_text("utf-8"))
    except (OSError, ValueError):  # it is not there yet
        return {}


def _following(results: Path, tracked: runs.Run, epochs: int) -> Callable[[], None]:
    """Return what tells of epochs that have ended since it was called the last time."""

    def ended() -> dict[int, dict[str, float]]:
        try:
            return history(results)
        except CaptionerError:  # it is not there yet, or is just being written
            return {}

    told = set(sorted(ended())[:-1])  # it may have ended before the last epoch was told
    begun: dict[str, int] = {}

    def follow() -> None:
        nonlocal begun
        if (now := _begun(results)) and now != begun:
            begun = now
            print(fit.about_choice(begun["training"], begun["validation"]), flush=True)
            print(f"Trains in {begun['processes']} processes on the cluster.", flush=True)
        for epoch, values in ended().items():
            if epoch not in told:
                told.add(epoch)
                tracked.log_epoch(epoch, values)
                said = " - ".join(f"{name}: {value:.4f}" for name, value in values.items())
                print(f"Epoch {epoch + 1}/{epochs} - {said}", flush=True)

    return follow
