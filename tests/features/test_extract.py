import io
import json
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from captioner.common import interruption
from captioner.common.errors import CaptionerError
from captioner.data import images
from captioner.encoders import networks
from captioner.features import compiled as compiled_module
from captioner.features import extract as extract_module
from captioner.features.compiled import Compiled
from captioner.features.extract import FLUSHED, Extractor
from captioner.features.store import GRID, INDEX, Features
from captioner.features.views import view

pytestmark = pytest.mark.slow

LITE0 = "efficientnet_lite0"
NAMES = ["first.jpg", "zwölf.jpg", "a.jpg", "b.jpg", "last.jpg"]


def drawn(seed: int) -> bytes:
    """A JPEG of coloured patches, of a size that no encoder takes."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(patches).resize((300, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def jpegs() -> list[bytes]:
    return [drawn(seed) for seed in range(len(NAMES))]


@pytest.fixture(scope="session")
def pixels(jpegs: list[bytes]) -> np.ndarray:
    return np.stack([images.decode(jpeg) for jpeg in jpegs])


@pytest.fixture(scope="session")
def keras_grid(pixels: np.ndarray) -> np.ndarray:
    """What Keras makes of the pictures in float32, `[B, P, C]`."""
    return networks.build(LITE0).predict_on_batch(pixels).reshape(len(pixels), 49, 1280)


@pytest.fixture(scope="session")
def extractor() -> Extractor:
    return Extractor(LITE0, batch_size=2)


@pytest.fixture(scope="session")
def directory(jpegs: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of the pictures; the last batch is not full."""
    directory = tmp_path_factory.mktemp("data") / "features"
    Extractor(LITE0, batch_size=2).extract(iter(jpegs), NAMES, directory)
    return directory


@pytest.fixture
def prepared(extractor: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    """`extract` without building the encoder again."""
    monkeypatch.setattr(extract_module, "Extractor", lambda *arguments, **options: extractor)


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    """Features that a test may damage."""
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def assert_equal_in_float16(found: np.ndarray, expected: np.ndarray) -> None:
    """Half a unit of float16's last place, and what two orders of adding float32 numbers may differ by."""
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=2**-11, atol=1e-4)


# --- what is extracted -----------------------------------------------------------------------------------------------


def test_features_are_those_of_keras(directory: Path, keras_grid: np.ndarray) -> None:
    found = Features.open(directory)
    assert keras_grid.std() > 0.1
    assert_equal_in_float16(found.grid, keras_grid)


def test_inference_gives_what_training_saw(directory: Path, extractor: Extractor, pixels: np.ndarray) -> None:
    found = Features.open(directory)
    np.testing.assert_array_equal(extractor(pixels), found.grid)
    np.testing.assert_array_equal(extractor(pixels[3:4]), found.grid[3:4])
    assert extractor(pixels[:0]).shape == (0, 49, 1280)
    assert extractor.weights_sha256 == found.weights_sha256


def test_one_picture_at_a_time(pixels: np.ndarray, keras_grid: np.ndarray) -> None:
    assert_equal_in_float16(Extractor(LITE0, batch_size=1)(pixels[:2]), keras_grid[:2])


def test_nothing_is_compiled_for_a_picture_alone_until_the_second_one(
    monkeypatch: pytest.MonkeyPatch, directory: Path, pixels: np.ndarray, keras_grid: np.ndarray
) -> None:
    compiled = []
    compile_forward = compiled_module.compile_forward

    def counted(*arguments: Any, **options: Any) -> Any:
        compiled.append(arguments)
        return compile_forward(*arguments, **options)

    monkeypatch.setattr(extract_module, "compile_forward", counted)
    extractor = Extractor(LITE0)
    assert_equal_in_float16(extractor(pixels[3:4]), keras_grid[3:4])
    assert not compiled
    for _ in range(2):
        np.testing.assert_array_equal(extractor(pixels[3:4]), Features.open(directory).grid[3:4])
    assert len(compiled) == 1


