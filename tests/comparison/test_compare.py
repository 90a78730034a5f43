"""Which of known differences are found, and what is said of them."""

import json
import re
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured import run, values
from rich.console import Console

from captioner.common.errors import CaptionerError
from captioner.comparison import views
from captioner.comparison.compare import Comparison, Pair, compare, interval, number, probability
from captioner.comparison.runs import Run
from captioner.evaluation.bootstrap import Difference, differences
from captioner.scoring.statistics import SufficientStatistics


def three() -> list[Run]:
    """Two that noise alone tells apart, and one that is better in everything."""
    noise = np.array(values(0, 3, seed=1))
    hard = np.array(values(50, 20))
    return [
        run("u", {"CIDEr": list(hard), "nll": values(2.5, 0.3), "CIDEr-person": values(60)}, "uniform"),
        run("b", {"CIDEr": list(hard + 0.1 + noise), "nll": values(2.4, 0.3), "CIDEr-person": values(60)}, "bahdanau"),
        run("d", {"CIDEr": list(hard + 5), "nll": values(2.0, 0.3), "CIDEr-person": values(60)}, "dot"),
    ]


@pytest.fixture(scope="module")
def found() -> Comparison:
    return compare(three(), 400)


def pair(comparison: Comparison, score: str, one: int, other: int) -> Pair:
    return next(each for each in comparison.pairs if (each.score, each.one, each.other) == (score, one, other))


def printed(comparison: Comparison, width: int | None = None) -> str:
    out = StringIO()
    views.show(comparison, Console(file=out, width=width, force_terminal=width is not None, color_system=None))
    return out.getvalue()


