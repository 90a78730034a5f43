"""Before both servers: who may ask, and how much may come at once."""

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from captioner.serving.guard import ANY, OWN_HOSTS, Guard, Limits, is_awaited

LIMITS = Limits(largest=1 << 20, together=3 << 20, waiting=2)


async def echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


def refused(error: HTTPException) -> Response:
    return PlainTextResponse(error.detail, error.status_code, error.headers)


def client(*hosts: str, base: str = "http://127.0.0.1:5001") -> TestClient:
    app = Starlette(routes=[Route("/", echo, methods=["GET", "POST"])])
    app.add_middleware(Guard, limits=LIMITS, refused=refused, hosts=[*OWN_HOSTS, *hosts])
    return TestClient(app, base_url=base)


@pytest.mark.parametrize("body", [b"", b"a", bytes(1 << 20)], ids=["none", "small", "largest"])
def test_a_body_comes_through_whole(body: bytes) -> None:
    assert client().post("/", content=body).content == body


def test_a_body_comes_through_in_pieces() -> None:
    assert client().post("/", content=(bytes([number]) * 1000 for number in range(9))).content == b"".join(
        bytes([number]) * 1000 for number in range(9)
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:80", "localhost:5001", "LOCALHOST", "[::1]", "[::1]:5001"])
def test_under_its_own_names_it_answers(host: str) -> None:
    for method in ("GET", "POST"):
        assert client().request(method, "/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["", "example.org", "127.0.0.1.example.org", "example.org:5001", "127.0.0.2", "[::2]", "[", "localhost@x", "a b"],
)
def test_under_another_name_it_does_not(host: str) -> None:
    for method in ("GET", "POST"):
        response = client().request(method, "/", headers={"Host": host})
        assert (response.status_code, response.text) == (
            400,
            "asked under another name than 127.0.0.1, localhost, ::1: ask under one of these",
        )


def test_further_names() -> None:
    assert client("example.org").get("/", headers={"Host": "Example.org:80"}).status_code == 200
    assert client("example.org").get("/", headers={"Host": "example.com"}).status_code == 400
    assert client(ANY).get("/", headers={"Host": "example.com"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:5001"}, 200),
        ({"Origin": "http://127.0.0.1:5001", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://127.0.0.1:8000"}, 403),  # another program of this machine
        ({"Origin": "https://example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_other_sites_pages_cannot_ask_but_may_lead_here(headers: dict[str, str], status: int) -> None:
    assert client().post("/", headers=headers, content=b"a").status_code == status
    assert client().get("/", headers=headers).status_code == 200


def test_what_is_too_large_is_not_kept() -> None:
    asked = client()
    for _ in range(5):  # more than may be kept together
        for content in (bytes((1 << 20) + 1), iter([bytes(1 << 19)] * 40)):
            response = asked.post("/", content=content)
            assert (response.status_code, response.text) == (413, "a request may have at most 1 MB")
    assert asked.post("/", content=b"a").text == "a"


@pytest.fixture
def guard() -> Guard:
    return Guard(Starlette(routes=[Route("/", echo, methods=["POST"])]), LIMITS, refused)


async def asked_of(app: ASGIApp, messages: list[Message], host: bytes = b"127.0.0.1") -> tuple[int, int]:
    """Ask, and return the status of the answer, and how many of the messages had been received before that."""
    answered: list[tuple[int, int]] = []
    received = 0

    async def receive() -> Message:
        nonlocal received
        if received == len(messages):
            await asyncio.sleep(60)
        received += 1
        return messages[received - 1]

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answered.append((message["status"], received))

    await app(scope(host), receive, send)
    return answered[0]


def scope(host: bytes = b"127.0.0.1") -> Scope:
    return {"type": "http", "method": "POST", "path": "/", "headers": [(b"host", host)], "query_string": b""}


def pieces(*sizes: int) -> list[Message]:
    last = len(sizes) - 1
    return [
        {"type": "http.request", "body": bytes(size), "more_body": number < last} for number, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(
    ("host", "messages", "status"),
    [
        (b"127.0.0.1", pieces(10, 20, 0), 200),
        (b"example.org", pieces(10, 20, 0), 400),
        (b"127.0.0.1", pieces(1 << 20, 1, 1, 1), 413),
        (b"127.0.0.1", [*pieces(1 << 19, 1)[:1], {"type": "http.disconnect"}], 204),
    ],
)
def test_it_answers_when_all_has_come(guard: Guard, host: bytes, messages: list[Message], status: int) -> None:
    """Clients that still send read no answer. Who has left gets one as well: whatever stands before expects it."""
    assert asyncio.run(asked_of(guard, messages, host)) == (status, len(messages))
    assert (guard._held, guard._inside) == (0, 0)


def test_a_body_is_held_once() -> None:
    seen: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        seen.append(sys.getrefcount(body))
        await PlainTextResponse("")(scope, receive, send)

    asyncio.run(asked_of(Guard(app, LIMITS, refused), pieces(1 << 19, 1)))
    assert seen == [2]  # the name, and what counts


@pytest.mark.parametrize(("size", "status"), [(1, 408), ((1 << 20) + 1, 413)])
def test_what_takes_too_long_to_come(guard: Guard, size: int, status: int) -> None:
    guard._limits = replace(LIMITS, patience=0.05)
    assert asyncio.run(asked_of(guard, pieces(size, 1)[:1])) == (status, 1)
    assert guard._held == 0


def test_it_knows_whether_somebody_waits() -> None:
    known: list[bool] = []
    leaving = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        known.append(await asyncio.to_thread(is_awaited))
        leaving.set()
        await asyncio.sleep(0.05)
        known.append(await asyncio.to_thread(is_awaited))
        await PlainTextResponse("")(scope, receive, send)

    async def ask() -> None:
        messages = pieces(1)

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await leaving.wait()
            return {"type": "http.disconnect"}

        async def send(_: Message) -> None:
            pass

        await Guard(app, LIMITS, refused)(scope(), receive, send)

    asyncio.run(ask())
    assert known == [True, False] and is_awaited()


def test_a_body_that_breaks_off_leaves_nothing_behind() -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(1 << 20)
        raise ConnectionError

    asked = client()
    for _ in range(5):
        with pytest.raises(ConnectionError):
            asked.post("/", content=broken())
    assert asked.post("/", content=b"a").text == "a"
