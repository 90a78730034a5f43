"""What stands before the web page and the model server: who may ask, and how much may come at once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from captioner.common.ports import HOST

OWN_HOSTS = (HOST, "localhost", "::1")
"""What a machine calls itself. Another name that leads here belongs to somebody else, who may read the answers: the
browser takes them for that site's own."""
ANY = "*"
RETRY = 10  # seconds, what those beyond the limits are told to wait


@dataclass(frozen=True)
class Limits:
    """How much may come.

    Attributes:
        largest: bytes of a request.
        together: bytes of all requests that are coming or are not answered yet.
        waiting: whole requests that are not answered yet.
        patience: seconds that a request may take to arrive.
    """

    largest: int
    together: int
    waiting: int
    patience: float = 60.0


class Guard:
    """Hands an application the requests that are meant for it, each with its whole body.

    A request takes a place only when it is there, so that none is taken by one that hardly comes. One that is too
    large is received to its end, and not kept, since clients read no answer before.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        refused: Callable[[HTTPException], Response],
        hosts: Collection[str] = OWN_HOSTS,
        what: str = "a request",
    ):
        """Stand before an application.

        Args:
            app: the application.
            limits: how much may come.
            refused: makes the answer from what is wrong.
            hosts: names under which it is asked, without ports; `ANY` among them allows all.
            what: is sent, in words.
        """
        self._app, self._limits, self._refused, self._hosts, self._what = app, limits, refused, hosts, what
        self._held = self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have the application answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            _check_host(request, self._hosts)
            if request.method in ("GET", "HEAD"):
                await self._app(scope, receive, send)
                return
            _check_origin(request)
            async with self._received(request) as body, self._place():
                await self._app(scope, _first(body, receive), send)
        except HTTPException as error:
            await self._refused(error)(scope, receive, send)
        except ClientDisconnect:
            return

    @asynccontextmanager
    async def _received(self, request: Request) -> AsyncIterator[bytes]:
        limits, kept, length, held = self._limits, bytearray(), 0, 0
        too_large = HTTPException(413, f"{self._what} may have at most {limits.largest >> 20} MB")
        try:
            try:
                async with asyncio.timeout(limits.patience):
                    async for chunk in request.stream():
                        length += len(chunk)
                        if length > limits.largest:
                            kept.clear()
                            self._held, held = self._held - held, 0
                            continue
                        kept += chunk
                        self._held, held = self._held + len(chunk), held + len(chunk)
                        if self._held > limits.together:
                            raise _later("too much is being sent at once")
            except TimeoutError:
                raise HTTPException(
                    408, f"{self._what} has to arrive within {limits.patience:.0f} seconds: try again"
                ) from None
            if length > limits.largest:
                raise too_large
            body = bytes(kept)
            del kept  # a second copy
            yield body
        finally:
            self._held -= held

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._inside >= self._limits.waiting:
            raise _later(f"{self._limits.waiting} others are waiting already")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


def _check_host(request: Request, allowed: Collection[str]) -> None:
    try:
        name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        name = ""
    if name not in allowed and ANY not in allowed:
        raise HTTPException(400, f"asked under another name than {', '.join(allowed)}: use one of these as the host")


def _check_origin(request: Request) -> None:
    """Refuse what another site's page has a browser ask; what is no browser says neither of the two."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
    if site not in ("same-origin", "none") or (origin and origin.partition("://")[2] != request.headers.get("host")):
        raise HTTPException(403, "another site's page asked: open the page itself, or ask without a browser")


def _later(why: str) -> HTTPException:
    return HTTPException(503, f"{why}: try again in some {RETRY} seconds", {"Retry-After": str(RETRY)})


def _first(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that has come, and then what comes else."""
    given = False

    async def receiving() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving
