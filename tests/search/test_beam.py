"""The search finds what a plain one finds: checked on toy models that are tables of probabilities."""

import itertools
from itertools import pairwise
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras import ops
from rounding import assert_same, tolerance

from captioner.search.beam import BLOCK, beam_search, top_k
from captioner.search.sampling import sample
from captioner.search.steps import SearchResult, at_most_words
from captioner.text.vocabulary import END, PAD, START, UNKNOWN

SAYABLE = END + 1  # the first number that is a word
TERMS = 7 * (SAYABLE + 6)  # of a log-probability: seven steps at most, with the logits of all words each


class Caption(NamedTuple):
    words: tuple[int, ...]  # END included
    log_probability: float

    def objective(self, normalization: float) -> float:
        return self.log_probability / len(self.words) ** normalization


NOTHING = Caption((), 0.0)


def assert_log_probability(found: Any, expected: float, logits: np.ndarray) -> None:
    """Compare what was computed in float32 with what it should be."""
    assert_same(np.float32(found), expected, TERMS, max(abs(expected), float(np.abs(logits).max())))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def markov(pictures: int, words: int, seed: int = 0, end: float = 0.0) -> np.ndarray:
    """Logits of the next word by picture and word before, `[B, V, V]`; `end` makes ends likelier."""
    logits = np.random.default_rng(seed).normal(scale=1.5, size=(pictures, SAYABLE + words, SAYABLE + words))
    logits[:, :, END] += end
    return logits.astype(np.float32)


def search(tables: np.ndarray, beam: int = 3, maximum: int = 4, length_normalization: float = 1.0) -> SearchResult:
    """Search in Markov models; the weights at a word are the one before it and the number of steps."""

    def step(last: Any, state: Any) -> tuple[Any, Any, Any]:
        picture, steps = state
        logits = ops.take(np.reshape(tables, (-1, tables.shape[-1])), picture * tables.shape[1] + last, axis=0)
        weights = ops.stack([ops.cast(last, "float32"), ops.cast(steps, "float32")], axis=1)
        return logits, (picture, steps + 1), weights

    rows = np.repeat(np.arange(len(tables), dtype=np.int32), beam)
    state = (ops.convert_to_tensor(rows), ops.zeros(len(rows), "int32"))
    found = beam_search(step, state, len(tables), 2, beam, maximum, length_normalization)
    return SearchResult(*(np.asarray(values) for values in found))


def caption(found: SearchResult, picture: int) -> Caption:
    words = [int(word) for word in found.words[picture] if word != PAD]
    return Caption(tuple(words), float(found.log_probability[picture]))


def extensions(table: np.ndarray, words: tuple[int, ...], maximum: int) -> dict[int, float]:
    """Log-probability of each word that may follow."""
    following = log_softmax(table[words[-1] if words else START].astype(float))
    sayable = set(range(SAYABLE, len(table))) if len(words) < maximum else set()
    return {word: following[word] for word in sayable | ({END} if words else set())}


def greedy(table: np.ndarray, maximum: int) -> Caption:
    words: tuple[int, ...] = ()
    log_probability = 0.0
    while not words or words[-1] != END:
        following = extensions(table, words, maximum)
        best = max(following, key=following.__getitem__)
        words, log_probability = (*words, best), log_probability + following[best]
    return Caption(words, log_probability)


def all_captions(table: np.ndarray, maximum: int, begun: Caption = NOTHING) -> list[Caption]:
    if begun.words and begun.words[-1] == END:
        return [begun]
    longer = extensions(table, begun.words, maximum)
    return [
        found
        for word, value in longer.items()
        for found in all_captions(table, maximum, Caption((*begun.words, word), begun.log_probability + value))
    ]


class TieError(Exception):
    """Equally probable captions, as when the same steps follow in another order: no answer is the only right one."""


def plain_beam_search(table: np.ndarray, beam: int, maximum: int, normalization: float) -> Caption:
    candidates = [NOTHING]
    rounding = tolerance(TERMS, maximum * float(np.abs(table).max()))
    while any(not one.words or one.words[-1] != END for one in candidates):
        longer = []
        for one in candidates:
            if one.words and one.words[-1] == END:
                longer.append(one)
                continue
            for word, value in extensions(table, one.words, maximum).items():
                longer.append(Caption((*one.words, word), one.log_probability + value))
        longer.sort(key=lambda one: -one.log_probability)
        if len(longer) > beam and np.isclose(
            longer[beam - 1].log_probability, longer[beam].log_probability, 0, rounding
        ):
            raise TieError
        candidates = longer[:beam]
    best, *others = sorted(candidates, key=lambda one: -one.objective(normalization))
    if others and np.isclose(best.objective(normalization), others[0].objective(normalization), 0, rounding):
        raise TieError
    return best


