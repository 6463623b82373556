"""Peers that dawdle, stop listening, or take all places: they go, the others are served."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import threading
import time
from asyncio.sslproto import SSLProtocol
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from fedkit.aggregator import connections
from fedkit.aggregator.connections import Careful, Places, room
from fedkit.aggregator.listener import Listener
from fedkit.keyfile import make_key, read_key
from fedkit_clients.edge.tls import pinned

PATIENCE = 120.0
BIG = b"x" * (1 << 25)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Says hello; at /big, a lot of it; at /refuse, without reading the body."""
    if scope["type"] == "lifespan":
        return
    body = BIG if scope["path"] == "/big" else b"hello"
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(connections, name, 1.0)


@contextmanager
def served(most: int = 100) -> Iterator[tuple[str, int]]:
    with Listener(app, "127.0.0.1", 0, places=Places(most)) as listener:
        host, port = listener.url.removeprefix("http://").split(":")
        yield host, int(port)


def peer(address: Any) -> socket.socket:
    made = socket.create_connection(address, timeout=PATIENCE)
    made.settimeout(PATIENCE)
    return made


def closed(made: socket.socket) -> bool:
    """Whether the other side has gone: nothing more will come."""
    with suppress(ConnectionError):  # a reset is an end as well; a timeout is none
        while made.recv(1 << 16):
            continue
    return True


def asks(made: socket.socket) -> bytes:
    made.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while not answer.endswith(b"hello") and (piece := made.recv(1 << 16)):
        answer += piece
    return answer


