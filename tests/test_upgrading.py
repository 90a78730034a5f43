"""What was written and documented before there were subpackages still works: docs/upgrading.md."""

import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest
import tiny
from checkout import ROOT

from captioner import Captioner
from captioner._moved import MODULES, NAMES
from captioner.search.caption import captions_of

OLD = ROOT / "tests/upgrading/flat-layout-model"
"""A model as it was logged to MLflow then, without its copy of the code."""
DOCUMENTED = {
    "allocator": ["keep_freed_memory"],
    "attention": ["Attention", "BahdanauAttention", "DotProductAttention", "UniformAttention", "create"],
    "baselines": ["nll_of_frequencies"],
    "batches": ["CaptionBatches", "rows_of"],
    "bootstrap": ["LEVEL", "differences", "mean"],
    "configured": ["keras", "ops"],
    "datasets.dataset": ["CAPTION_COLUMNS", "Dataset", "captions_by_image"],
    "datasets.scenes": ["is_true", "load"],
    "decoder": ["Decoder", "TeacherForcing", "TokenCrossEntropy", "TokenNegativeLogLikelihood"],
    "encoders": ["build"],
    "errors": ["CaptionerError"],
    "features": ["Extractor", "Features"],
    "figures": ["COLOURS", "attention_figure"],
    "files": ["replacing"],
    "generation": ["Generator"],
    "images": ["decode"],
    "likelihood": ["nll_of_decoder"],
    "looking": ["attention_on_objects"],
    "model": ["Captioner"],
    "pyfunc": ["PicturesToCaptions"],
    "training": ["build", "train"],
    "vocabulary": ["SPECIAL_TOKENS", "START", "Vocabulary"],
    "wording": ["decimal", "digits", "probability"],
}


@pytest.mark.parametrize("module", DOCUMENTED)
def test_a_documented_path_imports_and_says_where_the_name_is_now(module: str) -> None:
    old = import_module(f"captioner.{module}")
    for name in DOCUMENTED[module]:
        with pytest.warns(DeprecationWarning, match=rf"captioner\.{module}\.{name} is captioner\.[a-z_.]+\.{name} now"):
            found = getattr(old, name)
        assert found is not None


def test_every_old_path_is_documented() -> None:
    page = (ROOT / "docs/upgrading.md").read_text("utf-8")
    for module in {*MODULES, *NAMES} - {"pyfunc"}:  # which is not for people
        assert f"`{module}`" in page or f"`{module}." in page or f"`captioner.{module}`" in page, module


@pytest.mark.slow
def test_the_import_statements_of_the_old_lesson_work() -> None:
    script = """
from captioner import encoders, figures, images
from captioner.attention import BahdanauAttention
from captioner.datasets import scenes
from captioner.datasets.dataset import captions_by_image
from captioner.errors import CaptionerError
from captioner.features import Extractor, Features
from captioner.model import Captioner
print(encoders.build.__module__, scenes.load.__module__, figures.attention_figure.__module__, images.decode.__module__)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [
        "captioner.encoders.networks",
        "captioner.datasets.scenes.drawing",
        "captioner.reports.attention_figure",
        "captioner.data.images",
    ]


def test_nothing_else_is_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"captioner\.nothing"):
        import_module("captioner.nothing")
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        import_module("captioner.model").Nothing  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        import_module("captioner.errors").Nothing  # noqa: B018


def test_the_package_itself_takes_no_old_path() -> None:
    modules = [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "src/captioner").rglob("*.py")
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for module in modules:
            if not module.endswith("__main__"):
                import_module(module)


def test_a_saved_model_captions_as_it_did() -> None:
    model = Captioner.load(OLD / "data/captioner")
    found = model.generator(2, batch_size=4).generate(tiny.features().grid)
    assert [caption.text for caption in captions_of(found, model.vocabulary, model.decoder.attention)] == tiny.SAID


def test_a_logged_model_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setattr("captioner.inference.captioner.Extractor", tiny.Extractor)
    with pytest.warns(DeprecationWarning, match="captioner.pyfunc._load_pyfunc is captioner.serving.pyfunc"):
        model = mlflow.pyfunc.load_model(str(OLD))
    assert model.predict([tiny.photograph(1)]) == [tiny.SAID[1]]


def test_the_old_model_is_small() -> None:
    assert sum(path.stat().st_size for path in OLD.rglob("*") if path.is_file()) < 100_000
