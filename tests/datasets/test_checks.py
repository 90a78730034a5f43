"""What is refused of captions, and what is said of them."""

import pandas as pd
import pytest

from captioner.common.errors import CaptionerError
from captioner.data.dataset import CAPTION_COLUMNS, Dataset
from captioner.datasets.checks import LONGEST, judge


def dataset(*captions: str, placed: bool = True) -> Dataset:
    """Return a data set with captions of one picture."""
    table = pd.DataFrame([("a.png", "train", caption) for caption in captions], columns=CAPTION_COLUMNS)
    return Dataset(table, [], places=[f"line {row}" for row in range(len(captions))] if placed else ())


FINE = [
    "a dog runs",
    "It's 5 o'clock; <3",
    "ein schöner Hund",
    "dog[s] < cat > cow",
    "x " * (LONGEST // 2),
    "a\u200bb c",
]


def test_what_is_fine_is_passed_over() -> None:
    assert judge(dataset(*FINE)) == []


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("<start> a dog <end>", "special token"),
        ("a dog <END>", "special token"),
        ("a < unk > dog", "special token"),
        ("<pad>", "special token"),
        ("<s> a dog </s>", "special token"),
        ("startseq a dog endseq", "special token"),
        ("[CLS] a dog [SEP]", "special token"),
        ("a dog<|endoftext|>", "special token"),
        ("a \0dog", "control character"),
        ("a \x1b[1mdog", "control character"),
        ("a \x9fdog", "control character"),
        ("x" * (LONGEST + 1), "more than 10,000 characters"),
        *(
            (caption, "no word")
            for caption in ("", " ", "...", "\u200b", "\u00ad", "\u200f", "\ufe0f", "\u0301", "♥", "?!")
        ),
    ],
)
def test_what_no_model_can_learn_is_refused_with_its_place(caption: str, said: str) -> None:
    with pytest.raises(CaptionerError, match=rf"line 1: .*{said}") as raised:
        judge(dataset("a dog", caption, "a cat"))
    assert len(str(raised.value)) < 500
    with pytest.raises(CaptionerError, match=rf"caption 3, of 'a.png': .*{said}.* \(and 1 more\)"):
        judge(dataset("a dog", "a cow", caption, caption, placed=False))


def test_copies_are_said() -> None:
    (said,) = judge(dataset("A dog runs.", "a cat", "a dog runs", "a  DOG, runs!", "a dog"))
    assert "which are left in (2 of 5, of 1 pictures): first line 2, 'a dog runs'" in said


@pytest.mark.parametrize(
    "caption", ["一只狗在草地上奔跑", "红圆", "一只狗在草地上奔跑，还有一只猫", "犬が走っています", "สุนัขวิ่งบนหญ้า"]
)
def test_captions_without_spaces_are_said(caption: str) -> None:
    (said,) = judge(dataset(*FINE[:3], caption))
    assert "hardly any spaces (25%)" in said and "segmenter" in said and "line 3" in said


@pytest.mark.parametrize("caption", ["一只 狗 在 草地 上 奔跑", "개가 잔디 위를 달린다", "कुत्ता घास पर दौड़ता है", "a 犬"])
def test_captions_with_spaces_are_not(caption: str) -> None:
    assert judge(dataset(*FINE[:3], caption)) == []


def test_remarks_of_the_source_come_first() -> None:
    captions = dataset("a dog", "a dog").captions
    assert judge(Dataset(captions, [], remarks=["one picture is blue"]))[0] == "one picture is blue"
