"""Flickr8k: 8,000 photographs of people and dogs in action, five captions each, in the official split.

Hodosh, Young and Hockenmaier, "Framing Image Description as a Ranking Task", 2013.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pandas as pd

from captioner.common.errors import CaptionerError, quoted
from captioner.data.archives import open_zip, read_member
from captioner.data.dataset import CAPTION_COLUMNS, Dataset
from captioner.datasets.fetch import fetch

RELEASE = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
PICTURES = f"{RELEASE}/Flickr8k_Dataset.zip"
TEXT = f"{RELEASE}/Flickr8k_text.zip"

CAPTIONS = "Flickr8k.token.txt"
SPLIT_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "validation": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
PICTURES_IN_SPLIT = {"train": 6000, "validation": 1000, "test": 1000}
CAPTIONS_A_PICTURE = 5


def load(directory: Path, mirror: Path | None) -> Dataset:
    """Return Flickr8k's captions as published, with the pictures still in their archive.

    Left out are the pictures in no split, and the captions of a picture that does not exist.

    Args:
        directory: where downloaded archives go.
        mirror: directory that holds `flickr8k/<archive name>`, used in place of the network.

    Raises:
        CaptionerError: an archive cannot be obtained or is damaged, or does not hold what was published.
    """
    text = fetch(TEXT, dataset="flickr8k", directory=directory, mirror=mirror)
    pictures = fetch(PICTURES, dataset="flickr8k", directory=directory, mirror=mirror)
    captions = _captions(text.path)
    members = _members(pictures.path)
    names = list(dict.fromkeys(captions["image"]))
    absent = [name for name in names if name not in members]
    if absent:
        raise CaptionerError(
            f"{pictures.path} lacks {len(absent):,} of {len(names):,} pictures, first {absent[0]}: "
            "delete it and run again to get the whole one"
        )
    origin = {archive.path.name: archive.sha256 for archive in (pictures, text)}
    number = captions.groupby("image", sort=False).cumcount()
    places = [f"{CAPTIONS}, {image}#{place}" for image, place in zip(captions["image"], number, strict=True)]
    read = _read(pictures.path, [(name, members[name]) for name in names])
    return Dataset(captions, read, origin=origin, places=places)


def _captions(path: Path) -> pd.DataFrame:
    """Return the table of captions, in the order of the official lists of pictures."""
    with open_zip(path) as archive:
        captions = _published_captions(path, _lines(path, archive, CAPTIONS))
        splits = {split: _lines(path, archive, name) for split, name in SPLIT_LISTS.items()}
    for split, names in splits.items():
        if len(set(names)) != PICTURES_IN_SPLIT[split]:
            raise _unexpected(path, f"{len(set(names)):,} pictures in {split}", f"{PICTURES_IN_SPLIT[split]:,}")
        for name in names:
            if len(captions.get(name, [])) != CAPTIONS_A_PICTURE:
                found = f"{len(captions.get(name, []))} captions of {name}"
                raise _unexpected(path, found, f"{CAPTIONS_A_PICTURE}")
    rows = [(name, split, text) for split, names in splits.items() for name in names for text in captions[name]]
    table = pd.DataFrame(rows, columns=CAPTION_COLUMNS)
    expected = sum(PICTURES_IN_SPLIT.values())
    if table["image"].nunique() != expected:
        raise _unexpected(path, f"{table['image'].nunique():,} pictures in all splits together", f"{expected:,}")
    return table


def _published_captions(path: Path, lines: list[str]) -> dict[str, list[str]]:
    """Return the captions by picture; a line is `<picture>#<number><tab><caption>`."""
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        key, _, caption = line.partition("\t")
        if "#" not in key or not caption.strip():
            raise _unexpected(
                path, f"line {number} of {CAPTIONS} as {quoted(line)}", "<picture>#<number><tab><caption>"
            )
        captions.setdefault(key.rpartition("#")[0], []).append(caption.strip())
    return captions


def _lines(path: Path, archive: zipfile.ZipFile, name: str) -> list[str]:
    try:
        text = read_member(archive, name).decode()
    except UnicodeDecodeError as error:
        raise _unexpected(path, f"{name} with {error}", "UTF-8") from None
    return [line.strip() for line in text.split("\n") if line.strip()]


def _unexpected(path: Path, found: str, expected: str) -> CaptionerError:
    return CaptionerError(
        f"{path} has {found}, published is {expected}: delete it and run again to get the published one"
    )


def _members(path: Path) -> dict[str, str]:
    """Return the archive's member by name of picture."""
    with open_zip(path) as archive:
        names = [PurePosixPath(name) for name in archive.namelist() if name.endswith(".jpg")]
    # What macOS adds to the archive are no pictures, though named as if.
    return {name.name: str(name) for name in names if "__MACOSX" not in name.parts}


def _read(path: Path, members: list[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    with open_zip(path) as archive:
        for name, member in members:
            yield name, read_member(archive, member)
