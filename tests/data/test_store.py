"""Packed data sets: written whole or not at all, equal from equal data, and read back."""

import errno
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from captioner.common.errors import CaptionerError
from captioner.data import store
from captioner.data.dataset import CAPTION_COLUMNS, OBJECT_COLUMNS, SPLITS, Dataset

FILES = {"images.zip", "captions.parquet", "objects.parquet"}


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade % 256, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def dataset(count: int = 6, unreadable: Iterable[int] = (), **parts: Any) -> Dataset:
    """Return a data set of `count` pictures with two captions each, every third of which is for testing."""
    broken = set(unreadable)
    names = [f"folder/ü {number}.png" for number in range(count)]
    rows = [(name, ("test", "train", "train")[i % 3], f"caption {j}") for i, name in enumerate(names) for j in range(2)]
    pictures = [(name, picture(i)[:40] if i in broken else picture(i)) for i, name in enumerate(names)]
    return Dataset(**{"captions": pd.DataFrame(rows, columns=CAPTION_COLUMNS), "pictures": pictures, **parts})


def objects(names: Iterable[str]) -> pd.DataFrame:
    return pd.DataFrame([(name, "circle", "red", "small", 1, 2, 3, 4) for name in names], columns=OBJECT_COLUMNS)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    whole = dataset(origin={"a.zip": "00ff"}, objects=objects(["folder/ü 1.png"]))
    packed = store.write(whole, tmp_path / "data")
    assert packed == store.Packed(pictures=6, captions=12, unreadable={})
    assert {path.name for path in (tmp_path / "data").iterdir()} == FILES
    assert store.read_skipped(tmp_path / "data") == 0
    pd.testing.assert_frame_equal(store.read_captions(tmp_path / "data"), whole.captions)
    pd.testing.assert_frame_equal(store.read_objects(tmp_path / "data"), whole.objects)
    names = [name for name, _ in whole.pictures]
    assert list(zip(names, store.read_pictures(tmp_path / "data", names), strict=True)) == whole.pictures
    assert json.loads(pq.read_schema(tmp_path / "data" / "captions.parquet").metadata[b"origin"]) == whole.origin


def test_pictures_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    whole = dataset()
    store.write(whole, tmp_path)
    pictures = dict(whole.pictures)
    asked = ["folder/ü 4.png", "folder/ü 0.png", "folder/ü 4.png"]
    assert list(store.read_pictures(tmp_path, asked)) == [pictures[name] for name in asked]


def test_no_objects_are_a_table_of_the_right_types(tmp_path: Path) -> None:
    store.write(dataset(), tmp_path)
    table = store.read_objects(tmp_path)
    assert table.empty
    assert list(table.columns) == OBJECT_COLUMNS
    assert list(table.dtypes.astype(str)) == ["str"] * 4 + ["int64"] * 4


def test_equal_data_gives_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(dataset(40, origin={"a": "1", "b": "2"}), tmp_path / "one")
    monkeypatch.setattr("time.localtime", lambda *_: (2031, 1, 1, 1, 1, 1, 0, 0, 0))
    again = dataset(40, origin={"b": "2", "a": "1"})
    # What pandas remembers of a table besides its rows does not count.
    store.write(
        dataset(40, captions=again.captions.set_index(again.captions.index + 7), origin=again.origin), tmp_path / "two"
    )
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_pictures_are_asked_for_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captioner.common.threads.cores", lambda: 2)
    asked = written = most = 0
    writestr = zipfile.ZipFile.writestr

    def counted(*arguments: Any) -> None:
        nonlocal written
        written += 1
        writestr(*arguments)

    def pictures(source: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        nonlocal asked, most
        for item in source:
            asked += 1
            most = max(most, asked - written)
            yield item

    monkeypatch.setattr(zipfile.ZipFile, "writestr", counted)
    whole = dataset(100)
    store.write(dataset(100, pictures=pictures(whole.pictures)), tmp_path)
    assert asked == written == 100
    assert most <= 10


def test_unreadable_pictures_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name, _ in dataset(300).pictures]
    given = dataset(300, unreadable=[7, 100, 299], objects=objects(names))
    packed = store.write(given, tmp_path, skip_unreadable=True)
    bad = [names[7], names[100], names[299]]
    assert (packed.pictures, packed.captions) == (297, 594)
    assert list(packed.unreadable) == bad
    said = capsys.readouterr().err
    assert "unreadable pictures (3): folder/ü 7.png: no picture, or one cut short" in said
    assert said.count("\n") == 1 and "(picture 8 of 300)" in said
    assert store.read_skipped(tmp_path) == 3
    assert not store.read_captions(tmp_path)["image"].isin(bad).any()
    assert not store.read_objects(tmp_path)["image"].isin(bad).any()
    with pytest.raises(CaptionerError, match=r"no member folder/ü 7\.png"):
        list(store.read_pictures(tmp_path, bad))


