"""SPICE's program is asked rightly and understood; what it lacks is one line."""

import json
import sys
import types
from pathlib import Path
from zipfile import ZipFile

import pytest

from captioner.common.errors import CaptionerError
from captioner.evaluation.bootstrap import intervals
from captioner.scoring import SPICE, spice
from captioner.scoring.scorer import Scorer
from captioner.scoring.spice import PARSER, Spice

ENGINE = "engine.jar"
HYPOTHESES, REFERENCES = ["a dog", "", "a cat"], [["a brown dog"], ["a bird"], ["a black cat", "un café 犬"]]
# answers in another order than asked: with the number of references over 10 as score
ANSWER = """
answer = [
    {"image_id": one["image_id"], "scores": {"All": {"f": len(one["refs"]) / 10 * bool(one["test"])}}}
    for one in reversed(question)
]
"""


def make_jar(path: Path) -> None:
    with ZipFile(path, "w") as jar:
        jar.writestr("META-INF/services/javax.script.ScriptEngineFactory" if path.name == ENGINE else "A.class", "")


@pytest.fixture
def jars(tmp_path: Path) -> Path:
    directory = tmp_path / "jars"
    directory.mkdir()
    for name in (*PARSER, ENGINE):
        make_jar(directory / name)
    return directory


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Java 25 that answers, with 8 GiB free."""
    set_java(monkeypatch, tmp_path)
    set_memory(monkeypatch, 8)


def set_memory(monkeypatch: pytest.MonkeyPatch, gibibytes: float) -> None:
    free = types.SimpleNamespace(available=int(gibibytes * 2**30))
    monkeypatch.setattr(spice.psutil, "virtual_memory", lambda: free)


def set_java(monkeypatch: pytest.MonkeyPatch, directory: Path, program: str = ANSWER, version: str = "25") -> None:
    """Have a Python script stand for Java; it keeps how it was called."""
    java = directory / "java"
    java.write_text(
        f"#!{sys.executable}\n"
        "import json, sys, time\n"
        "from pathlib import Path\n"
        "if sys.argv[-1] == '-version':\n"
        f"    sys.exit('    java.specification.version = {version}')\n"
        f"Path({str(directory / 'called.json')!r}).write_text(json.dumps(sys.argv[1:]))\n"
        "path, _, out, _ = sys.argv[-4:]\n"
        "question = json.loads(Path(path).read_text())\n"
        f"{program}\n"
        "Path(out).write_text(json.dumps(answer))\n",
        "utf-8",
    )
    java.chmod(0o755)
    monkeypatch.setattr(spice, "find_java", lambda: str(java))


def refusal(directory: Path | None) -> str:
    with pytest.raises(CaptionerError) as caught:
        Spice(directory)
    message = str(caught.value)
    assert "\n" not in message and "leave SPICE out of evaluate.metrics" in message
    return message


def test_no_directory_is_named() -> None:
    message = refusal(None)
    assert all(part in message for part in ("CAPTIONER_SPICE_JARS", *PARSER))


def test_no_such_directory(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert all(part in message for part in ("CAPTIONER_SPICE_JARS", str(tmp_path / "nowhere"), *PARSER))


@pytest.mark.parametrize("lacking", [PARSER[:1], PARSER[1:], PARSER])
def test_a_jar_of_the_parser_is_missing(lacking: tuple[str, ...], jars: Path) -> None:
    for name in lacking:
        (jars / name).unlink()
    assert f"{jars} lacks {' and '.join(lacking)}:" in refusal(jars)


def test_a_jar_is_damaged(jars: Path) -> None:
    (jars / PARSER[1]).write_bytes(b"PK, but cut short")
    assert f"{PARSER[1]} in {jars} cannot be read" in refusal(jars)


@pytest.mark.parametrize(("version", "needed"), [("1.8", False), ("14", False), ("15", True), ("25", True)])
def test_a_new_java_needs_an_engine(
    version: str, needed: bool, jars: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_java(monkeypatch, tmp_path, version=version)
    Spice(jars)
    (jars / ENGINE).unlink()
    if needed:
        message = refusal(jars)
        assert f"JavaScript engine, which Java {version} lacks" in message and str(jars) in message
    else:
        Spice(jars)


def test_a_java_that_says_nothing_of_itself(jars: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_java(monkeypatch, tmp_path, version="?")
    assert "does not say which Java it is" in refusal(jars)


def test_too_little_memory(jars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_memory(monkeypatch, 3.2)
    assert "up to 4 GiB of memory, and 3.2 GiB are free" in refusal(jars)


def test_scores_come_in_the_order_of_the_captions(jars: Path, tmp_path: Path) -> None:
    assert Spice(jars)(HYPOTHESES, REFERENCES) == [0.1, 0, 0.2]
    called = json.loads((tmp_path / "called.json").read_text("utf-8"))
    path = called[called.index("-cp") + 1].split(":")
    assert {str(jars / name) for name in (*PARSER, ENGINE)} < set(path)
    program = next(Path(jar) for jar in path if Path(jar).parent != jars)
    assert "edu/anu/spice/SpiceScorer.class" in ZipFile(program).namelist()
    assert "edu.anu.spice.SpiceScorer" in called and "-Xmx4G" in called and "-cache" not in called
    assert not Path(called[-4]).exists()


def test_a_scorer_with_the_program(jars: Path) -> None:
    pictures = dict(zip("abc", REFERENCES, strict=True))
    captions = dict(zip("abc", HYPOTHESES, strict=True))
    scorer = Scorer(pictures, Spice(jars))
    scores = scorer.score(captions, [SPICE, "ROUGE-L"])
    assert list(scores.corpus) == ["ROUGE-L", SPICE] and scores.corpus[SPICE] == pytest.approx(10)
    assert scores.by_image[SPICE].tolist() == pytest.approx([10, 0, 20])
    assert scores.statistics.scores() == pytest.approx(scores.corpus)
    low, high = intervals(scores.statistics)[SPICE]
    assert 0 <= low < 10 < high <= 20
    assert scorer.leave_one_out(captions, [SPICE]).scores() == {}
    assert list(scorer.leave_one_out(captions, [SPICE, "ROUGE-L"]).scores()) == ["ROUGE-L"]


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("sys.exit('Exception: NoSuchMethod\\n\\tat Spice.java\\n')", r"failed \(Exception: NoSuchMethod\)"),
        ("sys.exit(3)", r"failed \(silently\)"),
        ("sys.exit(0)", "without a score for each of 3 captions"),
        ("answer = []", "without a score for each of 3 captions"),
        ("answer = 'no'", "without a score for each of 3 captions"),
        (ANSWER + "answer[1]['scores']['All']['f'] = None", "without a score for each of 3 captions"),
        (ANSWER + "answer[1]['scores']['All']['f'] = float('nan')", "without a score for each of 3 captions"),
    ],
)
def test_a_program_that_fails(
    program: str, told: str, jars: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_java(monkeypatch, tmp_path, program)
    with pytest.raises(CaptionerError, match=told) as caught:
        Spice(jars)(HYPOTHESES, REFERENCES)
    assert "\n" not in str(caught.value) and "leave SPICE out" in str(caught.value)


def test_a_program_that_hangs_is_ended(jars: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_java(monkeypatch, tmp_path, "time.sleep(600)")
    monkeypatch.setattr(spice, "_limit", lambda captions: 0.5)
    with pytest.raises(CaptionerError, match="not done after"):
        Spice(jars)(HYPOTHESES, REFERENCES)


def test_a_java_that_went_away(jars: Path, tmp_path: Path) -> None:
    program = Spice(jars)
    (tmp_path / "java").unlink()
    with pytest.raises(CaptionerError, match="did not start"):
        program(HYPOTHESES, REFERENCES)
