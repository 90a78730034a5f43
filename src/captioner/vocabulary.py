"""Words to numbers and back.

A vocabulary is one readable JSON file in the form of the `tokenizers` library: its special tokens first, then the
words of the training captions, most frequent first. Captions are lower-cased and split into runs of letters, digits,
apostrophes and hyphens; punctuation is no word, since the scorers' tokenizer removes it as well.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import NFKC, Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import Split

from captioner.errors import CaptionerError
from captioner.files import replacing

PAD, UNKNOWN, START, END = range(4)
SPECIAL_TOKENS = ("<pad>", "<unk>", "<start>", "<end>")
_WORD = Regex(r"[\p{L}\p{M}\p{N}]+(?:[-'’][\p{L}\p{M}\p{N}]+)*|['’][\p{L}]+")


class Vocabulary:
    """The words that a model can say.

    Attributes:
        words: every token by its number, the special tokens first.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        numbers = tokenizer.get_vocab()
        self.words = tuple(sorted(numbers, key=numbers.__getitem__))
        if self.words[: len(SPECIAL_TOKENS)] != SPECIAL_TOKENS:
            raise CaptionerError(
                f"The vocabulary begins with {list(self.words[:4])}, it must begin with {list(SPECIAL_TOKENS)}: "
                "make it again with `dvc repro vocabulary`."
            )

    @classmethod
    def build(cls, captions: Iterable[str], minimum_count: int = 1) -> "Vocabulary":
        """Collect the words that stand at least `minimum_count` times in `captions`.

        Raises:
            CaptionerError: no word does.
        """
        splitter = _tokenizer({token: number for number, token in enumerate(SPECIAL_TOKENS)})
        counts = Counter(word for caption in captions for word in _split(splitter, caption))
        frequent = sorted((word for word in counts if counts[word] >= minimum_count), key=lambda w: (-counts[w], w))
        if not frequent:
            raise CaptionerError(
                f"No word stands {minimum_count} times or more in the {'training captions' if counts else 'captions'} "
                f"({len(counts)} different words were seen): give more captions or lower vocabulary.minimum_count."
            )
        return cls(_tokenizer({word: number for number, word in enumerate((*SPECIAL_TOKENS, *frequent))}))

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read a vocabulary that `save` wrote.

        Raises:
            CaptionerError: there is none at `path`, or it is no vocabulary.
        """
        try:
            return cls(Tokenizer.from_str(path.read_text("utf-8")))
        except FileNotFoundError:
            raise CaptionerError(f"No vocabulary at {path}: make it with `dvc repro vocabulary`.") from None
        except CaptionerError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise CaptionerError(
                f"{path} is no vocabulary ({error}): make it again with `dvc repro vocabulary`."
            ) from None

    def save(self, path: Path) -> None:
        """Write the vocabulary to one JSON file."""
        with replacing(path) as beside:
            beside.write_text(self._tokenizer.to_str(pretty=True) + "\n", "utf-8")

    def __len__(self) -> int:
        return len(self.words)

    def split(self, caption: str) -> list[str]:
        """Return the words of a caption, known or not."""
        return _split(self._tokenizer, caption)

    def encode(self, caption: str) -> list[int]:
        """Return the numbers of a caption's words, `UNKNOWN` for those that the vocabulary lacks."""
        # the library reads "<end>" inside a text as the token: words are looked up one by one instead
        return [self._number(word) for word in self.split(caption)]

    def encode_batch(self, captions: Sequence[str], maximum: int) -> np.ndarray:
        """Return what a decoder must say, for each caption cut after `maximum` words; `heard` is what it reads.

        Returns:
            targets int32 `[captions, maximum + 1]`: the words and `END` (not after a caption that was cut), `PAD`
            behind.
        """
        targets = np.full((len(captions), maximum + 1), PAD, np.int32)
        for row, caption in enumerate(captions):
            numbers = self.encode(caption)
            spoken = numbers[:maximum] if len(numbers) > maximum else [*numbers, END]
            targets[row, : len(spoken)] = spoken
        return targets

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the words up to the first `END`, without special tokens, joined by spaces."""
        return " ".join(self.decode_words(numbers))

    def decode_words(self, numbers: Iterable[int]) -> list[str]:
        """Return the words up to the first `END`, without special tokens."""
        words = []
        for number in numbers:
            if number == END:
                break
            if number >= len(SPECIAL_TOKENS):
                words.append(self.words[number])
        return words

    def _number(self, word: str) -> int:
        number = self._tokenizer.token_to_id(word)
        return UNKNOWN if number is None else number


def heard(targets: np.ndarray) -> np.ndarray:
    """Return the words before targets `[captions, T]`: of each the target before it, of the first `START`."""
    words = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=START)
    words[targets == PAD] = PAD
    return words


def _tokenizer(numbers: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(WordLevel(numbers, unk_token=SPECIAL_TOKENS[UNKNOWN]))
    tokenizer.normalizer = Normalizers([NFKC(), Lowercase(), NFKC()])  # lower case may leave parts to compose
    tokenizer.pre_tokenizer = Split(_WORD, behavior="removed", invert=True)
    return tokenizer


def _split(tokenizer: Tokenizer, caption: str) -> list[str]:
    normalized = tokenizer.normalizer.normalize_str(caption)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized)]