class TestCompare:
    def test_scores_are_those_of_the_runs_with_an_interval_around(self, found: Comparison) -> None:
        assert list(found.scores) == ["CIDEr", "nll"]
        assert [round(each.value, 6) for each in found.scores["CIDEr"]] == [50, 50.1, 55]
        assert all(each.low < each.value < each.high for many in found.scores.values() for each in many)
        assert found.pictures == 60 and found.resamples == 400

    def test_noise_is_not_found_and_a_gain_is(self, found: Comparison) -> None:
        noise, gain = pair(found, "CIDEr", 0, 1), pair(found, "CIDEr", 0, 2)
        assert not noise.significant and noise.better is None and noise.difference.low < 0 < noise.difference.high
        assert gain.significant and gain.better == 2 and gain.difference.value == pytest.approx(-5)

    def test_of_nll_less_is_better(self, found: Comparison) -> None:
        assert pair(found, "nll", 0, 2).difference.value > 0
        assert pair(found, "nll", 0, 2).better == 2

    def test_differences_are_those_of_the_library(self, found: Comparison) -> None:
        one, other, _ = three()
        expected = differences(one.statistics, other.statistics, 400)
        for score in found.scores:
            assert pair(found, score, 0, 1).difference == expected[score]

    def test_p_is_corrected_within_a_score(self, found: Comparison) -> None:
        alone = sorted(each.difference.p for each in found.pairs if each.score == "nll")
        corrected = sorted(each.p for each in found.pairs if each.score == "nll")
        assert alone == pytest.approx([1 / 401] * 3)
        assert corrected == pytest.approx([3 / 401] * 3)
        two = compare(three()[:2], 400)
        assert all(each.p == each.difference.p for each in two.pairs)

    @pytest.mark.parametrize("order", [[1, 0, 2], [2, 1, 0]])
    def test_the_order_of_runs_changes_signs_alone(self, found: Comparison, order: list[int]) -> None:
        turned = compare([three()[place] for place in order], 400)
        for each in found.pairs:
            one, other = order.index(each.one), order.index(each.other)
            same = pair(turned, each.score, min(one, other), max(one, other))
            sign = 1 if one < other else -1
            assert sign * same.difference.value == pytest.approx(each.difference.value)
            assert same.p == pytest.approx(each.p)
            assert same.significant == each.significant

    def test_pictures_are_paired_by_name(self, found: Comparison) -> None:
        one, _, better = three()
        turned = SufficientStatistics(
            better.statistics.images[::-1], {name: rows[::-1] for name, rows in better.statistics.rows.items()}
        )
        again = compare([one, Run("d", "dot", turned, better.signatures)], 400)
        assert pair(again, "CIDEr", 0, 1).difference == pair(found, "CIDEr", 0, 2).difference

    def test_baselines_are_no_scores(self, found: Comparison) -> None:
        assert list(found.baselines) == ["CIDEr-person"]
        assert found.baselines["CIDEr-person"].value == pytest.approx(60)

    def test_baselines_that_differ_are_left_out_and_named(self) -> None:
        runs = [run(name, {"CIDEr": values(9), "CIDEr-constant": values(x)}) for name, x in [("a", 1), ("b", 2)]]
        found = compare(runs, 100)
        assert not found.baselines
        assert "CIDEr-constant" in found.notes[-1]

    def test_a_score_that_one_run_lacks_is_left_out_and_named(self) -> None:
        found = compare([run("a", {"CIDEr": values(1), "ROUGE-L": values(2)}), run("b", {"CIDEr": values(1)})], 100)
        assert list(found.scores) == ["CIDEr"]
        assert "Left out, since not every run has it: ROUGE-L." in found.notes

    def test_a_score_computed_by_another_program_is_left_out_and_named(self) -> None:
        one, other = (run(name, {"CIDEr": values(1), "nll": values(2)}, vocabulary="12") for name in "ab")
        other.signatures["nll"]["vocabulary"] = "34"
        found = compare([one, other], 100)
        assert list(found.scores) == ["CIDEr"]
        assert "nll is left out, since it was not computed alike: vocabulary 12, 34." in found.notes

    def test_the_same_model_twice_differs_in_nothing(self) -> None:
        one, other = (run("a", {"CIDEr": values(5, 2)}, weights="12") for _ in range(2))
        found = compare([one, other], 100)
        assert found.names == ["a", "a (2)"]
        assert found.pairs[0].difference == Difference(0, 0, 0, 1)
        assert found.sentences() == ["a and a (2) are equal by CIDEr."]
        assert "a and a (2) are the same model, searched alike: they can only be equal." in found.notes

    def test_another_search_is_allowed_and_said(self) -> None:
        found = compare(
            [run(name, {"CIDEr": values(5, 2)}, beam=beam, weights="1") for name, beam in [("a", "1"), ("b", "3")]], 100
        )
        assert any("another beam: a with 1, b with 3" in note for note in found.notes)
        assert "a and b are the same model; only the search differs." in found.notes

    def test_how_sure_the_numbers_are_is_said(self, found: Comparison) -> None:
        assert "400 resamples of the 60 test pictures" in found.notes[0]
        assert "not how much another training would" in found.notes[0]
        assert "3 pairs" in found.notes[0]

    def test_too_few_resamples_to_find_anything_are_said(self) -> None:
        runs = [run(str(number), {"CIDEr": values(number, 1)}) for number in range(4)]
        assert "no corrected p below 0.06, and so no finding: it takes 120 or more." in compare(runs, 100).notes[0]
        assert "So few resamples give no p below 0.50" in compare(runs[:2], 1).notes[0]
        assert "no corrected p" not in compare(runs, 200).notes[0]

    def test_the_terms_on_which_people_were_scored_may_differ(self) -> None:
        """Copies among the references count for one version of this package and not for another."""
        runs = [run(name, {"CIDEr": values(1), "CIDEr-person": values(60, 9, seed)}) for seed, name in enumerate("ab")]
        runs[1].signatures["CIDEr-person"]["references"] = "5,one-left-out,copies-left-out"
        found = compare(runs, 100)
        assert list(found.scores) == ["CIDEr"]

    def test_other_training_captions_are_no_other_references(self) -> None:
        scores = [{"CIDEr": values(1), "unseen-2-grams-person": values(20, 5, seed)} for seed in (0, 1)]
        assert compare([run(name, each) for name, each in zip("ab", scores, strict=True)], 100).pairs

    @pytest.mark.parametrize("pictures", [2, 3, 5])
    def test_few_pictures_find_nothing_and_that_is_said(self, pictures: int) -> None:
        numbers = list(np.arange(pictures) + 3.0)
        found = compare([run(name, {"ROUGE-L": [gain + x for x in numbers]}) for name, gain in [("a", 0), ("b", 9)]])
        assert not found.pairs[0].significant and found.pairs[0].better is None
        assert (
            f"So few pictures give no p below {2 / 2**pictures:.2f}, and so no finding: it takes 6 or" in found.notes[0]
        )

    def test_pictures_enough_for_one_pair_may_be_too_few_for_three(self) -> None:
        runs = [run(name, {"ROUGE-L": list(np.arange(6) + gain)}) for name, gain in [("a", 0.0), ("b", 9), ("c", 20)]]
        assert compare(runs[:2]).pairs[0].significant
        found = compare(runs)
        assert not any(each.significant for each in found.pairs)
        assert (
            "So few pictures give no corrected p below 0.09, and so no finding: it takes 7 or more." in found.notes[0]
        )


