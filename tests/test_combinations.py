"""Each value of a switch with each value of every other one: trained, saved, loaded and made to caption."""

from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from rounding import assert_same

from captioner.inference.captioner import Captioner
from captioner.model.attention import ATTENTIONS
from captioner.params import ModelParams
from captioner.training import fit
from captioner.training.likelihood import nll_of_decoder

pytestmark = pytest.mark.slow

SWITCHES: dict[str, tuple[Any, ...]] = {
    "attention": tuple(ATTENTIONS),
    "heads": (1, 2),
    "spatial_encoding": ("none", "learned", "sinusoidal"),
    "tie_embeddings": (False, True),
    "word_vectors": ("none", "trainable", "fixed"),
    "tokens": ("words", "bpe"),
    "attention_penalty": (0.0, 0.5),
}
VECTOR_SIZE = 5


def makes_sense(chosen: dict[str, Any]) -> bool:
    """Whether `params.yaml` may say so, see `tests/test_params.py`."""
    return not (
        (chosen["heads"] == 2 and chosen["attention"] != "scaled_dot")
        or (chosen["word_vectors"] != "none" and chosen["tokens"] == "bpe")
        or (chosen["attention_penalty"] and chosen["attention"] == "uniform")
    )


def pairs_of(chosen: dict[str, Any]) -> set[tuple[Any, ...]]:
    return set(combinations(chosen.items(), 2))


def pairwise() -> list[dict[str, Any]]:
    """Return few combinations, in which each pair of values stands that makes sense: greedily, most new pairs first."""
    every = [dict(zip(SWITCHES, values, strict=True)) for values in product(*SWITCHES.values())]
    candidates = [chosen for chosen in every if makes_sense(chosen)]
    missing = set().union(*map(pairs_of, candidates))
    found = []
    while missing:
        found.append(max(candidates, key=lambda chosen: len(pairs_of(chosen) & missing)))
        missing -= pairs_of(found[-1])
    return found


def named(chosen: dict[str, Any]) -> str:
    return "-".join(map(str, chosen.values()))


@pytest.mark.usefixtures("eager", "seeing")
@pytest.mark.parametrize("chosen", pairwise(), ids=named)
def test_a_combination_trains_and_captions_as_loaded(chosen: dict[str, Any], tmp_path: Path) -> None:
    known = tiny.subwords() if chosen["tokens"] == "bpe" else tiny.vocabulary()
    of_model = {name: chosen[name] for name in ("heads", "spatial_encoding", "tie_embeddings")}
    vectors = None
    if chosen["word_vectors"] != "none":
        vectors = np.random.default_rng(1).normal(size=(len(known), VECTOR_SIZE)).astype(np.float32)
        of_model |= {"word_vectors": "a file", "word_vectors_trainable": chosen["word_vectors"] == "trainable"}
    sizes = ModelParams(**tiny.SIZES.model_dump() | {"embedding_size": 8, "attention_size": 6} | of_model)
    words = 1 if chosen["tokens"] == "bpe" else 2  # of several pieces
    used = tiny.recipe(epochs=1, maximum_words=words, attention_penalty=chosen["attention_penalty"])
    features = tiny.features()
    decoder = fit.build(
        sizes, used, chosen["attention"], len(known), features.channels, features.positions, word_vectors=vectors
    )
    data, validation = (tiny.batches(used, seed, known=known) for seed in (1, None))
    before = nll_of_decoder(decoder, validation).scores()["nll"]
    fit.train(decoder, data, validation, used, [tiny.Scores(range(used.epochs))])
    after = nll_of_decoder(decoder, validation).scores()["nll"]
    assert after < before
    assert vectors is None or np.array_equal(decoder.embedding.get_weights()[0], vectors) == (
        chosen["word_vectors"] == "fixed"
    )

    encoder = {"name": features.encoder, "weights": features.weights, "weights_sha256": features.weights_sha256}
    made = Captioner(decoder, known, encoder, used.maximum_words, {"attention": chosen["attention"]})
    made.save(tmp_path / "model")
    model = Captioner.load(tmp_path / "model")
    assert nll_of_decoder(model.decoder, validation).scores()["nll"] == after
    photographs = [tiny.photograph(row) for row in range(2)]
    found = model.caption(photographs, beam=1)
    assert [caption.words for caption in found] == [caption.words for caption in made.caption(photographs, beam=1)]
    assert any(caption.words for caption in found)
    for caption in found:
        assert len(caption.words) <= used.maximum_words and caption.text == " ".join(caption.words)
        if not caption.words:
            continue
        looked = caption.attention_by_position.sum(axis=1)
        assert_same(looked, np.ones(len(caption.words)), 4 * tiny.POSITIONS)
        assert (caption.heads is not None) == (chosen["heads"] == 2)
        assert (caption.grounding is not None) == (chosen["attention"] == "adaptive")
