"""Which stages a change makes stale, asked of DVC on a pipeline whose outputs are all there."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import parameters
import pytest
import yaml
from checkout import ROOT
from dvc.repo import Repo

pytestmark = pytest.mark.slow

STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
LEARNING = ["blind", "train", "fine_tune", "evaluate"]

BY_FILE = {
    "__init__.py": [],
    "params.py": [],
    "common/errors.py": [],
    "data/images.py": [stage for stage in STAGES if stage != "fingerprint"],
    "text/vocabulary.py": ["download", "vocabulary", "blind", "baselines", "train", "fine_tune", "evaluate"],
    "datasets/fetch.py": ["download"],
    "datasets/scenes/grammar.py": ["download", "train", "fine_tune", "evaluate"],
    "encoders/networks.py": ["features", "fine_tune"],
    "features/extract.py": ["features", "fine_tune"],
    "features/store.py": ["features", *LEARNING],
    "model/attention/dot.py": LEARNING,
    "model/attention/__init__.py": LEARNING,
    "search/beam.py": ["train", "fine_tune", "evaluate"],
    "scoring/ngrams.py": ["baselines", "train", "fine_tune", "evaluate"],
    "training/fit.py": LEARNING,
    "reports/wording.py": ["evaluate"],
    "reports/report.html": ["evaluate"],
    "evaluation/results.py": ["evaluate"],
    "tracking/store.py": [],
    "comparison/views.py": [],
    "inference/web.py": [],
    "serving/demo.html": [],
    "cli/app.py": [],
}
"""By file of the package, the stages that run again when it changes, before those that follow from their outputs."""

BY_PARAMETER: dict[str, tuple[Any, list[str]]] = {
    "attention": ("uniform", ["train", "fine_tune"]),
    "encoder_training": ("fine_tuned", ["fine_tune"]),
    "seed": (7, ["blind", "train", "fine_tune", "evaluate"]),
    "vocabulary.minimum_count": (2, ["vocabulary"]),
    "vocabulary.tokens": ("bpe", ["vocabulary"]),
    "evaluate.samples": (2, ["evaluate"]),
    "features.encoder": ("mobilenet", ["features", "fine_tune"]),
    "features.image_size": (448, ["features"]),
    "features.crop": ("pad", ["features"]),
    "features.views": (2, ["features"]),
    "features.preprocessing": ("symmetric", ["features"]),
    "features.batch_size": (8, []),
    "model.state_size": (8, ["blind", "train", "fine_tune"]),
    "model.spatial_encoding": ("none", ["train", "fine_tune"]),
    "model.heads": (2, ["train", "fine_tune"]),
    "model.word_vectors": ("vectors.txt", ["train", "fine_tune"]),
    "train.scenes.attention_penalty": (1.0, ["train", "fine_tune"]),
    "train.scenes.epochs": (9, ["train"]),
    "train.scenes.learning_rate": (0.5, ["train", "fine_tune"]),
    "fine_tune.scenes.epochs": (9, ["fine_tune"]),
    "fine_tune.scenes.augmentation": ([], ["fine_tune"]),
    "fine_tune.flickr8k.epochs": (9, []),
    "train.scenes.blind_epochs": (9, ["blind"]),
    "train.scenes.blind_learning_rate": (0.5, ["blind"]),
    "train.scenes.patience": (9, ["blind", "train", "fine_tune"]),
    "train.scenes.workers": (2, ["train"]),
    "train.scenes.maximum_words": (9, ["blind", "baselines", "train", "fine_tune"]),
    "train.flickr8k.epochs": (9, []),
    "train.folder.maximum_words": (9, []),
    "train.shards.maximum_words": (9, []),
    "evaluate.beam": (1, ["evaluate"]),
    "evaluate.batch_size": (8, []),
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the pipeline in which every stage is up to date; what it has written are stand-ins."""
    place = tmp_path_factory.mktemp("pipeline")
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, place / name)
    parameters.write(place)
    for stage in STAGES.values():
        for out in stage["outs"]:
            [path] = [out] if isinstance(out, str) else out
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(f"{path}\n")
    # what stages read of directories that others write
    for directory, files in {
        "data/fingerprints": ["encoder.json", "pictures.json", "weights.json", "word_vectors.json"],
    }.items():
        (place / directory).unlink()
        (place / directory).mkdir()
        for file in files:
            (place / directory / file).write_text("{}\n")
    for command in (["init", "--no-scm", "--quiet"], ["commit", "--force", "--quiet"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=place, check=True)
    return place


def stale(place: Path) -> list[str]:
    found = Repo(str(place)).status()
    # a stage is named with the path of its dvc.yaml, seen from here
    changed = {name.rpartition(":")[2] for name in found if any(isinstance(entry, dict) for entry in found[name])}
    return [stage for stage in STAGES if stage in changed and stage != "fingerprint"]


def test_nothing_is_stale_where_nothing_changed(pipeline: Path) -> None:
    (pipeline / "src/captioner/data/__pycache__").mkdir(exist_ok=True)
    (pipeline / "src/captioner/data/__pycache__/images.pyc").write_bytes(b"compiled")
    assert stale(pipeline) == []


@pytest.mark.parametrize("file", BY_FILE)
def test_a_change_of_code(file: str, pipeline: Path) -> None:
    path = pipeline / "src/captioner" / file
    before = path.read_bytes()
    path.write_bytes(before + b"\n# a comment\n")
    try:
        assert stale(pipeline) == BY_FILE[file]
    finally:
        path.write_bytes(before)


def test_the_table_has_a_file_of_each_package() -> None:
    packages = {path.parent.name for path in (ROOT / "src/captioner").glob("*/__init__.py")}
    assert {file.partition("/")[0] for file in BY_FILE if "/" in file} == packages


@pytest.mark.parametrize("name", BY_PARAMETER)
def test_a_change_of_a_parameter(name: str, pipeline: Path) -> None:
    value, expected = BY_PARAMETER[name]
    parameters.write(pipeline, **{name: value})
    try:
        assert stale(pipeline) == expected
    finally:
        parameters.write(pipeline)