def test_a_picture_alone_has_its_network_when_another_thread_compiles(
    pixels: np.ndarray, keras_grid: np.ndarray
) -> None:
    extractor = Extractor(LITE0)
    alone = extractor._network(alone=True).forward
    extractor(pixels[:2])
    assert_equal_in_float16(alone(pixels[:1]).reshape(1, 49, 1280), keras_grid[:1])


def test_a_data_set_of_one_picture_is_extracted_as_any(directory: Path, jpegs: list[bytes], tmp_path: Path) -> None:
    Extractor(LITE0).extract(jpegs[:1], NAMES[:1], tmp_path / "features")
    np.testing.assert_array_equal(Features.open(tmp_path / "features").grid, Features.open(directory).grid[:1])


def test_the_path_of_a_gpu_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray, keras_grid: np.ndarray
) -> None:
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind=None: [kind] if kind else [])
    monkeypatch.setattr(compiled_module, "_export", None)
    assert_equal_in_float16(Extractor(LITE0, batch_size=4)(pixels), keras_grid)


def test_another_size_and_crop(jpegs: list[bytes], tmp_path: Path) -> None:
    extractor = Extractor(LITE0, image_size=96, crop="center")
    extractor.extract(jpegs, NAMES, tmp_path / "features")
    found = Features.open(tmp_path / "features")
    assert (found.grid.shape[1:], found.image_size, found.crop) == ((9, 1280), 96, "center")
    seen = np.stack([images.decode(data, 96, "center") for data in jpegs])
    np.testing.assert_array_equal(found.grid, extractor(seen))
    made_by = {"image_size": 96, "crop": "center", "name": LITE0}
    assert found.made_by.items() >= made_by.items()


def test_views_stand_behind_the_pictures(
    jpegs: list[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extractor = Extractor(LITE0, image_size=64)
    viewed = [NAMES[2], NAMES[0]]
    extractor.extract(jpegs, NAMES, tmp_path / "features", 3, ([jpegs[2], jpegs[0]], viewed))
    said = f"{len(NAMES) + 4} feature maps, of {len(NAMES)} pictures and 4 further views, take 0.0 GB of disk and about"
    assert said in capsys.readouterr().out
    found = Features.open(tmp_path / "features")
    count = len(NAMES)
    assert found.views == {NAMES[2]: [2, count, count + 1], NAMES[0]: [0, count + 2, count + 3]}
    assert found.rows == {name: row for row, name in enumerate(NAMES)}
    for name, rows in found.views.items():
        data = jpegs[NAMES.index(name)]
        seen = np.stack([view(data, name, number, 64, "stretch") for number in range(3)])
        np.testing.assert_array_equal(found.grid[rows], extractor(seen))


def test_index(directory: Path, extractor: Extractor) -> None:
    assert sorted(path.name for path in directory.iterdir()) == ["grid.npy", "index.json"]
    assert json.loads((directory / "index.json").read_text(encoding="utf-8")) == {
        "encoder": LITE0,
        "weights": "imagenet",
        "weights_sha256": extractor.weights_sha256,
        "crop": "stretch",
        "preprocessing": "auto",
        "views": 1,
        "viewed": [],
        "network": None,
        "image_size": 224,
        "shape": [5, 49, 1280],
        "images": NAMES,
    }


def test_open(directory: Path) -> None:
    found = Features.open(directory)
    assert isinstance(found.grid, np.memmap)
    assert not found.grid.flags.writeable
    assert (found.encoder, found.weights) == (LITE0, "imagenet")
    assert (found.positions, found.channels) == (49, 1280)
    assert found.rows == {name: row for row, name in enumerate(NAMES)}


def test_extraction_is_repeatable(prepared: None, directory: Path, jpegs: list[bytes], tmp_path: Path) -> None:
    Extractor(LITE0, batch_size=2).extract(jpegs, NAMES, tmp_path / "again")
    for path in directory.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("together", "needed", "parts"), [(1, 5, [1] * 50), (3, 9, [3] * 16 + [2])])
def test_pictures_are_read_as_they_are_needed(
    monkeypatch: pytest.MonkeyPatch, jpegs: list[bytes], together: int, needed: int, parts: list[int]
) -> None:
    read = 0

    def pictures() -> Iterator[bytes]:
        nonlocal read
        for _ in range(50):
            read += 1
            yield jpegs[0]

    def forward(batch: np.ndarray) -> np.ndarray:
        return np.zeros((len(batch), 7, 7, 1280), np.float16)

    monkeypatch.setattr(extract_module, "compile_forward", lambda *_, **__: Compiled(forward, together))
    monkeypatch.setattr("captioner.common.threads.cores", lambda: 2)
    found = Extractor(LITE0).in_order((str(number), data, 0) for number, data in enumerate(pictures()))
    assert next(found).shape == (together, 49, 1280)
    assert read == needed
    assert [together, *map(len, found)] == parts


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError, SystemExit])
def test_extraction_stopped_half_way_leaves_nothing(
    stop: type[BaseException], prepared: None, jpegs: list[bytes], tmp_path: Path
) -> None:
    def pictures() -> Iterator[bytes]:
        yield from jpegs[:4]
        raise stop

    with pytest.raises(stop):
        Extractor(LITE0, batch_size=2).extract(pictures(), NAMES, tmp_path / "features")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("stop", "views"), [(3, 1), (5, 2)])
