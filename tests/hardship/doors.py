"""What comes in from elsewhere, and by which door.

As a program it tries changed inputs, and says in lines of JSON what became of each; see `mutations`.
"""

import base64
import io
import json
import os
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import keras
import mutate
import numpy as np
import parameters
import tiny
from PIL import Image

from captioner.cli.about import about, table
from captioner.common.errors import LONGEST, CaptionerError
from captioner.common.files import json_of, write_json
from captioner.common.startup import silence_stderr
from captioner.data import archives, images, store
from captioner.data.dataset import SPLITS
from captioner.datasets import checks, folder
from captioner.features.store import GRID, INDEX, Features
from captioner.inference import captioner
from captioner.inference.captioner import Captioner
from captioner.params import load as load_params
from captioner.reports import pages
from captioner.text import word_vectors

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "ppm": "PPM"}
FORMATS |= {"jp2": "JPEG2000", "avif": "AVIF"}


class Wrong(Exception):  # noqa: N818 - it is no error of the program that is tried
    """What came out is not what may come out."""


@dataclass(frozen=True)
class Door:
    """A way in.

    Attributes:
        name: it.
        sound: what is taken, by name.
        enter: gets a name, what stands in for the sound input of that name, and an empty folder to work in; returns
            what was made of it.
        sealed: names of what no change of may go unnoticed: what is taken has to give what the sound input gives.
    """

    name: str
    sound: dict[str, bytes]
    enter: Callable[[str, bytes, Path], object]
    sealed: frozenset[str] = field(default_factory=frozenset)


def doors(home: Path) -> list[Door]:
    """Return all doors; what they need once is made in a folder."""
    return [_pictures(), _captions(), _archives(home), _params(), _features(), _vectors(), *_models(home)]