# --- a model that spells ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_spells_a_word(beam: int) -> None:
    spelling = [START, 9, 4, 7, 5, END]
    table = np.zeros((1, 10, 10), np.float32)
    for letter, following in itertools.pairwise(spelling):
        table[0, letter, following] = 20
    found = search(table, beam, maximum=6)
    assert found.words.tolist() == [[9, 4, 7, 5, END, PAD, PAD]]
    assert found.words.dtype == np.int32
    assert_log_probability(found.log_probability[0], 5 * log_softmax(table[0, START].astype(float))[9], table)
    assert found.weights.tolist() == [[[START, 0], [9, 1], [4, 2], [7, 3], [5, 4], [0, 0], [0, 0]]]


def test_pictures_end_when_each_has_said_its_own() -> None:
    table = np.zeros((2, 6, 6), np.float32)
    table[0, START, 4] = table[0, 4, END] = 20
    table[1, START, 5] = table[1, 5, 5] = 20
    assert search(table, maximum=3).words.tolist() == [[4, END, PAD, PAD], [5, 5, 5, END]]


def test_ends_early() -> None:
    steps = []

    def step(last: Any, state: Any) -> tuple[Any, Any, Any]:
        steps.append(1)
        logits = np.zeros((2, 6), np.float32)
        logits[:, END] = 50
        return ops.convert_to_tensor(logits), state, ops.zeros((2, 1))

    found = beam_search(step, ops.zeros((2, 1)), pictures=2, size=1, beam=1, maximum=100)
    assert found.words.shape == (2, 101)
    assert len(steps) == 2


# --- against plain searches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "maximum", "end"), [(6, 5, 0.0), (6, 5, 2.0), (3, 1, 0.0), (1, 4, -3.0)])
def test_beam_of_one_is_greedy(words: int, maximum: int, end: float) -> None:
    tables = markov(40, words, seed=1, end=end)
    found = search(tables, beam=1, maximum=maximum)
    for picture, table in enumerate(tables):
        expected = greedy(table, maximum)
        assert caption(found, picture).words == expected.words
        assert_log_probability(found.log_probability[picture], expected.log_probability, table)


