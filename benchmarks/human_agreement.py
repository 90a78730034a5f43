"""How well each metric agrees with people, on the judgements that come with Flickr8k.

    python benchmarks/human_agreement.py [path/to/Flickr8k_text.zip]

People judged how well a caption fits a picture, mostly one written for another picture. Each metric scores the same
caption against the captions of the picture, and its agreement is the rank correlation of the two, Kendall's tau, times
100. The protocol is that of Hessel et al., appendix A and published code; docs/human-agreement.md has it in words.

Sources: the judgements: Hodosh et al., JAIR 2013. The protocol: Anderson et al., "SPICE", ECCV 2016, as made precise by
Hessel et al., "CLIPScore", EMNLP 2021. Tau-b and tau-c: Kendall, 1945; Stuart, 1953.
"""

import argparse
import json
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy.stats import kendalltau
from tqdm import tqdm

from captioner.common.errors import CaptionerError
from captioner.common.files import replacing
from captioner.data.archives import open_zip, read_member
from captioner.datasets.fetch import fetch
from captioner.datasets.flickr8k import CAPTIONS, TEXT
from captioner.scoring.scorer import Scorer

EXPERT = "ExpertAnnotations.txt"
CROWD = "CrowdFlowerAnnotations.txt"
CAPTION_FORM = "<picture>#<number><tab><caption>"
EXPERT_FORM = "<picture><tab><picture>#<number> and three ratings of 1 to 4, each after a tab"
CROWD_FORM = "<picture><tab><picture>#<number><tab><share of yes><tab><yes><tab><no>"
COLUMNS = ("CIDEr", "METEOR", "ROUGE-L", "BLEU-4", "BLEU-1")
BATCH = 5000  # pairs; with all 48,000 at once, the prepared references would fill gigabytes
CHECKOUT = Path(__file__).resolve().parents[1]

Captions = Mapping[str, Mapping[str, str]]  # by picture: the captions by number
Pair = tuple[str, str]  # a picture and the caption that was judged with it


@dataclass(frozen=True, eq=False)
class Judgements:
    """What people said of pairs of a picture and a caption.

    Attributes:
        pairs: the picture and the caption of each pair.
        ratings: `[pairs, people]`, the higher the better the caption fits; one column where people were averaged.
        references: by picture, the captions to score against; none of them is a candidate of that picture.
    """

    pairs: list[Pair]
    ratings: np.ndarray
    references: dict[str, list[str]]


def read_captions(archive: zipfile.ZipFile) -> dict[str, dict[str, str]]:
    """Return Flickr8k's captions by picture and number.

    Raises:
        CaptionerError: no such member, or a line of another form.
    """
    captions: dict[str, dict[str, str]] = {}
    for number, fields in _lines(archive, CAPTIONS):
        picture, mark, key = fields[0].rpartition("#")
        if len(fields) != 2 or not mark or not fields[1].strip():
            raise _malformed(archive, CAPTIONS, number, fields, CAPTION_FORM)
        captions.setdefault(picture, {})[key] = fields[1].strip()
    return captions


def expert(archive: zipfile.ZipFile, captions: Captions) -> Judgements:
    """Return three experts' ratings of each pair, 1 (unrelated) to 4 (describes the picture).

    Left out are the pairs whose caption is one of the picture's own, as in Anderson et al.

    Raises:
        CaptionerError: no such member, a line of another form, or nothing is left.
    """
    judged = [
        (pair, ratings)
        for pair, ratings in _judged(archive, EXPERT, captions, _ratings, EXPERT_FORM)
        if pair[1] not in captions[pair[0]].values()
    ]
    if not judged:
        raise CaptionerError(f"{archive.filename} has no pair in {EXPERT}; use the archive as published")
    pairs = [pair for pair, _ in judged]
    references = {picture: list(captions[picture].values()) for picture, _ in pairs}
    return Judgements(pairs, np.array([ratings for _, ratings in judged]), references)


