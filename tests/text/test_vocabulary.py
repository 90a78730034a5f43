"""Words to numbers and back."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from captioner.common.errors import CaptionerError
from captioner.scoring import tokenizer
from captioner.text.vocabulary import (
    END,
    PAD,
    SPECIAL_TOKENS,
    START,
    UNKNOWN,
    Vocabulary,
    decoder_inputs,
    says_something,
    split,
    usable_count,
)

CAPTIONS = ["A dog runs", "a dog's ball", "A mid-air dog", "the cat"]

WORDS = st.lists(st.sampled_from(["a", "dog", "runs", "dog's", "ball", "mid-air", "the", "cat"]), max_size=30)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.build(CAPTIONS)


def test_special_tokens_come_first_then_the_most_frequent(vocabulary: Vocabulary) -> None:
    assert vocabulary.tokens == (
        *("<pad>", "<unk>", "<start>", "<end>"),
        *("a", "dog", "ball", "cat", "dog's", "mid-air", "runs", "the"),
    )
    assert len(vocabulary) == 12
    assert [vocabulary.tokens[number] for number in (PAD, UNKNOWN, START, END)] == list(SPECIAL_TOKENS)


@given(words=WORDS)
def test_decode_is_the_inverse_of_encode_on_known_words(vocabulary: Vocabulary, words: list[str]) -> None:
    text = " ".join(words)
    numbers = vocabulary.encode(text)
    assert vocabulary.decode(numbers) == text
    assert vocabulary.decode_words(numbers) == words


@given(numbers=st.lists(st.integers(4, 11), max_size=30))
def test_encode_is_the_inverse_of_decode(vocabulary: Vocabulary, numbers: list[int]) -> None:
    assert vocabulary.encode(vocabulary.decode(numbers)) == numbers


@given(captions=st.lists(st.text(max_size=20), min_size=1, max_size=5))
@example(captions=["J\u030c", "İ ẞ ϓ\u0301 ΣΑΣ"])
def test_whatever_people_write_every_word_of_it_is_known_and_survives(captions: list[str]) -> None:
    built = Vocabulary.build([*captions, "word"])
    for caption in captions:
        numbers = built.encode(caption)
        assert all(number >= len(SPECIAL_TOKENS) for number in numbers)
        assert built.encode(built.decode(numbers)) == numbers


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A Dog, running!", ["a", "dog", "running"]),
        ("dog\r\nruns\ttwice\n", ["dog", "runs", "twice"]),
        ("\ufeffa dog", ["a", "dog"]),
        ("a dog's mid-air jump", ["a", "dog's", "mid-air", "jump"]),
        ("ZÜRICH café 犬", ["zürich", "café", "犬"]),
        ("cafe\u0301", ["café"]),
        ("J\u030cedna", ["\u01f0edna"]),
        ("ﬁsh", ["fish"]),
        ("room 12 , floor 3", ["room", "12", "floor", "3"]),
        ('- \' "dog" ...', ["dog"]),
        ("<end> dog <pad>", ["end", "dog", "pad"]),
        ("10,000 men, 3.5 miles, .5 inch", ["10,000", "men", "3.5", "miles", ".5", "inch"]),
        ("at 9:30am, 24/7, 1,2", ["at", "9:30", "am", "24/7", "1,2"]),
        ("it is -5, not 2-3", ["it", "is", "-5", "not", "2-3"]),
        ("½ mile", ["1/2", "mile"]),
        ("a dog.A cat", ["a", "dog.a", "cat"]),
        ("Mr. Smith of the U.S., a.m.", ["mr.", "smith", "of", "the", "u.s.", "a.m."]),
        ("black/white, w/ me@example.org", ["black/white", "w", "/", "me@example.org"]),
        ("$5 or 50% & #1", ["$", "5", "or", "50", "%", "&", "#", "1"]),
        ("he said 'stop' in the '90s, 'tis", ["he", "said", "stop", "in", "the", "'90s", "'tis"]),
        ("rock 'n' roll", ["rock", "'n'", "roll"]),
        ("", []),
        (" \r\n", []),
    ],
)
def test_split(vocabulary: Vocabulary, caption: str, words: list[str]) -> None:
    assert vocabulary.split(caption) == split(caption) == words


@pytest.mark.parametrize("other", ["man’s", "MAN'S", "man＇s", "ma\u00adn's", "man\ufe0f's"])
def test_what_looks_alike_is_one_word(other: str) -> None:
    assert split(other) == ["man's"]


PIECES = """
dog|man's|man’s|don't|don’t|10,000|3.5|1/2|24/7|10:30|9:30am|10k|u.s.|mr. smith|st. bernard|t-shirt|mid-air|it's|-5|+5
.5|black/white|www.example.org|$5|$1,000.50|50%|#1|#tag|a & b|rock 'n' roll|'90s|1990's|o'clock|y'all|20°|café|犬|wow
e-mail|girls’ team|“quoted”|‘stop’|'stop'|5 p.m.|so\u00adft|zero\u200bwidth|can't|one ½|dog, cat|dog - cat|dog -- cat
dog—cat|I'm|we'll|ain’t|cannot|1st|1.5-inch|4x4|x/y/z|a_b|well... yes
"""


def test_captions_are_split_where_the_scorers_split_them() -> None:
    generator, pieces = random.Random(1), re.split(r"[|\n]", PIECES.strip())
    captions = [
        " ".join(generator.choice(pieces) + generator.choice(["", "", "", ",", ";", " .", "!", "?"]) for _ in range(6))
        for _ in range(1000)
    ]
    ours = [" ".join(split(caption)) for caption in captions]
    # of `1 1/2` it makes one token, with a space that does not break
    tokens = [text.replace("\u00a0", " ") for text in tokenizer.tokenize([*captions, *ours])]
    assert [caption for caption, one, own in zip(captions, tokens, tokens[1000:], strict=False) if one != own] == []


@pytest.mark.parametrize(
    "caption",
    [
        *(
            "",
            " ",
            ".",
            "...",
            "…",
            "?!",
            "- -",
            "'",
            "***",
            "♥",
            "👍🏽",
            "\u200b",
            "\u00ad\u00ad",
            "\u200f\u200e",
            "\ufeff",
        ),
        *("\ufe0f", "\u0301", " \u0301", "\u3164", "\u2800", "\u115f\u1160", "\0", "\ue000", "\U00020bb7", "\u0903"),
    ],
)
def test_a_caption_without_a_word_says_nothing(caption: str) -> None:
    assert not says_something(caption)
    assert not any(character.isalnum() and character <= "\uffff" for word in split(caption) for character in word)


@pytest.mark.parametrize("caption", ["a", "5", "... a", "犬", "हिन्दी", "\u200bа\u0301", "क"])
def test_a_caption_with_a_word_says_something(caption: str) -> None:
    assert says_something(caption)


def test_text_that_looks_like_a_special_token_is_a_word() -> None:
    caption = "<start> a dog <end> of <unk> <pad>"
    plain = Vocabulary.build(["a dog"])
    numbers = plain.encode(caption)
    assert len(numbers) == 7 and not {PAD, START, END} & set(numbers)
    knowing = Vocabulary.build([caption])
    assert knowing.decode(knowing.encode(caption)) == "start a dog end of unk pad"


def test_unknown_words_are_encoded_so_and_never_decoded(vocabulary: Vocabulary) -> None:
    numbers = vocabulary.encode("a purple dog")
    assert numbers[1] == UNKNOWN
    assert vocabulary.decode(numbers) == "a dog"


def test_decode_stops_at_the_end_and_says_no_special_token(vocabulary: Vocabulary) -> None:
    a, dog = vocabulary.encode("a dog")
    assert vocabulary.decode([START, a, PAD, UNKNOWN, dog, END, dog]) == "a dog"
    assert vocabulary.decode(np.array([a, dog, PAD, PAD], np.int32)) == "a dog"
    assert vocabulary.decode([END, a]) == vocabulary.decode([]) == ""
    assert vocabulary.decode_all([START, a, END, dog, END]) == "a dog"


@pytest.mark.parametrize(
    ("minimum", "words"),
    [(1, ["b", "a", "c", "d"]), (2, ["b", "a", "c"]), (3, ["b"])],
)
def test_minimum_count_and_ties_by_the_alphabet(minimum: int, words: list[str]) -> None:
    for captions in (["c b a", "b c a d", "b"], ["b", "a c b d", "a b c"]):
        assert list(Vocabulary.build(captions, minimum).tokens[4:]) == words


@pytest.mark.parametrize("captions", [[], [""], ["", " . "], ["a dog", "a cat"]])
def test_no_word_at_all(captions: list[str]) -> None:
    with pytest.raises(CaptionerError, match="No word occurs 3 times or more"):
        Vocabulary.build(captions, 3)


def test_a_caption_of_ten_thousand_characters(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode("dog " * 2500) == vocabulary.encode("dog") * 2500
    assert vocabulary.encode("x" * 10_000) == [UNKNOWN]
    targets = vocabulary.encode_batch(["dog " * 2500], 5)
    words = decoder_inputs(targets)
    assert words.shape == targets.shape == (1, 6)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_reads_each_word_and_must_say_the_next(vocabulary: Vocabulary) -> None:
    a, dog, runs = vocabulary.encode("a dog runs")
    targets = vocabulary.encode_batch(["a dog", "a dog runs", "purple", ""], 3)
    words = decoder_inputs(targets)
    assert words.dtype == targets.dtype == np.int32
    assert words.tolist() == [
        [START, a, dog, PAD],
        [START, a, dog, runs],
        [START, UNKNOWN, PAD, PAD],
        [START, PAD, PAD, PAD],
    ]
    assert targets.tolist() == [
        [a, dog, END, PAD],
        [a, dog, runs, END],
        [UNKNOWN, END, PAD, PAD],
        [END, PAD, PAD, PAD],
    ]


def test_a_cut_caption_has_the_maximum_of_words_and_no_end(vocabulary: Vocabulary) -> None:
    a, dog = vocabulary.encode("a dog")
    targets = vocabulary.encode_batch(["a dog runs"], 2)
    words = decoder_inputs(targets)
    assert words.tolist() == [[START, a, PAD]]
    assert targets.tolist() == [[a, dog, PAD]]


@given(captions=st.lists(WORDS.map(" ".join), min_size=1, max_size=4), maximum=st.integers(1, 12))
def test_what_is_read_is_what_was_to_be_said_before(vocabulary: Vocabulary, captions: list[str], maximum: int) -> None:
    targets = vocabulary.encode_batch(captions, maximum)
    words = decoder_inputs(targets)
    assert words.shape == targets.shape == (len(captions), maximum + 1)
    for caption, read, said in zip(captions, words, targets, strict=True):
        count = int((said != PAD).sum())
        assert (said[count:] == PAD).all() and (read[count:] == PAD).all()
        assert read[0] == START and read[1:count].tolist() == said[: count - 1].tolist()
        spoken = caption.split()
        assert vocabulary.decode_words(said) == spoken[:maximum]
        assert (END in said) == (len(spoken) <= maximum)


# --- the file --------------------------------------------------------------------------------------------------------


def test_save_and_load(vocabulary: Vocabulary, tmp_path: Path) -> None:
    vocabulary.save(tmp_path / "new" / "vocabulary.json")
    loaded = Vocabulary.load(tmp_path / "new" / "vocabulary.json")
    assert loaded.tokens == vocabulary.tokens
    assert loaded.encode("A dog's <end> CAFE\u0301 犬 cat") == vocabulary.encode("A dog's <end> CAFE\u0301 犬 cat")
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "new" / "vocabulary.json").read_bytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["vocabulary.json"]


def test_a_vocabulary_splits_as_its_file_says(vocabulary: Vocabulary, tmp_path: Path) -> None:
    vocabulary.save(tmp_path / "vocabulary.json")
    described = json.loads((tmp_path / "vocabulary.json").read_text("utf-8"))
    described["normalizer"] = {"type": "Lowercase"}
    described["pre_tokenizer"]["pattern"] = {"Regex": "[a-z]+"}
    (tmp_path / "vocabulary.json").write_text(json.dumps(described))
    assert Vocabulary.load(tmp_path / "vocabulary.json").split("A man’s 3.5") == ["a", "man", "s"]


def test_the_file_is_readable(vocabulary: Vocabulary, tmp_path: Path) -> None:
    Vocabulary.build(["犬 dog"]).save(tmp_path / "vocabulary.json")
    text = (tmp_path / "vocabulary.json").read_text("utf-8")
    assert json.loads(text)["model"]["vocab"]["犬"] == 5
    assert '"犬": 5' in text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"a dog",
        b"\xff\xfe",
        b"{}",
        json.dumps({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}).encode(),
    ],
)
def test_a_damaged_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_bytes(content)
    with pytest.raises(CaptionerError) as error:
        Vocabulary.load(path)
    assert "\n" not in str(error.value) and "dvc repro vocabulary" in str(error.value)


def test_a_file_cut_short(vocabulary: Vocabulary, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    vocabulary.save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CaptionerError, match="is no vocabulary"):
        Vocabulary.load(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=r"No vocabulary at .*none\.json"):
        Vocabulary.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("wanted", "used", "unknown"),
    [(1, 1, 0), (2, 2, 2 / 11), (3, 2, 6 / 11), (5, 2, 6 / 11), (6, 6, 1), (1_000_000, 1_000_000, 1)],
)
def test_a_minimum_count_leaves_words_enough_for_sentences(wanted: int, used: int, unknown: float) -> None:
    captions = ["a dog and a cat", "a cat, a dog, a", "snow"]
    assert usable_count(captions, wanted) == (used, pytest.approx(unknown))


def test_no_captions_have_no_usable_count() -> None:
    assert usable_count([], 5) == (5, 1)
