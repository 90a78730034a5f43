"""Processes that train a tiny decoder together."""

import os
import signal
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tiny

from captioner.common import interruption
from captioner.common.errors import CaptionerError
from captioner.params import Recipe
from captioner.training import fit
from captioner.training.checkpoints import Checkpoints
from captioner.training.history import HISTORY, Kept
from captioner.training.parallel import Peers

SCORES = [1.0, 3.0, 2.0]
Learned = tuple[Kept, list[np.ndarray], str]


def learn(peers: Peers | None, used: Recipe, directory: Path, dies: int | None = None) -> Learned | None:
    """Train, and return in the first process which epoch is kept, its weights and the history.

    Args:
        peers: who train together; none for one process alone.
        used: the recipe.
        directory: gets the history and the checkpoints.
        dies: the rank of a process that is killed, once, when its second epoch ends.
    """
    keras.utils.set_random_seed(1)
    interruption.INTERVAL = 0.0  # a checkpoint at each step
    decoder = tiny.decoder("dot", used)
    rank, count = (peers.rank, peers.count) if peers else (0, 1)
    (directory / f"{rank} of {count}").touch()
    training = tiny.batches(used, share=(rank, count))
    if peers:  # quicker where little is computed
        fit.compile_model = partial(fit.compile_model, jit_compile=False)
    if rank == dies and not (directory / "died").exists():
        end_epoch = training.on_epoch_end

        def end() -> None:
            end_epoch()
            if training.epoch == 3:
                (directory / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)

        training.on_epoch_end = end  # type: ignore[method-assign]
    if peers and rank:
        fit.follow(decoder, training, used, peers)
        return None
    results = directory / "results"
    results.mkdir(exist_ok=True)
    checkpoints = Checkpoints(directory)
    checkpoints.follow(results)
    watching = [tiny.Scores(SCORES), keras.callbacks.CSVLogger(results / HISTORY, append=True)]
    kept = fit.train(decoder, training, tiny.batches(used, None), used, watching, checkpoints=checkpoints, peers=peers)
    return kept, decoder.get_weights(), (results / HISTORY).read_text()


def refuse(peers: Peers) -> None:
    """Raise what a user can put right in the second process, while the first one waits for it."""
    if peers.rank:
        raise CaptionerError(f"received {peers.rank} of {peers.count}: give what is even")
    peers.from_first(None)
