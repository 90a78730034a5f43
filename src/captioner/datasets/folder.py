"""Your own pictures: a folder of them, with a CSV or JSON file of captions."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from captioner.datasets.dataset import CAPTION_COLUMNS, SPLITS, Dataset
from captioner.datasets.fetch import CLIMBING
from captioner.errors import CaptionerError
from captioner.files import sha256
from captioner.fingerprints import FileHashes, combined

SPLIT_NAMES = {**{split: split for split in SPLITS}, "val": "validation", "dev": "validation"}
TRAIN_SHARE, VALIDATION_SHARE = 0.8, 0.1


@dataclass(frozen=True)
class _Row:
    """A caption as it stands in the file; `split` is empty where none is given, `place` is for messages."""

    place: str
    image: str
    split: str
    caption: str


def load(path: Path, captions: str = "captions.csv") -> Dataset:
    """Return the pictures of a folder that have captions.

    The captions are UTF-8, in one of these forms; an image is named by its path in the folder, with `/`:

    - CSV with the columns `image`, `caption` and, if you like, `split`; a row a caption;
    - JSON, a list of `{"image": ..., "caption": ...}`, or `"captions": [...]` for several, and, if you like, `"split"`;
    - JSON, `{"<image>": ["<caption>", ...], ...}`.

    Splits are `train`, `validation` (or `val`, `dev`) and `test`, given for all captions or for none. Where none is
    given, a hash of the image's name decides: about 80 % train, 10 % validation, 10 % test, whatever the order of the
    captions. Whitespace within a caption is folded to single spaces.

    Args:
        path: the folder.
        captions: the file of captions in the folder; JSON if it ends in `.json`, else CSV.

    Raises:
        CaptionerError: a folder, file, picture, column or caption is missing or is not as described above.
    """
    if not path.is_dir():
        raise CaptionerError(f"there is no folder {path}: give the path of the folder that holds your pictures")
    file = path / captions
    if not file.is_file():
        raise CaptionerError(
            f"there is no {file}: write it with the columns image,caption, or give the name of your CSV or JSON file"
        )
    text = _text(file)
    rows = _json_rows(file, text) if file.suffix.lower() == ".json" else _csv_rows(file, text)
    table = _table(path, rows)
    if not (table["split"] == "train").any():
        raise CaptionerError(f"{file} has no captions to train on: give some pictures the split train, or none a split")
    return Dataset(table, _read(path, list(dict.fromkeys(table["image"]))), origin={file.name: sha256(file)})


def fingerprint(path: Path, captions: str, hashes: FileHashes) -> dict[str, str]:
    """Return what tells whether the captions or one of their pictures changed; whether they are right, `load` says."""
    file = path / captions
    if not file.is_file():
        return {}
    try:
        pictures = {path / name: str(name) for name in load(path, captions).captions["image"].unique()}
    except CaptionerError:
        pictures = {}
    try:
        found = hashes.of([file, *pictures])
    except OSError:
        return {}
    return {
        "captions": found[file],
        "pictures": combined((name, found[picture]) for picture, name in pictures.items()),
    }


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CaptionerError(f"cannot read {file} ({error.strerror}): mend that and run again") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CaptionerError(
            f"{file}, line {line}: byte 0x{data[error.start]:02x} is no UTF-8: save the file as UTF-8"
        ) from None


def _csv_rows(file: Path, text: str) -> list[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    rows: list[_Row] = []
    header: list[str] | None = None
    line = 1
    try:
        for fields in reader:
            place = f"{file}, line {line}"
            line = reader.line_num + 1
            if not "".join(fields).strip():
                continue
            if header is None:
                header = _header(place, fields)
                continue
            if len(fields) != len(header):
                raise CaptionerError(
                    f"{place}: {len(fields)} fields, the header has {len(header)}: "
                    "put captions that contain a comma between double quotes"
                )
            row = dict(zip(header, fields, strict=True))
            rows.append(_Row(place, row["image"].strip(), row.get("split", "").strip(), row["caption"]))
    except csv.Error as error:
        raise CaptionerError(
            f"{file}, line {line}: {error}: put captions that contain quotes between double quotes, "
            'and write each quote within twice ("")'
        ) from None
    if not rows:
        raise CaptionerError(f"{file} has no captions: write a header image,caption and a line for each caption")
    return rows


def _header(place: str, fields: list[str]) -> list[str]:
    header = [field.strip() for field in fields]
    missing = [column for column in ("image", "caption") if column not in header]
    if missing:
        raise CaptionerError(
            f"{place}: no column {' and '.join(missing)} in {','.join(header)[:200]!r}: "
            "the first line names the columns, image,caption or image,caption,split"
        )
    if len(set(header)) != len(header):
        raise CaptionerError(f"{place}: a column twice in {','.join(header)[:200]!r}: name each once")
    return header


def _json_rows(file: Path, text: str) -> list[_Row]:
    try:
        content = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise CaptionerError(f"{file}, line {error.lineno}: no JSON ({error.msg}): mend that and run again") from None
    except (ValueError, RecursionError) as error:
        raise CaptionerError(f"{file}: no usable JSON ({error}): mend that and run again") from None
    if isinstance(content, dict):
        entries = [(f"{file}, {image!r}", {"image": image, "captions": texts}) for image, texts in content.items()]
    elif isinstance(content, list):
        entries = [(f"{file}, entry {number}", entry) for number, entry in enumerate(content, 1)]
    else:
        entries = []
    rows = [row for place, entry in entries for row in _entry_rows(place, entry)]
    if not rows:
        raise CaptionerError(
            f'{file} has no captions: write a list of {{"image": ..., "caption": ...}} or {{"<image>": ["<caption>"]}}'
        )
    return rows


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{name!r} stands twice in one object")
        content[name] = value
    return content


def _entry_rows(place: str, entry: Any) -> Iterator[_Row]:
    """Yield a row for each caption of an entry of JSON."""
    known = isinstance(entry, dict) and isinstance(entry.get("image"), str)
    if not known or ("caption" in entry) == ("captions" in entry):
        raise CaptionerError(f'{place}: not an object with "image" and either "caption" or "captions": mend that')
    texts = [entry["caption"]] if "caption" in entry else entry["captions"]
    split = entry.get("split") or ""
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or not isinstance(split, str):
        raise CaptionerError(f"{place}: captions are a list of strings, a caption and a split are strings: mend that")
    if not texts:
        raise CaptionerError(f"{place}: an empty list of captions: give it a caption or leave the picture out")
    for text in texts:
        yield _Row(place, entry["image"].strip(), split.strip(), text)


def _table(folder: Path, rows: list[_Row]) -> pd.DataFrame:
    """Return the table of captions after a look at each row."""
    names: dict[str, str] = {}
    checked = []
    for row in rows:
        if row.image not in names:
            names[row.image] = _picture(folder, row)
        checked.append((names[row.image], _split(row), _caption(row)))
    given = {split != "" for _, split, _ in checked}
    if given == {True, False}:
        row = next(row for row in rows if not row.split)
        raise CaptionerError(f"{row.place}: no split, though others have one: give it for all captions or for none")
    if given == {True}:
        _check_one_split(rows, checked)
    drawn = _draw_splits({image for image, _, _ in checked})
    return pd.DataFrame(
        [(image, split or drawn[image], caption) for image, split, caption in checked], columns=CAPTION_COLUMNS
    )


def _picture(folder: Path, row: _Row) -> str:
    """Return the picture's name in its plainest form, after a look whether it is there."""
    if CLIMBING.search(row.image):
        raise CaptionerError(
            f"{row.place}: the image {row.image!r} leads out of the folder: name it by its path in {folder}, with /"
        )
    name = str(PurePosixPath(row.image))
    try:
        found = (folder / name).is_file()
    # A name that no file can have: too long, or with half a character.
    except (OSError, UnicodeEncodeError):
        found = False
    if not found:
        raise CaptionerError(
            f"{row.place}: there is no image {row.image!r} in {folder}: add it, or remove its captions"
        )
    return name