@pytest.fixture(scope="module")
def one_picture() -> Comparison:
    """Three runs on one picture, of which CIDEr says nothing."""
    named = {"u": (10.0, 3.0), "b": (12.5, 3.0), "d": (10.04, 2.5)}
    return compare(
        [
            run(name, {"CIDEr": [0.0], "ROUGE-L": [bleu], "nll": [nll], "CIDEr-person": [0.0], "nll-unigram": [5.0]})
            for name, (bleu, nll) in named.items()
        ]
    )


class TestOnePicture:
    def test_scores_have_no_intervals_and_differences_no_p(self, one_picture: Comparison) -> None:
        assert list(one_picture.scores) == ["ROUGE-L", "nll"]
        assert all(np.isnan([each.low, each.high]).all() for many in one_picture.scores.values() for each in many)
        assert all(np.isnan([each.p, each.difference.p, each.difference.low]).all() for each in one_picture.pairs)
        assert not any(each.significant or each.better is not None for each in one_picture.pairs)

    def test_that_is_said(self, one_picture: Comparison) -> None:
        assert one_picture.sentences() == [
            "By ROUGE-L b has 2.5 more than u; of one picture nothing can be tested.",
            "By ROUGE-L d has 0.04 more than u; of one picture nothing can be tested.",
            "By ROUGE-L b has 2.5 more than d; of one picture nothing can be tested.",
            "By nll u has as much as b; of one picture nothing can be tested.",
            "By nll u has 0.500 more than d; of one picture nothing can be tested.",
            "By nll b has 0.500 more than d; of one picture nothing can be tested.",
        ]
        assert one_picture.notes[0].startswith("One test picture allows no intervals and no p-values")
        assert "CIDEr is left out: it is 0 on a single picture, whatever the caption." in one_picture.notes

    @pytest.mark.parametrize("width", [None, 60, 200])
    def test_on_the_terminal(self, one_picture: Comparison, width: int | None) -> None:
        text = printed(one_picture, width)
        assert "nan" not in text.lower() and "[" not in text and "interval" not in text.split("Differences")[0]
        assert re.search(r"ROUGE-L +b − d +\+2\.5 +– +– +–", text)

    def test_as_json(self, one_picture: Comparison) -> None:
        told = json.loads(json.dumps(views.as_json(one_picture), allow_nan=False))
        assert told["runs"][0]["scores"]["ROUGE-L"] == {"value": 10.0, "low": None, "high": None}
        first = told["differences"][0]
        assert [first[key] for key in ("low", "high", "p", "corrected_p", "stands", "better")] == [
            *[None] * 4,
            False,
            None,
        ]
        assert told["baselines"]["nll-unigram"]["low"] is None

    def test_as_a_page(self, one_picture: Comparison) -> None:
        page = views.page(one_picture)
        parsed = Parsed(page)
        assert "nan" not in page.lower() and "class=span" not in page
        assert "3 runs on the same 1 test picture." in parsed.text and "Scores, with" not in parsed.text
        assert len([tag for tag, _ in parsed.seen if tag == "circle"]) == len(one_picture.pairs)
        for sentence in [*one_picture.sentences(), *one_picture.notes]:
            assert sentence in parsed.text


