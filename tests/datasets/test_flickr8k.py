"""Flickr8k as published, and small archives of its form."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from captioner.common.errors import CaptionerError
from captioner.common.files import sha256
from captioner.datasets import flickr8k

SPLITS = {"train": ["a.jpg", "b.jpg", "c.jpg"], "validation": ["d.jpg"], "test": ["e.jpg"]}
PHANTOM = "phantom.jpg.1"
SPARE = "spare.jpg"
FOLDER = "Flicker8k_Dataset"

Text = dict[str, str]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flickr8k, "PICTURES_IN_SPLIT", {split: len(names) for split, names in SPLITS.items()})


def text() -> Text:
    """Return the members of a small archive of text: with a picture in no split and one that does not exist."""
    names = [name for names in SPLITS.values() for name in names] + [SPARE, PHANTOM]
    captions = [f"{name}#{number}\t {name} , caption {number} . " for name in reversed(names) for number in range(5)]
    lists = {flickr8k.SPLIT_LISTS[split]: "\n".join(names) + "\n" for split, names in SPLITS.items()}
    return {flickr8k.CAPTIONS: "\n".join(captions) + "\n", **lists, "__MACOSX/._readme.txt": "x"}


def pictures() -> dict[str, bytes]:
    names = [name for names in SPLITS.values() for name in names] + [SPARE]
    members = {f"{FOLDER}/{name}": name.encode() for name in names}
    return {**members, **{f"__MACOSX/{FOLDER}/{name}": b"no picture" for name in names}}


def mirror(directory: Path, text: Text, pictures: dict[str, bytes]) -> Path:
    folder = directory / "flickr8k"
    folder.mkdir()
    members: dict[str, dict] = {"Flickr8k_text.zip": text, "Flickr8k_Dataset.zip": pictures}
    for name, content in members.items():
        with zipfile.ZipFile(folder / name, "w") as archive:
            for member, data in content.items():
                archive.writestr(member, data)
    return directory


@pytest.mark.usefixtures("small")
def test_captions_and_pictures_come_as_published(tmp_path: Path) -> None:
    dataset = flickr8k.load(tmp_path / "unused", mirror(tmp_path, text(), pictures()))
    table = dataset.captions
    assert list(table.columns) == ["image", "split", "caption"]
    assert {split: list(dict.fromkeys(rows["image"])) for split, rows in table.groupby("split")} == SPLITS
    assert list(table["caption"][:5]) == [f"a.jpg , caption {number} ." for number in range(5)]
    assert len(table) == 25
    assert [(name, data.decode()) for name, data in dataset.pictures] == [
        (name, name) for names in SPLITS.values() for name in names
    ]
    assert dataset.objects.empty
    assert dataset.origin == {path.name: sha256(path) for path in (tmp_path / "flickr8k").iterdir()}


def without(member: str) -> Callable[[Text], Text]:
    return lambda text: {name: content for name, content in text.items() if name != member}


def replaced(member: str, old: str, new: str) -> Callable[[Text], Text]:
    return lambda text: {**text, member: text[member].replace(old, new, 1)}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "change, message",
    [
        (without(flickr8k.CAPTIONS), r"has no member Flickr8k\.token\.txt"),
        (without("Flickr_8k.devImages.txt"), r"has no member Flickr_8k\.devImages\.txt"),
        (replaced("Flickr_8k.trainImages.txt", "c.jpg\n", ""), "2 pictures in train, published is 3"),
        (replaced("Flickr_8k.testImages.txt", "e.jpg", "d.jpg"), "4 pictures in all splits together, published is 5"),
        (replaced("Flickr_8k.testImages.txt", "e.jpg", "x.jpg"), r"0 captions of x\.jpg, published is 5"),
        (replaced(flickr8k.CAPTIONS, "b.jpg#3", "spare.jpg#5"), r"4 captions of b\.jpg, published is 5"),
        (replaced(flickr8k.CAPTIONS, "#0\t", "#0 "), "line 1 of Flickr8k.token.txt as 'phantom"),
        (replaced(flickr8k.CAPTIONS, " spare.jpg , caption 1 . ", " "), "line 7 of Flickr8k.token.txt"),
    ],
)
def test_other_text_than_published_is_refused(change: Callable[[Text], Text], message: str, tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=message):
        flickr8k.load(tmp_path, mirror(tmp_path, change(text()), pictures()))


@pytest.mark.usefixtures("small")
def test_absent_pictures_are_counted(tmp_path: Path) -> None:
    few = {name: data for name, data in pictures().items() if not name.endswith(("b.jpg", "d.jpg"))}
    with pytest.raises(CaptionerError, match=r"lacks 2 of 5 pictures, first b\.jpg"):
        flickr8k.load(tmp_path, mirror(tmp_path, text(), few))


@pytest.mark.usefixtures("small")
def test_a_damaged_picture_is_an_error_of_the_archive(tmp_path: Path) -> None:
    directory = mirror(tmp_path, text(), {name: data * 50 for name, data in pictures().items()})
    path = directory / "flickr8k" / "Flickr8k_Dataset.zip"
    path.write_bytes(path.read_bytes().replace(b"c.jpgc.jpg", b"damaged...", 1))
    with pytest.raises(CaptionerError, match=r"Flickr8k_Dataset\.zip is damaged"):
        list(flickr8k.load(tmp_path, directory).pictures)


def test_the_published_archives_hold_what_is_expected() -> None:
    directory = Path(__file__).parents[3] / "shared" / "datasets"
    if not (directory / "flickr8k" / "Flickr8k_Dataset.zip").is_file():
        pytest.skip(f"the archives of Flickr8k are not in {directory}")
    dataset = flickr8k.load(Path("unused"), directory)
    assert dataset.captions.groupby("split")["image"].nunique().to_dict() == flickr8k.PICTURES_IN_SPLIT
    assert len(dataset.captions) == 40_000
    assert not dataset.captions["image"].str.startswith("2258277193").any()
    first = dataset.captions[dataset.captions["image"] == "1000268201_693b08cb0e.jpg"]
    assert first["caption"].iloc[0] == "A child in a pink dress is climbing up a set of stairs in an entry way ."
    name, data = next(iter(dataset.pictures))
    assert name == dataset.captions["image"].iloc[0]
    assert data.startswith(b"\xff\xd8")
