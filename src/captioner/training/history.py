"""What a training leaves of its epochs: `history.csv`, their values, and `kept.json`, the one whose weights it kept."""

import csv
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from captioner.common.errors import CaptionerError
from captioner.common.files import write_json

HISTORY, KEPT = "history.csv", "kept.json"
CIDER, LIKELIHOOD = "val_CIDEr", "val_nll"
"""What the best epoch can be known by: the most of the first, or the least of the second."""


@dataclass(frozen=True)
class Kept:
    """The epoch whose weights a training keeps.

    Attributes:
        epoch: its number, counted from 0 as in `history.csv`.
        metric: by which it was chosen, `val_CIDEr` or `val_nll`. Of epochs with equal `val_CIDEr` it is the one with
            the least `val_nll`.
        value: of the metric.
    """

    epoch: int
    metric: str
    value: float

    def write(self, directory: Path) -> None:
        """Write `kept.json`."""
        write_json(directory / KEPT, asdict(self))

    @classmethod
    def read(cls, directory: Path) -> "Kept | None":
        """Read `kept.json` from the results of training.

        Where there is none, an older version trained: it kept the first epoch with the highest validation CIDEr.

        Returns:
            The epoch; none where that is not known.

        Raises:
            CaptionerError: `kept.json` or `history.csv` is damaged.
        """
        path = directory / KEPT
        try:
            found = json.loads(path.read_text("utf-8"))
            return cls(int(found["epoch"]), str(found["metric"]), float(found["value"]))
        except FileNotFoundError:
            ciders = {epoch: values.get(CIDER, math.nan) for epoch, values in history(directory).items()}
            finite = {epoch: value for epoch, value in ciders.items() if math.isfinite(value)}
            best = max(finite, key=lambda epoch: finite[epoch], default=None)
            return None if best is None else cls(best, CIDER, finite[best])
        except (OSError, ValueError, TypeError, KeyError):
            raise CaptionerError(f"{path} is damaged: run `dvc repro`.") from None


def history(directory: Path) -> dict[int, dict[str, float]]:
    """Return the values of `history.csv` by epoch, as far as they are numbers.

    Raises:
        CaptionerError: there is no such file, or it is damaged.
    """
    path = directory / HISTORY
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {
                int(row.pop("epoch")): {name: float(text) for name, text in row.items() if text not in ("", "NA")}
                for row in csv.DictReader(file)
            }
    except (OSError, ValueError, TypeError, KeyError):
        raise CaptionerError(f"{path} is missing or damaged: run `dvc repro`.") from None