class TestRefused:
    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ({"references": "4"}, "'a' measured with references 5 and 'b' with references 4"),
            ({"split": "validation"}, "'a' measured with split test and 'b' with split validation"),
            ({"pictures": "59"}, "with pictures 60 and 'b' with pictures 59"),
        ],
    )
    def test_other_data(self, parts: dict[str, str], message: str) -> None:
        with pytest.raises(CaptionerError, match=message):
            compare([run("a", {"CIDEr": values(1)}), run("b", {"CIDEr": values(1)}, **parts)])

    def test_other_pictures(self) -> None:
        fewer = run("b", {"CIDEr": values(1)[:50]})
        with pytest.raises(CaptionerError, match="'a' with 60 pictures and 'b' with 50, 50 in common"):
            compare([run("a", {"CIDEr": values(1)}), fewer])

    def test_pictures_of_the_same_names_that_are_others(self) -> None:
        runs = [run(name, {"CIDEr": values(1), "CIDEr-person": values(60, 9, seed)}) for seed, name in enumerate("ab")]
        with pytest.raises(CaptionerError, match="same names but have other references"):
            compare(runs)

    def test_nothing_in_common(self) -> None:
        with pytest.raises(CaptionerError, match="without a common score"):
            compare([run("a", {"CIDEr": values(1)}), run("b", {"ROUGE-L": values(1)})])

    def test_one_run(self) -> None:
        with pytest.raises(CaptionerError, match="received 1 run"):
            compare([run("a", {"CIDEr": values(1)})])


def single(score: str, difference: Difference, p: float) -> list[str]:
    pairs = [Pair(score, 0, 1, difference, p)]
    return Comparison(["x", "y"], ["bahdanau", "uniform"], 9, 9, {}, {}, pairs, []).sentences()


