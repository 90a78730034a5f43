"""Word vectors from files as they are published, and damaged ones."""

from pathlib import Path

import numpy as np
import pytest

from captioner.common.errors import CaptionerError
from captioner.text import word_vectors
from captioner.text.vocabulary import SPECIAL_TOKENS

WORDS = (*SPECIAL_TOKENS, "dog", "red", "mid-air")
DOG, RED = [0.5, -1.5, 2.0], [1.0, 0.0, -0.25]
ROWS = "dog 0.5 -1.5 2.0\nred 1 0 -2.5e-1\n"


def written(directory: Path, content: str | bytes, name: str = "vectors.txt") -> Path:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        ROWS,
        f"2 3\n{ROWS}",  # word2vec's header
        b"\xef\xbb\xbf" + ROWS.encode(),
        ROWS.replace("\n", "\r\n"),
        ROWS.replace(" ", "\t"),
        ROWS + "\n\n",
        ROWS + "dog 9 9 9\n",  # the first counts
        "Dog 9 9 9\n" + ROWS,  # as written before another case
        ROWS.replace("red", "Red"),
        ROWS + "new york 1 2 3\n",
    ],
)
def test_forms_of_text(content: str | bytes, tmp_path: Path) -> None:
    found = word_vectors.load(written(tmp_path, content), WORDS, 1)
    assert found.matrix.dtype == np.float32 and found.matrix.shape == (len(WORDS), 3)
    np.testing.assert_array_equal(found.matrix[[4, 5]], [DOG, RED])
    assert found.covered == pytest.approx(2 / 3) and found.broken == 0


def test_a_matrix_with_its_words(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.array([DOG, RED]))
    written(tmp_path, "dog\nred\n")
    found = word_vectors.load(tmp_path / "vectors.npy", WORDS, 1)
    np.testing.assert_array_equal(found.matrix[[4, 5]], [DOG, RED])
    assert word_vectors.files_of("vectors.npy", tmp_path) == [tmp_path / "vectors.npy", tmp_path / "vectors.txt"]


def test_what_the_file_lacks_is_drawn_as_its_vectors_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    known = rng.normal([5, -3], [0.1, 2], (500, 2))
    content = "".join(f"word{number} {one} {other}\n" for number, (one, other) in enumerate(known))
    words = (*SPECIAL_TOKENS, *(f"other{number}" for number in range(1999)), "word7")
    path = written(tmp_path, content)
    found = word_vectors.load(path, words, 1)
    assert found.covered == 1 / 2000
    np.testing.assert_allclose(found.matrix.mean(axis=0), [5, -3], atol=0.2)
    np.testing.assert_allclose(found.matrix.std(axis=0), [0.1, 2], rtol=0.1)
    np.testing.assert_array_equal(word_vectors.load(path, words, 1).matrix, found.matrix)
    assert (word_vectors.load(path, words, 2).matrix != found.matrix).any()


BROKEN = ["cat 1 2\n", "cat 1 2 x\n", "cat 1 2 nan\n", "cat 1 2 3 4\n", "1 2 3\n", "c\xff 1 2\n"]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_few_broken_rows_are_left_out_and_counted(broken: str, tmp_path: Path) -> None:
    many = "".join(f"word{number} 1 2 3\n" for number in range(200))
    for content in (ROWS + broken + many, broken + ROWS + many):
        found = word_vectors.load(written(tmp_path, content), WORDS, 1)
        assert found.broken == 1
        np.testing.assert_array_equal(found.matrix[[4, 5]], [DOG, RED])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "its rows have 0 numbers"),
        ("no vectors at all\nbut some text\n", "of 2 rows cannot be read|no word vector"),
        (ROWS + "cat 1 2\n", "1 of 3 rows cannot be read"),
        (b"\x00\x01\x02\xff" * 100, "its rows have 0 numbers"),
        ("word " + "1 " * 5000, "its rows have 5,000 numbers"),
        (f"2 7\n{ROWS}", "its rows have 3 numbers, and its first line says 7"),
        ("katze 1 2 3\nhund 4 5 6\n", "has none of the vocabulary's 3 words"),
    ],
)
def test_other_files_are_refused_in_one_line(content: str | bytes, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, content)
    with pytest.raises(CaptionerError, match=said) as caught:
        word_vectors.load(path, WORDS, 1)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("words", ["dog\n", "dog\nred\ncat\n"])
def test_a_matrix_with_other_words_is_refused(words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.array([DOG, RED]))
    written(tmp_path, words)
    with pytest.raises(CaptionerError, match=r"float64\[2, 3\] with \d words"):
        word_vectors.load(tmp_path / "vectors.npy", WORDS, 1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"\x93NUMPY"])
def test_a_damaged_matrix_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "vectors.npy").write_bytes(content)
    written(tmp_path, "dog\nred\n")
    with pytest.raises(CaptionerError, match="cannot be read as word vectors"):
        word_vectors.load(tmp_path / "vectors.npy", WORDS, 1)


def test_a_matrix_is_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.array([{}, {}]), allow_pickle=True)
    written(tmp_path, "dog\nred\n")
    with pytest.raises(CaptionerError, match="cannot be read as word vectors"):
        word_vectors.load(tmp_path / "vectors.npy", WORDS, 1)


def test_none_is_no_file(tmp_path: Path) -> None:
    assert word_vectors.files_of("none", tmp_path) == []


@pytest.mark.parametrize(("path", "said"), [("v.txt", "is no file .*v.txt:"), ("v.npy", "needs its words beside")])
def test_a_file_that_is_missing_is_named(path: str, said: str, tmp_path: Path) -> None:
    if path.endswith(".npy"):
        np.save(tmp_path / path, np.zeros((1, 2)))
    with pytest.raises(CaptionerError, match=said):
        word_vectors.files_of(path, tmp_path)
