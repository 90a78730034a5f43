"""`run.json`: what of a run stands in no other output, so that any store can be given the run again."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from captioner.common.errors import CaptionerError
from captioner.common.files import write_json

RECORD = "run.json"


@dataclass
class Record:
    """What is known of a run beside the results of its stage.

    Attributes:
        run_id: in the store that held it first.
        name: shown in the UI.
        tags: to group and search by.
        params: that it was run with, by dotted name.
        began: milliseconds since 1970.
        ended: milliseconds since 1970.
        metrics: measured once, such as seconds a stage.
    """

    run_id: str
    name: str
    tags: dict[str, str]
    params: dict[str, Any]
    began: int = field(default_factory=lambda: timestamp())
    ended: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Write `run.json`."""
        write_json(directory / RECORD, asdict(self))

    @classmethod
    def read(cls, directory: Path) -> "Record":
        """Read `run.json`.

        Raises:
            CaptionerError: there is none, or it is damaged.
        """
        try:
            return cls(**json.loads((directory / RECORD).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            raise CaptionerError(f"{directory / RECORD} is missing or damaged: run `dvc repro`.") from None


def timestamp() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