@pytest.mark.parametrize("head", [b"", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_who_does_not_say_what_it_wants_has_to_go(head: bytes) -> None:
    with served() as address, peer(address) as slow:
        slow.sendall(head)
        assert closed(slow)
        with peer(address) as other:
            assert asks(other).startswith(b"HTTP/1.1 200")


def test_a_head_that_drips_is_not_waited_for() -> None:
    with served() as address, peer(address) as slow:
        began, sent = time.monotonic(), 0
        with suppress(OSError):  # how the other side's end is noticed
            while time.monotonic() < began + PATIENCE:
                slow.sendall(b"X-Slow: 1\r\n" if sent else b"GET / HTTP/1.1\r\n")
                sent += 1
                time.sleep(0.05)
        assert time.monotonic() < began + PATIENCE
        assert closed(slow)


def test_also_after_a_first_request() -> None:
    with served() as address, peer(address) as slow:
        assert asks(slow).startswith(b"HTTP/1.1 200")
        slow.sendall(b"GET / HT")
        assert closed(slow)


def test_who_asks_now_and_then_may_stay() -> None:
    with served() as address, peer(address) as steady:
        for _ in range(4):
            assert asks(steady).startswith(b"HTTP/1.1 200")
            time.sleep(0.4)


def test_a_body_that_nobody_reads_does_not_go_on_for_ever() -> None:
    with served() as address, peer(address) as talker:
        talker.sendall(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000000\r\n\r\n")
        assert talker.recv(1 << 16).startswith(b"HTTP/1.1 200")
        began, gone = time.monotonic(), False
        while not gone and time.monotonic() < began + PATIENCE:
            try:
                talker.sendall(bytes(1 << 10))
                time.sleep(0.02)
            except OSError:
                gone = True
        assert gone


def test_of_a_body_nobody_keeps_more_than_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application is slow, the peer is not: what has not been asked for waits in the network."""
    monkeypatch.setattr(SSLProtocol, "max_size", connections.BUFFER)
    parts, size = list[int](), 1 << 21

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        while scope["type"] == "http" and sum(parts) < size:
            await asyncio.sleep(0.01)
            parts.append(len((await receive())["body"]))
        await app(scope, receive, send)

    make_key(tmp_path)
    with Listener(slow, "127.0.0.1", 0, tmp_path) as listener:
        address = ("127.0.0.1", int(listener.url.rpartition(":")[2]))
        with pinned(read_key(tmp_path).public).wrap_socket(peer(address)) as talker:
            talker.sendall(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
            talker.sendall(bytes(size))
            assert talker.recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert max(parts) <= 2 * connections.BUFFER


def test_who_does_not_take_the_answer_has_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    gone, abort = threading.Event(), Careful.abort

    def aborts(self: Careful) -> None:
        abort(self)
        gone.set()

    monkeypatch.setattr(Careful, "abort", aborts)
    with served() as address, peer(address) as deaf:
        deaf.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        assert gone.wait(PATIENCE)
        got = 0
        with suppress(ConnectionError):  # a reset is an end as well
            while piece := deaf.recv(1 << 16):
                got += len(piece)
        assert got < len(BIG)


def test_a_head_that_is_too_long_is_refused() -> None:
    with served() as address, peer(address) as talker:
        talker.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * (2 * connections.HEAD_LIMIT))
        assert talker.recv(1 << 16).startswith(b"HTTP/1.1 400")
        assert closed(talker)


def test_where_all_places_are_taken_the_first_stranger_goes() -> None:
    places = Places(3)
    made = [_Peer(number) for number in range(5)]
    for one in made[:3]:
        comes(places, one)
    places.known(0, "alice")
    for one in made[3:]:
        comes(places, one)
    assert [one.gone for one in made] == [False, True, True, False, False]
    assert places.counts() == (2, 1)
    assert places.turned_away == 2
    for one in made:
        places.leave(one)  # type: ignore[arg-type]
    assert places.counts() == (0, 0)


def test_where_everybody_is_known_the_newcomer_goes() -> None:
    places = Places(2)
    made = [_Peer(number) for number in range(3)]
    for one in made:
        comes(places, one)
        places.known(one.client, f"client {one.client}")
    assert [one.gone for one in made] == [False, False, True]


def test_one_client_does_not_take_the_places_of_others() -> None:
    """Its newest connections stay: of the older ones the client may not know that they have broken."""
    each = connections.EACH
    places, made = Places(4 * each), [_Peer(number) for number in range(8 * each)]
    for one in made:
        comes(places, one)
        places.known(one.client, "mallory")
    assert [one.gone for one in made] == [True] * 7 * each + [False] * each
    honest = _Peer(-1)
    comes(places, honest)
    places.known(-1, "alice")
    assert (honest.gone, places.counts()) == (False, (0, each + 1))
    for one in (*made, honest):
        places.leave(one)  # type: ignore[arg-type]
    assert places.counts() == (0, 0)


def comes(places: Places, peer: Any) -> None:
    with socket.socket() as connection:
        places.knock(peer.client, connection)
        places.enter(peer)


class _Peer:
    def __init__(self, client: int) -> None:
        self.client, self.gone = client, False

    def abort(self) -> None:
        self.gone = True


def test_five_hundred_connections_that_say_nothing() -> None:
    with served(most=64) as address:
        crowd = [peer(address) for _ in range(500)]
        try:
            answers: list[bytes] = []

            def ask() -> None:
                with peer(address) as one:
                    answers.append(asks(one))

            asking = [threading.Thread(target=ask) for _ in range(5)]
            for thread in asking:
                thread.start()
            for thread in asking:
                thread.join(PATIENCE)
            assert len(answers) == 5
            assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
        finally:
            for one in crowd:
                one.close()


def test_there_is_room_for_as_many_as_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert 16 <= room(100) <= 100
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        assert room(40_000) == max(16, min(40_000, (min(40_512, hard) if hard > 0 else 40_512) - 512))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_never_shakes_hands_takes_no_place_for_long(tmp_path: Path) -> None:
    make_key(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    places = Places(4)
    with Listener(app, "127.0.0.1", 0, tmp_path, places=places) as listener, ExitStack() as stack:
        address = ("127.0.0.1", int(listener.url.rpartition(":")[2]))
        silent = [stack.enter_context(peer(address)) for _ in range(8)]
        assert all(closed(one) for one in silent[:4])
        speaks = stack.enter_context(context.wrap_socket(peer(address)))
        assert asks(speaks).startswith(b"HTTP/1.1 200")
        assert (places.counts()[0] <= 4, places.turned_away) == (True, 5)


def test_a_peer_that_sleeps_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By TLS both ends part; a device that waits between two polls does not listen."""
    monkeypatch.setattr(connections, "PARTING", 0.3)
    make_key(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with ExitStack() as stack, Listener(app, "127.0.0.1", 0, tmp_path) as listener:
        address = ("127.0.0.1", int(listener.url.rpartition(":")[2]))
        sleeps = stack.enter_context(context.wrap_socket(peer(address)))
        assert asks(sleeps).startswith(b"HTTP/1.1 200")
    assert "shutdown exceeded" not in caplog.text


def test_who_hung_up_has_not_been_turned_away() -> None:
    places, (here, there) = Places(1), socket.socketpair()
    with there:
        places.knock(("h", 1), here)
        here.close()
        places.knock(("h", 2), there)
        assert (places.counts(), places.turned_away) == ((1, 0), 0)
