"""Requests over one socket to an aggregator: pinned, kept alive, by way of the proxy that its owner names.

http.client, and no library beside it: docs/decisions/0008-http-of-the-standard-library.md says why.
"""

from __future__ import annotations

import base64
import io
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import cast
from urllib.parse import unquote, urlsplit

from fedkit.errors import ConfigError, shown
from fedkit.loopback import demand_loopback
from fedkit_clients.edge.answers import TIMEOUT, Unreachable
from fedkit_clients.edge.tls import pinned

_PROBES = (("TCP_KEEPIDLE", 50), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 3))
ALIVE = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in _PROBES if hasattr(socket, name)),
)
"""Options of a socket: a peer, or a translator of addresses on the way, that has gone is found out."""
_RECORD = 1 << 14
"""Bytes that are read at once: what came before a link was cut is not lost."""
_PORTS = {"http": 80, "https": 443}
_BROKEN = (OSError, HTTPException, ValueError, ArithmeticError)
"""What http.client raises on bytes that are no answer: it does not bound all numbers that it reads."""


@dataclass(frozen=True)
class Address:
    """Where an aggregator or a proxy is. login: user and password as USER:PASSWORD."""

    scheme: str
    host: str
    port: int
    login: str = ""

    @property
    def place(self) -> str:
        """HOST:PORT, the host as HTTP has it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}"


def address_of(text: str, *schemes: str, login: bool = False) -> Address:
    """The address in `text`, by one of these schemes. ConfigError: it is none. login: one may be in it."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        host = host.encode("idna").decode("ascii")
        host.encode("ascii").decode("idna")  # xn-- may be followed by anything
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{shown(text)} is no address: {error}") from error
    more = parts.path not in ("", "/") or parts.query or parts.fragment or ("@" in parts.netloc and not login)
    if parts.scheme not in schemes or not host or more or port == 0:
        raise ConfigError(f"{shown(text)} is no address: write {schemes[-1]}://HOST:PORT")
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
    return Address(parts.scheme, host, port or _PORTS[parts.scheme], user)


class Link:
    """One connection to an aggregator, opened when it is needed and again when it broke.

    server: the aggregator's key. proxy: http://[USER:PASSWORD@]HOST:PORT, or empty. ConfigError: no address,
    or not safe. connected: told of each connection over TLS that is opened.
    """

    def __init__(
        self,
        address: Address,
        server: bytes,
        proxy: str = "",
        connected: Callable[[], None] = lambda: None,
    ) -> None:
        if address.scheme == "http":
            demand_loopback(address.host, "write https://")
        way = address_of(proxy, "http", login=True) if proxy and address.scheme == "https" else None
        context = pinned(server) if address.scheme == "https" else None
        self._address, self._connection = address, _Connection(address, context, way, connected)

    def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, patience: float = 0.0
    ) -> Whole:
        """Send a request, with these headers and no others; what is answered. Unreachable.

        patience: seconds beside TIMEOUT until it is.
        """
        try:
            return self._connection.ask(method, target, headers, body, TIMEOUT + patience)
        except _BROKEN as error:
            self.close()
            raise Unreachable(f"no answer from {self._address}: {_why(error)}") from error

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()


