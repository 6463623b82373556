"""Requests to the byte, and every answer that an aggregator, a proxy or a stranger may give."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from fedkit.errors import ConfigError
from fedkit.messages import Key
from fedkit.secagg.identity import SigningKey
from fedkit.wire import name_of
from fedkit_clients.edge.answers import Refused, Unreachable
from fedkit_clients.edge.offers import Blob
from fedkit_clients.edge.transport import Transport
from tests.clients.edge.overhttpx import Handler, OverHttpx

KEY = SigningKey(bytes(range(32)))
SERVER = SigningKey(bytes(range(1, 33))).public
NOW = 1_790_000_000
VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "edge-1.json").read_text())


class Slow(httpx.SyncByteStream):
    """A body that never ends."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield bytes(1 << 16)


def transport(handler: Handler, client: str = "ward 7") -> Transport:
    way = OverHttpx(handler)
    return Transport("http://host:1", client, KEY, SERVER, way=way, clock=lambda: NOW)


def answer(status: int, content: bytes = b"", **headers: str) -> httpx.Response:
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers={"Fedkit-Version": "1", **told}, stream=httpx.ByteStream(content))


def error(status: int, word: str, **headers: str) -> httpx.Response:
    return answer(status, json.dumps({"error": word, "message": "why"}).encode(), **headers)


def test_requests_are_those_of_the_vectors() -> None:
    seen: list[httpx.Request] = []
    talk = transport(lambda request: seen.append(request) or answer(200, b"{}"))  # type: ignore[func-returns-value]
    job = "66e80a36d79233a0"
    for told in ([], [(7, Key(job, 2, "train", "", 0, "ward 7"))]):
        with pytest.raises(Unreachable):  # {} is no news
            talk.news(30, 0, [task for task, _ in told], [key for _, key in told])
    talk.upload(Key(job, 3, "train", "", 0, "ward 7"), bytes(range(16)))
    talk.close()
    for request, vector in zip(seen, VECTORS, strict=True):
        assert request.method == vector["method"]
        assert request.url.raw_path.decode() == vector["target"]
        assert request.content.hex() == vector["body"]
        for name in ("Content-Digest", "Fedkit-Client", "Fedkit-Time", "Fedkit-Version"):
            assert request.headers[name] == vector["headers"][name]
        assert request.headers["Accept-Encoding"] == "identity"
        named = {"host", "accept-encoding", *map(str.lower, vector["headers"])}
        assert set(request.headers) == named | ({"content-length"} if request.content else set())


@pytest.mark.parametrize(
    ("given", "after"),
    [
        (answer(503, Retry_After="7"), 7.0),
        (answer(503, Retry_After=format_datetime(datetime.fromtimestamp(NOW + 90, UTC))), 90.0),
        (answer(503, Retry_After="soon"), 0.0),
        (answer(503, Retry_After="-7"), 0.0),
        (httpx.Response(502, stream=httpx.ByteStream(b"<html>")), 0.0),
        (error(429, "many", Retry_After="3"), 3.0),
        (error(408, "slow"), 0.0),
        (error(401, "replay"), 0.0),
        (httpx.Response(200, stream=httpx.ByteStream(b"a hotel's page")), 0.0),
        (answer(302, Location="http://elsewhere/"), 0.0),
        (answer(200, b"[]"), 0.0),
        (httpx.Response(200, headers={"Fedkit-Version": "1"}, stream=Slow()), 0.0),
    ],
)
def test_what_may_pass_is_tried_again(given: httpx.Response, after: float) -> None:
    talk = transport(lambda request: given)
    with pytest.raises(Unreachable) as caught:
        talk.news(0)
    assert caught.value.after == after
    talk.close()


@pytest.mark.parametrize(
    ("given", "status", "word"),
    [
        (error(403, "client"), 403, "client"),
        (error(401, "signature"), 401, "signature"),
        (error(400, "version"), 400, "version"),
        (answer(404, b"not JSON"), 404, ""),
        (answer(200, b"{}", Fedkit_Version="2"), 400, "version"),
    ],
)
def test_what_does_not_pass_is_told(given: httpx.Response, status: int, word: str) -> None:
    talk = transport(lambda request: given)
    with pytest.raises(Refused) as caught:
        talk.news(0)
    assert (caught.value.status, caught.value.word) == (status, word)
    talk.close()


def test_another_version_is_named() -> None:
    talk = transport(lambda request: answer(200, b"{}", Fedkit_Version="2"))
    with pytest.raises(Refused, match="version '2' of the protocol, this client 1"):
        talk.job()
    talk.close()


def test_a_clock_that_cannot_be_mended_is_tried_twice() -> None:
    times: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        times.append(int(request.headers["Fedkit-Time"]))
        return error(401, "skew", Fedkit_Time=str(NOW + 86400))

    talk = transport(handle)
    with pytest.raises(Refused):
        talk.news(0)
    assert times == [NOW, NOW + 86400]
    talk.close()


@pytest.mark.parametrize("told", ["", "soon", "-5", "9" * 400])
def test_a_time_that_is_none_is_not_taken(told: str) -> None:
    asked: list[int] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(int(request.headers["Fedkit-Time"]))
        return error(401, "skew", Fedkit_Time=told)

    talk = transport(handle)
    with pytest.raises(Refused):
        talk.news(0)
    assert asked == [NOW]
    talk.close()


