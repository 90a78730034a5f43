"""A web page on which people try models on pictures of their own, and see where each model looked.

`demo.html` is the page; this module answers it, on 127.0.0.1 alone. A picture lives as long as its request: nothing is
written, logged or kept for another. Requests are served one after the other, in their order, because one alone already
uses the whole machine.

Legend: `T` words of a caption · `R` rows and columns of the grid.
"""

import asyncio
import logging
import mimetypes
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from captioner.common.errors import CaptionerError, quoted
from captioner.common.ports import HOST
from captioner.data import Crop, store
from captioner.model.description import image_size_and_crop
from captioner.reports import pages
from captioner.serving.guard import Guard, Limits, is_awaited
from captioner.text.vocabulary import END, SPECIAL_TOKENS

if TYPE_CHECKING:
    from captioner.inference.captioner import Captioner
    from captioner.search.caption import Caption

LIMITS = Limits(largest=20 << 20, together=640 << 20, waiting=32)
SIDE = 512  # longest side of the photograph in the page, in pixels
PICTURES = 12  # test pictures offered
ALTERNATIVES = 5  # shown at each word
SEARCHED = 50  # likeliest words among which the one said is looked for

HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Settings(BaseModel):
    """What can be set on the page.

    Attributes:
        beam: width of the search.
        samples: how many captions are drawn besides.
        temperature: of those drawn, see `Captioner.samples`.
    """

    model_config = ConfigDict(extra="forbid")

    beam: Annotated[int, Field(ge=1, le=10)] = 3
    samples: Annotated[int, Field(ge=0, le=10)] = 0
    temperature: Annotated[float, Field(ge=0.1, le=2, allow_inf_nan=False)] = 1.0


def private(app: ASGIApp) -> ASGIApp:
    """Let no browser keep an answer of an application, or lend it to another site's page."""

    # not as `@app.middleware("http")`, behind which `Request.is_disconnected` does not see that somebody has left
    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await app(scope, receive, sending)

    return answering


def application(models: "Mapping[str, Captioner]", pictures: Sequence[tuple[str, bytes]] = ()) -> FastAPI:
    """Return what answers the page.

    - `GET /`: the page;
    - `POST /caption?beam=3&samples=0&temperature=1`, the encoded picture as the body: what `answer` returns;
    - `GET /pictures/3`: a test picture as it is.

    What is refused comes with a status and one line, as JSON: `{"error": "..."}`.

    Args:
        models: by the name that the page gives each.
        pictures: test pictures to offer, names and encoded bytes.
    """
    app = FastAPI(title="Captioner", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, limits=LIMITS, refused=_refused, what="a picture")
    app.add_middleware(private)
    turn = asyncio.Lock()  # wakes those who wait in their order
    page, policy = _page(models, pictures)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return _refused(error)

    @app.exception_handler(CaptionerError)
    async def wrong(_: Request, error: CaptionerError) -> Response:
        return JSONResponse({"error": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"error": _in_one_line(error)}, 422)

    @app.get("/")
    async def show() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @app.get("/pictures/{number}")
    async def picture(number: int) -> Response:
        if not 0 <= number < len(pictures):
            raise HTTPException(404, f"There is no test picture {number}; there are {len(pictures)}, from 0 on.")
        name, data = pictures[number]
        return Response(data, media_type=mimetypes.guess_type(name)[0] or "application/octet-stream")

    @app.post("/caption")
    async def caption(request: Request, settings: Annotated[Settings, Query()]) -> Response:
        data = await request.body()
        async with turn:
            if not is_awaited():
                return Response(status_code=204)
            return JSONResponse(await asyncio.to_thread(answer, models, data, settings))

    return app


def answer(models: "Mapping[str, Captioner]", data: bytes, settings: Settings) -> dict[str, Any]:
    """Return what the models say of a picture.

    Args:
        models: by the name that the page gives each.
        data: the encoded picture.
        settings: how they search.

    Returns:
        `photograph`, upright, as JPEG in base64, its `size`, and `models`, each with `name` and `captions`: the one
        found by beam search, then those drawn, see `Captioner.samples`, without the first. A caption has what
        `Caption.described` says, and for each word and for the end after it `alternatives`: the most probable, `word`
        and `probability`, and the word said where it is not one of them.

    Raises:
        UnreadableImage: the picture cannot be read.
        CaptionerError: see `crop_of`.
    """
    photograph, size = pages.photograph(data, SIDE, crop_of(models))
    said = []
    for name, model in models.items():
        pixels = model.pixels(data)
        captions = [model.caption(pixels, settings.beam)]
        if settings.samples:
            drawn = model.samples(pixels, settings.samples, temperature=settings.temperature)
            captions += [each for each in drawn if each.words != captions[0].words]
        said.append({"name": name, "captions": [_described(model, pixels, each) for each in captions]})
    return {"photograph": pages.base64_of(photograph), "size": size, "models": said}


