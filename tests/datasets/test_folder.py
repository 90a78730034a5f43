"""A folder of pictures with captions as people write them."""

import io
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from captioner.common.errors import CaptionerError
from captioner.common.fingerprints import FileHashes
from captioner.data import store
from captioner.data.dataset import SPLITS
from captioner.datasets import folder

PNG = io.BytesIO()
Image.new("RGB", (8, 8)).save(PNG, "PNG")

Rows = list[tuple[str, str, str]]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "c.jpg", "more/d e.png", "ü.jpg"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "pictures"


def rows(pictures: Path, content: str | bytes | list | dict, name: str = "captions.csv") -> Rows:
    if isinstance(content, (list, dict)):
        content, name = json.dumps(content), "captions.json"
    data = content.encode() if isinstance(content, str) else content
    (pictures / name).write_bytes(data)
    table = folder.load(pictures, name).captions
    assert list(table.columns) == ["image", "split", "caption"]
    return list(table.itertuples(index=False, name=None))


ONE = [("a.jpg", "train", "A dog")]
TWO = [("a.jpg", "train", "A dog"), ("b.jpg", "validation", "A cat, asleep")]


@pytest.mark.parametrize(
    "content, expected",
    [
        ("image,caption\na.jpg,A dog\n", ONE),
        ("image,caption\r\na.jpg,A dog\r\n", ONE),
        ("\ufeffimage,caption\na.jpg,A dog", ONE),
        ("\n\nimage,caption\n\na.jpg,A dog\n,\n\n", ONE),
        (" image , caption \n a.jpg , A  dog \n", ONE),
        ("caption,note,image\nA dog,seen,a.jpg\n", ONE),
        ("image,caption,split\na.jpg,A dog,\n", ONE),
        ('image,caption\na.jpg,"A\r\n dog"\n', ONE),
        ("image,caption\n./a.jpg,A dog\n", ONE),
        ("image,caption\ra.jpg,A dog\r", ONE),
        ("image,caption\nmore\\d e.png,A dog\n", [("more/d e.png", "train", "A dog")]),
        (".\\a.jpg".join(["image,caption\n", ",A dog\n"]), ONE),
        ("image,caption\nu\u0308.jpg,A dog\n", [("ü.jpg", "train", "A dog")]),
        ('image,caption,split\na.jpg,A dog,train\nb.jpg,"A cat, asleep",val\n', TWO),
        ('image,caption,split\na.jpg,A dog,train\nb.jpg,"A cat, asleep",dev\n', TWO),
        ('image,split,caption\na.jpg,train,A dog\nb.jpg,validation,"A cat, asleep"\n', TWO),
        ('image,caption\na.jpg,"A ""dog"""\n', [("a.jpg", "train", 'A "dog"')]),
        ("image,caption\nmore/d e.png,A dog\n", [("more/d e.png", "train", "A dog")]),
        ("image,caption\nü.jpg,Ein Hündchen\n", [("ü.jpg", "train", "Ein Hündchen")]),
        (f"image,caption\na.jpg,{'long ' * 40_000}\n", [("a.jpg", "train", "long " * 39_999 + "long")]),
        ([{"image": "a.jpg", "caption": "A dog"}], ONE),
        ([{"image": "a.jpg", "caption": "A dog", "split": None}], ONE),
        ([{"image": "a.jpg", "captions": ["A\ndog"]}], ONE),
        ({"a.jpg": ["A dog"]}, ONE),
        (
            [
                {"image": "a.jpg", "captions": ["A dog"], "split": "train"},
                {"image": "b.jpg", "caption": "A cat, asleep", "split": "val"},
            ],
            TWO,
        ),
        ({"a.jpg": ["A dog", "A dog", "One"]}, [("a.jpg", "train", text) for text in ("A dog", "A dog", "One")]),
    ],
)
def test_captions_are_read(content: str | list | dict, expected: Rows, pictures: Path) -> None:
    assert rows(pictures, content) == expected


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "has no captions"),
        ("image,caption\n", "has no captions"),
        ("a.jpg,A dog\n", "line 1: no column image and caption: the first line"),
        ("\nimage;caption\na.jpg;A dog\n", "line 2: no column image and caption: the"),
        ("image,text\na.jpg,A dog\n", "line 1: no column caption: the first"),
        ("image,image,caption\na.jpg,a.jpg,A dog\n", "line 1: a column twice"),
        ("image,caption\na.jpg,A dog, asleep\n", "line 2: 3 fields, the header has 2: put captions"),
        ("image,caption,split\na.jpg,A dog\n", "line 2: 2 fields, the header has 3"),
        ('image,caption\na.jpg,A dog\nb.jpg,"A\ncat"\nx.jpg,A cow\n', "line 5: there is no image 'x.jpg'"),
        ("image,caption\nmore,A dog\n", "line 2: there is no image 'more'"),
        ("image,caption\n,A dog\n", "line 2: there is no image ''"),
        (f"image,caption\n{'x' * 5000},A dog\n", "line 2: there is no image"),
        ("image,caption\na.jpg,  \n", "line 2: an empty caption of 'a.jpg'"),
        ('image,caption\na.jpg,"A dog\n', "line 2: unexpected end of data"),
        ('image,caption\na.jpg,"A" dog\n', "line 2: ',' expected after '\"'"),
        ("image,caption,split\na.jpg,A dog,Train\n", "line 2: unknown split 'Train': allowed are train, validation"),
        ("image,caption,split\na.jpg,A,train\na.jpg,B,test\n", "line 3: the image 'a.jpg' is in train and in test"),
        ("image,caption,split\na.jpg,A,train\n./a.jpg,B,test\n", "line 3: the image 'a.jpg' is in train and in test"),
        ("image,caption,split\na.jpg,A,train\nb.jpg,B,\n", "line 3: no split, though others have one"),
        ("image,caption,split\na.jpg,A,val\nb.jpg,B,test\n", "no captions to train on"),
        ("image,caption\n../a.jpg,A dog\n", "line 2: the image '../a.jpg' leads out of the folder"),
        ("image,caption\nmore/../a.jpg,A dog\n", "line 2: .* leads out"),
        ("image,caption\n/etc/passwd,A dog\n", "line 2: .* leads out"),
        ("image,caption\nmore\\..\\..\\a.jpg,A dog\n", "line 2: .* leads out .* with /"),
        ("image,caption\nmore\\x.png,A dog\n", "line 2: there is no image"),
        ("image,caption\nC:/a.jpg,A dog\n", "line 2: .* leads out"),
        ("image,caption\nC:\\pictures\\a.jpg,A dog\n", "line 2: .* leads out"),
        ("image,caption\na:b.jpg,A dog\n", "line 2: there is no image 'a:b.jpg'"),
        ("image,caption\n12:30.jpg,A dog\n", "line 2: there is no image '12:30.jpg'"),
        ("image,caption\nA.JPG,A dog\n", "line 2: .* 'A.JPG' is not there, but 'a.jpg' is: .* capitals"),
        ("image,caption\nMore/D e.png,A dog\n", "line 2: .* 'more/d e.png' is"),
        ("image,caption\na\x07.jpg,A dog\n", "line 2: .* control character"),
        ("image,caption\na.jpg\0,A dog\n", "line 2: a NUL character"),
        ("image,caption\na.jpg,A dog\nb.jpg,A \0cat\n", "line 3: a NUL character"),
        ('image,caption\na.jpg,"A\nb.jpg,B\nc.jpg,C"\n', "line 2: a quote opens here and closes in line 4, .* line 3"),
        ('image,caption\na.jpg,x\nb.jpg,"B\nc.jpg,C"\na.jpg,D\n', "line 3: a quote .* in line 4, though line 4 looks"),
        ('image,caption,split\na.jpg,"A\nb.jpg,B,val\nc.jpg,C",test\n', "line 2: a quote opens here"),
        ('image,caption\n"a.jpg,A\nb.jpg",B\n', "line 2: a quote opens here"),
        ("image\tcaption\na.jpg\tA dog\n", "line 1: no column .* with commas between them, not tabs"),
        ("image;caption\na.jpg;A dog\n", "line 1: no column .* with commas between them, not semicolons"),
        ("Image,Caption\na.jpg,A dog\n", "line 1: no column .* in lower case"),
        ("image," + "x" * 100_000 + "\n", "line 1: no column caption"),
        (b"image,caption\na.jpg,Ein H\xfcndchen\n", "line 2: byte 0xfc is no UTF-8: save the file as UTF-8"),
        ("image,caption\na.jpg,A dog\n".encode("utf-16"), "line 1: byte 0xff is no UTF-8"),
        ([], "has no captions"),
        ({}, "has no captions"),
        (["a.jpg"], 'entry 1: not an object with "image" and'),
        ([{"image": "a.jpg"}], "entry 1: not an object"),
        ([{"image": 7, "caption": "A dog"}], "entry 1: not an object"),
        ([{"image": "a.jpg", "caption": "A", "captions": ["B"]}], 'either "caption" or "captions"'),
        ([{"image": "a.jpg", "caption": ["A"]}], "entry 1: captions are a list of strings"),
        ([{"image": "a.jpg", "captions": "A"}], "entry 1: captions are a list of strings"),
        ([{"image": "a.jpg", "captions": []}], "entry 1: an empty list"),
        ([{"image": "a.jpg", "caption": "A"}, {"image": "a.jpg", "caption": " "}], "entry 2: an empty caption"),
        ([{"image": "a.jpg", "caption": "A", "split": 3}], "entry 1: captions are"),
        ([{"image": "a.jpg", "caption": "\ud800"}], "entry 1: half a character"),
        ([{"image": "\ud800", "caption": "A"}], "entry 1: there is no image"),
        ({"a.jpg": ["A dog"], "x.jpg": ["A cat"]}, "'x.jpg': there is no image 'x.jpg'"),
        ({"images": [{"id": 1}]}, "'images': captions are a list of strings"),
        ({"images": [{"id": 1}], "annotations": []}, "in the format of COCO"),
        ({"x" * 100_000: ["A"]}, "there is no image 'xxx"),
        ([{"image": "a.jpg", "caption": "A", "split": "x" * 100_000}], "entry 1: unknown split 'xxx"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_place(content: Any, message: str, pictures: Path) -> None:
    with pytest.raises(CaptionerError, match=message) as raised:
        rows(pictures, content)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 800
    assert "captions." in str(raised.value)


@pytest.mark.parametrize(
    "content, message",
    [
        ('[\n{"image": "a.jpg",}]', "line 2: no JSON"),
        ("", "line 1: no JSON"),
        ('"a.jpg"', "has no captions"),
        ("NaN", "has no captions"),
        ('{"a.jpg": ["A"], "a.jpg": ["B"]}', "'a.jpg' stands twice"),
        ("[" * 100_000, "no usable JSON"),
    ],
)
def test_bad_json_is_refused(content: str, message: str, pictures: Path) -> None:
    with pytest.raises(CaptionerError, match=message):
        rows(pictures, content, "captions.json")


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match=r"there is no folder .*nowhere"):
        folder.load(tmp_path / "nowhere")