@pytest.mark.parametrize("count, bad", [(300, 4), (1000, 1), (20, 20)])
def test_unreadable_pictures_are_refused(count: int, bad: int, tmp_path: Path) -> None:
    with pytest.raises(
        CaptionerError,
        match=rf"unreadable pictures \({bad}\): folder/ü 0\.png: .* \(picture 1 of {count:,}\).*skip_unreadable",
    ) as raised:
        store.write(dataset(count, unreadable=range(bad)), tmp_path)
    assert str(raised.value).count(".png: ") == min(bad, 10)
    assert ("and 10 more" in str(raised.value)) == (bad == 20)
    assert not list(tmp_path.iterdir())


def broken_off(pictures: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    yield from list(pictures)[:3]
    raise CaptionerError("the archive is damaged")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda whole: {"pictures": whole.pictures[:4]},
            "absent pictures that have captions \\(2\\): folder/ü 4.png, folder/ü 5",
        ),
        (lambda whole: {"pictures": []}, "absent pictures that have captions \\(6\\)"),
        (lambda whole: {"pictures": whole.pictures + whole.pictures[:1]}, "folder/ü 0.png came twice"),
        (lambda whole: {"pictures": broken_off(whole.pictures)}, "the archive is damaged"),
        (lambda whole: {"captions": whole.captions.assign(split="test")}, "no captions to train on are left"),
        (lambda whole: {"captions": whole.captions[:0]}, "no captions to train on are left"),
        (lambda whole: {"captions": whole.captions.assign(split="dev")}, "unknown splits dev: allowed are train"),
    ],
)
def test_data_that_does_not_fit_together_is_refused(
    change: Callable[[Dataset], dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CaptionerError, match=message):
        store.write(dataset(**change(dataset())), tmp_path)
    assert not list(tmp_path.iterdir())


def test_each_split_that_is_needed_needs_a_picture(tmp_path: Path) -> None:
    with pytest.raises(
        CaptionerError, match=r"no pictures in validation, of 6 in all: each of train, validation, test"
    ):
        store.write(dataset(), tmp_path, SPLITS)
    whole = dataset(300, unreadable=[7])
    name = whole.pictures[7][0]  # type: ignore[index]
    split = whole.captions["split"].where(whole.captions["image"] != name, "validation")
    with pytest.raises(CaptionerError, match=r"no pictures in validation, of 299 in all: .*left out were unreadable"):
        given = dataset(300, unreadable=[7], captions=whole.captions.assign(split=split))
        store.write(given, tmp_path, SPLITS, skip_unreadable=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "place", ["zipfile._ZipWriteFile.write", "pyarrow.parquet.write_table", "pathlib.Path.replace"]
)
def test_a_full_disk_leaves_what_was_there(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store.write(dataset(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(place, full)
    with pytest.raises(CaptionerError, match=r"cannot write to .* \(No space left on device\): fix that"):
        store.write(dataset(9), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "name, read",
    [
        ("captions.parquet", store.read_captions),
        ("objects.parquet", store.read_objects),
        ("images.zip", lambda directory: list(store.read_pictures(directory, ["folder/ü 0.png"]))),
    ],
)
def test_a_missing_or_truncated_file_is_named(name: str, read: Callable[[Path], object], tmp_path: Path) -> None:
    store.write(dataset(), tmp_path)
    whole = (tmp_path / name).read_bytes()
    for share in (0, 0.5, 0.99):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CaptionerError, match=f"{name} is damaged or cut short") as raised:
            read(tmp_path)
        assert "\n" not in str(raised.value)
    (tmp_path / name).unlink()
    with pytest.raises(CaptionerError, match=f"there is no .*{name}"):
        read(tmp_path)


def test_a_table_of_other_columns_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"image": ["a"]}).to_parquet(tmp_path / "captions.parquet")
    with pytest.raises(CaptionerError, match="has the columns image, expected are image, split, caption"):
        store.read_captions(tmp_path)