def crowd(archive: zipfile.ZipFile, captions: Captions) -> Judgements:
    """Return the share of the crowd, 0 to 1, that found the caption to describe the picture.

    No pair is left out. Where a caption is one of the picture's own, it is no reference of this picture for any
    candidate, as in Hessel et al.

    Raises:
        CaptionerError: no such member, a line of another form, or a picture all of whose captions are candidates.
    """
    judged = list(_judged(archive, CROWD, captions, _share, CROWD_FORM))
    if not judged:
        raise CaptionerError(f"{archive.filename} has no pair in {CROWD}; use the archive as published")
    pairs = [pair for pair, _ in judged]
    candidates = set(pairs)
    references = {
        picture: [caption for caption in captions[picture].values() if (picture, caption) not in candidates]
        for picture, _ in pairs
    }
    return Judgements(pairs, np.array([share for _, share in judged]), references)


def score(judgements: Judgements, name: str) -> pd.DataFrame:
    """Score each pair's caption against the references of its picture, one row a pair, one column a metric.

    Args:
        judgements: what to score.
        name: what the lines of progress are called.
    """
    by_pair = _score_pairs(judgements, name)
    return by_pair.assign(CIDEr=_cider(judgements, name))[list(COLUMNS)]


def rounds(pictures: Sequence[str]) -> list[list[int]]:
    """Return the positions of `pictures` in as few lists as can be with no picture twice in a list."""
    seen: Counter[str] = Counter()
    turns: list[list[int]] = []
    for position, picture in enumerate(pictures):
        if seen[picture] == len(turns):
            turns.append([])
        turns[seen[picture]].append(position)
        seen[picture] += 1
    return turns


def agreement(scores: np.ndarray, ratings: np.ndarray, variant: Literal["b", "c"]) -> float:
    """Return Kendall's tau of scores and ratings, times 100; each rating counts by itself.

    Args:
        scores: `[pairs]`.
        ratings: `[pairs, people]`.
        variant: how ties are corrected for: `b` for as many values on both sides, `c` for few values on one side.

    Raises:
        CaptionerError: all scores or all ratings are one, so that there is no order to agree on.
    """
    if not np.ptp(scores) or not np.ptp(ratings):
        raise CaptionerError(
            f"received {len(ratings)} pairs that all have one score or one rating; "
            "a rank correlation needs two of each: use the archive as published"
        )
    return 100 * float(kendalltau(np.repeat(scores, ratings.shape[1]), ratings.ravel(), variant=variant).statistic)


def _lines(archive: zipfile.ZipFile, member: str) -> Iterator[tuple[int, list[str]]]:
    try:
        text = read_member(archive, member).decode()
    except UnicodeDecodeError as error:
        raise CaptionerError(f"{archive.filename} has {member} with {error}; use the archive as published") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.rstrip("\r").split("\t")


def _judged(
    archive: zipfile.ZipFile,
    member: str,
    captions: Captions,
    rate: Callable[[list[str]], Sequence[float]],
    form: str,
) -> Iterator[tuple[Pair, Sequence[float]]]:
    for number, fields in _lines(archive, member):
        try:
            picture, candidate, *rest = fields
            origin, _, key = candidate.rpartition("#")
            rating = rate(rest)
        except ValueError:
            raise _malformed(archive, member, number, fields, form) from None
        if picture not in captions or key not in captions.get(origin, {}):
            raise CaptionerError(
                f"{archive.filename} has no caption {candidate} or no captions of {picture} in {CAPTIONS}, which line "
                f"{number} of {member} speaks of; use the archive as published"
            )
        yield (picture, captions[origin][key]), rating


def _ratings(fields: list[str]) -> list[int]:
    ratings = [int(field) for field in fields]
    if len(ratings) != 3 or not all(1 <= rating <= 4 for rating in ratings):
        raise ValueError
    return ratings


def _share(fields: list[str]) -> list[float]:
    printed, *counts = fields
    yes, no = map(int, counts)
    # the counts, not the printed share, so that no rounding parts equal ones
    if min(yes, no) < 0 or yes + no == 0 or not abs(float(printed) - yes / (yes + no)) < 1e-6:
        raise ValueError
    return [yes / (yes + no)]


def _malformed(archive: zipfile.ZipFile, member: str, number: int, fields: list[str], form: str) -> CaptionerError:
    line = "\t".join(fields)
    return CaptionerError(
        f"{archive.filename} has line {number} of {member} as {line[:80]!r}, published is {form}; "
        "use the archive as published"
    )


