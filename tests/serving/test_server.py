"""A trained model on its way: logged, promoted, loaded by its alias, and served over HTTP by MLflow's own server."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib import error, request

import numpy as np
import parameters
import pytest
import tiny
from checkout import ROOT
from PIL import Image
from typer.testing import CliRunner

from captioner.cli.app import app
from captioner.data import images
from captioner.features.extract import Extractor
from captioner.features.store import Features
from captioner.inference.captioner import Captioner
from captioner.tracking import runs, store
from captioner.training import fit
from captioner.training.batches import CaptionBatches

pytestmark = pytest.mark.slow

CHAMPION = "models:/captioner-scenes@champion"
NO_PICTURE = base64.b64encode(b"these are words, and far too few to make a picture").decode()


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch
    store.load_mlflow().set_tracking_uri(None)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that the real encoder tells apart, named as in the tiny data set."""
    directory = tmp_path_factory.mktemp("pictures")
    for colour, name in zip(("red", "blue", "black", "white"), tiny.CAPTIONS, strict=True):
        Image.new("RGB", (64, 64), colour).save(directory / name)
    return directory


@pytest.fixture(scope="module")
def root(environment: pytest.MonkeyPatch, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose store has a champion that knows the pictures by heart."""
    root, results = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("results")
    extractor = Extractor("efficientnet_lite0")
    names = list(tiny.CAPTIONS)
    grid = extractor(np.stack([images.decode((pictures / name).read_bytes()) for name in names]))
    by_name = {name: row for row, name in enumerate(names)}
    features = Features(grid, by_name, "efficientnet_lite0", "imagenet", extractor.weights_sha256)
    used = tiny.recipe(epochs=6, learning_rate=0.01)
    words = tiny.vocabulary()
    batches = partial(CaptionBatches, features, vocabulary=words, batch_size=5, captions_per_picture=2, maximum_words=3)
    decoder = fit.build(tiny.SIZES, used, "dot", len(words), extractor.channels, extractor.positions)
    fit.train(
        decoder,
        batches(captions=tiny.captions(tiny.KNOWN_BY_HEART), seed=1),
        batches(captions=tiny.captions(), seed=None),
        used,
        [tiny.Scores(range(used.epochs))],
    )
    encoder = {"name": features.encoder, "weights": features.weights, "weights_sha256": features.weights_sha256}
    model = Captioner(decoder, words, encoder, 4, {})
    model.save(root / "models/captioner")
    (results / "history.csv").write_text("epoch,val_CIDEr\n0,10\n")
    (results / "kept.json").write_text('{"epoch": 0, "metric": "val_CIDEr", "value": 10}')
    with runs.training(root, parameters.params(), results, {}) as run:
        run.log_epoch(0, {"val_CIDEr": 10.0})
        run.log_training(results, root / "models/captioner", model.weights_sha256)
    assert run.complete
    environment.chdir(root)
    result = CliRunner().invoke(app, ["promote"])
    assert result.exit_code == 0, result.stderr
    environment.chdir(ROOT)
    return root


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `mlflow models serve`, called as a user would from the checkout."""
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["mlflow", "models", "serve", "-m", CHAMPION, "--env-manager", "local", "--port", str(port)],
            cwd=root,
            env=os.environ
            | store.ENVIRONMENT
            | {
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "NO_PROXY": "127.0.0.1",
                "CAPTIONER_SERVE_HOSTS": "captions.example.org",
            },
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        while not answers(address):
            assert process.poll() is None, log.read_text("utf-8")
            time.sleep(0.2)
        yield address
    finally:
        # the command and the server that it has started
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def answers(address: str) -> bool:
    try:
        with request.urlopen(f"{address}/ping", timeout=60) as response:
            return bool(response.status == 200)
    except (error.URLError, ConnectionError):
        return False


def ask(server: str, body: Any, kind: str = "application/json", **headers: str) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    asked = request.Request(f"{server}/invocations", data, {"Content-Type": kind, **headers})
    try:
        with request.urlopen(asked) as response:
            return response.status, json.load(response)
    except error.HTTPError as refused:
        return refused.code, json.load(refused)


def is_one_line_of_ours(told: dict[str, Any]) -> None:
    assert told["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "\n" not in told["message"] and len(told["message"]) < 400
    assert str(ROOT) not in told["message"] and "site-packages" not in told["message"]
    assert "stack_trace" not in told


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


class TestServer:
    @pytest.mark.parametrize(
        "body",
        [
            lambda given: {"inputs": given},
            lambda given: {"instances": given},
            lambda given: {"dataframe_split": {"columns": ["picture"], "data": [[each] for each in given]}},
            lambda given: {"dataframe_records": [{"picture": each} for each in given]},
        ],
        ids=["inputs", "instances", "split", "records"],
    )
    def test_many_in_their_order(self, server: str, pictures: Path, body: Callable[[list[str]], Any]) -> None:
        given = [encoded(pictures / name) for name in reversed(tiny.CAPTIONS)]
        assert ask(server, body(given)) == (200, {"predictions": tiny.SAID[::-1]})

    def test_one(self, server: str, pictures: Path) -> None:
        sun = encoded(pictures / "sun.png")
        assert ask(server, {"inputs": [sun]}) == ask(server, {"inputs": sun}) == (200, {"predictions": tiny.SAID[:1]})

    def test_every_form(self, server: str, pictures: Path) -> None:
        given = [
            f"data:image/png;base64,{encoded(pictures / 'sun.png')}",
            base64.encodebytes((pictures / "sea.png").read_bytes()).decode(),
        ]
        assert ask(server, {"inputs": given}) == (200, {"predictions": tiny.SAID[:2]})

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (
                "nonsense",
                "picture 2: no base64 of a picture (8 characters, too few for one): give base64 of an ",
            ),
            ("hello", "picture 2: no base64 of a picture (5 characters, too few for one): give "),
            ("", "picture 2: no base64 of a picture (0 characters, too few for one): give "),
            (5, "picture 2: received int: give "),
            (["x"], "picture 2: received list: give "),
            ({"x": 1}, "picture 2: received dict: give "),
            (NO_PICTURE, "picture 2: no picture (it is text): allowed are "),
            (base64.b64encode(b"%PDF-1.7" + bytes(40)).decode(), "picture 2: a PDF document: save its picture as "),
            ("data:image/png;base64,=", "picture 2: no data:<type>;base64,<base64 of a picture>"),
            ("SUN", "picture 2: no base64 of a picture ("),
            ("file://SUN", "picture 2: a file, and none of this name is read here: give "),
            ("file:///etc/passwd", "picture 2: a file, and none of this name is read here: give "),
            ("http://127.0.0.1:1/sun.png", "picture 2: an address, and none is fetched here: give "),
            ("HTTPS://localhost/", "picture 2: an address, and none is fetched here: give "),
        ],
    )
    def test_bad_one_is_named(self, server: str, pictures: Path, bad: Any, message: str) -> None:
        given = bad.replace("SUN", str(pictures / "sun.png")) if isinstance(bad, str) else bad
        status, told = ask(server, {"inputs": [encoded(pictures / "sun.png"), given]})
        assert status == 400
        assert told["message"].startswith(message)
        is_one_line_of_ours(told)

    def test_no_more_pictures_than_there_is_time_for(self, server: str) -> None:
        status, told = ask(server, {"inputs": ["x"] * 10_000})
        assert (status, told["message"]) == (400, "received 10,000 pictures: give at most 1,000 at a time")

    def test_one_that_is_long_makes_no_others_long(self, server: str) -> None:
        """Not a tenth of what an array of equally long strings would take can be obtained."""
        status, told = ask(server, {"inputs": ["A" * (4 << 20)] + [""] * 9_999})
        assert (status, told["message"]) == (400, "received 10,000 pictures: give at most 1,000 at a time")

    def test_a_large_request(self, server: str) -> None:
        status, told = ask(server, b'{"inputs": ["' + b"A" * (129 << 20) + b'"]}')
        assert (status, told["message"]) == (413, "a request may have at most 128 MB")
        is_one_line_of_ours(told)

    @pytest.mark.parametrize(
        ("headers", "status", "code"),
        [
            ({"Host": "captions.example.org"}, 200, None),  # as the environment allows
            ({"Host": "example.org"}, 400, "INVALID_PARAMETER_VALUE"),
            ({"Origin": "https://example.org"}, 403, "PERMISSION_DENIED"),
        ],
    )
    def test_who_may_ask(
        self, server: str, pictures: Path, headers: dict[str, str], status: int, code: str | None
    ) -> None:
        received, told = ask(server, {"inputs": [encoded(pictures / "sun.png")]}, **headers)
        assert (received, told.get("error_code")) == (status, code)

    @pytest.mark.parametrize(
        "body",
        [
            b"no JSON",
            b"\xff",
            b"[" * 100_000,
            b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            {"pictures": []},
            [],
            {"inputs": []},
            {"inputs": {"a": ["b"]}},
            {"inputs": ["x"], "instances": ["x"]},
        ],
        ids=range(9),
    )
    def test_bad_request(self, server: str, body: Any) -> None:
        status, told = ask(server, body)
        assert status == 400
        is_one_line_of_ours(told)

    @pytest.mark.parametrize("kind", ["text/csv", "application/vnd.apache.parquet", "text/plain", ""])
    def test_another_form_of_request(self, server: str, kind: str) -> None:
        status, told = ask(server, b'a\n"b', kind)
        assert status == 400
        assert told["message"] == 'received no JSON: send {"inputs": [...]} as Content-Type: application/json'

    @pytest.mark.parametrize("params", [{"beam": 3}, {}, "beam"])
    def test_params_are_refused(self, server: str, pictures: Path, params: Any) -> None:
        status, told = ask(server, {"inputs": [encoded(pictures / "sun.png")], "params": params})
        assert (status, told["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
        assert told["message"] == "received params: none are taken, leave them out"


class TestPromoted:
    def test_in_one_line(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(root)
        run_id = store.connect(root)[0].get_model_version_by_alias("captioner-scenes", "champion").run_id
        result = CliRunner().invoke(app, ["promote", "--dataset", "scenes"])
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == (
            f"{CHAMPION} is version 1: dot · scenes (run {run_id[:8]}), validation CIDEr 10.0, the only finished "
            "training on these captions of scenes.\n"
        )


class TestLoaded:
    def test_by_mlflow(
        self, root: Path, pictures: Path, environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "path", [*sys.path])  # MLflow puts the logged code there
        mlflow = store.load_mlflow()
        store.connect(root)
        monkeypatch.setenv("CAPTIONER_SERVE_PATHS", str(pictures))
        model = mlflow.pyfunc.load_model(CHAMPION)
        given = ["sea.png", encoded(pictures / "sun.png"), (pictures / "sky.png").read_bytes()]
        assert model.predict(given) == [tiny.SAID[1], tiny.SAID[0], tiny.SAID[2]]
        with pytest.raises(
            mlflow.exceptions.MlflowException,
            match=r"^picture 1: no base64 of a picture \(1 character, too few for one\): give",
        ):
            model.predict(["x"])
        (said,) = model.predict(model.input_example)
        assert set(said.split()) <= set(tiny.vocabulary().tokens)

    def test_on_the_command_line(self, root: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(root)
        result = CliRunner().invoke(app, ["caption", "--model", CHAMPION, str(pictures / "tree.png")])
        assert (result.exit_code, result.stdout, result.stderr) == (0, f"{tiny.SAID[3]}\n", "")