class Whole:
    """An answer whose body is still to come. headers: by their names in lower case."""

    def __init__(self, answer: _Answer, connection: HTTPConnection) -> None:
        self._answer, self._connection = answer, connection
        self.status = answer.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in answer.getheaders()}

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes. Unreachable: it is cut off."""
        try:
            while data := self._answer.piece():
                yield data
        except _BROKEN as error:
            raise Unreachable(f"an answer is cut off: {_why(error)}") from error
        if self._answer.length:
            raise Unreachable(f"an answer is cut off: {self._answer.length} bytes did not come")

    def close(self) -> None:
        """Nothing more is wanted; a connection that is not through with it cannot be used again."""
        if not (self._answer.isclosed() or self._answer.length == 0):
            self._connection.close()
        self._answer.close()


class _Timely(io.RawIOBase):
    """Reads a socket until a time that is set: a peer that sends byte after byte must end, too."""

    def __init__(self, made: socket.socket) -> None:
        self._socket, self._raw = made, made.makefile("rb", buffering=0)
        self.give(made.gettimeout() or TIMEOUT)

    def give(self, seconds: float) -> None:
        """From now on there are so many."""
        self._until = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the peer takes too long")
        self._socket.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(HTTPResponse):
    """An answer whose head comes within the timeout of the socket, and each piece of its body in time."""

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.fp.close()
        self._timely = _Timely(sock)
        self.fp = io.BufferedReader(self._timely)

    def piece(self) -> bytes:
        """More of the body; nothing at its end."""
        self._timely.give(TIMEOUT)
        return self.read1(_RECORD)


class _Connection(HTTPConnection):
    response_class = _Answer

    def __init__(
        self,
        address: Address,
        context: ssl.SSLContext | None,
        proxy: Address | None,
        connected: Callable[[], None],
    ) -> None:
        super().__init__(address.host, address.port, timeout=TIMEOUT)
        self._address, self._context, self._proxy = address, context, proxy
        self._connected = connected

    def connect(self) -> None:
        first = self._proxy or self._address
        try:
            made = socket.create_connection((first.host, first.port), TIMEOUT)
        except OSError as error:
            if self._proxy is None:
                raise
            raise ConnectionError(f"the proxy {first} cannot be reached: {error}") from error
        if self._context is not None:
            self._connected()
        try:
            for option in ALIVE:
                made.setsockopt(*option)
            if self._proxy is not None:
                _tunnel(made, self._proxy, self._address)
                made.settimeout(TIMEOUT)
            context, host = self._context, self._address.host
            self.sock = made if context is None else context.wrap_socket(made, server_hostname=host)
        except BaseException:
            made.close()
            raise

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes, seconds: float) -> Whole:
        """Send a request and wait for the head of its answer."""
        made = self._ready()
        made.settimeout(TIMEOUT)
        self.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            self.putheader(name, value)
        try:
            self.endheaders(body or None)
        except ConnectionError as error:
            broken: Exception | None = error  # who refuses a body need not read it, and may have said why
        else:
            broken = None
        made.settimeout(seconds)
        try:
            answer = self.getresponse()
        except _BROKEN as error:
            raise (broken or error) from None
        return Whole(cast("_Answer", answer), self)

    def _ready(self) -> socket.socket:
        """The socket, open: the one that there is, unless its other end has closed it."""
        made: socket.socket | None = self.sock
        if made is not None and not _over(made):
            return made
        self.close()
        self.connect()
        return self.sock


def _tunnel(made: socket.socket, proxy: Address, address: Address) -> None:
    """Have the proxy pass on what follows. ConnectionError, naming it, if it does not."""
    lines = [f"CONNECT {address.place} HTTP/1.1", f"Host: {address.place}"]
    if proxy.login:
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(proxy.login.encode()).decode()}")
    made.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
    with _Answer(made, method="CONNECT") as answer:
        try:
            answer.begin()
        except (HTTPException, ValueError, ArithmeticError) as error:
            raise ConnectionError(f"the proxy {proxy} does not answer as one: {_why(error)}") from error
    if answer.status != 200:
        hint = "; write http://USER:PASSWORD@HOST:PORT" if answer.status == 407 else ""
        told = f"{answer.status} {answer.reason}"
        raise ConnectionError(f"the proxy {proxy} opens no way to {address.place} ({told}){hint}")


def _over(made: socket.socket) -> bool:
    """Whether a connection that waits for nothing has something to read: it is over, or out of step."""
    if isinstance(made, ssl.SSLSocket) and made.pending():
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([made], [], [], 0)[0])
    poll = select.poll()
    poll.register(made, select.POLLIN)
    return bool(poll.poll(0))


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
