"""Captions to tokens, by the PTB tokenizer of pycocoevalcap."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

from pycocoevalcap.tokenizer import ptbtokenizer

from captioner.common.errors import CaptionerError
from captioner.scoring.java import JAVA_OPTIONS, find_java, time_limit

# Compiling with the first compiler only halves the time of a run this short.
_TOKENIZER_OPTIONS = (*JAVA_OPTIONS, "-XX:TieredStopAtLevel=1")

_PUNCTUATION = frozenset(ptbtokenizer.PUNCTUATIONS)


def tokenize(captions: Iterable[str]) -> list[str]:
    """Tokens of each caption in PTB's way, punctuation removed, with one space between them; no tokens give ''."""
    # the tokenizer takes every kind of line break as the end of a caption
    folded = [" ".join(caption.split()) for caption in captions]
    if not folded:
        return []
    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = [find_java(), *_TOKENIZER_OPTIONS, "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    try:
        answer = subprocess.run(
            [*command, "-preserveLines", "-lowerCase"],
            input="".join(f"{caption}\n" for caption in folded).encode(errors="replace"),
            capture_output=True,
            check=True,
            timeout=time_limit(len(folded)),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CaptionerError(f"the PTB tokenizer did not run: {error}; see whether {command[0]} works") from error
    lines = answer.stdout.decode(errors="replace").removesuffix("\n").split("\n")
    if len(lines) != len(folded):
        raise CaptionerError(
            f"the PTB tokenizer returned {len(lines)} captions for {len(folded)}; look for control characters in them"
        )
    return [" ".join(word for word in line.rstrip().split(" ") if word not in _PUNCTUATION) for line in lines]