@settings(max_examples=25, deadline=None)
@example(seed=3, words=3, beam=5, maximum=5, normalization=0.0)  # two orders of the same steps
@given(
    seed=st.integers(0, 2**32 - 1),
    words=st.integers(1, 5),
    beam=st.integers(1, 7),
    maximum=st.integers(1, 5),
    normalization=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_same_as_a_plain_beam_search(seed: int, words: int, beam: int, maximum: int, normalization: float) -> None:
    tables = markov(5, words, seed)
    found = search(tables, beam, maximum, normalization)
    for picture, table in enumerate(tables):
        try:
            expected = plain_beam_search(table, beam, maximum, normalization)
        except TieError:
            continue
        assert caption(found, picture).words == expected.words
        assert_log_probability(found.log_probability[picture], expected.log_probability, table)


@pytest.mark.parametrize("normalization", [0.0, 1.0])
def test_a_beam_that_holds_everything_finds_the_best_caption(normalization: float) -> None:
    tables = markov(20, words=3, seed=2)
    found = search(tables, beam=3 + 9 + 27, maximum=3, length_normalization=normalization)
    for picture, table in enumerate(tables):
        every = all_captions(table, 3)
        assert len(every) == 3 + 9 + 27
        best = max(every, key=lambda one: one.objective(normalization))
        assert caption(found, picture).words == best.words
        assert_log_probability(found.log_probability[picture], best.log_probability, table)


@pytest.mark.parametrize("normalization", [0.0, 1.0])
def test_wider_beams_find_better_captions_on_the_whole(normalization: float) -> None:
    # of a single model this need not hold: a wider beam may drop the beginning of the best caption later
    tables = markov(300, words=6, seed=3)
    means = []
    for beam in (1, 2, 3, 5, 10, 40):
        found = search(tables, beam, 5, normalization)
        means.append(np.mean([caption(found, picture).objective(normalization) for picture in range(len(tables))]))
    assert means == sorted(means) and means[0] < means[-1]


# --- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [PAD, UNKNOWN, START, END])
@pytest.mark.parametrize("beam", [1, 4])
def test_no_special_token_and_no_empty_caption(token: int, beam: int) -> None:
    tables = markov(30, words=3, seed=4)
    tables[:, :, token] += 30
    found = search(tables, beam, maximum=4)
    for picture in range(len(tables)):
        *words, last = caption(found, picture).words
        assert last == END and words
        assert all(word >= SAYABLE for word in words)
    assert np.isfinite(found.log_probability).all()
    if token == END:
        assert (found.words[:, 1] == END).all()


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("maximum", [1, 2, 4])
def test_captions_have_at_most_the_maximum_of_words_and_end(beam: int, maximum: int) -> None:
    found = search(markov(20, words=4, seed=5, end=-20), beam, maximum)
    assert found.words.shape == (20, maximum + 1)
    assert (found.words[:, :-1] >= SAYABLE).all() and (found.words[:, -1] == END).all()


def test_log_probability_is_that_of_the_words() -> None:
    tables = markov(20, words=4, seed=6)
    found = search(tables, beam=3)
    for picture, table in enumerate(tables):
        said = caption(found, picture)
        following = log_softmax(table.astype(float))
        expected = sum(following[pair] for pair in zip((START, *said.words), said.words, strict=False))
        assert_log_probability(said.log_probability, expected, table)


def test_length_normalization_prefers_longer_captions() -> None:
    table = np.full((1, 6, 6), -30, np.float32)
    table[0, START, [4, 5]] = np.log([0.4, 0.6])
    table[0, 4, END] = 0  # "4": 0.4
    table[0, 5, [5, END]] = np.log([0.5, 0.5])  # "5": 0.3, "5 5": 0.15, "5 5 5": 0.075
    assert caption(search(table, 5, 3, 0.0), 0).words == (4, END)
    assert caption(search(table, 5, 3, 1.0), 0).words == (4, END)
    table[0, START, [4, 5]] = np.log([0.3, 0.7])
    table[0, 5, [5, END]] = np.log([0.7, 0.3])  # "4": 0.3, "5": 0.21, "5 5": 0.147, "5 5 5": 0.103
    assert caption(search(table, 5, 3, 0.0), 0).words == (4, END)
    assert caption(search(table, 5, 3, 1.0), 0).words == (5, 5, 5, END)


def test_mean_length_grows_with_normalization() -> None:
    tables = markov(100, words=4, seed=7, end=1)
    lengths = [(search(tables, 6, 5, strength).words != PAD).sum() for strength in (0.0, 0.5, 1.0)]
    assert lengths[0] < lengths[1] < lengths[2]


@pytest.mark.parametrize("beam", [1, 2, 6])
def test_weights_are_those_of_the_path_that_won(beam: int) -> None:
    found = search(markov(40, words=5, seed=8), beam, maximum=5)
    for picture in range(40):
        words = caption(found, picture).words
        read = (START, *words)[: len(words)]
        expected = [[word, step] for step, word in enumerate(read)] + [[0, 0]] * (6 - len(words))
        assert found.weights[picture].tolist() == expected


@pytest.mark.parametrize("beam", [1, 4])
def test_pictures_together_are_as_each_alone(beam: int) -> None:
    tables = markov(8, words=5, seed=9)
    together = search(tables, beam)
    rounding = tolerance(TERMS, float(max(np.abs(tables).max(), np.abs(together.log_probability).max())))
    for picture in range(len(tables)):
        alone = search(tables[picture : picture + 1], beam)
        for one, all_of_them in zip(alone, together, strict=True):
            np.testing.assert_allclose(one[0], all_of_them[picture], rtol=0, atol=rounding)


def test_state_follows_the_words() -> None:
    """A model whose next word depends on the sum of all words before, which only the state knows."""
    [table] = markov(1, words=4, seed=10)

    def step(last: Any, state: Any) -> tuple[Any, Any, Any]:
        total = state["sum"] + last
        return ops.take(table, total % len(table), axis=0), {"sum": total}, ops.zeros((3, 1))

    found = beam_search(step, {"sum": ops.zeros(3, "int32")}, 1, 1, beam=3, maximum=6)
    said = [int(word) for word in np.asarray(found.words[0]) if word != PAD]
    assert len(said) > 2
    totals = np.cumsum([START, *said[:-1]]) % len(table)
    following = log_softmax(table.astype(float))
    expected = sum(following[total, word] for total, word in zip(totals, said, strict=True))
    assert_log_probability(found.log_probability[0], expected, table)


def test_logits_of_half_precision() -> None:
    tables = markov(5, words=3, seed=11).astype(np.float16)
    half, single = search(tables), search(tables.astype(np.float32))
    np.testing.assert_array_equal(half.words, single.words)
    assert_same(half.log_probability, single.log_probability, TERMS)


def test_compiled_as_uncompiled() -> None:
    tables = markov(6, words=4, seed=12)

    class Search(keras.Model):
        def call(self, inputs: Any) -> Any:
            def step(last: Any, state: Any) -> tuple[Any, Any, Any]:
                logits = ops.take(ops.reshape(inputs, (-1, tables.shape[-1])), state * tables.shape[1] + last, axis=0)
                return logits, state, ops.zeros((len(rows), 1))

            return beam_search(step, ops.convert_to_tensor(rows), 6, 1, 3, 4)

    rows = np.repeat(np.arange(6, dtype=np.int32), 3)
    model = Search()
    model.compile(jit_compile=True)
    compiled = model.predict_on_batch(tables)
    plain = search(tables)
    np.testing.assert_array_equal(compiled.words, plain.words)
    assert_same(compiled.log_probability, plain.log_probability, TERMS)


# --- sampling --------------------------------------------------------------------------------------------------------


def draw(
    tables: np.ndarray, maximum: int = 4, temperature: float = 1.0, top_p: float = 1.0, times: int = 1, seed: int = 0
) -> SearchResult:
    """Draw captions from Markov models, `times` from each; the weights at a word are the one before it and the step."""

    def step(last: Any, state: Any) -> tuple[Any, Any, Any]:
        picture, steps = state
        logits = ops.take(np.reshape(tables, (-1, tables.shape[-1])), picture * tables.shape[1] + last, axis=0)
        weights = ops.stack([ops.cast(last, "float32"), ops.cast(steps, "float32")], axis=1)
        return logits, (picture, steps + 1), weights

    rows = np.repeat(np.arange(len(tables), dtype=np.int32), times)
    draws = np.random.default_rng(seed).random((len(rows), maximum + 1), np.float32)
    state = (ops.convert_to_tensor(rows), ops.zeros(len(rows), "int32"))
    return SearchResult(*map(np.asarray, sample(step, state, draws, 2, temperature, top_p)))


@pytest.mark.parametrize(("temperature", "top_p"), [(1e-3, 1.0), (1e-30, 1.0), (1.0, 1e-6), (3.0, 1e-6)])
def test_without_heat_or_nucleus_sampling_is_greedy(temperature: float, top_p: float) -> None:
    tables = markov(40, words=6, seed=1)
    found, expected = draw(tables, 5, temperature, top_p), search(tables, beam=1, maximum=5)
    np.testing.assert_array_equal(found.words, expected.words)
    assert_same(found.log_probability, expected.log_probability, TERMS)
    np.testing.assert_array_equal(found.weights, expected.weights)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_words_come_as_often_as_they_are_probable(temperature: float) -> None:
    [table] = markov(1, words=4, seed=2)
    found = draw(table[None], 1, temperature, times=20_000)
    words = found.words[:, 0]
    following = np.exp(log_softmax(table[START, SAYABLE:].astype(float) / temperature))
    shares = [(words == SAYABLE + word).mean() for word in range(4)]
    np.testing.assert_allclose(shares, following, atol=0.015)


def test_the_nucleus_is_the_fewest_words_that_reach_the_probability() -> None:
    table = np.full((8, 8), -50.0, np.float32)
    table[START, 4:8] = np.log([0.1, 0.4, 0.3, 0.2])
    table[4:, END] = 50
    for top_p, expected in [(0.39, {5}), (0.41, {5, 6}), (0.69, {5, 6}), (0.71, {5, 6, 7}), (1.0, {4, 5, 6, 7})]:
        words = draw(table[None], 3, top_p=top_p, times=300).words[:, 0]
        assert set(words.tolist()) == expected
    halves = draw(table[None], 3, top_p=0.6, times=20_000).words[:, 0]
    assert (halves == 5).mean() == pytest.approx(4 / 7, abs=0.015)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    words=st.integers(1, 6),
    maximum=st.integers(1, 5),
    temperature=st.floats(0.05, 20),
    top_p=st.floats(0.01, 1),
)
def test_what_is_drawn_is_a_caption_with_its_own_log_probability(
    seed: int, words: int, maximum: int, temperature: float, top_p: float
) -> None:
    tables = markov(4, words, seed)
    found = draw(tables, maximum, temperature, top_p, times=3, seed=seed)
    for row in range(12):
        said = caption(found, row)
        assert said.words[-1] == END and 1 < len(said.words) <= maximum + 1
        assert all(word >= SAYABLE for word in said.words[:-1])
        following = log_softmax(tables[row // 3].astype(float))
        expected = sum(following[pair] for pair in zip((START, *said.words), said.words, strict=False))
        assert_log_probability(said.log_probability, expected, tables)
        read = (START, *said.words)[: len(said.words)]
        path = [[word, step] for step, word in enumerate(read)] + [[0, 0]] * (maximum + 1 - len(said.words))
        assert found.weights[row].tolist() == path


def test_the_same_draws_give_the_same_captions() -> None:
    tables = markov(30, words=5, seed=3)
    np.testing.assert_array_equal(draw(tables, seed=1).words, draw(tables, seed=1).words)
    assert (draw(tables, seed=1).words != draw(tables, seed=2).words).any()


def test_a_draw_at_the_end_of_its_range_stays_within_the_nucleus() -> None:
    [table] = markov(1, words=5, seed=4)
    almost_one = np.full((1, 4), np.nextafter(np.float32(1), np.float32(0)))

    def step(last: Any, state: Any) -> tuple[Any, Any, Any]:
        return ops.take(table, last, axis=0), state, ops.zeros((1, 1))

    [first, *_] = np.asarray(sample(step, ops.zeros(1), almost_one, 1, top_p=1.0).words[0])
    assert first == SAYABLE + np.argmin(table[START, SAYABLE:])


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 4),
    size=st.sampled_from([5, BLOCK * 4, BLOCK * 4 + 1, BLOCK * 9 - 1, 1000]),
    k=st.integers(1, 5),
    different=st.sampled_from([1, 3, 10, 10_000]),
    seed=st.integers(0, 99),
)
def test_the_largest_are_those_of_a_sort_even_of_equal_values(
    rows: int, size: int, k: int, different: int, seed: int
) -> None:
    values = -np.random.default_rng(seed).integers(0, different, (rows, size)).astype(np.float32)
    largest, places = map(np.asarray, top_k(ops.convert_to_tensor(values), k))
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    assert np.array_equal(places, order)
    assert np.array_equal(largest, np.take_along_axis(values, order, axis=1))