def _split(row: _Row) -> str:
    if row.split and row.split not in SPLIT_NAMES:
        raise CaptionerError(f"{row.place}: unknown split {row.split!r}: allowed are {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES.get(row.split, "")


def _caption(row: _Row) -> str:
    caption = " ".join(row.caption.split())
    if not caption:
        raise CaptionerError(f"{row.place}: an empty caption of {row.image!r}: write one, or remove the row")
    try:
        caption.encode()
    except UnicodeEncodeError:
        raise CaptionerError(
            f"{row.place}: half a character (a lone surrogate) in the caption: write it whole"
        ) from None
    return caption


def _check_one_split(rows: list[_Row], checked: list[tuple[str, str, str]]) -> None:
    splits: dict[str, str] = {}
    for row, (image, split, _) in zip(rows, checked, strict=True):
        if splits.setdefault(image, split) != split:
            raise CaptionerError(
                f"{row.place}: the image {image!r} is in {splits[image]} and in {split}: give its captions one split"
            )


def _draw_splits(images: set[str]) -> dict[str, str]:
    """Return each image's split by the hash of its name; none is empty when there are three images or more."""
    hashes = sorted((int.from_bytes(hashlib.sha256(image.encode()).digest()) / 2**256, image) for image in images)
    train = sum(value < TRAIN_SHARE for value, _ in hashes)
    validation = sum(value < TRAIN_SHARE + VALIDATION_SHARE for value, _ in hashes)
    count = len(hashes)
    if count < 3:
        train = validation = count
    else:
        train = min(max(train, 1), count - 2)
        validation = min(max(validation, train + 1), count - 1)
    splits = ["train"] * train + ["validation"] * (validation - train) + ["test"] * (count - validation)
    return {image: split for (_, image), split in zip(hashes, splits, strict=True)}


def _read(folder: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise CaptionerError(f"cannot read {folder / name} ({error.strerror}): mend that and run again") from None
        yield name, data
