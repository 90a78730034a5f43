"""The lesson: made from its script, committed without outputs, and it runs from top to bottom."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from checkout import ROOT
from eagerly import eager_pythonpath
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

NOTEBOOKS = ROOT / "notebooks"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS / "attention.ipynb", as_version=4)


def test_it_is_what_jupytext_makes_of_the_script(notebook: nbformat.NotebookNode) -> None:
    made = jupytext.read(NOTEBOOKS / "attention.py")
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in made.cells
    ], "run `make notebook`"


def test_it_is_valid_and_has_no_outputs(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_it_runs_from_top_to_bottom(
    notebook: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTIONER_NOTEBOOK_PICTURES", "24")
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "kernel"))
    monkeypatch.setenv("PYTHONPATH", eager_pythonpath())
    here = tmp_path / "here"
    here.mkdir()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": here}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 6
    said = "".join(output.get("text", "") for output in shown)
    for answer in (
        "by hand as by the layer",
        "A step takes",
        "After a tenth",
        "One more pass",
        "the cell, word by word",
        "From uniform to dot the likelihood goes from",
        "The rarest word",
    ):
        assert answer in said
    assert not list(here.iterdir()), "a notebook shows its pictures, and writes none"