class TestWords:
    @pytest.mark.parametrize(
        ("score", "difference", "p", "sentence"),
        [
            (
                "CIDEr",
                Difference(1.1, -1.2, 3.3, 0.41),
                0.41,
                "bahdanau and uniform are not significantly different in CIDEr: "
                "the difference is 1.1, −1.2 to 3.3 (p = 0.41).",
            ),
            (
                "CIDEr",
                Difference(-2, -3.9, -0.4, 0.028),
                0.056,
                "uniform and bahdanau are not significantly different in CIDEr: the difference is 2.0, 0.4 to 3.9 "
                "(p = 0.056; 0.028 before correction).",
            ),
            (
                "CIDEr",
                Difference(3.44, 1.25, 5.6, 0.001),
                0.003,
                "bahdanau is better than uniform by CIDEr: 3.4 higher, 1.2 to 5.6 (p = 0.003).",
            ),
            (
                "BLEU-4",
                Difference(-3, -4, -2, 0.00001),
                0.00003,
                "uniform is better than bahdanau by BLEU-4: 3.0 higher, 2.0 to 4.0 (p < 0.001).",
            ),
            (
                "nll",
                Difference(-0.12, -0.14, -0.1, 0.001),
                0.003,
                "bahdanau is better than uniform by nll: 0.120 lower, 0.100 to 0.140 (p = 0.003).",
            ),
            (
                "nll",
                Difference(0.12, 0.1, 0.14, 0.001),
                0.003,
                "uniform is better than bahdanau by nll: 0.120 lower, 0.100 to 0.140 (p = 0.003).",
            ),
            ("CIDEr", Difference(0, 0, 0, 1), 1, "bahdanau and uniform are equal by CIDEr."),
            (
                "CIDEr",
                Difference(-0.04, -1.21, 1.3, 0.93),
                0.93,
                "uniform and bahdanau are not significantly different in CIDEr: "
                "the difference is 0.04, −1.30 to 1.21 (p = 0.93).",
            ),
            (
                "nll",
                Difference(0.0004, 0.0002, 0.0006, 0.001),
                0.001,
                "uniform is better than bahdanau by nll: 0.0004 lower, 0.0002 to 0.0006 (p = 0.001).",
            ),
            (
                "CIDEr",
                Difference(0, -1.2, 1.3, 1),
                1,
                "bahdanau and uniform are not significantly different in CIDEr: "
                "the difference is 0.0, −1.2 to 1.3 (p = 1.00).",
            ),
            (
                "CIDEr",
                Difference(-3, np.nan, np.nan, 0.001),
                0.001,
                "uniform is better than bahdanau by CIDEr: 3.0 higher (p = 0.001).",
            ),
            (
                "CIDEr",
                Difference(3, np.nan, np.nan, 0.25),
                0.25,
                "bahdanau and uniform are not significantly different in CIDEr: the difference is 3.0 (p = 0.25).",
            ),
            (
                "nll",
                Difference(0.5, np.nan, np.nan, np.nan),
                np.nan,
                "By nll bahdanau has 0.500 more than uniform; of one picture nothing can be tested.",
            ),
        ],
    )
    def test_sentences(self, score: str, difference: Difference, p: float, sentence: str) -> None:
        assert single(score, difference, p) == [sentence]

    @pytest.mark.parametrize(
        ("names", "attentions", "short", "labels"),
        [
            (["x", "y"], ["dot", "uniform"], ["dot", "uniform"], ["x · dot", "y · uniform"]),
            (["x", "y"], ["dot", "dot"], ["x", "y"], ["x · dot", "y · dot"]),
            (["dot", "y"], ["dot", ""], ["dot", "y"], ["dot", "y"]),
        ],
    )
    def test_what_runs_are_called(
        self, names: list[str], attentions: list[str], short: list[str], labels: list[str]
    ) -> None:
        comparison = Comparison(names, attentions, 9, 9, {}, {}, [], [])
        assert comparison.short == short
        assert comparison.labels == labels

    def test_numbers(self) -> None:
        assert interval("CIDEr", 49.06, 55.94) == "[49.1, 55.9]"
        assert interval("nll", -0.5, 2.5134) == "[−0.500, 2.513]"
        assert [number("CIDEr", value, signed=True) for value in (1.26, -1.26, -0.04, 0.04)] == [
            "+1.3",
            "−1.3",
            "0.0",
            "0.0",
        ]
        assert [probability(p) for p in (1, 0.412, 0.0996, 0.012, 0.0004)] == [
            "1.00",
            "0.41",
            "0.100",
            "0.012",
            "< 0.001",
        ]
        assert probability(0.0004, named=True) == "p < 0.001"


class TestText:
    def test_elsewhere_than_on_a_terminal_a_row_is_a_line(self, found: Comparison) -> None:
        lines = printed(found).splitlines()
        assert sum(line.startswith(("u · uniform", "b · bahdanau", "d · dot")) for line in lines) == 3
        assert re.fullmatch(
            r"u · uniform +50\.0 \[\d\d\.\d, \d\d\.\d\] +2\.500 \[2\.\d{3}, 2\.\d{3}\]",
            next(line for line in lines if line.startswith("u · uniform")),
        )
        assert set(found.sentences()) <= set(lines)
        assert set(found.notes) <= set(lines)
        assert all(line == line.rstrip() for line in lines)

    @pytest.mark.parametrize("width", [50, 80, 200])
    def test_on_a_terminal_nothing_is_wider_than_it(self, found: Comparison, width: int) -> None:
        text = printed(found, width)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width
        # the same scores, in as many tables as it takes
        assert len(re.findall(r"^ ?d · dot", text, re.MULTILINE)) == (2 if width == 50 else 1)

    def test_names_are_no_markup(self) -> None:
        text = printed(compare([run("[red]x[/red]", {"CIDEr": values(1)}), run("y", {"CIDEr": values(2)})], 100), 100)
        assert "[red]x[/red]" in text