# --- words of several tokens -----------------------------------------------------------------------------------------


def limited(tables: np.ndarray, begins: np.ndarray | None, words: int, maximum: int, beam: int = 3) -> SearchResult:
    """Search in Markov models for captions of at most so many words."""

    def step(last: Any, picture: Any) -> tuple[Any, Any, Any]:
        logits = ops.take(np.reshape(tables, (-1, tables.shape[-1])), picture * tables.shape[1] + last, axis=0)
        return logits, picture, ops.zeros((len(last), 1))

    rows = len(tables) * beam
    state = ops.convert_to_tensor(np.repeat(np.arange(len(tables), dtype=np.int32), beam))
    found = beam_search(*at_most_words(step, state, rows, begins, words), len(tables), 1, beam, maximum)
    return SearchResult(*(np.asarray(values) for values in found))


@pytest.mark.parametrize("words", [1, 2, 4])
def test_where_each_token_is_a_word_so_many_words_are_so_many_tokens(words: int) -> None:
    tables = markov(5, 6)
    each = np.arange(tables.shape[-1]) >= SAYABLE
    found, expected = limited(tables, each, words, 6), limited(tables, None, 99, words)
    np.testing.assert_array_equal(found.words[:, : words + 1], expected.words)
    assert_same(found.log_probability, expected.log_probability, TERMS, float(np.abs(tables).max()))


