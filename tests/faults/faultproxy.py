"""A bad link: a TCP proxy between clients and an aggregator that breaks what goes through it.

Breaks come after so many bytes, so that a busy machine meets as many as a quiet one; draws are seeded.
What needs to see requests (502, twice) is done to plain HTTP. Of TLS a proxy sees nothing: there the 502
comes in clear in place of a handshake, and what comes twice are bytes.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType

PIECE = 1 << 16
_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlost"
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_TLS = b"\x16"
_LINGER = struct.pack("ii", 1, 0)
_SECONDS = 0.05


@dataclass(frozen=True)
class Faults:
    """What goes wrong on a link. Shares are of all requests; under TLS `gateway` is of connections.

    cut: bytes, on average, after which a connection breaks: in a share `reset` of the cases by a reset, in
    a share `truncate` as an answer that ends early while the server still sends, else by an end to both.
    delay: seconds that a piece takes, on average. drip: bytes a second each way. twice: share that reaches
    the server twice; only the second answer reaches the client. gateway: share that is answered 502.
    """

    cut: int = 0
    reset: float = 0.0
    truncate: float = 0.0
    delay: float = 0.0
    drip: int = 0
    twice: float = 0.0
    gateway: float = 0.0


class FaultProxy:
    """Passes connections on to the port `to` of this machine, while the context is open.

    port: where it listens. faults: may be exchanged on the way. passed: bytes so far, both ways. met: how
    often each fault happened.
    """

    def __init__(self, to: int, faults: Faults | None = None, seed: int = 0) -> None:
        self.to, self.faults, self.draws = to, faults or Faults(), random.Random(seed)
        self.passed, self.met, self.light = 0, Counter[str](), asyncio.Event()
        self.light.set()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._loop, self._links = asyncio.new_event_loop(), set[asyncio.Task[None]]()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="fault proxy", daemon=True)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def darken(self) -> None:
        """From the return on nothing passes any more, and nobody is told."""
        self.met["outage"] += 1
        dark = threading.Event()
        self._loop.call_soon_threadsafe(self.light.clear)
        self._loop.call_soon_threadsafe(dark.set)
        dark.wait()

    def lighten(self) -> None:
        """The link is back; connections from before it are not."""
        self._loop.call_soon_threadsafe(self._dawn)

    def _dawn(self) -> None:
        self.light.set()
        for link in self._links:
            link.cancel()

    def _run(self) -> None:
        with closing(self._loop) as loop:
            loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        async with await asyncio.start_server(self._accept, sock=self._socket):
            await self._over.wait()
            links = list(self._links)
            for link in links:
                link.cancel()
            await asyncio.gather(*links, return_exceptions=True)
            await asyncio.sleep(0)  # transports let go of their sockets in the next turn

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        try:
            await _Link(self, reader, writer).run()
        except asyncio.CancelledError:
            self.met["cancelled"] += 1
        finally:
            self._links.discard(link)


class _Broken(Exception):
    """The link breaks here."""


class _Link:
    """One connection."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._draws, self._reader, self._client = proxy, proxy.draws, reader, writer
        self._left = self._draws.uniform(0.5, 1.5) * proxy.faults.cut
        self._ends: list[asyncio.StreamWriter] = []
        self._own(writer)

    async def run(self) -> None:
        """From the first byte to the last."""
        try:
            await self._proxy.light.wait()
            reader, writer = await asyncio.open_connection("127.0.0.1", self._proxy.to)
            self._own(writer)
            ways = [asyncio.create_task(self._up(writer)), asyncio.create_task(self._down(reader))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            self._proxy.met["nobody"] += 1
        finally:
            for end in self._ends:
                end.transport.abort()

    def _own(self, end: asyncio.StreamWriter) -> None:
        end.transport.set_write_buffer_limits(0)  # what is drained has left
        self._ends.append(end)

    async def _up(self, server: asyncio.StreamWriter) -> None:
        """What the client says; whole requests, as far as they are to be seen."""
        data = await self._reader.read(PIECE)
        tls = data.startswith(_TLS)
        if tls and self._happens("gateway", self._proxy.faults.gateway):
            await self._pass(_GATEWAY, self._client)
            return
        while data:
            if not tls:
                data = await _request(self._reader, data)
                if self._happens("gateway", self._proxy.faults.gateway):
                    await self._pass(_GATEWAY, self._client)
                    return
            if self._happens("twice", self._proxy.faults.twice):
                await (self._pass(data, server) if tls else self._copy(data))
            await self._pass(data, server)
            data = await self._reader.read(PIECE)

    async def _down(self, server: asyncio.StreamReader) -> None:
        while data := await server.read(PIECE):
            await self._pass(data, self._client)

    async def _copy(self, request: bytes) -> None:
        """The same request on a way of its own; its answer is lost."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._proxy.to)
        self._own(writer)
        writer.write(request)
        await writer.drain()
        await asyncio.wait([asyncio.create_task(reader.read(1))], timeout=1)

    async def _pass(self, data: bytes, to: asyncio.StreamWriter) -> None:
        """Bytes on their way; _Broken where the link does not hold."""
        faults = self._proxy.faults
        step = max(1, faults.drip // 20) if faults.drip else PIECE
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            seconds = self._draws.uniform(0.5, 1.5) * faults.delay
            await asyncio.sleep(seconds + (len(piece) / faults.drip if faults.drip else 0.0))
            self._proxy.met["delay"] += bool(faults.delay)
            self._proxy.met["drip"] += bool(faults.drip)
            await self._proxy.light.wait()
            fits = len(piece) if not faults.cut else min(len(piece), int(self._left))
            self._left -= fits
            self._proxy.passed += fits
            to.write(piece[:fits])
            await to.drain()
            if fits < len(piece):
                await self._break(to)

    async def _break(self, to: asyncio.StreamWriter) -> None:
        faults, draw = self._proxy.faults, self._draws.random()
        await asyncio.sleep(_SECONDS)  # what has passed is read by then: a reset takes what is not
        if draw < faults.reset:
            self._proxy.met["reset"] += 1
            for end in self._ends:
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        elif to is self._client and draw < faults.reset + faults.truncate:
            self._proxy.met["truncate"] += 1
            to.close()
            await asyncio.sleep(_SECONDS)
        else:
            self._proxy.met["cut"] += 1
        raise _Broken

    def _happens(self, name: str, share: float) -> bool:
        happens = self._draws.random() < share
        self._proxy.met[name] += happens
        return happens


async def _request(reader: asyncio.StreamReader, data: bytes) -> bytes:
    """One request with its body; _Broken if it does not come whole."""
    while b"\r\n\r\n" not in data:
        more = await reader.read(PIECE)
        if not more:
            raise _Broken
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    missing = int(length[1]) - len(body) if length else 0
    return data + await reader.readexactly(missing) if missing > 0 else data
