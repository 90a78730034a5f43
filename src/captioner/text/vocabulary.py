"""Words to numbers and back.

A vocabulary is one readable JSON file in the form of the `tokenizers` library: its special tokens first, then the
words of the training captions, most frequent first, and how captions are split into words. `Subwords` has pieces of
words in place of whole ones.

Captions are lower-cased and split where the scorers' PTB tokenizer splits them, so that a caption put together from
its words has the tokens of the caption itself: `10,000`, `3.5`, `24/7`, `mid-air`, `u.s.` and `mr.` are one word each,
`$`, `%`, `&`, `#`, `+`, `@`, `/` and `°` are words, other punctuation is none. What the PTB tokenizer takes apart on
both sides, such as `man's` or `don't`, stays one word here. Typographic apostrophes, hyphens and invisible characters
are written plainly first: `man’s` is `man's`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate, takewhile
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as Bytes
from tokenizers.models import BPE, WordLevel
from tokenizers.normalizers import NFKC, Lowercase, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.trainers import BpeTrainer

from captioner.common.errors import CaptionerError
from captioner.common.files import replacing
from captioner.text import FEWEST_SUBWORDS

PAD, UNKNOWN, START, END = range(4)
SPECIAL_TOKENS = ("<pad>", "<unk>", "<start>", "<end>")
MOST_UNKNOWN = 0.2
"""Share of the words of the training captions; sentences with more gaps teach no sentence."""

# They are letters, and nobody sees them.
_FILLERS = "\u115f\u1160\u3164\uffa0"
# With soft hyphens, joiners of graphemes and variation selectors. Other invisible characters part words, as they do for
# the scorers.
_INVISIBLE = _FILLERS + "\u00ad\u034f\u180b-\u180d\ufe00-\ufe0f"
_PLAIN = {f"[{_INVISIBLE}]": "", "’": "'", "‐": "-", "⁄": "/"}

_TITLES = "mr|mrs|ms|dr|st|mt|jr|sr|vs|etc|lt|sgt|capt|prof|gen|col|gov|rev|ltd|inc|corp|co|dept|ave|blvd|rd|ft"
_RUN = r"[\p{L}\p{N}][\p{L}\p{M}\p{N}]*"
_APART = r"(?<![\p{L}\p{M}\p{N}])"
_WORD = "|".join(
    (
        r"(?<!\S)[-+]\.?\p{Nd}+(?:[.,:]\p{Nd}+)*",  # -5, +1.5
        r"\p{Nd}+(?:[.,:]\p{Nd}+)+(?:-\p{L}[\p{L}\p{M}]*)*",  # 10,000, 3.5, 10:30, 1.5-inch
        rf"{_APART}(?<!\.)\.\p{{Nd}}+",  # .5
        rf"{_APART}(?:(?:[a-z]\.)+|(?:{_TITLES})\.)(?![\p{{L}}\p{{M}}])",  # u.s., mr.
        r"[#@][a-z]+",
        rf"{_RUN}(?:(?:[-'/_@]|(?<=[\p{{L}}\p{{M}}])\.(?=\p{{L}})){_RUN})*",  # dog, dog's, mid-air, 24/7, example.org
        r"'(?:s|m|d|ll|ve|re|em|n'?|cause|tis|twas|till?|\p{Nd}\p{Nd}s?)(?![\p{L}\p{M}\p{N}])",  # 's, 'em, '90s
        r"[#$%&+@/°]|\p{Sc}",
    )
)
_BEGINNING = "Ġ"  # the space before a word, as the library writes this byte
_BROKEN = "\ufffd"  # what the library makes of bytes that are no text
# Subwords can say symbols too, such as emoji, with what modifies and joins them.
_WORD_OR_SYMBOL = (
    rf"{_WORD}|(?!{_BROKEN})[\p{{So}}\p{{Emoji_Modifier}}](?:[\p{{So}}\p{{M}}\p{{Emoji_Modifier}}]|\u200d\p{{So}})*"
)


class Vocabulary:
    """The words that a model can say: each is one token.

    Attributes:
        tokens: every token by its number, the special tokens first.
        begins_word: which tokens begin a word, bool `[V]`; None where each token is a whole one.
    """

    begins_word: np.ndarray | None = None

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        numbers = tokenizer.get_vocab()
        self.tokens = tuple(sorted(numbers, key=numbers.__getitem__))
        if self.tokens[: len(SPECIAL_TOKENS)] != SPECIAL_TOKENS:
            raise CaptionerError(
                f"The vocabulary begins with {list(self.tokens[:4])}, it must begin with {list(SPECIAL_TOKENS)}: "
                "make it again with `dvc repro vocabulary`."
            )

    @classmethod
    def build(cls, captions: Iterable[str], minimum_count: int = 1) -> "Vocabulary":
        """Collect the words that stand at least `minimum_count` times in `captions`.

        Raises:
            CaptionerError: no word does.
        """
        counts = Counter(word for caption in captions for word in split(caption))
        frequent = sorted((word for word in counts if counts[word] >= minimum_count), key=lambda w: (-counts[w], w))
        if not frequent:
            raise CaptionerError(
                f"No word occurs {minimum_count} times or more in the {'training captions' if counts else 'captions'} "
                f"({len(counts)} different words were seen): give more captions or lower vocabulary.minimum_count."
            )
        return cls(_word_tokenizer((*SPECIAL_TOKENS, *frequent)))

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read a vocabulary that `save` wrote.

        Raises:
            CaptionerError: there is none at `path`, or it is no vocabulary.
        """
        try:
            tokenizer = Tokenizer.from_str(path.read_text("utf-8"))
            return (Subwords if isinstance(tokenizer.model, BPE) else Vocabulary)(tokenizer)
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
        return len(self.tokens)

    def described(self) -> str:
        """Say how many words it has."""
        return f"{len(self) - len(SPECIAL_TOKENS):,} words; anything else cannot be said"

    def most_tokens(self, words: int) -> int:
        """Return how many tokens a caption of so many words may have at most."""
        return words

    def split(self, caption: str) -> list[str]:
        """Return the words of a caption, known or not."""
        return _split(self._tokenizer, caption)

    def encode(self, caption: str) -> list[int]:
        """Return the numbers of a caption's tokens, `UNKNOWN` for words that the vocabulary lacks."""
        return [number for word in self.encode_words(caption) for number in word]

    def encode_words(self, caption: str) -> list[list[int]]:
        """Return the numbers of the tokens of each word of a caption."""
        # the library reads "<end>" inside a text as the token: words are looked up one by one instead
        return [[self._number(word)] for word in self.split(caption)]

    def encode_batch(self, captions: Sequence[str], maximum: int) -> np.ndarray:
        """Return the targets of captions, each cut after `maximum` words; `decoder_inputs` makes inputs of them.

        Returns:
            targets int32 `[captions, T]`, `T` being `most_tokens(maximum) + 1`: the tokens and `END` (not after a
            caption that was cut), `PAD` behind.
        """
        limit = self.most_tokens(maximum)
        targets = np.full((len(captions), limit + 1), PAD, np.int32)
        for row, caption in enumerate(captions):
            words = self.encode_words(caption)
            ends = np.cumsum([len(word) for word in words[:maximum]], dtype=int)
            whole = int(np.searchsorted(ends, limit, side="right"))  # words that find room
            spoken = [number for word in words[: max(whole, 1)] for number in word][:limit]
            if whole == len(words):
                spoken.append(END)
            targets[row, : len(spoken)] = spoken
        return targets

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the words up to the first `END`, without special tokens, joined by spaces."""
        return " ".join(self.decode_words(numbers))

    def decode_all(self, numbers: Iterable[int]) -> str:
        """Return all words, those after an `END` too, without special tokens, joined by spaces."""
        return " ".join(word for word, _ in self._words([(0, number) for number in numbers if _speaks(number)]))

    def decode_words(self, numbers: Iterable[int]) -> list[str]:
        """Return the words up to the first `END`, without special tokens."""
        return [word for word, _ in self.decode_places(numbers)]

    def decode_places(self, numbers: Iterable[int]) -> list[tuple[str, list[int]]]:
        """Return the words up to the first `END`, each with the places of its tokens among the numbers."""
        spoken = takewhile(lambda place: place[1] != END, enumerate(numbers))
        return self._words([(place, number) for place, number in spoken if _speaks(number)])

    def _words(self, spoken: list[tuple[int, int]]) -> list[tuple[str, list[int]]]:
        return [(self.tokens[number], [place]) for place, number in spoken]

    def _number(self, word: str) -> int:
        number = self._tokenizer.token_to_id(word)
        return UNKNOWN if number is None else number


class Subwords(Vocabulary):
    """Frequent pieces of words, of which every word can be put together: byte-level byte pair encoding.

    Its first pieces are the 256 bytes, so that no word is unknown; each further piece joins the two that stand side by
    side most often in the words of the training captions (Sennrich et al. 2016, "Neural Machine Translation of Rare
    Words with Subword Units", section 3.2, on bytes as in Radford et al. 2019, section 2.2).
    """

    PIECES_A_WORD = 4  # on average, at most; an alphabet of many bytes a letter has short words

    def __init__(self, tokenizer: Tokenizer):
        super().__init__(tokenizer)
        self.begins_word = np.array([token.startswith(_BEGINNING) for token in self.tokens])

    @classmethod
    def learn(cls, captions: Iterable[str], size: int) -> "Subwords":
        """Collect up to `size` tokens, the special ones and the bytes included: fewer where the words need no more.

        Raises:
            CaptionerError: `size` holds less than the special tokens and the bytes.
        """
        if size < FEWEST_SUBWORDS:
            raise CaptionerError(
                f"received a vocabulary of {size} subwords; give {FEWEST_SUBWORDS} or more, for the special tokens and "
                "the 256 bytes"
            )
        tokenizer = _tokenizer(BPE(), _WORD_OR_SYMBOL)
        tokenizer.pre_tokenizer = PreTokenizers(
            [tokenizer.pre_tokenizer, ByteLevel(add_prefix_space=True, use_regex=False)]
        )
        trainer = BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(captions, trainer)
        return cls(tokenizer)

    def described(self) -> str:
        """Say how many subwords it has."""
        return f"{len(self) - len(SPECIAL_TOKENS):,} subwords; any word can be put together from them"

    def most_tokens(self, words: int) -> int:
        """Return how many tokens a caption of so many words may have at most."""
        return self.PIECES_A_WORD * words

    def split(self, caption: str) -> list[str]:
        """Return the words of a caption."""
        return [self._text([word]) for word in super().split(caption)]

    def encode_words(self, caption: str) -> list[list[int]]:
        """Return the numbers of the tokens of each word of a caption."""
        model = self._tokenizer.model
        return [[token.id for token in model.tokenize(word)] for word in super().split(caption)]

    def _words(self, spoken: list[tuple[int, int]]) -> list[tuple[str, list[int]]]:
        groups: list[list[tuple[int, int]]] = []
        for place, number in spoken:
            if not groups or self.tokens[number].startswith(_BEGINNING):
                groups.append([])
            groups[-1].append((place, number))
        words = [
            (self._text([self.tokens[number] for _, number in group]), [place for place, _ in group])
            for group in groups
        ]
        return [(word, places) for word, places in words if word]

    @staticmethod
    def _text(pieces: list[str]) -> str:
        return str(Bytes().decode(pieces)).replace(_BROKEN, "").strip()


def split(caption: str) -> list[str]:
    """Return the words of a caption, as a vocabulary that is built now splits it."""
    return _split(_splitter(), caption)


def usable_count(captions: Iterable[str], minimum_count: int) -> tuple[int, float]:
    """Lower a minimum count as far as small data needs it.

    Returns:
        The highest count up to `minimum_count` with which at most `MOST_UNKNOWN` of the words that the captions say are
        unknown, and the share that would be unknown with `minimum_count` itself. Where no word stands that often, it is
        `minimum_count`, which `Vocabulary.build` refuses.
    """
    counts = sorted(Counter(word for caption in captions for word in split(caption)).values(), reverse=True)
    if not counts or counts[0] < minimum_count:
        return minimum_count, 1.0
    said = sum(counts)
    unknown = sum(count for count in counts if count < minimum_count) / said
    if unknown <= MOST_UNKNOWN:
        return minimum_count, unknown
    reached = zip(counts, accumulate(counts), strict=True)
    return next(count for count, known in reached if 1 - known / said <= MOST_UNKNOWN), unknown


def says_something(caption: str) -> bool:
    """Return whether a caption has a word for a vocabulary and for the scorers: with a letter or digit to be seen.

    The scorers' tokenizer drops what lies beyond Unicode's first plane.
    """
    seen = (
        character <= "\uffff" and character not in _FILLERS and (character.isalpha() or character.isdecimal())
        for character in caption
    )
    return any(seen) and any(map(str.isalnum, "".join(split(caption))))


def _speaks(number: int) -> bool:
    return number >= len(SPECIAL_TOKENS)


def decoder_inputs(targets: np.ndarray) -> np.ndarray:
    """Return the words before targets `[captions, T]`: of each the target before it, of the first `START`."""
    words = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=START)
    words[targets == PAD] = PAD
    return words


def _word_tokenizer(words: Sequence[str]) -> Tokenizer:
    numbers = {word: number for number, word in enumerate(words)}
    return _tokenizer(WordLevel(numbers, unk_token=SPECIAL_TOKENS[UNKNOWN]), _WORD)


def _tokenizer(model: WordLevel | BPE, word: str) -> Tokenizer:
    tokenizer = Tokenizer(model)
    plain = [Replace(Regex(pattern), content) for pattern, content in _PLAIN.items()]
    tokenizer.normalizer = Normalizers([NFKC(), Lowercase(), *plain, NFKC()])  # what is left may have parts to compose
    tokenizer.pre_tokenizer = Split(Regex(word), behavior="removed", invert=True)
    return tokenizer


@cache
def _splitter() -> Tokenizer:
    return _word_tokenizer(SPECIAL_TOKENS)


def _split(tokenizer: Tokenizer, caption: str) -> list[str]:
    normalized = tokenizer.normalizer.normalize_str(caption)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized)]
