"""Of a training's epochs, the one whose weights it kept."""

import math
from pathlib import Path
from typing import Any

import pytest

from captioner.common.errors import CaptionerError
from captioner.training.history import Kept, history


def test_what_is_written_is_read(tmp_path: Path) -> None:
    kept = Kept(3, "val_nll", 2.5)
    kept.write(tmp_path)
    assert Kept.read(tmp_path) == kept


@pytest.mark.parametrize(
    ("ciders", "expected"),
    [([5.0, 5.0, 4.0], 0), ([math.nan, 1.0, math.inf], 1), ([math.nan], None), (["NA"], None)],
)
def test_equal_and_undefined_ciders_of_an_older_version(
    tmp_path: Path, ciders: list[Any], expected: int | None
) -> None:
    rows = "".join(f"{epoch},{cider}\n" for epoch, cider in enumerate(ciders))
    (tmp_path / "history.csv").write_text(f"epoch,val_CIDEr\n{rows}")
    kept = Kept.read(tmp_path)
    assert (None if kept is None else kept.epoch) == expected


@pytest.mark.parametrize("text", [None, "", "nonsense\n1\n", "epoch,loss\nfirst,1\n", "epoch,loss\n0,much\n"])
def test_a_damaged_history(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "history.csv").write_text(text)
    if text == "":
        assert history(tmp_path) == {}
        return
    with pytest.raises(CaptionerError, match=r"history\.csv is missing or damaged: run `dvc repro`"):
        history(tmp_path)