def test_absent_captions_are_named(pictures: Path) -> None:
    with pytest.raises(CaptionerError, match=r"there is no .*captions\.csv: write it with the columns image,caption"):
        folder.load(pictures)


@pytest.mark.parametrize("name", ["../secret.csv", "more/../../secret.csv", "../pictures/../secret.json", "WHOLE"])
def test_captions_lie_in_the_folder(name: str, pictures: Path) -> None:
    secret = pictures.parent / "secret.csv"
    secret.write_text("hunter2:x:0:0\n", "utf-8")
    (pictures.parent / "secret.json").write_text("[]", "utf-8")
    name = name.replace("WHOLE", str(secret))
    with pytest.raises(CaptionerError, match=r"the file of captions .* leads out of the folder: put it into") as raised:
        folder.load(pictures, name)
    assert "hunter2" not in str(raised.value)
    hashes = FileHashes(pictures.parent / "hashes.json")
    assert folder.fingerprint(pictures, name, hashes) == {}


def test_captions_by_their_whole_path(pictures: Path) -> None:
    (pictures / "more/captions.csv").write_text("image,caption\na.jpg,A\n")
    for name in (str(pictures / "more/captions.csv"), "more/captions.csv", "./more/captions.csv"):
        assert len(folder.load(pictures, name).captions) == 1


