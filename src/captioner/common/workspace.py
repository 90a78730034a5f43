"""Where a checkout keeps what: paths counted from it, as `dvc.yaml` names them."""

from pathlib import Path

DATA = Path("data")
FINGERPRINTS = DATA / "fingerprints"
VOCABULARY = DATA / "vocabulary.json"
FEATURES = DATA / "features"
MODEL = Path("models/captioner")
RESULTS = Path("results")
SECONDS = RESULTS / "seconds"
BLIND = RESULTS / "blind"
BASELINES = RESULTS / "baselines"
TRAINED = RESULTS / "train"
EVALUATED = RESULTS / "evaluate"
STUDY = RESULTS / "study"


def checkout_of(directory: Path) -> Path:
    """Return the checkout that a directory lies in; if in none, the directory."""
    return next((each for each in (directory, *directory.parents) if (each / ".dvc").is_dir()), directory)
