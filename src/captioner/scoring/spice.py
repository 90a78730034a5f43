"""SPICE, which parses captions into objects, attributes and relations, and counts those they share with people's.

The program comes with pycocoevalcap; the parser that it builds on does not, nor does the JavaScript engine through
which it writes its result and which Java has lacked since version 15. Their jars lie in one directory of the user's.

The score of the corpus is the mean of the pictures' F1, as in pycocoevalcap. The program runs without its cache of
parsed captions: that one breaks into Java's internals, which a current Java forbids.

Source: Anderson et al., SPICE: Semantic Propositional Image Caption Evaluation, ECCV 2016.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

import psutil
from pycocoevalcap.spice import spice

from captioner.common.errors import CaptionerError
from captioner.scoring.java import JAVA_OPTIONS, find_java

JARS = "CAPTIONER_SPICE_JARS"
"""The environment's variable for the directory of jars."""

PARSER = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
MEMORY = 4  # GiB of Java's heap
_SCRIPTLESS = 15  # the first Java without a JavaScript engine
_ENGINE = "META-INF/services/javax.script.ScriptEngineFactory"  # by which Java finds one in a jar
_PROGRAM = Path(spice.__file__).with_name(spice.SPICE_JAR)
_WAY_OUT = "or leave SPICE out of evaluate.metrics: the other scores need none of this"


class Spice:
    """The program that computes SPICE.

    Args:
        jars: the directory that holds CoreNLP 3.6.0's two jars and, for Java 15 or later, those of a JavaScript engine
            (JSR 223), and nothing else.

    Raises:
        CaptionerError: something of this is missing, no Java runs, or less memory is free than the program may take.
    """

    def __init__(self, jars: Path | None):
        self._jars = _find(jars)
        free = psutil.virtual_memory().available / 2**30
        if free < MEMORY:
            raise CaptionerError(
                f"SPICE's parser takes up to {MEMORY} GiB of memory, and {free:.1f} GiB are free: end other programs, "
                f"{_WAY_OUT}."
            )

    def __call__(self, hypotheses: list[str], references: list[list[str]]) -> list[float]:
        """Score tokenized captions, each against its references.

        The parser reads some tens of captions a second and core: a thousand pictures with five references take minutes.

        Returns:
            The F1 of each, 0 to 1; 0 where nothing can be parsed.

        Raises:
            CaptionerError: the program fails, does not answer, or answers something else.
        """
        asked = [
            {"image_id": number, "test": hypothesis, "refs": captions}
            for number, (hypothesis, captions) in enumerate(zip(hypotheses, references, strict=True))
        ]
        with TemporaryDirectory() as directory:
            question, answer = Path(directory, "question.json"), Path(directory, "answer.json")
            question.write_text(json.dumps(asked), "ascii")
            self._run(question, answer, _limit(len(asked) + sum(map(len, references))))
            try:
                found = {item["image_id"]: float(item["scores"]["All"]["f"]) for item in json.loads(answer.read_text())}
                values = [found[number] for number in range(len(asked))]
                if not all(0 <= value <= 1 for value in values):  # nor NaN
                    raise ValueError
            except (OSError, ValueError, TypeError, LookupError) as error:
                raise CaptionerError(
                    f"SPICE's program ended without a score for each of {len(asked)} captions; look whether the jars "
                    f"in {self._jars[0].parent} are whole, {_WAY_OUT}."
                ) from error
        return values

    def _run(self, question: Path, answer: Path, limit: float) -> None:
        # the program's own jars are found through its manifest
        path = os.pathsep.join(map(str, (*self._jars, _PROGRAM)))
        command = [find_java(), *JAVA_OPTIONS, f"-Xmx{MEMORY}G", "-cp", path, "edu.anu.spice.SpiceScorer"]
        try:
            subprocess.run(
                [*command, str(question), "-out", str(answer), "-silent"],
                capture_output=True,
                check=True,
                timeout=limit,
            )
        except subprocess.TimeoutExpired:
            raise CaptionerError(
                f"SPICE's program was not done after {limit:.0f} s and was ended; {_WAY_OUT}."
            ) from None
        except subprocess.CalledProcessError as error:
            raise CaptionerError(
                f"SPICE's program failed ({_cause(error.stderr)}); look whether the jars in {self._jars[0].parent} are "
                f"those it needs, {_WAY_OUT}."
            ) from error
        except OSError as error:
            raise CaptionerError(f"SPICE's program did not start ({error}); {_WAY_OUT}.") from error


def _find(directory: Path | None) -> list[Path]:
    """Return the jars of a directory."""
    wanted = f"{' and '.join(PARSER)} of Stanford CoreNLP 3.6.0"
    if directory is None:
        raise CaptionerError(
            f"SPICE needs {wanted}, which no package brings: name the directory that holds them in the environment's "
            f"{JARS}, {_WAY_OUT}."
        )
    if not directory.is_dir():
        raise CaptionerError(
            f"SPICE needs {wanted}, and {JARS} names {directory}, which is no directory: put them there, {_WAY_OUT}."
        )
    jars = sorted(directory.glob("*.jar"))
    missing = [name for name in PARSER if directory / name not in jars]
    if missing:
        raise CaptionerError(
            f"SPICE needs {wanted}, and {directory} lacks {' and '.join(missing)}: put them there, {_WAY_OUT}."
        )
    damaged = [jar.name for jar in jars if _members(jar) is None]
    if damaged:
        raise CaptionerError(f"{', '.join(damaged)} in {directory} cannot be read: fetch them again, {_WAY_OUT}.")
    version = _java_version()
    if version >= _SCRIPTLESS and not any(_ENGINE in (_members(jar) or ()) for jar in jars):
        raise CaptionerError(
            f"SPICE writes its result through a JavaScript engine, which Java {version} lacks, and no jar in "
            f"{directory} is one: put one there, nashorn-core and ASM say, or Rhino with its engine, {_WAY_OUT}."
        )
    return jars


def _members(jar: Path) -> frozenset[str] | None:
    try:
        with ZipFile(jar) as opened:
            return frozenset(opened.namelist())
    except (OSError, BadZipFile):
        return None


def _java_version() -> int:
    """Return 8 for Java 1.8, 25 for 25.0.2."""
    java = find_java()
    told = subprocess.run(
        [java, "-XshowSettings:properties", "-version"], capture_output=True, text=True, timeout=60, check=False
    )
    version = re.search(r"java\.specification\.version = (?:1\.)?(\d+)", told.stderr)
    if version is None:
        raise CaptionerError(f"{java} does not say which Java it is; {_WAY_OUT}.")
    return int(version[1])


def _cause(trace: bytes) -> str:
    """Return the last line of what Java says that is no place in the code."""
    lines = trace.decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip() and not line[0].isspace()), "silently")


def _limit(captions: int) -> float:
    """Seconds after which the program counts as hanging: far more than a slow machine needs."""
    return 900 + captions
