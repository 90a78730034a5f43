"""Captions are judged before anything is made of them: what no model can learn is refused, what is odd is said."""

import re
from collections.abc import Callable, Iterator, Sequence

from captioner.common.errors import CaptionerError, quoted
from captioner.data.dataset import Dataset
from captioner.text.vocabulary import SPECIAL_TOKENS, says_something, split

LONGEST = 10_000
"""The most characters of a caption: METEOR's program reads not many more."""
UNSPACED_SHARE = 0.1
"""The share of captions with hardly any spaces from which on it is said."""

_NAMES = "pad|unk|unknown|start|end|s|sos|eos|bos|cls|sep|mask|startoftext|endoftext|im_start|im_end"
_SPECIAL = re.compile(
    rf"<\s*/?\s*(?:{_NAMES})\s*>|<\|\s*(?:{_NAMES})\s*\|>|\b(?:startseq|endseq)\b"
    r"|(?-i:\[(?:CLS|SEP|PAD|UNK|MASK|BOS|EOS)\])",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # whitespace is none
# Thai, Lao, Burmese, Khmer, kana, Chinese: a word is seldom longer than four of their characters
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]{7}")


def judge(dataset: Dataset) -> list[str]:
    """Return what the person who gave the captions should know, a line each.

    Raises:
        CaptionerError: a caption is empty or without a word, is endless, has a special token or a control character;
            with its place.
    """
    texts = dataset.captions["caption"].tolist()
    for kind, fault in _FAULTS.items():
        faulty = {text for text in set(texts) if fault(text)}
        rows = [row for row, text in enumerate(texts) if text in faulty]
        if rows:
            more = f" (and {len(rows) - 1:,} more)" if len(rows) > 1 else ""
            raise CaptionerError(f"{_place(dataset, rows[0])}: {kind.format(quoted(texts[rows[0]]))}{more}")
    return [*dataset.remarks, *_copies(dataset, texts), *_unspaced(dataset, texts)]


def is_half(text: str) -> bool:
    """Whether there is half a character (a lone surrogate) in a text, which no table takes."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def usable(text: str) -> bool:
    """Whether a model can learn from a caption."""
    return not any(fault(text) for fault in _FAULTS.values())


_FAULTS: dict[str, Callable[[str], object]] = {
    "half a character (a lone surrogate) in the caption {}: write it whole": is_half,
    "a control character in the caption {}: take it out": _CONTROL.search,
    f"a caption of more than {LONGEST:,} characters, {{}}: shorten it": lambda text: len(text) > LONGEST,
    f"a special token in the caption {{}}: take them out of all captions, {' and '.join(SPECIAL_TOKENS[2:])} are put "
    "around them in training": _SPECIAL.search,
    "no word in the caption {}: write one with letters or digits, or remove it": lambda text: not says_something(text),
}


def _place(dataset: Dataset, row: int) -> str:
    if dataset.places:
        return dataset.places[row]
    return f"caption {row + 1:,}, of {quoted(dataset.captions['image'].iloc[row])}"


def _copies(dataset: Dataset, texts: Sequence[str]) -> Iterator[str]:
    words = {text: " ".join(split(text)) for text in set(texts)}
    again = dataset.captions.assign(caption=[words[text] for text in texts]).duplicated(["image", "caption"]).to_numpy()
    rows = again.nonzero()[0]
    if len(rows):
        pictures = dataset.captions["image"][again].nunique()
        yield (
            "captions that their picture has already, but for case and punctuation, which are left in "
            f"({len(rows):,} of {len(texts):,}, of {pictures:,} pictures): {_first(dataset, rows[0])}"
        )


def _unspaced(dataset: Dataset, texts: Sequence[str]) -> Iterator[str]:
    unspaced = {text for text in set(texts) if (len(text) > 1 and len(split(text)) == 1) or _UNSPACED.search(text)}
    rows = [row for row, text in enumerate(texts) if text in unspaced]
    if rows and len(rows) >= UNSPACED_SHARE * len(texts):
        yield (
            f"captions with hardly any spaces ({len(rows) / len(texts):.0%}): what has no space within is one word, to "
            "the model and to the scores; where a language is written without spaces, part its words by spaces first, "
            f"with a word segmenter: {_first(dataset, rows[0])}"
        )


def _first(dataset: Dataset, row: int) -> str:
    return f"first {_place(dataset, row)}, {quoted(dataset.captions['caption'].iloc[row])}"
