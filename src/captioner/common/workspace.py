"""The checkout around: where DVC, git and the default MLflow store are."""

from pathlib import Path


def checkout_of(directory: Path) -> Path:
    """Return the checkout that a directory lies in; if in none, the directory."""
    return next((each for each in (directory, *directory.parents) if (each / ".dvc").is_dir()), directory)
