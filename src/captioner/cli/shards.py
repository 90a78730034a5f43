"""`captioner caption --shards` and `captioner score --shards`."""

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

import typer
from tqdm import tqdm

from captioner.common.files import json_of
from captioner.data import shards
from captioner.inference.shards import Form, Search, caption
from captioner.reports.wording import counted


def caption_shards(
    model: Path, places: Sequence[str], output: str, form: Form, beam: int, maximum_words: int | None
) -> int:
    """Caption the shards at some places, say what became of them, and return how many have no captions.

    Raises:
        CaptionerError: there are no shards, no model or no cluster, or the folder has other captions.
    """
    given = shards.find(places)
    began = time.perf_counter()
    there = failed = pictures = unreadable = new = 0
    with tqdm(total=len(given), unit=" shards", disable=None, dynamic_ncols=True) as bar:
        for done, before in caption(model, given, output, form, Search(beam, maximum_words)):
            bar.update()
            there += before
            pictures += done.pictures
            unreadable += done.unreadable
            new += 0 if before else done.pictures
            if done.problem:
                failed += 1
                with tqdm.external_write_mode():
                    typer.echo(f"caption: {done.problem}", err=True)
    seconds = time.perf_counter() - began
    parts = [
        f"{output} has the captions of {counted(pictures - unreadable, 'picture')} "
        f"in {counted(len(given) - failed, 'shard')}",
        *([f"{counted(unreadable, 'picture')} cannot be read"] if unreadable else []),
        *([_there(there)] if there else []),
        *([f"{counted(failed, 'shard')} could not be read"] if failed else []),
    ]
    took = f" {counted(new, 'picture')} took {seconds:,.1f} seconds." if new else ""
    typer.echo(f"{'; '.join(parts)}.{took}")
    return failed


def score_shards(places: Sequence[str], captions: str, output: str, metrics: Collection[str], as_json: bool) -> None:
    """Score the captions of the shards at some places, and print the scores.

    Raises:
        CaptionerError: see `captioner.inference.shard_scores.score`.
    """
    from captioner.inference.shard_scores import score

    found = score(shards.find(places), captions, output, metrics)
    if as_json:
        typer.echo(json_of(asdict(found) | {"statistics": output}, indent=2))
        return
    for name, value in found.scores.items():
        typer.echo(f"{name:8}{value:8.2f}")
    left_out = [
        *([f"{counted(found.unreadable, 'picture')} that cannot be read"] if found.unreadable else []),
        *(
            [f"{counted(found.without_references, 'picture')} without a usable caption in their shard"]
            if found.without_references
            else []
        ),
        *([f"{counted(found.unusable, 'unusable caption')}"] if found.unusable else []),
    ]
    sentences = [
        f"{counted(found.pictures, 'picture')} in {counted(found.shards, 'shard')}",
        *([f"left out: {', '.join(left_out)}"] if left_out else []),
        *([_there(found.there)] if found.there else []),
        f"statistics of each picture: {output}",
    ]
    typer.echo(f"{'; '.join(sentences)}.")


def _there(number: int) -> str:
    return f"{counted(number, 'shard')} {'was' if number == 1 else 'were'} there already"
