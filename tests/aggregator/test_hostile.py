"""Hostile bytes on a real socket: refused or answered, nothing changes, the service goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedkit.aggregator.connections import Places
from fedkit.aggregator.listener import Listener
from fedkit.aggregator.meters import Meters
from fedkit.secagg.identity import SigningKey, Trust
from fedkit.signing import headers

PATIENCE = 120.0
KEY = SigningKey(hashlib.sha256(b"alice").digest())
SERVER = SigningKey(hashlib.sha256(b"server").digest()).public
ROUTES = ("/v1/job", "/v1/tasks", "/v1/blobs/" + "0" * 64, "/v1/uploads", "/v1/uploads/00")
METHODS = ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS")


class Server:
    """A site's application on a socket."""

    def __init__(self, site: Any, address: tuple[str, int]) -> None:
        self.site, self._address = site, address

    def say(self, data: bytes, end: bool = False) -> bytes:
        """All that is answered to these bytes. end: then hang up; else the other side must."""
        answer = b""
        # who is refused may be cut off: what was answered counts
        with socket.create_connection(self._address, timeout=PATIENCE) as one, suppress(ConnectionError):
            one.sendall(data)
            if end:
                one.shutdown(socket.SHUT_WR)
            while piece := one.recv(1 << 16):
                answer += piece
        return answer

    def connect(self) -> socket.socket:
        """A connection on which nothing was said."""
        return socket.create_connection(self._address, timeout=PATIENCE)

    def ask(self, method: str, target: str, body: bytes = b"", **more: str) -> tuple[int, bytes]:
        """Status and body of a signed request, with further headers (`_` is `-`)."""
        signed = headers(KEY, "alice", SERVER, method, target, body, time.time())
        told = {"Host": "x", "Connection": "close", **signed}
        if body or method in ("POST", "PATCH"):
            told["Content-Length"] = str(len(body))
        told |= {name.replace("_", "-"): value for name, value in more.items()}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items())]
        head, _, rest = self.say("\r\n".join(lines).encode() + b"\r\n\r\n" + body).partition(b"\r\n\r\n")
        found = re.match(rb"HTTP/1.1 ([0-9]{3})", head)
        return int(found[1]) if found else 0, rest

    def demand_unharmed(self) -> None:
        """Devices are served, and nothing has changed."""
        assert self.ask("GET", "/v1/job")[0] == 200
        assert not self.site.federation.outstanding()
        assert list((self.site.directory / "uploads").iterdir()) == []


@pytest.fixture
def places() -> Places:
    return Places()


@pytest.fixture
def server(site: Any, places: Places) -> Iterator[Server]:
    from fedkit.aggregator.app import App
    from fedkit.aggregator.registry import Roster

    roster = Roster(Trust.of_roster({"alice": KEY.public}, SERVER))
    app = App(site.journal, roster, meters=Meters(), places=places)
    with Listener(app.asgi, "127.0.0.1", 0, places=places) as listener:
        host, port = listener.url.removeprefix("http://").split(":")
        made = Server(site, (host, int(port)))
        yield made
        made.demand_unharmed()


LIGHT = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@LIGHT
@given(data=st.binary(min_size=1, max_size=300))
def test_noise_is_refused(server: Server, data: bytes) -> None:
    assert not server.say(data, end=True).startswith(b"HTTP/1.1 2")


TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)


