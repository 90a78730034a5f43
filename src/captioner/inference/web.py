"""What lies at http and https addresses, opened within a time and, if so wished, in the public network alone."""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPMessage, HTTPResponse, HTTPSConnection
from typing import IO, Any
from urllib import request

import psutil

REDIRECTIONS = 5
PORTS = (80, 443)  # of public addresses: behind others wait mail servers and data bases
HEADERS = {"User-Agent": "captioner", "Accept": "image/*"}  # some servers refuse urllib's own name

_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC = [
    ipaddress.ip_network(each)
    for each in (
        "192.0.0.0/24",  # of protocols; Python 3.11 takes a few of them for global
        "192.88.99.0/24",  # relays to 6to4
        "168.63.129.16/32",  # a cloud's own service to its machines
        "2002::/16",  # 6to4, which leads to the IPv4 address in it
        "3fff::/20",  # of documentation
    )
]


class NotPublicError(OSError):
    """An address has no host, or one that is not in the public network, which is not told apart."""


def is_public(address: str) -> bool:
    """Say whether an IP address is of another machine in the public network."""
    found: Any = ipaddress.ip_address(address.partition("%")[0])
    if found.version == 6:
        if found in _NAT64:
            found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        elif found.ipv4_mapped:
            found = found.ipv4_mapped
        elif found not in _UNICAST:
            return False
    refused = any(found.version == network.version and found in network for network in _NOT_PUBLIC)
    return found.is_global and not found.is_multicast and not refused and str(found) not in _own()


def _own() -> set[str]:
    """Return this machine's addresses: a service of its own may be closed to all others."""
    return {each.address.partition("%")[0] for several in psutil.net_if_addrs().values() for each in several}


@contextmanager
def opened(address: str, *, timeout: float, until: float, public: bool = False) -> Iterator[HTTPResponse]:
    """Open an address; at most `REDIRECTIONS` redirections to other http and https addresses are followed.

    Args:
        address: http or https.
        timeout: seconds without a byte, and for a connection.
        until: when all ends, the reading of the body as well, by `time.monotonic`; what is read then ends early.
        public: connect with hosts of the public network alone, on `PORTS`. The host's name is resolved once a
            connection and what it resolves to is checked, again at each redirection. Proxies are not used, since what
            they would connect with is not known.

    Raises:
        NotPublicError: with `public`, the host is not in the public network, or there is none.
        OSError: no answer (`TimeoutError`: in time), or one of an error (`urllib.error.HTTPError`).
        http.client.HTTPException: what answers does not speak HTTP.
        ValueError: this is no address.
    """
    way = _Way(timeout, until, public)
    opener = request.OpenerDirector()
    # Named one by one: those that urllib adds by default also open files and FTP.
    for handler in (
        *([] if public else [request.ProxyHandler()]),
        _Http(way),
        _Https(way),
        _Redirections(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    try:
        with opener.open(request.Request(address, headers=HEADERS), timeout=timeout) as response:
            yield response
    finally:
        for watch in way.watches:
            watch.cancel()


@dataclass
class _Way:
    """How connections are made, and what ends them when the time is over."""

    timeout: float
    until: float
    public: bool
    watches: list[threading.Timer] = field(default_factory=list)

    def left(self) -> float:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def connected(self, host: str, port: int) -> socket.socket:
        """Return a connection with a host of the public network."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            raise NotPublicError from None
        places = [place for *_, place in found]
        # The place that was looked at is the one connected with: a second look at the name might find another.
        if port not in PORTS or not all(is_public(str(place[0])) for place in places):
            raise NotPublicError
        for number, place in enumerate(places, 1):
            try:
                return socket.create_connection((str(place[0]), port), min(self.timeout, self.left()))
            except OSError:
                if number == len(places) or time.monotonic() > self.until:
                    raise
        raise NotPublicError

    def watch(self, connection: socket.socket) -> None:
        """End a connection when the time is over: one that drips never runs into a timeout."""

        def end() -> None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self.left(), end)
        timer.daemon = True
        timer.start()
        self.watches.append(timer)


class _Connection(HTTPConnection):
    def __init__(self, host: str, way: _Way, timeout: float):
        super().__init__(host, timeout=min(timeout, way.left()))
        self._way = way

    def connect(self) -> None:
        if self._way.public:
            self.sock = self._way.connected(self.host, self.port)
        else:
            super().connect()
        self._way.watch(self.sock)


class _SecureConnection(HTTPSConnection):
    def __init__(self, host: str, way: _Way, timeout: float):
        super().__init__(host, timeout=min(timeout, way.left()))
        self._way = way

    def connect(self) -> None:
        if self._way.public:
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(self._way.connected(self.host, self.port), server_hostname=self.host)
        else:
            super().connect()
        self._way.watch(self.sock)


class _Http(request.HTTPHandler):
    def __init__(self, way: _Way):
        super().__init__()
        self._way = way

    def http_open(self, asked: request.Request) -> HTTPResponse:
        return self.do_open(_Connection, _without_user(asked), way=self._way)  # type: ignore[arg-type]


class _Https(request.HTTPSHandler):
    def __init__(self, way: _Way):
        super().__init__()
        self._way = way

    def https_open(self, asked: request.Request) -> HTTPResponse:
        return self.do_open(_SecureConnection, _without_user(asked), way=self._way)  # type: ignore[arg-type]


def _without_user(asked: request.Request) -> request.Request:
    if "@" in (asked.host or ""):
        raise ValueError("a user name in an address is not taken")
    return asked


class _Redirections(request.HTTPRedirectHandler):
    max_redirections = REDIRECTIONS

    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> request.Request | None:
        fp.close()  # else all that comes with the redirection would be read
        return super().redirect_request(req, fp, code, msg, headers, newurl)
