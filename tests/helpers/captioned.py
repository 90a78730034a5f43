"""Shards with captions in them, and captions as `captioner caption --shards` writes them, without a model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tarballs import pack

from captioner.data import shards
from captioner.data.shards import Shard
from captioner.inference.shards import Captions, Form

Told = tuple[Sequence[str], str | None]
"""What stands in the shard, and what was generated; nothing where the picture cannot be read."""


def write(folder: Path, content: Mapping[str, Mapping[str, Told]], form: Form = "jsonl") -> tuple[list[Shard], str]:
    """Write `crawl/` and `said/` in a folder, of told pictures by shard and key; return shards and folder."""
    for name, told in content.items():
        members = [
            member
            for key, (written, _) in told.items()
            for member in (
                (f"{key}.png", b"a picture"),
                (f"{key}.json", json.dumps({"caption": list(written)}).encode()),
            )
        ]
        pack(folder / f"crawl/{name}.tar", members)
    given, said = shards.find([str(folder / "crawl")]), str(folder / "said")
    captions = Captions(said, form)
    captions.begin({"version": 1, "format": form, "model": "a model"}, given)
    for shard in given:
        rows = [
            {"key": key, **({"error": "broken"} if spoken is None else {"caption": spoken, "log_probability": -1.0})}
            for key, (_, spoken) in content[shard.name].items()
        ]
        captions.put(shard, rows, 0.1)
    return given, said