@LIGHT
@given(
    method=st.sampled_from(METHODS),
    target=st.sampled_from(ROUTES) | TEXT.map(lambda text: "/" + text),
    names=st.dictionaries(st.from_regex(r"[A-Za-z-]{1,16}", fullmatch=True), TEXT, max_size=5),
    body=st.binary(max_size=100),
)
def test_unsigned_requests_are_refused(
    server: Server, method: str, target: str, names: dict[str, str], body: bytes
) -> None:
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *(f"{name}: {text}" for name, text in names.items())]
    lines += [f"Content-Length: {len(body)}", "Connection: close"]
    got = server.say("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    assert got == b"" or re.match(rb"HTTP/1.1 (4|501)", got), got


@LIGHT
@given(
    method=st.sampled_from(METHODS),
    target=st.sampled_from(ROUTES),
    query=st.none() | st.from_regex(r"[a-z]{1,8}=[A-Za-z0-9%&=.-]{0,20}", fullmatch=True),
    body=st.binary(max_size=100) | st.sampled_from([b"{}", b"[]", b"null", b'{"tasks":[],"settled":[]}']),
    offset=st.none() | TEXT,
    wanted=st.none() | TEXT,
)
def test_signed_nonsense_is_answered_and_changes_nothing(
    server: Server, method: str, target: str, query: str | None, body: bytes, offset: str | None, wanted: Any
) -> None:
    more = {} if offset is None else {"Upload_Offset": offset}
    more |= {} if wanted is None else {"Range": wanted}
    where = target if query is None or "wait" in query else f"{target}?{query}"
    status, _ = server.ask(method, where, b"" if method in ("GET", "HEAD") else body, **more)
    assert 200 <= status < 500, status
    assert status != 200 or method in ("GET", "HEAD", "POST")


TRICKS = [
    "/v1/blobs/../journal.sqlite",
    "/v1/blobs/..%2f..%2fjournal.sqlite",
    "/v1/blobs/%2e%2e/journal.sqlite",
    "/v1/blobs//etc/passwd",
    "/v1/uploads/../../identity.pem",
    "/v1/blobs/" + "0" * 64 + "%00",
    "//v1/job",
    "/v1/job/",
    "/v1/./job",
    "http://127.0.0.1/v1/job",
    "http://elsewhere/v1/job",
    "*",
    "/v1/enrol/../job",
    "/v1/%6aob",
    "/v1/job;x=1",
    "/v1/job?" + "a" * 400 + "=1",
    "/" + "v" * 10_000,
]


@pytest.mark.parametrize("target", TRICKS)
def test_no_path_leads_anywhere_else(server: Server, target: str) -> None:
    status, body = server.ask("GET", target)
    assert status in (0, 400, 404), (status, body)
    assert b"SQLite" not in body
    assert b"PRIVATE" not in body


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"Content_Encoding": "gzip"}, 415),
        ({"Content_Encoding": "identity, gzip"}, 415),
        ({"Content_Length": "1000000000000000"}, 411),
        ({"Content_Length": "100000000000000"}, 413),
        ({"Content_Length": "-1"}, 400),
        ({"Content_Length": "1e3"}, 400),
        ({"Content_Length": "2, 3"}, 400),
        ({"Transfer_Encoding": "chunked"}, 411),
        ({"Transfer_Encoding": "gzip, chunked"}, 400),
        ({"Fedkit_Version": "2"}, 400),
        ({"Fedkit_Client": "\u00e9"}, 400),
        ({"X": "\x00"}, 400),
        ({"Expect": "100-continue", "Content_Length": "99999999"}, 413),
        ({"Upgrade": "websocket", "Connection": "upgrade, close"}, 200),
    ],
)
def test_odd_headers(server: Server, more: dict[str, str], status: int) -> None:
    got, _ = server.ask("POST", "/v1/tasks", b'{"settled":[],"tasks":[]}', **more)
    assert got == status