DATA = bytes(range(256)) * 40
BLOB = Blob(hashlib.sha256(DATA).hexdigest(), len(DATA))


@pytest.mark.parametrize("have", [0, 1, len(DATA) - 1, len(DATA), len(DATA) + 5])
def test_a_blob_goes_on_where_its_part_ends(tmp_path: Path, have: int) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        return answer(206 if "Range" in request.headers else 200, DATA[start:])

    talk, part = transport(handle), tmp_path / "part"
    part.write_bytes((DATA + b"extra")[:have])
    assert talk.blob(BLOB, part) == DATA
    talk.close()


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (answer(200, DATA[:100]), 100),
        (answer(200, DATA + b"more"), None),
        (answer(200, DATA[::-1]), None),
        (httpx.Response(200, headers={"Fedkit-Version": "1"}, stream=Slow()), None),
        (answer(416), None),
        (httpx.Response(200, stream=httpx.ByteStream(b"a hotel's page")), 14),
    ],
)
def test_a_blob_that_is_not_what_was_announced_is_not_taken(
    tmp_path: Path, given: httpx.Response, left: int | None
) -> None:
    talk, part = transport(lambda request: given), tmp_path / "part"
    with pytest.raises(Unreachable):
        talk.blob(BLOB, part)
    assert (part.stat().st_size if part.exists() else None) == left
    talk.close()


def test_a_part_that_is_damaged_is_begun_again(tmp_path: Path) -> None:
    talk, part = transport(lambda request: answer(206, DATA[10:])), tmp_path / "part"
    part.write_bytes(bytes(9) + b"!")
    with pytest.raises(Unreachable, match="damaged"):
        talk.blob(BLOB, part)
    assert not part.exists()
    talk.close()


UPLOAD = Key("j", 1, "train", "", 0, "c")


class Uploads:
    """An aggregator's side of one upload, with answers that may be replaced."""

    def __init__(self) -> None:
        self.held, self.odd, self.sizes = b"", dict[int, httpx.Response](), list[int]()
        self.cut = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return answer(200, json.dumps({"offset": len(self.held)}).encode())
        assert request.url.raw_path.decode() == f"/v1/uploads/{name_of(UPLOAD)}"
        if request.method == "PUT":
            self.sizes.append(len(request.content))
            if self.cut:
                raise httpx.WriteError("cut")
            return answer(201)
        self.sizes.append(len(request.content))
        if odd := self.odd.pop(len(self.sizes), None):
            return odd
        if int(request.headers["Upload-Offset"]) != len(self.held):
            return error(409, "offset", Upload_Offset=str(len(self.held)))
        self.held += request.content
        return answer(201 if len(self.held) == len(DATA) else 204, Upload_Offset=str(len(self.held)))


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST", "PIECE", "WHOLE"):
        monkeypatch.setattr(f"fedkit_clients.edge.transport.{name}", 1000)


@pytest.mark.usefixtures("pieces")
def test_an_upload_goes_in_pieces_and_takes_corrections() -> None:
    server = Uploads()
    server.odd = {3: error(409, "offset", Upload_Offset="0")}
    talk = transport(server)
    talk.upload(UPLOAD, DATA)
    assert server.held == DATA
    assert max(server.sizes) == 1000
    talk.close()


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize(
    "odd",
    [
        answer(204),
        answer(204, Upload_Offset="99999999"),
        answer(204, Upload_Offset="-1"),
        error(404, "unknown"),
        error(422, "digest"),
    ],
)
def test_an_upload_that_goes_wrong_is_begun_again(odd: httpx.Response) -> None:
    server = Uploads()
    server.odd = {2: odd}
    talk = transport(server)
    with pytest.raises(Unreachable):
        talk.upload(UPLOAD, DATA)
    talk.upload(UPLOAD, DATA)
    assert server.held == DATA
    talk.close()


def test_what_is_short_goes_in_one_piece_unless_a_part_may_be_there() -> None:
    server = Uploads()
    talk = transport(server)
    talk.upload(UPLOAD, DATA)
    assert (server.sizes, server.held) == ([len(DATA)], b"")
    talk.upload(UPLOAD, DATA, begun=True)
    assert (server.sizes, server.held) == ([len(DATA)] * 2, DATA)
    talk.close()


def test_what_the_link_did_not_bear_in_one_piece_goes_in_smaller_ones() -> None:
    server = Uploads()
    server.cut = True
    talk = transport(server)
    with pytest.raises(Unreachable):
        talk.upload(UPLOAD, DATA)
    server.cut = False
    talk.upload(UPLOAD, DATA)
    assert server.held == DATA
    assert server.sizes == [len(DATA), len(DATA) // 2, len(DATA) // 2]
    talk.close()


@pytest.mark.usefixtures("pieces")
def test_an_upload_that_gets_nowhere_ends() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return answer(200, b'{"id":"a","offset":0}')
        return error(409, "offset", Upload_Offset="0")

    talk = transport(handle)
    with pytest.raises(Refused, match="offset"):
        talk.upload(Key("j", 1, "train", "", 0, "c"), DATA)
    talk.close()


@pytest.mark.parametrize("address", ["", "host:1", "ftp://host", "http://", "http://host/path", 5])
def test_an_address_that_is_none_is_an_error_of_the_user(address: Any) -> None:
    with pytest.raises(ConfigError, match="no address"):
        Transport(address, "c", KEY, SERVER)
