"""Pretrained word vectors for a vocabulary, from the files in which they are published.

Legend: `V` tokens of the vocabulary · `D` size of a vector.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from statistics import mode

import numpy as np

from captioner.common.arrays import mapped
from captioner.common.errors import CaptionerError, quoted
from captioner.text.vocabulary import SPECIAL_TOKENS

SAMPLED = 100_000  # vectors, the first ones of a file, of which mean and deviation are taken
MOST_BROKEN = 0.01  # share of a file's rows that may be unreadable
LARGEST = 4096  # numbers of a vector


@dataclass(frozen=True)
class WordVectors:
    """A vector for each token of a vocabulary.

    Attributes:
        matrix: float32 `[V, D]`.
        covered: share of the words, special tokens not counted, that the file has.
        broken: rows of the file that could not be read and were left out.
    """

    matrix: np.ndarray
    covered: float
    broken: int = 0


def files_of(path: str, directory: Path = Path()) -> list[Path]:
    """Return the file of word vectors and, of a `.npy`, that of its words; nothing for `none`.

    Args:
        path: in `params.yaml`.
        directory: what a relative path counts from.

    Raises:
        CaptionerError: there is no such file, or no words beside a `.npy`.
    """
    if path == "none":
        return []
    files = _with_words(directory / path)
    for file in files:
        if not file.is_file():
            beside = " (a .npy needs its words beside it, one a line)" if file != files[0] else ""
            raise CaptionerError(
                f"model.word_vectors is {quoted(path)}, and there is no file {file}{beside}: give none or a file"
            )
    return files


def load(file: Path, words: Sequence[str], seed: int) -> WordVectors:
    """Return the vectors of a vocabulary's tokens.

    A word has the vector of the row that is written as it is, else of the first row that differs in capitals alone;
    of several equal rows the first counts. What the file lacks, special tokens among it, is drawn from a normal
    distribution with the file's mean and deviation in each dimension.

    Args:
        file: text in the form of GloVe (`word 0.1 -0.2 ...`) or word2vec (the same, behind a line with the number of
            rows and `D`), in UTF-8; or a `.npy` with a matrix `[rows, D]`, and beside it a `.txt` of the same name
            with the word of each row, one a line.
        words: the vocabulary's tokens, special ones first.
        seed: of what is drawn.

    Raises:
        CaptionerError: the file cannot be read, is of another form, has none of the words, or more than 1 % of its
            rows are damaged.
    """
    try:
        rows = _matrix_rows(file) if file.suffix == ".npy" else _text_rows(file)
        found, sample, count, broken = _collect(rows, set(words))
    except (OSError, ValueError, EOFError) as error:
        said = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise CaptionerError(f"{file} cannot be read as word vectors ({said}): {_FORMS}") from None
    if not sample:
        raise CaptionerError(f"{file} has no word vector that can be read: {_FORMS}")
    if broken > MOST_BROKEN * (count + broken):
        raise CaptionerError(f"{file}: {broken:,} of {count + broken:,} rows cannot be read: {_FORMS}")
    known = np.stack(sample)
    matrix = np.random.default_rng(seed).normal(known.mean(axis=0), known.std(axis=0), (len(words), known.shape[1]))
    for number, word in enumerate(words):
        if word in found:
            matrix[number] = found[word]
    own = words[len(SPECIAL_TOKENS) :]
    covered = sum(word in found for word in own) / max(1, len(own))
    if not covered:
        raise CaptionerError(f"{file} has none of the vocabulary's {len(own):,} words: is it of another language?")
    return WordVectors(matrix.astype(np.float32), covered, broken)


_FORMS = (
    "give text with a word and its numbers a line, as GloVe and word2vec have it, or a .npy with its words in a .txt"
)

_Row = tuple[str, np.ndarray | None]


def _collect(rows: Iterator[_Row], wanted: set[str]) -> tuple[dict[str, np.ndarray], list[np.ndarray], int, int]:
    """Return the vectors of the words wanted, the first vectors of the file, and how many rows are whole and broken."""
    found: dict[str, np.ndarray] = {}
    nearly: dict[str, np.ndarray] = {}
    sample: list[np.ndarray] = []
    count = broken = 0
    for word, vector in rows:
        if vector is None or not np.isfinite(vector).all():
            broken += 1
            continue
        count += 1
        if len(sample) < SAMPLED:
            sample.append(vector)
        if word in wanted:
            found.setdefault(word, vector)
        elif (lower := word.lower()) in wanted:
            nearly.setdefault(lower, vector)
    return nearly | found, sample, count, broken


def _text_rows(file: Path) -> Iterator[_Row]:
    """Yield the rows of a text; None for a vector that cannot be read."""
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        rows = (parts for parts in map(str.split, lines) if parts)
        first = list(islice(rows, 100))
        header = first.pop(0) if first and len(first[0]) == 2 and all(map(str.isdecimal, first[0])) else None
        size = mode(len(parts) - 1 for parts in first) if first else 0
        if not 2 <= size <= LARGEST or (header and size != int(header[1])):
            told = f", and its first line says {header[1][:20]}" if header else ""
            raise ValueError(f"its rows have {size:,} numbers{told}, allowed are 2 to {LARGEST:,}")
        for parts in chain(first, rows):
            word, values = " ".join(parts[:-size]), parts[-size:]  # a word may have spaces
            try:
                whole = word and not (len(parts) > size + 1 and _is_number(parts[1]))
                yield word, np.array(values, np.float32) if whole else None
            except ValueError:
                yield word, None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _matrix_rows(file: Path) -> Iterator[_Row]:
    """Yield the rows of a matrix, with the words that lie beside it."""
    matrix = mapped(file)
    # at line breaks alone: words may have other characters at which Python splits lines
    words = _with_words(file)[1].read_text("utf-8-sig").removesuffix("\n").split("\n")
    fits = matrix.ndim == 2 and matrix.dtype.kind == "f" and len(matrix) == len(words)
    if not fits or not 2 <= matrix.shape[1] <= LARGEST:
        raise ValueError(f"{matrix.dtype}{list(matrix.shape)} with {len(words):,} words")
    for word, vector in zip(words, matrix, strict=True):
        yield word.strip(), np.asarray(vector, np.float32)


def _with_words(file: Path) -> list[Path]:
    return [file, file.with_suffix(".txt")] if file.suffix == ".npy" else [file]
