"""One connection to an aggregator, over real sockets: kept, opened again, by way of a proxy."""

from __future__ import annotations

import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest

from fedkit.errors import ConfigError
from fedkit_clients.edge.answers import TIMEOUT, Unreachable
from fedkit_clients.edge.link import Link, Whole, address_of
from tests.ports import reserved

HEADERS = {"Host": "h", "Content-Length": "0"}
PATIENCE = 600.0
"""Seconds that anything may take, on a machine that is busy."""
Serve = Callable[[socket.socket], None]


@contextmanager
def listening(*serves: Serve) -> Iterator[int]:
    """A port where the first connection is served by the first of these, and so on."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def go() -> None:
            for serve in serves:
                with suppress(OSError):
                    made, _ = door.accept()
                    with made:
                        serve(made)

        thread = threading.Thread(target=go)
        thread.start()
        try:
            yield door.getsockname()[1]
        finally:
            with suppress(OSError):
                door.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


def heard(made: socket.socket) -> bytes:
    """A request, with its body: it may come in pieces."""
    data, size = b"", 0
    while not (head := data.partition(b"\r\n\r\n"))[1] or len(head[2]) < size:
        more = made.recv(1 << 16)
        if not more:
            break
        data += more
        found = re.search(rb"Content-Length: ([0-9]+)\r\n", data)
        size = int(found[1]) if found else 0
    return data


def says(*answers: bytes, asked: list[bytes] | None = None) -> Serve:
    """Hears a request, says an answer, as often as there are some; then hangs up."""

    def serve(made: socket.socket) -> None:
        for answer in answers:
            said = heard(made)
            if asked is not None:
                asked.append(said)
            made.sendall(answer)

    return serve


def answer(body: bytes, length: int | None = None, status: str = "200 OK") -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nX-One: 1\r\nContent-Length: {size}\r\n\r\n".encode() + body


def link(port: int, proxy: str = "", scheme: str = "http") -> Link:
    return Link(address_of(f"{scheme}://127.0.0.1:{port}", "http", "https"), bytes(32), proxy)


def read(whole: Whole) -> bytes:
    data = b"".join(whole.pieces())
    whole.close()
    return data


def test_a_connection_is_kept_and_nothing_but_the_headers_is_said() -> None:
    asked = list[bytes]()
    with listening(says(answer(b"one"), answer(b"two"), asked=asked)) as port:
        made = link(port)
        first = made.send("GET", "/a?b=1", HEADERS, b"")
        assert (first.status, first.headers["x-one"], read(first)) == (200, "1", b"one")
        assert read(made.send("POST", "/c", {"Host": "h", "Content-Length": "2"}, b"hi")) == b"two"
        made.close()
    assert asked[0] == b"GET /a?b=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
    assert asked[1] == b"POST /c HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"


def test_a_connection_that_was_closed_meanwhile_is_opened_again() -> None:
    with listening(says(answer(b"one")), says(answer(b"two"))) as port:
        made = link(port)
        assert read(made.send("GET", "/", HEADERS, b"")) == b"one"
        assert select.select([made._connection.sock], [], [], PATIENCE)[0], "its end comes"
        assert read(made.send("GET", "/", HEADERS, b"")) == b"two"
        made.close()


def test_an_answer_that_is_not_wanted_is_not_taken_for_the_next() -> None:
    with listening(says(answer(b"one", 1 << 20)), says(answer(b"two"))) as port:
        made = link(port)
        made.send("GET", "/", HEADERS, b"").close()
        assert read(made.send("GET", "/", HEADERS, b"")) == b"two"
        made.close()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZES = (b"-" + b"9" * 30, b"9" * 5000, b"-5", b"0x")
"""What a chunk may say of itself that is no size."""


@pytest.mark.parametrize(
    "said",
    [answer(b"half", 8), CHUNKED + b"8\r\nhalf", *(CHUNKED + size + b"\r\nhalf" for size in SIZES)],
)
def test_an_answer_that_is_cut_off_is_none(said: bytes) -> None:
    with listening(says(said)) as port:
        made = link(port)
        whole = made.send("GET", "/", HEADERS, b"")
        with pytest.raises(Unreachable, match="cut off"):
            list(whole.pieces())
        whole.close()
        made.close()


def test_what_came_before_a_cut_is_not_lost() -> None:
    with listening(says(answer(b"half", 8))) as port:
        made = link(port)
        whole = made.send("GET", "/", HEADERS, b"")
        assert next(whole.pieces()) == b"half"
        whole.close()
        made.close()


@pytest.mark.parametrize("said", [b"", b"SMTP ready\r\n", b"HTTP/1.1 200\r\n" + b"A: b\r\n" * 200])
def test_what_is_no_answer(said: bytes) -> None:
    with listening(says(said)) as port:
        made = link(port)
        with pytest.raises(Unreachable, match="no answer from http:"):
            made.send("GET", "/x", HEADERS, b"")
        made.close()


def drips(begin: bytes, more: bytes) -> Serve:
    """Hears a request, and never ends the answer to it."""

    def serve(made: socket.socket) -> None:
        made.recv(1 << 16)
        made.sendall(begin)
        while True:  # until the other side hangs up
            made.sendall(more)
            time.sleep(0.05)  # few enough of them to come late, all at once, within the limits of http.client

    return serve


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\nA: ", b"x"),
        (CHUNKED + b"0\r\n", b"A: x\r\n"),
    ],
)
def test_an_answer_that_never_ends_is_given_up(
    begin: bytes, more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedkit_clients.edge.link.TIMEOUT", 0.3)
    with listening(drips(begin, more)) as port:
        made = link(port)
        with pytest.raises(Unreachable, match="TimeoutError"):
            read(made.send("GET", "/", HEADERS, b""))
        made.close()


def test_a_body_that_comes_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a piece may take, and never as long without one; by a clock of our own."""
    clock, taken = [0.0], threading.Semaphore(0)
    monkeypatch.setattr("fedkit_clients.edge.link.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def slow(made: socket.socket) -> None:
        heard(made)
        made.sendall(answer(b"", 6))
        for _ in range(6):
            clock[0] += 0.4 * TIMEOUT
            made.sendall(b"x")
            assert taken.acquire(timeout=PATIENCE)

    with listening(slow) as port:
        made = link(port)
        whole = made.send("GET", "/", HEADERS, b"")
        try:
            for piece in whole.pieces():
                assert piece == b"x"
                taken.release()
        finally:
            taken.release(6)  # nobody waits for what is not read any more
        whole.close()
        made.close()
    assert clock[0] > 2 * TIMEOUT


def test_a_proxy_that_never_ends_its_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedkit_clients.edge.link.TIMEOUT", 0.3)
    with listening(drips(b"HTTP/1.1 200 Yes\r\nA: ", b"x")) as port:
        made = link(9, f"http://127.0.0.1:{port}", "https")
        with pytest.raises(Unreachable, match="TimeoutError"):
            made.send("GET", "/", HEADERS, b"")
        made.close()


def test_who_refuses_a_body_without_reading_it_is_heard() -> None:
    gone = threading.Event()

    def refuses(made: socket.socket) -> None:
        made.recv(100)
        made.sendall(answer(b"no", status="413 Too Large"))
        made.shutdown(socket.SHUT_WR)
        gone.set()
        while made.recv(1 << 16):
            pass

    with listening(refuses) as port:
        made, body = link(port), bytes(1 << 20)
        got = made.send("PUT", "/", {"Host": "h", "Content-Length": str(len(body))}, body)
        assert (got.status, read(got)) == (413, b"no")
        made.close()
    assert gone.is_set()


def test_nobody_there() -> None:
    with reserved() as port:
        told = f"no answer from http://127.0.0.1:{port}: ConnectionRefusedError"
        with pytest.raises(Unreachable, match=told):
            link(port).send("GET", "/", HEADERS, b"")


def test_a_proxy_that_is_not_there_is_named_without_its_password() -> None:
    with reserved() as port:
        made = link(9, f"http://ward:secret@127.0.0.1:{port}", "https")
        words = rf"the proxy http://127.0.0.1:{port} cannot be reached"
        with pytest.raises(Unreachable, match=words) as caught:
            made.send("GET", "/", HEADERS, b"")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n", r"\(407 Who are you\); write http://USER"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", r"opens no way to 127.0.0.1:9 \(502"),
        (b"SSH-2.0\r\n", "does not answer as one"),
        (b"", "does not answer as one"),
    ],
)
def test_a_proxy_that_opens_no_way(said: bytes, told: str) -> None:
    asked = list[bytes]()
    with listening(says(said, asked=asked)) as port:
        made = link(9, f"http://ward%20of:s%3Acret@127.0.0.1:{port}", "https")
        with pytest.raises(Unreachable, match=told) as caught:
            made.send("GET", "/", HEADERS, b"")
        made.close()
    assert f"the proxy http://127.0.0.1:{port}" in str(caught.value)
    assert asked[0].decode().split("\r\n") == [
        *("CONNECT 127.0.0.1:9 HTTP/1.1", "Host: 127.0.0.1:9"),
        *("Proxy-Authorization: Basic d2FyZCBvZjpzOmNyZXQ=", "", ""),
    ]


@pytest.mark.parametrize(
    "proxy", ["proxy:3128", "https://proxy:3128", "http://", "http://proxy:x", "ftp://p:1"]
)
def test_a_proxy_that_is_no_address(proxy: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        link(9, proxy, "https")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("https://host", "host:443"),
        ("https://[::1]:8", "[::1]:8"),
        ("http://HOST:1/", "host:1"),
        ("https://bücher.example:5", "xn--bcher-kva.example:5"),
    ],
)
def test_addresses(text: str, place: str) -> None:
    assert address_of(text, "http", "https").place == place


ODD = ("u:p@h", "h?q", "h#f", "h:0", "a..b", "xn--a", "h:70000", "[::1")


@pytest.mark.parametrize("text", [f"https://{odd}" for odd in ODD])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        address_of(text, "https")