def test_an_interrupted_extraction_goes_on(
    stop: int,
    views: int,
    jpegs: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(interruption, "INTERVAL", 0.0)
    monkeypatch.setattr("captioner.common.threads.cores", lambda: 1)  # reads no more than two pictures ahead
    partial = tmp_path / "partial"
    partial.mkdir()
    made: list[int] = []

    class Counted(Extractor):
        def __call__(self, pictures: np.ndarray) -> np.ndarray:
            made.append(len(pictures))
            return super().__call__(pictures)

    def broken() -> Iterator[bytes]:
        yield from jpegs[:stop]
        raise KeyboardInterrupt

    extractor = Counted(LITE0, batch_size=2)

    def extract(pictures: Iterable[bytes], directory: Path, partial: Path | None) -> float:
        made.clear()
        return extractor.extract(pictures, NAMES, directory, views, (jpegs[:2], NAMES[:2]), partial)

    assert extract(jpegs, tmp_path / "whole", None) == 0
    with pytest.raises(KeyboardInterrupt):
        extract(broken(), tmp_path / "features", partial)
    done = json.loads((partial / FLUSHED).read_text("utf-8"))["rows"]
    assert 0 < done <= stop and not (tmp_path / "features").exists()
    with (partial / GRID).open("ab") as file:
        file.write(b"what did not reach the disk in order")
    capsys.readouterr()
    assert extract(jpegs, tmp_path / "features", partial) > 0
    rows, tried = len(NAMES) + 2 * (views - 1), 32 * (views - 1)  # how long views take is tried before
    assert f"Goes on after {done} of {rows} feature maps, where it was interrupted.\n" in capsys.readouterr().out
    assert sum(made) == rows - done + tried
    for name in (GRID, INDEX):
        assert (tmp_path / "features" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # killed after the last picture, and before the directory had its name
    extract(jpegs, tmp_path / "features", partial)
    assert sum(made) == tried
    assert (tmp_path / "features" / GRID).read_bytes() == (tmp_path / "whole" / GRID).read_bytes()


def test_extraction_stopped_half_way_keeps_what_was_there(prepared: None, jpegs: list[bytes], copy: Path) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(ValueError, match="shorter"):
        Extractor(LITE0, batch_size=2).extract(jpegs[:4], NAMES, copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_a_broken_picture_is_named(prepared: None, jpegs: list[bytes], tmp_path: Path) -> None:
    with pytest.raises(images.UnreadableImage, match=r"picture 'zwölf\.jpg': ") as caught:
        Extractor(LITE0, batch_size=2).extract([jpegs[0], b"nothing", *jpegs[2:]], NAMES, tmp_path / "features")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_values_beyond_float16(monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray) -> None:
    import keras

    build = networks.build

    def too_large(*asked: Any) -> keras.Model:
        model = build(*asked)
        return keras.Model(model.input, model.output + 7e4)

    monkeypatch.setattr(networks, "build", too_large)
    with pytest.raises(CaptionerError, match="float16 cannot hold"):
        Extractor(LITE0)(pixels)


@pytest.mark.parametrize(("value", "held"), [(65504.0, True), (np.inf, False), (-np.inf, False), (np.nan, False)])
def test_one_value_beyond_float16(
    monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray, value: float, held: bool
) -> None:
    def forward(batch: np.ndarray) -> np.ndarray:
        found = np.zeros((len(batch), 7, 7, 1280), np.float16)
        found[-1, 3, 3, 640] = value
        return found

    monkeypatch.setattr(extract_module, "compile_forward", lambda *_, **__: Compiled(forward, 1))
    with nullcontext() if held else pytest.raises(CaptionerError, match="float16 cannot hold"):
        assert Extractor(LITE0)(pixels).max() == value


def assert_damaged(directory: Path, message: str) -> None:
    with pytest.raises(CaptionerError, match=message) as caught:
        Features.open(directory)
    assert "dvc repro features" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bytes_left", [0, 5, 100, 128, 627_000, 627_327])
def test_grid_cut_short(copy: Path, bytes_left: int) -> None:
    whole = (copy / "grid.npy").read_bytes()
    assert len(whole) == 128 + 5 * 49 * 1280 * 2
    (copy / "grid.npy").write_bytes(whole[:bytes_left])
    expected = r"float16 values of the shape \(5, 49, 1280\)"
    assert_damaged(copy, rf"grid\.npy: found .*, expected {expected}")


def test_grid_with_more_behind_it(copy: Path) -> None:
    with (copy / "grid.npy").open("ab") as grid:
        grid.write(b"more")
    assert_damaged(copy, "found 627,332 bytes, where its header says 627,328")


@pytest.mark.parametrize(
    ("grid", "found"),
    [
        (np.zeros((4, 49, 1280), np.float16), r"float16 values of the shape \(4, 49, 1280\)"),
        (np.zeros((5, 49, 1024), np.float16), r"float16 values of the shape \(5, 49, 1024\)"),
        (np.zeros((5, 49, 1280), np.float32), "float32 values"),
    ],
)
def test_grid_of_another_shape(copy: Path, grid: np.ndarray, found: str) -> None:
    np.save(copy / "grid.npy", grid)
    assert_damaged(copy, rf"grid\.npy: found {found}.*, expected float16 values of the shape \(5, 49, 1280\)")


@pytest.mark.parametrize("name", ["grid.npy", "index.json"])
def test_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert_damaged(copy, f"{name}: found no file")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "it: invalid JSON"),
        ('{"encoder": ', "it: invalid JSON"),
        ("[]", "it: .*object"),
        ('{"encoder": "mobilenet"}', "weights: field required"),
        ('{"encoder": "mobilenet", "weights": 5}', "weights: input should be a valid string, received 5"),
    ],
)
def test_damaged_index(copy: Path, text: str, found: str) -> None:
    (copy / "index.json").write_text(text)
    assert_damaged(copy, rf"index\.json: found {found}")


@pytest.mark.parametrize("images", [NAMES[:4], [*NAMES[:4], NAMES[0]]])
def test_index_without_a_name_for_each_row(copy: Path, images: list[str]) -> None:
    index = json.loads((copy / "index.json").read_text(encoding="utf-8"))
    (copy / "index.json").write_text(json.dumps({**index, "images": images}))
    assert_damaged(copy, r"index\.json: found names for 4 rows, expected one for each row of the shape \[5, 49, 1280\]")
