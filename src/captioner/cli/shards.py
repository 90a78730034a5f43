"""`captioner caption --shards`."""

import time
from collections.abc import Sequence
from pathlib import Path

import typer
from tqdm import tqdm

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
        *([f"{counted(there, 'shard')} {'was' if there == 1 else 'were'} there already"] if there else []),
        *([f"{counted(failed, 'shard')} could not be read"] if failed else []),
    ]
    took = f" {counted(new, 'picture')} took {seconds:,.1f} seconds." if new else ""
    typer.echo(f"{'; '.join(parts)}.{took}")
    return failed