def crop_of(models: "Mapping[str, Captioner]") -> Crop:
    """Return how the encoders of models crop pictures: on the page, one picture shows where all of them look.

    Raises:
        CaptionerError: they do not agree.
    """
    crops = {name: image_size_and_crop(model.encoder)[1] for name, model in models.items()}
    if len(set(crops.values())) > 1:
        ways = ", ".join(f"{name}: {crop}" for name, crop in crops.items())
        raise CaptionerError(
            f"received models that see different parts of a picture (features.crop is {ways}): show each on a page of "
            "its own"
        )
    return next(iter(crops.values()))


def named(models: "Sequence[tuple[str, Captioner]]") -> "dict[str, Captioner]":
    """Return models by their attention, and by where they are, too, where several have the same.

    Args:
        models: where each is, as it was asked for, and the model.
    """
    attentions = [str(model.params.get("attention", "model")) for _, model in models]
    many = Counter(attentions)
    names = [
        attention if many[attention] == 1 else f"{attention} · {place}"
        for attention, (place, _) in zip(attentions, models, strict=True)
    ]
    return dict(zip(names, (model for _, model in models), strict=True))


def sample_pictures(directory: Path) -> list[tuple[str, bytes]]:
    """Return some pictures of the data's test split, from all over it; none where there is no data."""
    if not (directory / store.IMAGES).is_file() or not (directory / store.CAPTIONS).is_file():
        return []
    names = sorted(store.read_captions(directory, "test")["image"].unique())
    chosen = names[:: max(1, len(names) // PICTURES)][:PICTURES]
    return list(zip(chosen, store.read_pictures(directory, chosen), strict=True))


def serve(models: "Mapping[str, Captioner]", pictures: Sequence[tuple[str, bytes]], taken: socket.socket) -> None:
    """Show the page at a port that was reserved, until Ctrl-C.

    Raises:
        CaptionerError: a model cannot caption, for its encoder's weights cannot be obtained; or see `crop_of`.
    """
    crop_of(models)  # said before any work
    # Each model and each width of the beam is traced by itself, which TensorFlow takes for an oversight.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    grey = np.full((8, 8, 3), 128, np.uint8)
    for model in models.values():  # nobody has to wait for what is made only once
        model.alternatives(grey, model.caption(grey, Settings().beam).words)
    config = uvicorn.Config(
        application(models, pictures), log_level="warning", access_log=False, timeout_graceful_shutdown=5
    )
    print(f"The demo is at http://{HOST}:{taken.getsockname()[1]} (end with Ctrl-C)", flush=True)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[taken])


def _described(model: "Captioner", pixels: np.ndarray, caption: "Caption") -> dict[str, Any]:
    places = []
    for said, likeliest in zip(
        [*caption.words, SPECIAL_TOKENS[END]], model.alternatives(pixels, caption.words, SEARCHED), strict=True
    ):
        shown = likeliest[:ALTERNATIVES] + [each for each in likeliest[ALTERNATIVES:] if each.word == said]
        places.append([{"word": each.word, "probability": round(each.probability, 5)} for each in shown])
    return {**caption.described, "alternatives": places}


def _page(models: "Mapping[str, Captioner]", pictures: Sequence[tuple[str, bytes]]) -> tuple[str, str]:
    """Return the page, and the Content Security Policy that lets it talk to nobody but us."""
    template = pages.template("serving/demo.html")
    settings = {
        **pages.LIGHT,
        "largest": LIMITS.largest,
        "ranges": Settings.model_json_schema()["properties"],
        "models": list(models),
        "pictures": [name for name, _ in pictures],
    }
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src 'self' data: blob:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{pages.program_sha256(template)}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return template.render(settings=settings), policy


def _refused(error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _in_one_line(error: RequestValidationError) -> str:
    first = error.errors()[0]
    name, received = str(first["loc"][-1]), quoted(first.get("input"))
    ranges = Settings.model_json_schema()["properties"]
    if first["loc"][0] == "path":
        return f"received {name} {received}; give a whole number"
    if name not in ranges:
        return f"received {quoted(name)}, which nobody knows: there are {', '.join(ranges)}"
    kind = "whole number" if ranges[name]["type"] == "integer" else "number"
    return f"received {name} {received}; give a {kind} from {ranges[name]['minimum']} to {ranges[name]['maximum']}"