def _score_pairs(judgements: Judgements, name: str) -> pd.DataFrame:
    """Every metric but CIDEr; of these a score depends on its own pair alone, so batches change nothing."""
    found = []
    with tqdm(total=len(judgements.pairs), desc=f"{name}: BLEU, METEOR, ROUGE-L", unit="pair") as progress:
        for start in range(0, len(judgements.pairs), BATCH):
            batch = {str(start + offset): pair for offset, pair in enumerate(judgements.pairs[start : start + BATCH])}
            scorer = Scorer({key: judgements.references[picture] for key, (picture, _) in batch.items()})
            hypotheses = {key: caption for key, (_, caption) in batch.items()}
            found.append(scorer.score(hypotheses, ["BLEU", "METEOR", "ROUGE-L"]).by_image)
            progress.update(len(batch))
    return pd.concat(found, ignore_index=True)


def _cider(judgements: Judgements, name: str) -> np.ndarray:
    """CIDEr, whose document frequency counts each picture once, however many candidates it has."""
    scorer = Scorer(judgements.references)
    values = np.empty(len(judgements.pairs))
    with tqdm(total=len(judgements.pairs), desc=f"{name}: CIDEr", unit="pair") as progress:
        for turn in rounds([picture for picture, _ in judgements.pairs]):
            candidates = dict(judgements.pairs[position] for position in turn)
            scored = scorer.score({picture: candidates.get(picture, "") for picture in scorer.images}, ["CIDEr"])
            values[turn] = scored.by_image.loc[list(candidates), "CIDEr"]
            progress.update(len(turn))
    return values


def _archive(given: Path | None) -> Path:
    """The archive given, else that of the mirror, else the published one, downloaded to where the pipeline keeps it."""
    if given is None:
        mirror = os.environ.get("CAPTIONER_MIRROR")
        downloads = CHECKOUT / ".cache/downloads/flickr8k"
        return fetch(TEXT, dataset="flickr8k", directory=downloads, mirror=Path(mirror) if mirror else None).path
    if not given.is_file():
        raise CaptionerError(f"there is no file {given}; give the path of Flickr8k_text.zip, or none to download it")
    return given


def measure(path: Path) -> dict[str, dict[str, float]]:
    """Return the agreement of each metric with the experts (tau-c) and with the crowd (tau-b), times 100.

    Raises:
        CaptionerError: the archive is missing, damaged or not as published, or no Java runs.
    """
    with open_zip(path) as archive:
        captions = read_captions(archive)
        judged = {"expert": expert(archive, captions), "crowd": crowd(archive, captions)}
    variants: dict[str, Literal["b", "c"]] = {"expert": "c", "crowd": "b"}
    for name, judgements in judged.items():
        print(
            f"{name}: {judgements.ratings.size:,} ratings of {len(judgements.pairs):,} pairs "
            f"of {len(judgements.references):,} pictures, {sum(map(len, judgements.references.values())):,} references"
        )
    found: dict[str, dict[str, float]] = {}
    for name, judgements in judged.items():
        scores = score(judgements, name)
        tau = {column: agreement(scores[column].to_numpy(), judgements.ratings, variants[name]) for column in COLUMNS}
        found[name] = {column: round(value, 4) for column, value in tau.items()}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the agreements; what a user can cause ends in one line and exit code 1."""
    parser = argparse.ArgumentParser(description="Measure how well each metric agrees with people, on Flickr8k.")
    parser.add_argument(
        "archive", nargs="?", type=Path, help="Flickr8k_text.zip; default: $CAPTIONER_MIRROR's, or get it"
    )
    parser.add_argument(
        "--result",
        type=Path,
        default=CHECKOUT / "benchmarks/results/human-agreement.json",
        help="JSON file to write (%(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        found = measure(_archive(options.archive))
        print(pd.DataFrame(found).round(1).to_string())
        with replacing(options.result) as beside:
            beside.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    except CaptionerError as error:
        sys.exit(f"human_agreement: {error}")
    except OSError as error:
        sys.exit(f"human_agreement: {error.strerror or error} ({error.filename or 'no file'}); nothing was written")
    except KeyboardInterrupt:
        sys.exit("human_agreement: interrupted; nothing was written")


if __name__ == "__main__":
    main()
