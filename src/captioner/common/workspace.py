"""Where a checkout keeps what: paths counted from it, as `dvc.yaml` names them."""

from pathlib import Path

DATA = Path("data")
FINGERPRINTS = DATA / "fingerprints"
VOCABULARY = DATA / "vocabulary.json"
FEATURES = DATA / "features"
TRAINED_MODEL = Path("models/train")
MODEL = Path("models/captioner")  # of the last stage that trains
RESULTS = Path("results")
SECONDS = RESULTS / "seconds"
BLIND = RESULTS / "blind"
BASELINES = RESULTS / "baselines"
TRAINED = RESULTS / "train"
FINE_TUNED = RESULTS / "fine_tune"
TEST_FEATURES = FINE_TUNED / "features"  # of an encoder that has learned
EVALUATED = RESULTS / "evaluate"
STUDY = RESULTS / "study"
TRAINED_LAST = (FINE_TUNED, TRAINED)
"""Where the results of the last stage lie that trains: in the first that is there; older versions had the second."""


def trained_last(workspace: Path, record: str) -> Path:
    """Return the first of `TRAINED_LAST` that has a record in a workspace; the first of all if none has."""
    places = [workspace / place for place in TRAINED_LAST]
    return next((place for place in places if (place / record).is_file()), places[0])


def checkout_of(directory: Path) -> Path:
    """Return the checkout that a directory lies in; if in none, the directory."""
    return next((each for each in (directory, *directory.parents) if (each / ".dvc").is_dir()), directory)
