"""Who asks: every request is checked before anything is done for it (docs/edge-protocol.md)."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from typing import IO
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedkit.aggregator.bodies import JSON_LIMIT, LIMITS, length_of, make_incoming, place, take
from fedkit.aggregator.connections import Places
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.meters import Meters
from fedkit.aggregator.rates import Rates
from fedkit.aggregator.refusal import DISK, Refusal, answer, note
from fedkit.aggregator.registry import Registry
from fedkit.messages import ClientId
from fedkit.secagg.identity import verify
from fedkit.signing import SKEW, VERSION, VERSIONS, client_header, statement

STRANGERS = "/v1/enrol"
"""What may be asked without a signature, and the most bytes of such a body."""
STRANGE_LIMIT = 1 << 12
_SHAPES = {
    "fedkit-client": r"[A-Za-z0-9._~%-]{1,3072}",
    "fedkit-time": r"[0-9]{1,12}",
    "fedkit-nonce": r"[0-9a-f]{32}",
    "content-digest": r"sha-256=:[A-Za-z0-9+/]{43}=:",
    "fedkit-signature": r"[0-9a-f]{128}",
}
_ONCE = frozenset((*_SHAPES, "content-encoding", "content-length", "fedkit-version", "host", "if-none-match"))
_ONCE |= {"range", "transfer-encoding", "upload-offset"}
"""Headers that would mean two things if they came twice."""
_PAIR = r"[a-z]{1,20}=[A-Za-z0-9.-]{0,40}"
_TARGET = re.compile(rf"/v1/[A-Za-z0-9/._~-]{{1,300}}(\?{_PAIR}(&{_PAIR}){{0,3}})?")
A_SECOND, BURST = 100.0, 1000.0
"""Requests of one client: lastingly, and at once."""


class Guard:
    """Passes on what a client of the registry has signed; its id and body are then in the scope.

    The body is bytes; of a PATCH or PUT, a file.

    clock: unix time. meters: what counts requests. places: where connections of clients are known.
    """

    def __init__(
        self,
        app: ASGIApp,
        journal: Journal,
        registry: Registry,
        clock: Callable[[], float] = time.time,
        meters: Meters | None = None,
        places: Places | None = None,
    ) -> None:
        self._app, self._journal, self._registry, self._clock = app, journal, registry, clock
        self._meters, self._places = meters or Meters(), places or Places()
        self._rates = Rates(A_SECOND, BURST)
        make_incoming(journal.directory)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1003})
        began, status = time.monotonic(), [0]
        scope["fedkit.meters"], scope["fedkit.version"] = self._meters, VERSION
        try:
            await self._serve(scope, receive, self._marked(scope, status, send))
        finally:
            self._meters.request(scope["method"], scope["path"], status[0], time.monotonic() - began)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = _headers(scope)
            scope["fedkit.version"] = _version(headers)
            if scope["path"] == STRANGERS or scope["path"].startswith(STRANGERS + "/"):
                _demand_target(scope, headers)
                limit = STRANGE_LIMIT
            else:
                limit = await self._known(scope, headers)
            length_of(headers, scope["method"], limit)
            with place(scope["method"], self._journal.directory) as file:
                await self._take(scope, headers, receive, limit, file)
                return await self._app(scope, receive, send)
        except (Refusal, *DISK) as error:
            note(scope, error)
            return await answer(error)(scope, receive, send)

    async def _known(self, scope: Scope, headers: Mapping[str, str]) -> int:
        """Most bytes of the body of a client's request, whose name is then in the scope; Refusal."""
        client = await run_in_threadpool(self._client, scope, headers)
        scope["fedkit.client"] = client
        self._places.known(scope.get("client"), client)
        return LIMITS.get(scope["method"], JSON_LIMIT)

    async def _take(
        self, scope: Scope, headers: Mapping[str, str], receive: Receive, limit: int, file: IO[bytes]
    ) -> None:
        """The body, which is then in the scope; Refusal."""
        began = time.monotonic()
        size = await take(receive, headers["content-digest"], limit, file)
        if "fedkit.client" in scope:
            self._meters.came(scope["fedkit.client"], size, time.monotonic() - began)
        self._journal.count(up=size)
        file.seek(0)
        scope["fedkit.body"] = file if scope["method"] in LIMITS else file.read()

    def _client(self, scope: Scope, headers: Mapping[str, str]) -> ClientId:
        """The client whose signature holds; Refusal."""
        for name, shape in _SHAPES.items():
            if not re.fullmatch(shape, headers.get(name, "")):
                raise Refusal(400, "headers", f"the header {name} is missing or malformed")
        told, at = headers["fedkit-client"], int(headers["fedkit-time"])
        client, now = unquote(told), self._clock()
        if abs(now - at) > SKEW:
            raise Refusal(401, "skew", f"signed {at - now:+.0f} s from now, {SKEW} s are allowed")
        nonce, version = headers["fedkit-nonce"], scope["fedkit.version"]
        self._demand_signature(client, scope, headers)
        self._registry.demand(client)
        if wait := self._rates.wait(client):
            raise Refusal(429, "rate", "too many requests", {"Retry-After": str(math.ceil(wait))})
        if not self._journal.admit(client, nonce, at, now, version):
            raise Refusal(401, "replay", f"a request of client {client!r} came a second time")
        return client

    def _demand_signature(self, client: ClientId, scope: Scope, headers: Mapping[str, str]) -> None:
        """Refusal 401, the same and after the same work whether there is such a client or not."""
        told, server = headers["fedkit-client"], self._registry.trust.server
        key = self._registry.key(client) if client_header(client) == told else None
        time_told, nonce = headers["fedkit-time"], headers["fedkit-nonce"]
        version, digest = scope["fedkit.version"], headers["content-digest"]
        signed = statement(server, scope["method"], _target(scope), digest, time_told, nonce, told, version)
        holds = verify(key or server, signed, bytes.fromhex(headers["fedkit-signature"]))
        if key is None or not holds:
            who = f"there is no client {told!r}, or the signature is not its own for this aggregator"
            raise Refusal(401, "signature", who)

    def _marked(self, scope: Scope, status: list[int], send: Send) -> Send:
        """`send`, with the headers of every answer, its bytes counted and its status noted."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                now, version = str(int(self._clock())).encode(), str(scope["fedkit.version"]).encode()
                marks = [(b"fedkit-version", version), (b"fedkit-time", now)]
                message = {**message, "headers": [*message.get("headers", ()), *marks]}
            else:
                self._journal.count(down=len(message.get("body", b"")))
            await send(message)

        return sent


def _headers(scope: Scope) -> dict[str, str]:
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1").lower()
        if name in found and name in _ONCE:
            raise Refusal(400, "headers", f"the header {name} comes twice")
        found[name] = value.decode("latin-1")
    return found


def _target(scope: Scope) -> str:
    """The path with its query as it was sent; Refusal for what names no resource and must not be tried."""
    target = bytes(scope["raw_path"]).decode("ascii", "replace")
    if scope["query_string"]:
        target += "?" + bytes(scope["query_string"]).decode("ascii", "replace")
    if not _TARGET.fullmatch(target):
        raise Refusal(404, "request", "there is no such resource")
    return target


def _version(headers: Mapping[str, str]) -> int:
    """The version that the device speaks; Refusal if it is none of ours."""
    given = headers.get("fedkit-version", "none")
    if given not in [str(version) for version in VERSIONS]:
        ours = " and ".join(map(str, VERSIONS))
        raise Refusal(400, "version", f"the device speaks version {given[:20]!r}, the aggregator {ours}")
    return int(given)


def _demand_target(scope: Scope, headers: Mapping[str, str]) -> None:
    """Who enrols has no signature yet: the body proves what must be proven."""
    _target(scope)
    if not re.fullmatch(_SHAPES["content-digest"], headers.get("content-digest", "")):
        raise Refusal(400, "headers", "the header content-digest is missing or malformed")