def test_no_message_repeats_a_file_that_is_none_of_captions(pictures: Path) -> None:
    (pictures.parent / "secret").write_text("hunter2:x:0:0,hunter2\nhunter2:x:1:1\n", "utf-8")
    (pictures / "captions.csv").symlink_to("../secret")
    with pytest.raises(CaptionerError, match="line 1: no column image and caption") as raised:
        folder.load(pictures)
    assert "hunter2" not in str(raised.value)


def test_captions_that_are_linked_are_said(pictures: Path) -> None:
    (pictures.parent / "elsewhere.csv").write_text("image,caption\na.jpg,A\n")
    (pictures / "captions.csv").symlink_to("../elsewhere.csv")
    assert "links out of the folder, which are followed (1): 'captions.csv'" in folder.load(pictures).remarks


def test_pictures_come_once_each_in_the_order_of_the_captions(pictures: Path) -> None:
    (pictures / "captions.csv").write_text("image,caption\nmore/d e.png,A\nb.jpg,B\nmore/d e.png,C\n")
    dataset = folder.load(pictures)
    assert list(dataset.pictures) == [("more/d e.png", b"more/d e.png"), ("b.jpg", b"b.jpg")]
    assert list(dataset.origin) == ["captions.csv"]


def test_a_picture_that_goes_away_is_named(pictures: Path) -> None:
    (pictures / "captions.csv").write_text("image,caption\na.jpg,A\n")
    dataset = folder.load(pictures)
    (pictures / "a.jpg").unlink()
    with pytest.raises(CaptionerError, match=r"cannot read .*a\.jpg \(No such file"):
        list(dataset.pictures)


