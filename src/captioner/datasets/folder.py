"""Your own pictures: a folder of them, with a CSV or JSON file of captions."""

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from captioner.common.errors import CaptionerError, quoted, reason
from captioner.common.files import read_bytes, read_text, sha256
from captioner.common.fingerprints import FileHashes, combined
from captioner.data.dataset import CAPTION_COLUMNS, SPLITS, Dataset
from captioner.data.images import MAXIMUM_BYTES, SUFFIXES
from captioner.datasets import splits
from captioner.datasets.checks import is_half

SPLIT_NAMES = {**{split: split for split in SPLITS}, "val": "validation", "dev": "validation"}
TRAIN_SHARE, VALIDATION_SHARE = 0.8, 0.1
NAMES_SHOWN = 3


@dataclass(frozen=True)
class _Row:
    """A caption as it stands in the file; `split` is empty where none is given, `place` is for messages."""

    place: str
    image: str
    split: str
    caption: str


def load(path: Path, captions: str = "captions.csv") -> Dataset:
    r"""Return the pictures of a folder that have captions.

    The captions are UTF-8, in one of these forms; an image is named by its path in the folder, with `/`:

    - CSV with the columns `image`, `caption` and, if you like, `split`; a row a caption; a caption between quotes may
      continue in the next line, unless that looks like a row;
    - JSON, a list of `{"image": ..., "caption": ...}`, or `"captions": [...]` for several, and, if you like, `"split"`;
    - JSON, `{"<image>": ["<caption>", ...], ...}`.

    Splits are `train`, `validation` (or `val`, `dev`) and `test`, given for all captions or for none. Where none is
    given, a hash of the image's name decides: about 80 % train, 10 % validation, 10 % test, whatever the order of the
    captions. Whitespace within a caption is folded to single spaces. An image is also found by a path of Windows (with
    `\`), by its whole path, and where its accents are composed otherwise than those of the name on the disk.

    Args:
        path: the folder.
        captions: the file of captions in the folder; JSON if it ends in `.json`, else CSV.

    Raises:
        CaptionerError: a folder, file, picture, column or caption is missing or is not as described above.
    """
    if not _is(path, Path.is_dir):
        home = "; ~ and $ are not replaced, write the whole path" if re.search(r"(^|/)~|\$", str(path)) else ""
        raise CaptionerError(
            f"there is no folder {quoted(str(path))}: give the path of the folder that holds your pictures{home}"
        )
    folder = _Folder(path)
    file = folder.captions(captions)
    text = read_text(file)
    rows = _json_rows(file, text) if file.suffix.lower() == ".json" else _csv_rows(file, text)
    table = _table(folder, rows)
    if not (table["split"] == "train").any():
        raise CaptionerError(f"{file} has no captions to train on: give some pictures the split train, or none a split")
    names = list(dict.fromkeys(table["image"]))
    return Dataset(
        table,
        _read(path, names),
        origin={file.name: sha256(file)},
        places=[row.place for row in rows],
        remarks=[*folder.without_captions(names), *folder.elsewhere([captions, *names])],
    )


def fingerprint(path: Path, captions: str, hashes: FileHashes) -> dict[str, str]:
    """Return what tells whether the captions or one of their pictures changed; whether they are right, `load` says."""
    try:
        file = _Folder(path).captions(captions)
    except CaptionerError:
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


