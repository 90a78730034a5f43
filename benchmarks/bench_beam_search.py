"""Beam search against a loop over pictures: the row `beam-search`.

    python benchmarks/bench_beam_search.py

Ours searches captions of twelve tokens for 1,000 pictures, 64 at a time, in one compiled function. The reference is the
loop of the tutorials: picture by picture and word by word in Python, with a compiled step of three candidates, whose
extensions are sorted outside. The weights are random: what is found means nothing, but both have to find the same.

The limit counts the matrix products of all steps and candidates, and those of a picture once.
"""

import tempfile
from pathlib import Path
from typing import Any

import synthetic
from bench_training import flop_of_a_picture, flop_of_a_token
from measure import CHECKOUT, matrix_rate, row_of_pairs, seconds

from captioner.common.startup import fast_start

with fast_start():
    import tensorflow

    from captioner.common.keras import keras

import numpy as np

from captioner import params
from captioner.common.startup import keep_freed_memory
from captioner.model.decoder import Decoder, State
from captioner.search.generators import Generator
from captioner.search.steps import SearchResult
from captioner.text.vocabulary import END, PAD, START, UNKNOWN
from captioner.training import fit

PICTURES = 1000
REFERENCE_PICTURES = 30  # a few seconds
BEAM, WORDS = 3, 11  # and the end: twelve steps


class LoopOverPictures:
    """The search of the tutorials, one picture at a time."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.initialize = tensorflow.function(lambda maps: decoder.initialize(maps, captions=BEAM))
        self.step = tensorflow.function(self._step)

    def _step(self, words: Any, state: State, picture: Any) -> tuple[Any, Any]:
        logits, state, _ = self.decoder.next_word(words, state, picture)
        return tensorflow.nn.log_softmax(logits), state

    def search(self, features: np.ndarray) -> tuple[list[int], float]:
        """Return the best caption of a map `[1, P, C]`, its end included, and its log-probability."""
        picture, state = self.initialize(tensorflow.constant(features))
        captions: list[list[int]] = [[] for _ in range(BEAM)]
        total = np.array([0.0, *[-np.inf] * (BEAM - 1)], np.float32)
        for place in range(WORDS + 1):
            last = [caption[-1] if caption else START for caption in captions]
            scores, state = self.step(tensorflow.constant(last), state, picture)
            scores = scores.numpy()
            scores[:, [PAD, START, UNKNOWN]] = -np.inf
            if place == 0:
                scores[:, END] = -np.inf
            if place == WORDS:
                scores[:, np.arange(scores.shape[1]) != END] = -np.inf
            for row, word in enumerate(last):
                if word == END:  # done: it goes on at no cost, in one way
                    scores[row] = -np.inf
                    scores[row, END] = 0
            each = total[:, None] + scores
            best = np.argsort(-each, axis=None, kind="stable")[:BEAM]
            parents, words = np.unravel_index(best, each.shape)
            total = each.ravel()[best]
            captions = [[*captions[parent], int(word)] for parent, word in zip(parents, words, strict=True)]
            state = keras.tree.map_structure(lambda x, chosen=parents: tensorflow.gather(x, chosen), state)
            if all(caption[-1] == END for caption in captions):
                break
        whole = [caption[: caption.index(END) + 1] for caption in captions]
        first = int(np.argmax([value / len(caption) for value, caption in zip(total, whole, strict=True)]))
        return whole[first], float(total[first])


def agreement(found: SearchResult, others: list[tuple[list[int], float]]) -> str:
    """Compare what both found for the first pictures.

    Raises:
        AssertionError: another caption, or another probability than float32 explains.
    """
    for number, (caption, log_probability) in enumerate(others):
        words = [int(word) for word in found.words[number] if word != PAD]
        near = abs(log_probability - found.log_probability[number])
        assert near < 1e-3 and words == caption, (words, caption, near)
    return f"the same words for {len(others)} pictures, log-probabilities within 1e-3"


def measure(directory: Path) -> None:
    """Measure the row and write it."""
    settings = params.load(CHECKOUT / "params.yaml")
    features, vocabulary = synthetic.features(PICTURES, directory), len(synthetic.vocabulary())
    keras.utils.set_random_seed(1)
    recipe = settings.train.flickr8k
    decoder = fit.build(settings.model, recipe, "dot", vocabulary, features.channels, features.positions)
    # random weights make flat distributions, in which ties decide: spread them, and keep the end for the end
    decoder.vocabulary_logits.kernel.assign(decoder.vocabulary_logits.kernel * 8)
    decoder.vocabulary_logits.bias.assign(np.where(np.arange(vocabulary) == END, -50.0, 0.0))
    generator, loop = Generator(decoder, BEAM, WORDS), LoopOverPictures(decoder)
    searched = [loop.search(features.grid[number : number + 1]) for number in range(REFERENCE_PICTURES)]
    agreed = agreement(generator.generate(features.grid, np.arange(REFERENCE_PICTURES)), searched)

    def run_loop() -> float:
        each = [features.grid[number : number + 1] for number in range(REFERENCE_PICTURES)]
        return REFERENCE_PICTURES / seconds(lambda: [loop.search(one) for one in each])

    token = flop_of_a_token("dot", settings.model, vocabulary)
    flop = flop_of_a_picture("dot", settings.model, features.channels) + BEAM * (WORDS + 1) * token
    row_of_pairs(
        "beam-search",
        "beam search of width 3, dot",
        "captions/s",
        lambda: PICTURES / seconds(lambda: generator.generate(features.grid)),
        run_loop,
        lambda: matrix_rate() / flop,
        agreement=agreed,
        goal={"ratio": 10, "fraction_of_limit": 0.6},
        notes=[
            f"{flop / 1e6:.0f} MFLOP a caption of {WORDS + 1} tokens, three candidates at each",
            f"ours over {PICTURES:,} pictures, the loop over {REFERENCE_PICTURES} of them",
        ],
    ).write()


if __name__ == "__main__":
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder))
