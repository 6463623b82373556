"""Connections that may not dawdle, and places that strangers cannot take from those who are known.

uvicorn bounds neither the time for the head of a request nor that for reading an answer; a peer that
opens connections and says nothing would keep them for ever.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""For the head of a request, from its first byte; the first one of a connection, from its opening."""
READ_SECONDS = 120.0
"""For a peer to take 48 KiB of an answer."""
IDLE_SECONDS = 75
"""Between the requests of one connection."""
HEAD_LIMIT = 1 << 14
"""Most bytes of the head of a request."""
PLACES = 4096
"""Connections at the same time, where the system allows as many open files."""
PARTING = 1.0
"""For a peer that asks nothing to part when the aggregator goes down: by TLS it would have to agree."""
BUFFER = 1 << 15
"""Bytes that wait to be sent; half as many to be decrypted; one reading of a body: more has to wait."""
EACH = 16
"""Connections of one client: it uses one, and does not know of each that has broken."""
_OTHER_FILES = 512
AT_ONCE = _OTHER_FILES // 4
"""Connections that are opened before those that had to go are closed."""


class Places:
    """Who is connected. Where all places are taken, the stranger that came first goes; where one client has
    more connections than it can need, the oldest.

    A peer is a stranger until it is `known`, from when it knocks: with TLS it may dawdle before a word is
    said. All of it happens in the event loop.
    """

    def __init__(self, most: int = PLACES) -> None:
        self._most = most
        self._strangers: dict[object, Careful | socket.socket] = {}
        self._known: dict[object, Careful] = {}
        self._whose: dict[object, str] = {}
        self._owned: dict[str, list[Careful]] = {}
        self.turned_away = 0

    def knock(self, client: object, connection: socket.socket) -> None:
        """A connection was opened; nothing was said by it."""
        self._strangers.pop(client, None)  # one of which only the address is left
        self._strangers[client] = connection
        self._bound()

    def enter(self, peer: Careful) -> None:
        """A connection that has knocked is ready for requests."""
        if peer.client in self._strangers:
            self._strangers[peer.client] = peer
        else:
            peer.abort()  # it had to go meanwhile

    def known(self, client: object, who: str) -> None:
        """Whoever calls from this address has signed a request as the client `who`."""
        peer = self._strangers.pop(client, None)
        if peer is None or isinstance(peer, socket.socket):
            return
        self._known[client], self._whose[client] = peer, who
        own = self._owned.setdefault(who, [])
        own.append(peer)
        if len(own) > EACH:
            self.turned_away += 1
            own[0].abort()
            self.leave(own[0])

    def leave(self, peer: Careful) -> None:
        """A connection is over."""
        if self._strangers.get(peer.client) is peer:
            del self._strangers[peer.client]
        if self._known.get(peer.client) is peer:
            del self._known[peer.client]
            who = self._whose.pop(peer.client)
            self._owned[who].remove(peer)
            if not self._owned[who]:
                del self._owned[who]

    def counts(self) -> tuple[int, int]:
        """How many are strangers, and how many are known."""
        strangers = [one for one in self._strangers.values() if not _hung_up(one)]
        return len(strangers), len(self._known)

    def _bound(self) -> None:
        """Let strangers go until there are no more peers than places."""
        while len(self._strangers) + len(self._known) > self._most and self._strangers:
            first = self._strangers.pop(next(iter(self._strangers)))
            if _hung_up(first):
                continue
            if not isinstance(first, socket.socket):
                first.abort()
            else:
                with suppress(OSError):
                    socket.socket.shutdown(first, socket.SHUT_RDWR)  # asyncio, whose it is, then closes it
            self.turned_away += 1


def _hung_up(peer: Careful | socket.socket) -> bool:
    """Whether this is a connection that was over before it was ready."""
    return isinstance(peer, socket.socket) and peer.fileno() < 0


class Door(socket.socket):
    """A listening socket that tells `places` who knocks."""

    places: Places

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection, and the address of its peer."""
        connection, address = super().accept()
        self.places.knock(address[:2], connection)
        return connection, address


class Careful(H11Protocol):
    """HTTP/1.1 that is over when its peer takes too long to ask or to listen. `places`: see `careful`."""

    places: Places

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._late: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(BUFFER)
        limit = getattr(transport, "set_read_buffer_limits", None)  # TLS: what came and is not decrypted
        if limit is not None:
            limit(BUFFER // 2)
        self._late = self.loop.call_later(HEAD_SECONDS, self.abort)
        self.places.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.places.leave(self)
        for timer in (self._late, self._stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Let go of the peer without a word."""
        self.transport.abort()

    def shutdown(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        super().shutdown()
        if idle:
            self.loop.call_later(PARTING, self.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and self.cycle.body and not self.cycle.response_complete:
            self.flow.pause_reading()  # until the application asks for more
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self._stuck or self.loop.call_later(READ_SECONDS, self.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._stuck = self._stuck or self.loop.call_later(HEAD_SECONDS, self.abort)

    def _watch(self) -> None:
        """Start or stop the clock of a head that is not whole, or of a body that nobody waits for."""
        theirs = self.conn.their_state
        begun = theirs is h11.IDLE and bool(self.conn.trailing_data[0])
        unwanted = theirs is h11.SEND_BODY and self.conn.our_state is h11.DONE
        if not (begun or unwanted):
            if self._late is not None:
                self._late.cancel()
                self._late = None
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.abort)


def careful(places: Places) -> type[Careful]:
    """The protocol of connections that share these places."""
    return type("CarefulHere", (Careful,), {"places": places})


def room(most: int = PLACES) -> int:
    """How many connections the system allows, after asking it for as many files."""
    if os.name == "nt":
        return most
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return most if soft == resource.RLIM_INFINITY else max(16, min(most, soft - _OTHER_FILES))