def _photograph(form: str, generator: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    smooth = np.cumsum(generator.integers(-3, 4, (40, 60, 3)), axis=1) + 128
    Image.fromarray(smooth.astype(np.uint8)).save(buffer, form)
    return buffer.getvalue()


def _pictures() -> Door:
    generator = np.random.default_rng(1)

    def enter(_: str, data: bytes, __: Path) -> object:
        pixels = images.decode(data)
        if pixels.shape != (224, 224, 3) or pixels.dtype != np.uint8:
            raise Wrong(f"{pixels.dtype} {pixels.shape}")
        return pages.photograph(data, 512, "stretch")[1]

    return Door("pictures", {f"a.{end}": _photograph(form, generator) for end, form in FORMATS.items()}, enter)


def _captions() -> Door:
    rows = [
        ("a.png", "train", "a red, round thing"),
        ("b.png", "val", 'what they call "blue"'),
        ("c.png", "test", "it"),
    ]
    lines = [
        "image,split,caption",
        *(f'{name},{split},"{text.replace(chr(34), chr(34) * 2)}"' for name, split, text in rows),
    ]
    sound = {
        "captions.csv": "\n".join(lines),
        "list.json": json.dumps([{"image": name, "split": split, "caption": text} for name, split, text in rows]),
        "lists.json": json.dumps([{"image": name, "captions": [text] * 3} for name, _, text in rows]),
        "object.json": json.dumps({name: [text] * 3 for name, _, text in rows}),
    }

    def enter(name: str, data: bytes, place: Path) -> object:
        pictures = place / "pictures"
        pictures.mkdir()
        for row, (picture, _, _) in enumerate(rows):
            (pictures / picture).write_bytes(tiny.photograph(row))
        (pictures / name).write_bytes(data)
        dataset = folder.load(pictures, name)
        checks.judge(dataset)
        packed = store.write(dataset, place / "data", ("train",))
        written = store.read_captions(place / "data")
        if len(written) != packed.captions or not set(written["split"]) <= set(SPLITS):
            raise Wrong("other captions than were given")
        return packed.captions

    return Door("captions", {name: text.encode() for name, text in sound.items()}, enter)


def _archives(home: Path) -> Door:
    names = list(tiny.CAPTIONS)
    (home / "pictures").mkdir()
    for row, name in enumerate(names):
        (home / "pictures" / name).write_bytes(tiny.photograph(row))
    write_json(home / "pictures/captions.json", tiny.CAPTIONS)
    store.write(folder.load(home / "pictures", "captions.json"), home / "packed", ())
    files = [store.IMAGES, store.CAPTIONS, store.OBJECTS]

    def enter(name: str, data: bytes, place: Path) -> object:
        (place / name).write_bytes(data)
        if name == store.IMAGES:
            with archives.open_zip(place / name) as archive:
                for member in archive.namelist():
                    archives.read_member(archive, member)
            return list(store.read_pictures(place, names))
        return len(store.read_captions(place) if name == store.CAPTIONS else store.read_objects(place))

    return Door("archives", {name: (home / "packed" / name).read_bytes() for name in files}, enter)


def _params() -> Door:
    def enter(_: str, data: bytes, place: Path) -> object:
        (place / "params.yaml").write_bytes(data)
        return load_params(place / "params.yaml").flat()

    return Door("params.yaml", {"params.yaml": json_of(parameters.params().model_dump(), indent=1).encode()}, enter)


def _features() -> Door:
    made = tiny.features()
    grid = io.BytesIO()
    np.save(grid, made.grid)
    index = {**made.made_by, "encoder": made.encoder, "shape": made.grid.shape, "images": list(made.rows)}
    sound = {INDEX: json.dumps(index).encode(), GRID: grid.getvalue()}

    def enter(name: str, data: bytes, place: Path) -> object:
        for each, content in {**sound, name: data}.items():
            (place / each).write_bytes(content)
        found = Features.open(place)
        values = np.asarray(found.grid)
        if values.ndim != 3 or any(row >= len(values) for row in found.rows.values()):
            raise Wrong(f"features of the shape {values.shape} for {len(found.rows)} pictures")
        return values.shape

    return Door("features", sound, enter)


def _vectors() -> Door:
    words = tiny.vocabulary().tokens
    rows = [f"{word} {number} 0.5 -0.25" for number, word in enumerate(words[4:])]
    matrix = io.BytesIO()
    np.save(matrix, np.eye(len(words), 5, dtype=np.float32))
    sound = {
        "glove.txt": "\n".join(rows).encode(),
        "word2vec.txt": "\n".join([f"{len(rows)} 3", *rows]).encode(),
        "matrix.npy": matrix.getvalue(),
        "matrix.txt": "\n".join(words).encode(),
    }

    def enter(name: str, data: bytes, place: Path) -> object:
        for each, content in {**sound, name: data}.items():
            (place / each).write_bytes(content)
        file = place / name.replace("matrix.txt", "matrix.npy")
        word_vectors.files_of(str(file))
        found = word_vectors.load(file, words, 1)
        if not np.isfinite(found.matrix).all():
            raise Wrong("vectors that are not finite")
        return found.matrix.shape

    return Door("word vectors", sound, enter)


def _models(home: Path) -> Iterator[Door]:
    """A model's folder, and both servers with that model."""
    captioner.Extractor = tiny.Extractor  # type: ignore[misc, assignment]
    made = tiny.features().made_by
    Captioner(tiny.overfit(), tiny.vocabulary(), made, 3, tiny.PARAMS.flat()).save(home / "model")
    files = {each.name: each.read_bytes() for each in sorted((home / "model").iterdir())}

    def enter(name: str, data: bytes, place: Path) -> object:
        for each, content in {**files, name: data}.items():
            (place / each).write_bytes(content)
        table(about(place))
        model = Captioner.load(place)
        return model.caption([tiny.photograph(row) for row in range(4)], 1)[3].text

    yield Door("models", files, enter, frozenset({"vocabulary.json", "decoder.keras"}))
    yield from _servers(home / "model")


def _servers(model: Path) -> Iterator[Door]:
    from fastapi.testclient import TestClient

    from captioner.serving import demo, model_server, pyfunc
    from captioner.tracking.store import load_mlflow

    loaded = Captioner.load(model)
    page = TestClient(demo.application({"dot": loaded}, []), base_url="http://127.0.0.1:7860")
    picture = tiny.photograph(2)

    def ask_page(name: str, data: bytes, _: Path) -> object:
        query, body = (quote(data[:2000], safe="=&%;+"), picture) if name == "query.txt" else ("beam=3", data)
        return _answer(page.post(f"/caption?{query}", content=body), "error")

    yield Door("web page", {"query.txt": b"beam=3&samples=2&temperature=0.5", "body.png": picture}, ask_page)
    mlflow = load_mlflow()
    mlflow.pyfunc.save_model(
        model.with_name("logged"), loader_module=pyfunc.__name__, data_path=str(model), pip_requirements=[]
    )
    model_server.install_guard()
    from mlflow.pyfunc import scoring_server as server

    asked = TestClient(
        server.init(mlflow.pyfunc.load_model(str(model.with_name("logged")))), base_url="http://127.0.0.1"
    )
    encoded = base64.b64encode(tiny.photograph(1)).decode()
    sound = {
        "inputs.json": json.dumps({"inputs": [encoded, f"data:image/png;base64,{encoded}"]}),
        "instances.json": json.dumps({"instances": [encoded]}),
        "split.json": json.dumps({"dataframe_split": {"columns": ["picture"], "data": [[encoded]]}}),
        "records.json": json.dumps({"dataframe_records": [{"picture": encoded}]}),
    }

    def ask(_: str, data: bytes, __: Path) -> object:
        headers = {"Content-Type": "application/json"}
        return _answer(asked.post("/invocations", content=data, headers=headers), "message")

    yield Door("model server", {name: text.encode() for name, text in sound.items()}, ask)


def _answer(response: Any, told: str) -> object:
    """Return what a server has answered; what it refuses is an error as everywhere."""
    if response.status_code == 200:
        return response.json()
    if response.status_code >= 500:
        raise Wrong(f"HTTP {response.status_code}: {response.text[:300]}")
    said = response.json()[told]
    if "\n" in said:
        raise Wrong(f"more than one line: {said[:300]}")
    raise CaptionerError(said)


# --- what it must not do meanwhile -----------------------------------------------------------------------------------

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGING: dict[str, tuple[list[int], int | None]] = {
    "open": ([0], None),
    "os.mkdir": ([0], 2),
    "os.remove": ([0], 1),
    "os.rmdir": ([0], 1),
    "os.symlink": ([1], 2),
    "os.link": ([1], 3),
    "os.rename": ([0, 1], 3),
    "os.truncate": ([0], None),
}
"""Which arguments of an audit event are paths that change, and which is the directory that these begin in."""
_LEAVING = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")
_watched: dict[str, Any] = {"inside": None, "seen": []}


def _watch(event: str, arguments: tuple) -> None:
    """Note what is written elsewhere, unpickled, started or connected to."""
    inside = _watched["inside"]
    if inside is None:
        return
    if event in _LEAVING:
        _watched["seen"].append(f"{event} {arguments[:2]}"[:200])
    elif event in _CHANGING and (event != "open" or arguments[2] & _WRITING):
        places, directory = _CHANGING[event]
        begun = -1 if directory is None else arguments[directory]
        base = Path.cwd() if begun < 0 else Path(f"/proc/self/fd/{begun}").readlink()
        for path in (arguments[place] for place in places):
            if not isinstance(path, str | bytes | os.PathLike) or os.fsdecode(path) == os.devnull:
                continue
            if not Path(os.path.realpath(base / os.fsdecode(path))).is_relative_to(inside):
                _watched["seen"].append(f"{event} {os.fsdecode(path)}"[:200])


@contextmanager
def watched(inside: Path) -> Iterator[list[str]]:
    """Yield a list that gets what must not be done outside of a folder."""
    _watched.update(inside=inside.resolve(), seen=[])
    try:
        yield _watched["seen"]
    finally:
        _watched["inside"] = None


def attempt(door: Door, name: str, data: bytes, place: Path, expected: object = None) -> tuple[str, str]:
    """Enter by a door, and return what became of it, `taken`, `refused` or `fault`, and what is to be said of that."""
    with watched(place.parent) as seen:
        try:
            outcome, said = "taken", str(found := door.enter(name, data, place))
            if name in door.sealed and found != expected:
                outcome, said = "fault", f"unnoticed, it gives {said[:200]}"
        except CaptionerError as error:
            outcome, said = "refused", str(error)
            if "\n" in said or len(said) > LONGEST:
                outcome = "fault"
        except Exception as error:
            place_of = error.__traceback__
            while place_of is not None and place_of.tb_next is not None:
                place_of = place_of.tb_next
            where = f"{place_of.tb_frame.f_code.co_filename}:{place_of.tb_lineno}" if place_of else ""
            outcome, said = "fault", f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({where})"
    return ("fault", f"outside of its folder: {seen[0]}") if seen else (outcome, said)


def inputs(every: list[Door], seed: int, number: int) -> tuple[Door, str, bytes]:
    """Return the input of a number: its door, its name and its bytes. The first ones are sound."""
    door = every[number % len(every)]
    turn = number // len(every)
    name = sorted(door.sound)[turn % len(door.sound)]
    if turn < len(door.sound):
        return door, name, door.sound[name]
    return door, name, mutate.mutated(name, door.sound[name], random.Random(f"{seed} {number}"))


def main() -> None:
    """Try inputs, and print a line of JSON before and after each."""
    seed, first, count = map(int, sys.argv[1:4])
    root = Path(sys.argv[4])
    home = root / f"home-{first}"
    home.mkdir(parents=True)
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    keras.utils.set_random_seed(1)
    with silence_stderr():
        every = doors(home)
        sound = {}
        for door in every:
            for name, data in door.sound.items():
                sound[door.name, name] = door.enter(name, data, _empty(root, "warm"))
    sys.addaudithook(_watch)
    for number in range(first, first + count):
        door, name, data = inputs(every, seed, number)
        print(json.dumps({"number": number, "door": door.name, "name": name}), file=told)
        began = time.perf_counter()
        with silence_stderr():
            outcome, said = attempt(door, name, data, _empty(root, "place"), sound[door.name, name])
        seconds, memory = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(json.dumps({"outcome": outcome, "said": said, "seconds": seconds, "memory": memory}), file=told)


def _empty(root: Path, name: str) -> Path:
    place = root / name / "inside"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


if __name__ == "__main__":
    main()