class TestJson:
    def test_holds_what_was_found(self, found: Comparison) -> None:
        told = json.loads(json.dumps(views.as_json(found), allow_nan=False))
        assert told.keys() == {"pictures", "resamples", "confidence", "runs", "baselines", "differences", "notes"}
        assert [(each["name"], each["attention"]) for each in told["runs"]] == [
            ("u", "uniform"),
            ("b", "bahdanau"),
            ("d", "dot"),
        ]
        assert told["runs"][2]["scores"]["CIDEr"]["value"] == pytest.approx(55)
        assert told["baselines"]["CIDEr-person"]["what"] == "a person, against one reference fewer"
        last = told["differences"][-1]
        assert (last["score"], last["one"], last["other"], last["better"], last["stands"]) == (
            "nll",
            "b",
            "d",
            "d",
            True,
        )
        assert last["value"] == pytest.approx(0.4)
        assert last["p"] < last["corrected_p"] < 0.05
        assert [each["better"] for each in told["differences"]][:3] == [None, "d", "d"]


class Parsed(HTMLParser):
    """Tags, attributes and text of a page; fails where tags do not close in order."""

    VOID = frozenset({"meta", "wbr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        assert not self.opened

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.opened or self.opened[-1] != "style":
            self.text += data


class TestPage:
    def test_says_what_the_terminal_says(self, found: Comparison) -> None:
        parsed = Parsed(views.page(found))
        for sentence in [*found.sentences(), *found.notes]:
            assert sentence in parsed.text
        circles = [attributes for tag, attributes in parsed.seen if tag == "circle"]
        assert len(circles) == len(found.pairs)

    def test_asks_nothing_of_the_network(self, found: Comparison) -> None:
        page = views.page(found)
        assert not re.search(r"https?:|//|url\(|@import|<script|<link|<img|src=", page)
        assert "prefers-color-scheme: dark" in page

    def test_draws_differences_where_they_are(self) -> None:
        pairs = [Pair("CIDEr", 0, 1, Difference(5, 0, 10, 0.5), 0.5)]
        page = views.page(Comparison(["x", "y"], ["", ""], 9, 9, {}, {}, pairs, []))
        svg = re.findall(r"<svg role=img.*?</svg>", page)[0]
        xs = {name: float(value) for name, value in re.findall(r"(x1|x2|cx)=([\d.]+)%", svg.partition("class=span")[2])}
        assert xs["x1"] == 50
        assert xs["cx"] == pytest.approx(50 + (xs["x2"] - 50) / 2, abs=0.01)
        assert 90 < xs["x2"] < 100

    @given(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).map(
            lambda text: f"<b>&\"'{text}"
        )
    )
    def test_a_name_stays_a_name(self, name: str) -> None:
        pairs = [Pair("CIDEr", 0, 1, Difference(5, 0, 10, 0.5), 0.5)]
        parsed = Parsed(views.page(Comparison([name, "y"], [name, ""], 9, 9, {}, {}, pairs, [name])))
        assert name in parsed.text
        assert "b" not in {tag for tag, _ in parsed.seen}

    def test_a_difference_that_is_small_and_stands_is_not_written_as_0(self) -> None:
        noise = np.array(values(0, 0.01, seed=1))
        runs = [
            run(name, {"CIDEr": list(np.array(values(50, 9)) + each)}) for name, each in [("a", 0), ("b", 0.04 + noise)]
        ]
        found = compare(runs, 400)
        assert found.pairs[0].better == 1
        for text in (views.page(found), printed(found), *found.sentences()):
            assert re.search(r"[−-]?0\.04\b", text)

    def test_equal_runs_can_be_drawn(self) -> None:
        found = compare([run("a", {"CIDEr": values(5)}), run("b", {"CIDEr": values(5)})], 100)
        assert "nan" not in views.page(found)


@pytest.mark.parametrize("likelihood", [np.nan, np.inf, 0.0])
def test_a_model_of_no_finite_weights_is_never_better(likelihood: float) -> None:
    broken = run("broken", {"CIDEr": values(60), "nll": [likelihood] * 60})
    with pytest.raises(CaptionerError, match="received 'broken', which cannot be compared: nll is not finite on 60"):
        compare([run("whole", {"CIDEr": values(50), "nll": values(2)}), broken])
