"""What a model could have said at each place of a caption.

Legend: `P` positions of the picture's grid · `C` encoder channels · `V` vocabulary · `N` alternatives.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from captioner.common.keras import keras, ops
from captioner.model.decoder import Decoder
from captioner.text.vocabulary import END, SPECIAL_TOKENS, START, Vocabulary

LONGEST = 16  # pieces of an alternative


class Alternative(NamedTuple):
    """What a model could have said at one place of a caption.

    Attributes:
        word: the word, `<end>` for the end of the caption.
        probability: by the model, after the words before it.
    """

    word: str
    probability: float


def alternatives(
    decoder: Decoder, vocabulary: Vocabulary, features: np.ndarray, words: Sequence[Sequence[int]], most: int
) -> list[list[Alternative]]:
    """Return, for each word of a caption and for the end after the last, the most probable words, likeliest first.

    Of a vocabulary of subwords, the likeliest pieces that begin a word are each continued by the likeliest piece, until
    the end of the word is likelier. The probability is that of all its pieces and of its end.

    Args:
        decoder: the model.
        vocabulary: of the decoder.
        features: the picture's map `[1, P, C]`.
        words: the tokens of each word.
        most: how many alternatives a place has.
    """
    picture, state = decoder.initialize(features, captions=1)
    places: list[tuple[np.ndarray, Any]] = []  # before each word: what may follow `[V]`, and the state
    for tokens in ([START], *words):
        for token in tokens:
            logits, state, _ = decoder.next_word(np.array([token], np.int32), state, picture)
        places.append((np.asarray(ops.softmax(ops.cast(logits, "float32")))[0], state))
    sayable = np.arange(len(vocabulary)) >= len(SPECIAL_TOKENS)
    begins = sayable if vocabulary.begins_word is None else sayable & vocabulary.begins_word
    first = np.flatnonzero(begins | (np.arange(len(vocabulary)) == END))
    likeliest = [first[np.argsort(-probabilities[first], kind="stable")[:most]] for probabilities, _ in places]
    spelled = [[[int(token)] for token in found] for found in likeliest]
    probabilities = [
        probability[found].astype(float) for (probability, _), found in zip(places, likeliest, strict=True)
    ]
    if vocabulary.begins_word is not None:
        picture, _ = decoder.initialize(features, captions=sum(map(len, likeliest)))
        states = keras.tree.map_structure(
            lambda *parts: ops.concatenate(
                [ops.repeat(part, len(found), axis=0) for part, found in zip(parts, likeliest, strict=True)]
            ),
            *(state for _, state in places),
        )
        rows = [spelling for place in spelled for spelling in place]
        ended = _finish(decoder, picture, states, rows, begins)
        probabilities = np.split(
            np.concatenate(probabilities) * ended, np.cumsum([len(found) for found in likeliest])[:-1]
        )
    return [_sorted(vocabulary, *place) for place in zip(spelled, probabilities, strict=True)]


def _finish(decoder: Decoder, picture: Any, state: Any, rows: list[list[int]], begins: np.ndarray) -> np.ndarray:
    """Continue words in place to their ends; return the probability of what is added, the end of the word included."""
    ends, goes_on = begins.copy(), ~begins
    ends[END], goes_on[: len(SPECIAL_TOKENS)] = True, False
    open_rows = np.array([row != [END] for row in rows])
    found = np.ones(len(rows))
    for _ in range(LONGEST):
        last = np.array([row[-1] for row in rows], np.int32)
        logits, state, _ = decoder.next_word(last, state, picture)
        probabilities = np.asarray(ops.softmax(ops.cast(logits, "float32"))) * open_rows[:, None]  # [N, V]
        end = probabilities[:, ends].sum(axis=1)
        following = np.where(goes_on, probabilities, 0)
        likeliest = following.argmax(axis=1)
        further = following.max(axis=1)
        closing = open_rows & (end >= further)
        found[closing] *= end[closing]
        open_rows &= ~closing
        if not open_rows.any():
            break
        found[open_rows] *= further[open_rows]
        for number in np.flatnonzero(open_rows):
            rows[number].append(int(likeliest[number]))
    return np.where(open_rows, 0.0, found)


def _sorted(vocabulary: Vocabulary, spelled: list[list[int]], probabilities: np.ndarray) -> list[Alternative]:
    """Return the words with their probabilities; what is spelled in several ways has the sum."""
    found: dict[str, float] = {}
    for tokens, probability in zip(spelled, probabilities, strict=True):
        word = SPECIAL_TOKENS[END] if tokens == [END] else vocabulary.decode(tokens)
        found[word] = found.get(word, 0.0) + float(probability)
    return [Alternative(*one) for one in sorted(found.items(), key=lambda one: -one[1]) if one[0]]