@pytest.mark.parametrize(
    "name", ["12:30.jpg", "c:a.jpg", "back\\slash.jpg", "blank.jpg ", "%41.jpg", "=1.jpg", "-a.jpg", "é#1.jpg"]
)
def test_odd_names_are_taken_packed_and_read_back(name: str, pictures: Path, tmp_path: Path) -> None:
    (pictures / name).write_bytes(PNG.getvalue())
    (pictures / "captions.json").write_text(json.dumps({name: ["A dog"]}))
    store.write(folder.load(pictures, "captions.json"), tmp_path / "data")
    assert list(store.read_pictures(tmp_path / "data", [name])) == [PNG.getvalue()]


def test_names_that_differ_only_in_how_accents_are_composed(pictures: Path) -> None:
    (pictures / "u\u0308.jpg").write_bytes(b"")
    assert rows(pictures, {"u\u0308.jpg": ["A"], "\u00fc.jpg": ["B"]})[0][0] == "u\u0308.jpg"
    for name in ("s\u0323\u0307.jpg", "s\u0307\u0323.jpg"):
        (pictures / name).write_bytes(b"")
    with pytest.raises(
        CaptionerError, match=r"may be 's\\u0307\\u0323.jpg' and 's\\u0323\\u0307.jpg', which look alike"
    ):
        rows(pictures, {"\u1e69.jpg": ["A"]})


def test_a_whole_path_in_the_folder(pictures: Path) -> None:
    assert rows(pictures, {str(pictures / "more/d e.png"): ["A dog"]}) == [("more/d e.png", "train", "A dog")]


def test_links(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.jpg").write_bytes(b"")
    (pictures / "link.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    (pictures / "inner.jpg").symlink_to("a.jpg")
    (pictures / "gone.jpg").symlink_to("nowhere.jpg")
    (pictures / "captions.json").write_text(json.dumps({"link.jpg": ["A"], "inner.jpg": ["B"]}))
    remarks = folder.load(pictures, "captions.json").remarks
    assert "links out of the folder, which are followed (1): 'link.jpg'" in remarks
    with pytest.raises(CaptionerError, match=r"'gone\.jpg' is a link to 'nowhere\.jpg', which is not there"):
        rows(pictures, {"gone.jpg": ["A"]})


def test_pictures_without_captions_are_said(pictures: Path) -> None:
    (pictures / ".hidden.jpg").touch()
    (pictures / "notes.txt").touch()
    (pictures / "captions.csv").write_text("image,caption\na.jpg,A\n")
    (said,) = folder.load(pictures).remarks
    assert said == "pictures without captions, which are left out (4): 'b.jpg', 'c.jpg', 'ü.jpg', …"


def test_captions_know_their_places(pictures: Path) -> None:
    (pictures / "captions.csv").write_text('image,caption\n\na.jpg,"A\nB"\nb.jpg,C\n')
    file = pictures / "captions.csv"
    assert folder.load(pictures).places == [f"{file}, line 3", f"{file}, line 5"]


@pytest.mark.parametrize("name", ["~/pictures", "$HOME/pictures", "x" * 3000])
def test_a_folder_that_cannot_be_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(CaptionerError, match="there is no folder") as raised:
        folder.load(tmp_path / name)
    assert ("write the whole path" in str(raised.value)) == ("pictures" in name) and len(str(raised.value)) < 500


@pytest.mark.parametrize("count", [3, 4, 10, 50, 1000])
def test_drawn_splits_are_about_80_10_10_and_none_is_empty(count: int, tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(count)]
    for name in names:
        (tmp_path / name).touch()
    counted = Counter(split for _, split, _ in rows(tmp_path, {name: ["A dog"] for name in names}))
    assert set(counted) == set(SPLITS)
    if count == 1000:
        assert counted["train"] == pytest.approx(800, abs=40)
        assert counted["test"] == pytest.approx(100, abs=30)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.integers(0, 40), min_size=3), st.randoms(use_true_random=False))
def test_drawn_splits_do_not_depend_on_order_or_captions(
    tmp_path: Path, numbers: set[int], generator: random.Random
) -> None:
    names = [f"{number}.jpg" for number in numbers]
    for name in names:
        (tmp_path / name).touch()
    once = {image: split for image, split, _ in rows(tmp_path, {name: ["A"] for name in names})}
    generator.shuffle(names)
    again = {image: split for image, split, _ in rows(tmp_path, {name: ["B", "C"] for name in names})}
    assert once == again
    assert set(once.values()) == set(SPLITS)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_any_text_is_captions_or_a_clear_error(pictures: Path, text: str) -> None:
    for head in ("", "image,caption\n", "image,caption,split\na.jpg,"):
        for name in ("captions.csv", "captions.json"):
            try:
                assert rows(pictures, (head + text).encode(errors="surrogatepass"), name)
            except CaptionerError as error:
                assert "captions." in str(error)