@pytest.mark.parametrize(
    "name", ["Fedkit-Client", "Content-Length", "Range", "Upload-Offset", "Host", "Content-Encoding"]
)
def test_a_header_that_comes_twice_is_refused(server: Server, name: str) -> None:
    signed = headers(KEY, "alice", SERVER, "GET", "/v1/job", b"", time.time())
    told = {"Host": "x", **signed, "Content-Length": "0", "Range": "bytes=1-", "Upload-Offset": "0"}
    told |= {"Content-Encoding": "identity", "Connection": "close"}
    lines = ["GET /v1/job HTTP/1.1", *(f"{k}: {v}" for k, v in told.items()), f"{name}: 1"]
    assert server.say("\r\n".join(lines).encode() + b"\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_two_requests_in_one_are_no_way_past_the_check(server: Server) -> None:
    """The second head hides in the body of the first, as in request smuggling."""
    inner = b"GET /v1/job HTTP/1.1\r\nHost: x\r\n\r\n"
    signed = headers(KEY, "alice", SERVER, "POST", "/v1/tasks", inner, time.time())
    lines = ["POST /v1/tasks HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in signed.items())]
    lines += ["Content-Length: 0", "Transfer-Encoding: chunked", "Connection: close"]
    got = server.say("\r\n".join(lines).encode() + b"\r\n\r\n" + inner)
    assert b"HTTP/1.1 2" not in got


def test_uploads_of_keys_that_nobody_asked_for_leave_nothing(server: Server) -> None:
    job = server.site.job.id
    for number in range(200):
        key = f'["{job}",{number},"train","",0,"alice"]'
        body = f'{{"bytes":40,"key":{key},"sha256":"{"0" * 64}"}}'.encode()
        assert server.ask("POST", "/v1/uploads", body)[0] == 404


def test_one_device_has_no_more_connections_than_it_needs(
    server: Server, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedkit.aggregator.connections.EACH", 2)
    with ExitStack() as stack:
        made = [stack.enter_context(server.connect()) for _ in range(3)]
        for one in made:
            signed = headers(KEY, "alice", SERVER, "GET", "/v1/tasks", b"", time.time())
            lines = [
                "GET /v1/tasks HTTP/1.1",
                "Host: x",
                *(f"{name}: {told}" for name, told in signed.items()),
            ]
            one.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
            assert one.recv(1 << 16).startswith(b"HTTP/1.1 200")
        with suppress(ConnectionError):  # a reset is an end as well
            while made[0].recv(1 << 16):  # the rest of its answer, then the end
                continue
        assert places.counts() == (0, 2)
    server.demand_unharmed()


@pytest.mark.parametrize("name", ["tasks", "settled"])
def test_no_more_is_acknowledged_than_anybody_was_told(server: Server, name: str) -> None:
    """Thousands of keys would keep the event loop, and so all other devices, waiting."""
    one: Any = 1 if name == "tasks" else ["0" * 16, 1, "train", "", 0, "alice"]
    for count, status in ((256, 200), (257, 413), (2000, 413)):
        body = json.dumps({"settled": [], "tasks": []} | {name: [one] * count}).encode()
        assert server.ask("POST", "/v1/tasks", body)[0] == status
    server.demand_unharmed()


def test_a_flood_of_refusals_is_logged_sparingly(
    server: Server, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from fedkit.aggregator.logs import BURST, logged

    path = tmp_path / "log"
    with logged(path):
        for _ in range(3 * BURST):
            assert server.ask("GET", "/v1/job", Fedkit_Signature="0" * 128)[0] == 401
    lines = path.read_text().splitlines()
    assert sum('"word": "signature"' in line for line in lines) == BURST
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_who_hangs_up_within_a_body_leaves_nothing(server: Server, method: str) -> None:
    body = bytes(1 << 18)
    signed = headers(KEY, "alice", SERVER, method, "/v1/uploads/00", body, time.time())
    lines = [f"{method} /v1/uploads/00 HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in signed.items())]
    lines.append(f"Content-Length: {len(body)}")
    for part in (0, 1, 1 << 17):
        server.say("\r\n".join(lines).encode() + b"\r\n\r\n" + body[:part], end=True)


def test_a_disk_that_is_full_is_told_and_then_it_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    from fedkit.aggregator.journal import Journal

    def full(*args: object) -> bool:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "admit", full)
        status, body = server.ask("GET", "/v1/job")
        assert (status, b'"disk"' in body) == (503, True)
    assert server.ask("GET", "/v1/job")[0] == 200


def test_a_journal_that_cannot_be_written_answers_and_recovers(server: Server) -> None:
    """Really: SQLite itself refuses, as on a read-only file system."""
    with server.site.journal.held() as db:
        db.execute("PRAGMA query_only = ON")
    status, body = server.ask("GET", "/v1/job")
    assert (status, b'"disk"' in body) == (503, True)
    with server.site.journal.held() as db:
        db.execute("PRAGMA query_only = OFF")
    assert server.ask("GET", "/v1/job")[0] == 200
