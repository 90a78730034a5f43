"""Addresses of the public network, and no others, whatever they look like and wherever they lead on to.

Nothing but 127.0.0.1 is connected with: a resolver of the tests says what names mean.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError, URLError

import psutil
import pytest

from captioner.inference import web

PUBLIC = "93.184.215.14"
BODY = b"a picture"


@pytest.mark.parametrize("address", ["8.8.8.8", PUBLIC, "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public(address: str) -> None:
    assert web.is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.8", "192.0.0.192"),
        *("192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:169.254.169.254"),
        *("::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "2002:7f00:1::"),
        *("2002:808:808::", "2001::1", "2001:0:808:808::1", "2001:db8::1", "3fff::1", "5f00::1", "100::1"),
        *("fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1", "4000::1"),
    ],
)
def test_not_public(address: str) -> None:
    assert not web.is_public(address)


def test_what_this_machine_is_called_in_the_public_network(monkeypatch: pytest.MonkeyPatch) -> None:
    assert web.is_public(PUBLIC)
    here = type("Address", (), {"address": PUBLIC})
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth0": [here]})
    assert not web.is_public(PUBLIC)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append((self.headers["Host"], self.path))  # type: ignore[attr-defined]
        _, _, leads = self.path.partition("?")
        self.send_response(302 if leads else 200)
        if leads:
            self.send_header("Location", leads)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


class Network:
    """Names and what they mean, one meaning after the other; what is public leads to the server of the tests."""

    def __init__(self, server: ThreadingHTTPServer):
        self.asked: list[tuple[str, str]] = server.asked  # type: ignore[attr-defined]
        self.names: dict[str, list[list[str]]] = {"good.test": [[PUBLIC]]}
        self.connected: list[str] = []
        self._port = server.server_port
        self._connect = socket.create_connection

    def getaddrinfo(self, host: str, port: int, *_: Any, **__: Any) -> list[tuple]:
        meanings = self.names.get(host, [[host]])
        found = meanings.pop(0) if len(meanings) > 1 else meanings[0]
        try:
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (each, port, 0, 0))
                if ":" in each
                else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (socket.inet_ntoa(socket.inet_aton(each)), port))
                for each in found
            ]
        except OSError:
            raise socket.gaierror(socket.EAI_NONAME) from None

    def create_connection(self, place: tuple[str, int], timeout: float, *_: Any) -> socket.socket:
        self.connected.append(place[0])
        if place[0] == "8.8.4.4":
            raise ConnectionRefusedError
        assert web.is_public(place[0]), place
        return self._connect(("127.0.0.1", self._port), timeout)


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        serving.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


@pytest.fixture
def network(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network(server)
    network.asked.clear()
    monkeypatch.setattr(socket, "getaddrinfo", network.getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", network.create_connection)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    return network


def get(address: str) -> bytes:
    with web.opened(address, timeout=5, until=time.monotonic() + 5, public=True) as response:
        return response.read()


def refused(address: str) -> bool:
    with pytest.raises(URLError) as raised:
        get(address)
    return isinstance(raised.value.reason, web.NotPublicError)


def test_a_public_address_without_a_proxy(network: Network) -> None:
    assert get("http://good.test/a") == BODY
    assert network.asked == [("good.test", "/a")]
    assert network.connected == [PUBLIC]


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[fe80::1%25eth0]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://0/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://017700000001/",
        "http://0177.0.0.1/",
        "https://127.0.0.1/",
        "http://inner.test/",
        "http://mixed.test/",
        "http://none.test/",
        "http://good.test:22/",
        "http://good.test:8080/",
        "https://good.test:6379/",
    ],
)
def test_what_is_within_is_not_connected_with(address: str, network: Network) -> None:
    network.names |= {
        "localhost": [["::1", "127.0.0.1"]],
        "inner.test": [["10.1.2.3"]],
        "mixed.test": [[PUBLIC, "127.0.0.1"]],
        "none.test": [["nothing"]],
    }
    assert refused(address)
    assert network.connected == []


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1/", "http://inner.test/", "//inner.test/x", "https://127.0.0.1/", "http://good.test:22/"],
)
def test_redirections_are_looked_at_too(address: str, network: Network) -> None:
    network.names["inner.test"] = [["10.1.2.3"]]
    assert refused(f"http://good.test/?{address}")
    assert network.connected == [PUBLIC]
    assert get("http://good.test/?http://good.test/b") == BODY


def test_a_name_is_resolved_once_a_connection(network: Network) -> None:
    """A name that means another place the second time leads to neither."""
    network.names["turns.test"] = [[PUBLIC], ["127.0.0.1"]]
    assert get("http://turns.test/") == BODY
    assert network.connected == [PUBLIC]
    assert refused("http://turns.test/")
    network.names["turns.test"] = [[PUBLIC], ["127.0.0.1"]]
    assert refused("http://turns.test/?http://turns.test/")


def test_the_next_address_of_a_name_where_one_does_not_answer(network: Network) -> None:
    network.names["two.test"] = [["8.8.4.4", PUBLIC]]
    assert get("http://two.test/") == BODY
    network.names["closed.test"] = [["8.8.4.4", "8.8.4.4"]]
    with pytest.raises(URLError) as raised:
        get("http://closed.test/")
    assert isinstance(raised.value.reason, ConnectionRefusedError)


@pytest.mark.parametrize(
    "address", ["http://me@good.test/", "http://me:word@good.test/", "http://good.test/?http://a@b/"]
)
def test_no_user_names(address: str, network: Network) -> None:
    with pytest.raises(ValueError, match="a user name in an address is not taken"):
        get(address)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "FILE:/etc/passwd", "data:,x"])
def test_redirections_to_other_schemes(address: str, network: Network) -> None:
    with pytest.raises(HTTPError):
        get(f"http://good.test/?{address}")


def test_redirections_have_an_end(network: Network) -> None:
    with pytest.raises(HTTPError):
        get("http://good.test/?http://good.test/?http://good.test/?http://good.test/?" * 3)
    assert len(network.asked) <= web.REDIRECTIONS + 1


def test_a_certificate_is_asked_for(network: Network) -> None:
    """The server speaks no TLS; what matters is that nothing is asked before a certificate was seen."""
    with pytest.raises(URLError) as raised:
        get("https://good.test/")
    assert "SSL" in str(raised.value.reason)
    assert network.asked == []


def test_nothing_begins_when_the_time_is_over(network: Network) -> None:
    with (
        pytest.raises(TimeoutError),
        web.opened("http://good.test/", timeout=5, until=time.monotonic() - 1, public=True),
    ):
        pass
    assert network.connected == []
