"""What stands before the web page and the model server: who may ask, and how much may come at once."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
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

_gone: ContextVar[threading.Event] = ContextVar("gone")


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

    A request takes a place only when it is there, so that none is taken by one that hardly comes. One that is refused
    is received to its end, and not kept, since clients read no answer before.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        refused: Callable[[HTTPException], Response],
        hosts: Collection[str] = OWN_HOSTS,
        what: str = "a request",
        further_hosts: str = "",
    ):
        """Stand before an application.

        Args:
            app: the application.
            limits: how much may come.
            refused: makes the answer from what is wrong.
            hosts: names under which it is asked, without ports; `ANY` among them allows all.
            what: is sent, in words.
            further_hosts: what to do where it is asked under another name, in words.
        """
        self._app, self._limits, self._refused, self._hosts, self._what = app, limits, refused, hosts, what
        self._further_hosts = further_hosts
        self._held = self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have the application answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        wrong = self._wrong_host(request) or _wrong_origin(request)
        if wrong is None and request.method in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        try:
            async with self._received(request, wrong) as body, self._place():
                with _watched(receive):
                    await self._app(scope, _first(body, receive), send)
        except _Refusal as refusal:
            await self._refused(refusal.why)(scope, receive, send)
        except ClientDisconnect:
            await Response(status_code=204)(scope, receive, send)  # which nobody reads any more

    def _wrong_host(self, request: Request) -> HTTPException | None:
        try:
            name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        except ValueError:
            name = ""
        if name in self._hosts or ANY in self._hosts:
            return None
        names = ", ".join(self._hosts)
        return HTTPException(400, f"asked under another name than {names}: ask under one of these{self._further_hosts}")

    @asynccontextmanager
    async def _received(self, request: Request, wrong: HTTPException | None) -> AsyncIterator[list[bytes]]:
        """Yield the body, in a list from which it can be taken, so that it is not held twice.

        Args:
            request: it.
            wrong: why it is refused, if that is known already.

        Raises:
            _Refusal: it is refused.
        """
        limits, kept, length, held = self._limits, bytearray(), 0, 0
        try:
            try:
                async with asyncio.timeout(limits.patience):
                    async for chunk in request.stream():
                        length += len(chunk)
                        if wrong is None and length > limits.largest:
                            wrong = HTTPException(413, f"{self._what} may have at most {limits.largest >> 20} MB")
                        if wrong is None and self._held + len(chunk) > limits.together:
                            wrong = _later("too much is being sent at once")
                        if wrong is None:
                            kept += chunk
                            self._held, held = self._held + len(chunk), held + len(chunk)
                        else:
                            kept.clear()
                            self._held, held = self._held - held, 0
            except TimeoutError:
                late = f"{self._what} has to arrive within {limits.patience:.0f} seconds: try again"
                raise _Refusal(wrong or HTTPException(408, late)) from None
            if wrong is not None:
                raise _Refusal(wrong)
            body = [bytes(kept)]
            del kept
            yield body
        finally:
            self._held -= held

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._inside >= self._limits.waiting:
            raise _Refusal(_later(f"{self._limits.waiting} others are waiting already"))
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


def is_awaited() -> bool:
    """Say whether somebody still waits for the answer to the request that is being served, from any thread."""
    gone = _gone.get(None)
    return gone is None or not gone.is_set()


class _Refusal(Exception):  # noqa: N818 - it is no error of the application, whose own ones pass
    def __init__(self, why: HTTPException):
        super().__init__(why.detail)
        self.why = why


def _wrong_origin(request: Request) -> HTTPException | None:
    """Refuse what another site's page has a browser send; what is no browser says neither of the two."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
    own = origin is None or origin.partition("://")[2] == request.headers.get("host")
    if request.method in ("GET", "HEAD") or (own and site in ("same-origin", "none")):
        return None
    return HTTPException(403, "another site's page asked: open the page itself, or ask without a browser")


def _later(why: str) -> HTTPException:
    return HTTPException(503, f"{why}: try again in some {RETRY} seconds", {"Retry-After": str(RETRY)})


@contextmanager
def _watched(receive: Receive) -> Iterator[None]:
    """Have `is_awaited` know when whoever asked has left, or was told that it takes too long."""
    gone = threading.Event()

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    token, watching = _gone.set(gone), asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        _gone.reset(token)


def _first(body: list[bytes], receive: Receive) -> Receive:
    """Return what gives a body that has come, once, and then what comes else."""

    async def receiving() -> Message:
        if not body:
            return await receive()
        return {"type": "http.request", "body": body.pop(), "more_body": False}

    return receiving