class _Folder:
    """The files of a folder, by the names that people may give them."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def files(self) -> list[str]:
        """Paths in the folder, with `/`; hidden ones and linked folders are passed over."""
        found = []
        for directory, below, names in os.walk(self.path):
            below[:] = sorted(name for name in below if not name.startswith("."))
            inside = Path(directory).relative_to(self.path)
            seen = [name for name in sorted(names) if not name.startswith(".") and Path(directory, name).is_file()]
            found += [(inside / name).as_posix() for name in seen]
        return found

    @cached_property
    def alike(self) -> dict[str, list[str]]:
        """Files by a name in which neither case nor the form of letters with accents counts."""
        found: dict[str, list[str]] = {}
        for name in self.files:
            found.setdefault(_folded(name), []).append(name)
        return found

    def captions(self, name: str) -> Path:
        """Return the file of captions.

        Raises:
            CaptionerError: there is none of this name, or the name leads out of the folder.
        """
        inside = self._inside(name)
        if inside is None:
            raise CaptionerError(
                f"the file of captions {quoted(name)} leads out of the folder: put it into {self.path}, and name it by "
                "its path in there"
            )
        file = self.path / inside
        if not _is(file, Path.is_file):
            raise CaptionerError(
                f"there is no {file}: write it with the columns image,caption, or give the name of your CSV or JSON "
                "file"
            )
        return file

    def find(self, row: "_Row") -> str:
        """Return the path in the folder of a row's picture, in its plainest form.

        Raises:
            CaptionerError: there is none, or several.
        """
        asked, said = row.image.strip(), f"{row.place}: the image {quoted(row.image.strip())}"
        if any(unicodedata.category(character) == "Cc" for character in asked):
            raise CaptionerError(f"{said} has a control character in its name: take it out")
        # as stored, with blanks at the ends, or as Windows writes it
        for stored in dict.fromkeys((row.image, asked, asked.replace("\\", "/"))):
            inside = self._inside(stored)
            if inside is not None and _is(self.path / inside, Path.is_file):
                return inside
        name = self._inside(asked.replace("\\", "/"))
        if name is None or re.match(r"[A-Za-z]:[/\\]", asked):
            raise CaptionerError(f"{said} leads out of the folder: name it by its path in {self.path}, with /")
        near = self.alike.get(_folded(name), [])
        same = [one for one in near if _composed(one) == _composed(name)]
        if len(same) == 1:
            return same[0]
        if same:
            shown = " and ".join(ascii(one) for one in same)
            raise CaptionerError(f"{said} may be {shown}, which look alike: rename one of them")
        if near:
            raise CaptionerError(f"{said} is not there, but {quoted(near[0])} is: write it with the same capitals")
        if _is(self.path / name, Path.is_symlink):
            target = quoted(str((self.path / name).readlink()))
            raise CaptionerError(f"{said} is a link to {target}, which is not there: put the picture there")
        raise CaptionerError(
            f"{row.place}: there is no image {quoted(asked)} in {self.path}: add it, or remove its captions"
        )

    def _inside(self, name: str) -> str | None:
        """Return a path in the folder without `./`, none where it leads out."""
        path = PurePosixPath(name)
        if path.is_absolute():
            for folder in (self.path.absolute(), self.path.resolve()):
                if path.is_relative_to(folder):
                    path = path.relative_to(folder)
                    break
        return None if path.is_absolute() or ".." in path.parts else str(path)

    def without_captions(self, described: list[str]) -> list[str]:
        """Say which pictures nobody describes."""
        known = set(described)
        others = [name for name in self.files if PurePosixPath(name).suffix.lower() in SUFFIXES and name not in known]
        return [f"pictures without captions, which are left out ({len(others):,}): {_first(others)}"] if others else []

    def elsewhere(self, described: list[str]) -> list[str]:
        """Say which pictures are links to files outside of the folder."""
        home = self.path.resolve()
        linked = [name for name in described if not (self.path / name).resolve().is_relative_to(home)]
        return [f"links out of the folder, which are followed ({len(linked):,}): {_first(linked)}"] if linked else []


def _is(path: Path, kind: Any) -> bool:
    try:
        return bool(kind(path))
    # a name that no file can have: too long, or with half a character
    except (OSError, ValueError):
        return False


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).casefold())


def _first(names: list[str]) -> str:
    more = ", …" if len(names) > NAMES_SHOWN else ""
    return ", ".join(map(quoted, names[:NAMES_SHOWN])) + more


def _csv_rows(file: Path, text: str) -> list[_Row]:
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(lines, strict=True)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    rows: list[_Row] = []
    header: list[str] | None = None
    line = 1
    try:
        for fields in reader:
            place, further = f"{file}, line {line}", lines[line : reader.line_num]
            line = reader.line_num + 1
            if not "".join(fields).strip():
                continue
            if header is None:
                header = _header(place, fields)
                continue
            for number, swallowed in enumerate(further, line - len(further)):
                if swallowed.count(",") >= len(header) - 1:
                    raise CaptionerError(
                        f"{place}: a quote opens here and closes in line {line - 1}, though line {number} looks like a "
                        'row of its own: close it in its line, or write a quote that is part of a caption twice ("")'
                    )
            if len(fields) != len(header):
                raise CaptionerError(
                    f"{place}: {len(fields)} fields, the header has {len(header)}: "
                    "put captions that contain a comma between double quotes"
                )
            row = dict(zip(header, fields, strict=True))
            rows.append(_Row(place, row["image"], row.get("split", "").strip(), row["caption"]))
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
            f"{place}: no column {' and '.join(missing)}: "
            f"the first line names the columns, image,caption or image,caption,split, {_hint(header)}"
        )
    if len(set(header)) != len(header):
        raise CaptionerError(f"{place}: a column twice: name each once")
    return header


def _hint(header: list[str]) -> str:
    if {field.lower() for field in header} >= {"image", "caption"}:
        return "in lower case"
    parted = {";": "semicolons", "\t": "tabs", "|": "bars"}
    found = [name for sign, name in parted.items() if sign in ",".join(header)]
    return f"with commas between them, not {found[0]}" if found else "with commas between them"


def _json_rows(file: Path, text: str) -> list[_Row]:
    try:
        content = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise CaptionerError(f"{file}, line {error.lineno}: no JSON ({error.msg}): fix that and run again") from None
    except (ValueError, RecursionError) as error:
        raise CaptionerError(f"{file}: no usable JSON ({reason(error)}): fix that and run again") from None
    if isinstance(content, dict) and isinstance(content.get("annotations"), list) and "images" in content:
        raise CaptionerError(
            f'{file} is in the format of COCO: write it as a list of {{"image": ..., "caption": ...}}, '
            "the image by its path in the folder"
        )
    if isinstance(content, dict):
        entries = [
            (f"{file}, {quoted(image)}", {"image": image, "captions": texts}) for image, texts in content.items()
        ]
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
            raise ValueError(f"{quoted(name)} stands twice in one object")
        content[name] = value
    return content


def _entry_rows(place: str, entry: Any) -> Iterator[_Row]:
    """Yield a row for each caption of an entry of JSON."""
    known = isinstance(entry, dict) and isinstance(entry.get("image"), str)
    if not known or ("caption" in entry) == ("captions" in entry):
        raise CaptionerError(f'{place}: not an object with "image" and either "caption" or "captions": fix that')
    texts = [entry["caption"]] if "caption" in entry else entry["captions"]
    split = entry.get("split") or ""
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or not isinstance(split, str):
        raise CaptionerError(f"{place}: captions are a list of strings, a caption and a split are strings: fix that")
    if not texts:
        raise CaptionerError(f"{place}: an empty list of captions: give it a caption or leave the picture out")
    for text in texts:
        yield _Row(place, entry["image"], split.strip(), text)


def _table(folder: _Folder, rows: list[_Row]) -> pd.DataFrame:
    """Return the table of captions after a look at each row."""
    names: dict[str, str] = {}
    checked = []
    for row in rows:
        if row.image not in names:
            names[row.image] = folder.find(row)
        checked.append((names[row.image], _split(row), _caption(row)))
    given = {split != "" for _, split, _ in checked}
    if given == {True, False}:
        row = next(row for row in rows if not row.split)
        raise CaptionerError(f"{row.place}: no split, though others have one: give it for all captions or for none")
    if given == {True}:
        _check_one_split(rows, checked)
    drawn = splits.draw((image for image, _, _ in checked), TRAIN_SHARE, VALIDATION_SHARE)
    return pd.DataFrame(
        [(image, split or drawn[image], caption) for image, split, caption in checked], columns=CAPTION_COLUMNS
    )


def _split(row: _Row) -> str:
    if row.split and row.split not in SPLIT_NAMES:
        raise CaptionerError(f"{row.place}: unknown split {quoted(row.split)}: allowed are {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES.get(row.split, "")


def _caption(row: _Row) -> str:
    caption = " ".join(row.caption.split())
    if not caption:
        raise CaptionerError(
            f"{row.place}: an empty caption of {quoted(row.image.strip())}: write one, or remove the row"
        )
    if is_half(caption):
        raise CaptionerError(f"{row.place}: half a character (a lone surrogate) in the caption: write it whole")
    return caption


def _check_one_split(rows: list[_Row], checked: list[tuple[str, str, str]]) -> None:
    splits: dict[str, str] = {}
    for row, (image, split, _) in zip(rows, checked, strict=True):
        if splits.setdefault(image, split) != split:
            raise CaptionerError(
                f"{row.place}: the image {quoted(image)} is in {splits[image]} and in {split}: "
                "give its captions one split"
            )


def _read(folder: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        try:
            data = read_bytes(folder / name, MAXIMUM_BYTES)
        except OSError as error:
            raise CaptionerError(f"cannot read {folder / name} ({error.strerror}): fix that and run again") from None
        yield name, data
