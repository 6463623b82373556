"""The faults of the proxy are real: what two sockets see of each."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.faults.faultproxy import FaultProxy, Faults

REQUEST = b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + bytes(50000)
TLS = b"\x16\x03\x01" + b"h" * 100


class Server:
    """Answers whatever is a request, or echoes, and remembers what came."""

    def __init__(self) -> None:
        self.came: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                one, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._speak, args=(one,), daemon=True).start()

    def _speak(self, one: socket.socket) -> None:
        try:
            with one:
                while data := one.recv(1 << 16):
                    self.came.append(data)
                    one.sendall(ANSWER if data.endswith(b"hello") else data)
        except OSError:
            self.came.append(b"broken")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture
def link(server: Server) -> Iterator[Callable[..., FaultProxy]]:
    made: list[FaultProxy] = []

    def make(**faults: float) -> FaultProxy:
        made.append(FaultProxy(server.port, Faults(**faults)))  # type: ignore[arg-type]
        return made[-1].__enter__()

    yield make
    for proxy in made:
        proxy.__exit__(None, None, None)


@contextmanager
def said(proxy: FaultProxy, data: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=120) as one:
        one.sendall(data)
        yield one


def everything(one: socket.socket, most: int = 1 << 20) -> bytes:
    found = b""
    while len(found) < most and (data := one.recv(1 << 16)):
        found += data
    return found


def test_without_faults_all_bytes_pass(link: Callable[..., FaultProxy], server: Server) -> None:
    proxy = link()
    for data, answer in ((REQUEST, ANSWER), (TLS, TLS)):
        with said(proxy, data) as one:
            assert everything(one, len(answer)) == answer
    assert server.came == [REQUEST, TLS]
    assert proxy.passed == len(REQUEST) + len(ANSWER) + 2 * len(TLS)


def test_a_cut_comes_after_so_many_bytes(link: Callable[..., FaultProxy]) -> None:
    proxy = link(cut=1000)
    for _ in range(5):
        with said(proxy, REQUEST) as one:
            assert 400 < len(everything(one)) < 1500
    assert proxy.met["cut"] == 5


def test_a_reset_is_one(link: Callable[..., FaultProxy]) -> None:
    proxy = link(cut=1000, reset=1.0)
    with said(proxy, REQUEST) as one, pytest.raises(ConnectionResetError):
        everything(one)
    assert proxy.met["reset"] == 1


def test_a_truncated_answer_ends_in_peace(link: Callable[..., FaultProxy]) -> None:
    proxy = link(cut=1000, truncate=1.0)
    with said(proxy, REQUEST) as one:
        found = everything(one)
    assert ANSWER.startswith(found)
    assert 0 < len(found) < len(ANSWER)
    assert proxy.met["truncate"] == 1


def test_what_comes_twice_is_answered_once(link: Callable[..., FaultProxy], server: Server) -> None:
    proxy = link(twice=1.0)
    with said(proxy, REQUEST[:20]) as one:
        one.sendall(REQUEST[20:])
        assert everything(one, len(ANSWER)) == ANSWER
    assert b"".join(server.came).count(REQUEST) == 2


def test_of_tls_bytes_come_twice(link: Callable[..., FaultProxy]) -> None:
    with said(link(twice=1.0), TLS) as one:
        assert everything(one, 2 * len(TLS)) == TLS + TLS


@pytest.mark.parametrize("data", [REQUEST, TLS], ids=["http", "tls"])
def test_a_gateway_answers_in_place_of_the_server(
    link: Callable[..., FaultProxy], server: Server, data: bytes
) -> None:
    with said(link(gateway=1.0), data) as one:
        assert everything(one).startswith(b"HTTP/1.1 502")
    assert server.came == []


def test_in_the_dark_nothing_passes_and_nobody_is_told(
    link: Callable[..., FaultProxy], server: Server
) -> None:
    proxy = link()
    with said(proxy, TLS) as old:
        assert everything(old, len(TLS)) == TLS
        proxy.darken()
        with said(proxy, TLS) as new:
            old.settimeout(0.3)
            with pytest.raises(TimeoutError):
                old.recv(1)
            old.settimeout(120)
            proxy.lighten()
            assert everything(new) == b""
        assert everything(old) == b""
    with said(proxy, TLS) as one:
        assert everything(one, len(TLS)) == TLS
    assert len(server.came) == 2


def test_slow_links_pass_everything(link: Callable[..., FaultProxy]) -> None:
    proxy = link(drip=200_000, delay=0.001)
    with said(proxy, REQUEST) as one:
        assert everything(one, len(ANSWER)) == ANSWER
    assert proxy.met["drip"] >= 5
    assert proxy.met["delay"] >= 5