@pytest.mark.parametrize("words", [1, 2, 3])
def test_captions_begin_with_a_word_and_have_at_most_so_many(words: int) -> None:
    tables = markov(20, 8, end=-2.0)
    begins = np.arange(tables.shape[-1]) >= SAYABLE + 4
    found = limited(tables, begins, words, 7)
    assert begins[found.words[:, 0]].all()
    assert begins[found.words].sum(axis=1).max() == words
    # they have the probability that the model gives them
    for number, row in enumerate(found.words):
        said = [int(word) for word in row if word != PAD]
        steps = pairwise([START, *said])
        expected = sum(float(log_softmax(tables[number, one].astype(float))[other]) for one, other in steps)
        assert_same(found.log_probability[number], expected, TERMS, 7 * float(np.abs(tables).max()))


def test_a_drawn_caption_has_at_most_so_many_words() -> None:
    tables = markov(1, 8, end=-2.0)[0]
    begins = np.arange(len(tables)) >= SAYABLE + 4

    def step(last: Any, state: Any) -> tuple[Any, Any, Any]:
        return ops.take(tables, last, axis=0), state, ops.zeros((len(last), 1))

    draws = np.random.default_rng(1).random((200, 8), np.float32)
    limited_step, state = at_most_words(step, ops.zeros((200,)), 200, begins, 2)
    found = np.asarray(sample(limited_step, state, draws, 1).words)
    assert begins[found[:, 0]].all() and begins[found].sum(axis=1).max() == 2
