"""Signed requests to an aggregator: short answers, blobs and uploads that resume (docs/edge-protocol.md)."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path

from fedkit import fields, jobfile, signing
from fedkit.errors import shown
from fedkit.messages import ClientId, Key
from fedkit.secagg.identity import SigningKey
from fedkit.wire import key_row, name_of
from fedkit_clients.edge.answers import (
    Answer,
    OtherRun,
    Refused,
    Response,
    Unreachable,
    Way,
    framed,
    offset,
    read_short,
    reason,
    run_of,
    understood,
)
from fedkit_clients.edge.audit import Audit
from fedkit_clients.edge.files import private
from fedkit_clients.edge.link import Link, address_of
from fedkit_clients.edge.meter import Meter
from fedkit_clients.edge.offers import Blob, News, read_news

SHORT = 1 << 20
"""Most bytes of an answer that is no job and no blob."""
PIECE, WHOLE = 1 << 20, 1 << 22
"""Most bytes of one PATCH, and of one PUT."""
FIRST = 1 << 21
"""Most bytes of the first request with a body, of which nothing is known but that links may be slow."""
SMALLEST = 1 << 12
"""Pieces do not get smaller than this, however often the link is cut."""
HEAD = 512
"""About the bytes of the head of a request, and of an answer."""
CORRECTIONS = 8
"""Times that an upload may be told that it goes on elsewhere."""
_AGAIN = frozenset((408, 422, 425, 429))
_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class Transport:
    """What one client says to one aggregator.

    server: the aggregator's key, for which requests are signed; plain http is for this machine only.
    way: another one than over the network, for tests. clock: unix seconds of this device; that of the
    aggregator is `ahead` of it, as it learns on the way. meter: counts all bytes. audit: told of all that
    leaves the device. proxy: as http://HOST:PORT. run: the one that was joined, which requests name. key:
    signs them; it may change. gained: bytes of blobs and replies that will not travel again, whatever
    breaks. requests: how many it has made.
    """

    def __init__(
        self,
        address: str,
        client: ClientId,
        key: SigningKey,
        server: bytes,
        *,
        way: Way | None = None,
        clock: Callable[[], float] = time.time,
        meter: Meter | None = None,
        audit: Audit | None = None,
        proxy: str = "",
    ) -> None:
        self._client, self.key, self._server, self._clock = client, key, server, clock
        self._meter, self._audit = meter if meter is not None else Meter(), audit
        self.ahead = 0.0  # of the aggregator's clock over this one
        self._piece = FIRST
        self.run, self.gained, self.requests = "", 0, 0
        self._address = address_of(address, "http", "https")
        self._way = way if way is not None else Link(self._address, server, proxy, self._meter.connected)

    def close(self) -> None:
        """Close the connections."""
        self._way.close()

    def job(self) -> tuple[str, bytes]:
        """The run that is open, and the bytes of its job."""
        answer = self._call("GET", "/v1/job", limit=jobfile.LIMIT)
        return understood(lambda: run_of(answer.headers)), answer.body

    def news(
        self,
        wait: int,
        held: int = 0,
        tasks: Sequence[int] = (),
        settled: Sequence[Key] = (),
        again: bool = False,
    ) -> News:
        """Verdicts and tasks, as soon as there are some or after `wait` seconds.

        held: the version whose difference is held, by which others can be told. tasks: are safe here.
        settled: their verdicts are acted upon. again: offer what was taken and not answered once more.
        """
        more = (f"&held={held}" if held else "") + ("&again=1" if again else "")
        target = self._in_run(f"/v1/tasks?wait={wait}{more}")
        if tasks or settled:
            told = {"settled": [key_row(key) for key in settled], "tasks": list(tasks)}
            answer = self._call("POST", target, _json(told).encode(), patience=wait)
        else:
            answer = self._call("GET", target, patience=wait)
        return understood(lambda: read_news(answer.body))

    def blob(self, blob: Blob, part: Path) -> bytes:
        """The bytes of a blob; `part` holds what came of them, across calls and processes.

        Unreachable: they did not all come; Refused: there is no such blob any more.
        """
        have = part.stat().st_size if part.exists() else 0
        if have != blob.bytes:
            self._meter.demand(blob.bytes - min(have, blob.bytes))
            try:
                self._fetch(blob, part, have if have < blob.bytes else 0)
            finally:
                self.gained += max(0, part.stat().st_size - have) if part.exists() else 0
        data = part.read_bytes()
        if hashlib.sha256(data).hexdigest() != blob.sha256:
            self.gained -= blob.bytes
            part.unlink()
            raise Unreachable(f"blob {blob.sha256[:16]} came damaged")
        return data

    def upload(self, key: Key, frame: bytes, begun: bool = False) -> None:
        """Bring a reply to where the aggregator has all of it; goes on where an earlier attempt ended.

        begun: it may hold a part of it already. Unreachable: it has not all; Refused: it does not want it.
        """
        self._meter.demand(len(frame))
        if self._audit is not None:
            self._audit.message(frame)
        if begun or len(frame) > self._piece:
            return self._resume(key, frame)
        self._send_piece("PUT", self._in_run(f"/v1/uploads/{name_of(key)}"), frame, {})
        self.gained += len(frame)
        return None

    def _resume(self, key: Key, frame: bytes) -> None:
        """Bring what the aggregator lacks of a reply, piece by piece."""
        digest = hashlib.sha256(frame).hexdigest()
        body = _json({"bytes": len(frame), "key": key_row(key), "sha256": digest}).encode()
        answer = self._call("POST", self._in_run("/v1/uploads"), body)
        at, turns = understood(lambda: _begun(answer.body, len(frame))), 0
        while at < len(frame):
            target = self._in_run(f"/v1/uploads/{name_of(key)}")
            after = self._append(target, at, frame, turns < CORRECTIONS)
            self.gained += max(0, after - at)
            turns, at = turns + (after <= at), after

    def _in_run(self, target: str) -> str:
        """The target of a request that is about the run that was joined."""
        return f"{target}{'&' if '?' in target else '?'}run={self.run}" if self.run else target

    def _append(self, target: str, at: int, frame: bytes, correct: bool) -> int:
        """Where to go on after the piece at `at`."""
        piece = frame[at : at + min(self._piece, PIECE)]
        try:
            answer = self._send_piece("PATCH", target, piece, {"Upload-Offset": str(at)}, correct)
        except Refused as error:
            if error.status != 404:
                raise
            raise Unreachable("the upload is gone from the aggregator: it begins again") from error
        return len(frame) if answer.status == 201 else understood(lambda: offset(answer.headers, len(frame)))

    def _send_piece(
        self, method: str, target: str, piece: bytes, headers: Mapping[str, str], correct: bool = False
    ) -> Answer:
        """Send bytes of a reply; the next piece is smaller if the link did not bear this one, else larger."""
        began = time.monotonic()
        try:
            answer = self._call(method, target, piece, headers, correct=correct)
        except Unreachable:
            self._piece = max(SMALLEST, min(self._piece, len(piece)) // 2)
            raise
        self._meter.uploaded(len(piece), time.monotonic() - began)
        if answer.status != 409:
            self._piece = min(WHOLE, 2 * self._piece)
        return answer

    def _fetch(self, blob: Blob, part: Path, have: int) -> None:
        """Append to `part` what comes; Unreachable unless it then has as many bytes as the blob."""
        headers = {"Range": f"bytes={have}-"} if have else {}
        with self._open("GET", f"/v1/blobs/{blob.sha256}", b"", headers, 0.0) as response:
            if response.status == 416:
                part.unlink(missing_ok=True)
                raise Unreachable(f"blob {blob.sha256[:16]} cannot be resumed: it begins again")
            if response.status not in (200, 206):
                self._demand(read_short(response, SHORT, 0.0))
            mode = "ab" if response.status == 206 else "wb"
            with open(part, mode, opener=private) as file:
                for chunk in response.pieces():
                    file.write(chunk)
                    self._meter.count(len(chunk))
                    if file.tell() > blob.bytes:
                        break
        size = part.stat().st_size
        if size > blob.bytes:
            part.unlink()
        if size != blob.bytes:
            raise Unreachable(f"blob {blob.sha256[:16]}: {size} bytes came, there are {blob.bytes}")

    def _call(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        limit: int = SHORT,
        patience: float = 0.0,
        correct: bool = False,
    ) -> Answer:
        """A request with a short answer. correct: an answer of 409 with another offset is no refusal."""
        with self._open(method, target, body, headers or {}, patience) as response:
            answer = read_short(response, limit, patience)
        self._meter.count(len(answer.body))
        if not (correct and answer.status == 409 and "upload-offset" in answer.headers):
            self._demand(answer)
        return answer

    @contextmanager
    def _open(
        self, method: str, target: str, body: bytes, headers: Mapping[str, str], patience: float
    ) -> Iterator[Response]:
        """A response whose body is still to come, of an aggregator that takes our time for right."""
        response = self._send(method, target, body, headers, patience)
        if response.status == 401:
            refused = read_short(response, SHORT, patience)
            if not self._corrected(refused):
                self._demand(refused)
            response = self._send(method, target, body, headers, patience)
        with closing(response):
            yield response

    def _send(
        self, method: str, target: str, body: bytes, headers: Mapping[str, str], patience: float
    ) -> Response:
        at = self._clock() + self.ahead
        signed = signing.headers(self.key, self._client, self._server, method, target, body, at)
        all_headers = framed(self._address.place, {**signed, **headers}, body)
        self.requests += 1
        self._meter.demand(len(body) + HEAD)
        if self._audit is not None:
            self._audit.request(method, target, all_headers, body)
        self._meter.count(len(body) + HEAD)
        response = self._way.send(method, target, all_headers, body, patience)
        self._meter.count(HEAD)
        return response

    def _corrected(self, answer: Answer) -> bool:
        """Whether the clocks were too far apart; they then are no more."""
        word, told = reason(answer)[0], answer.headers.get("fedkit-time", "")
        if word != "skew" or not (told.isascii() and told.isdigit() and len(told) < 16):
            return False
        self.ahead = int(told) - self._clock()
        return True

    def _demand(self, answer: Answer) -> None:
        """Unreachable if trying again may help, Refused if it does not; anything but success is an error."""
        status = answer.status
        word, message = reason(answer)
        if status >= 500 or status in _AGAIN or (status == 401 and word == "replay"):
            raise Unreachable(f"the aggregator answers {status} {word}", self._after(answer))
        spoken = answer.headers.get("fedkit-version")
        if spoken is None or 300 <= status < 400:
            raise Unreachable(f"{self._address} answers {status}, but not as an aggregator does")
        if spoken != str(signing.VERSION):
            told = f"it speaks version {shown(spoken)} of the protocol, this client {signing.VERSION}"
            raise Refused(400, "version", told)
        if (status, word) == (409, "run"):
            raise OtherRun(message)
        if status >= 400:
            raise Refused(status, word, message)

    def _after(self, answer: Answer) -> float:
        """Retry-After in seconds; it may be a date."""
        told = answer.headers.get("retry-after", "")
        try:
            if told.isascii() and told.isdigit():
                return float(told)
            return max(0.0, parsedate_to_datetime(told).timestamp() - self._clock() - self.ahead)
        except (ValueError, OverflowError):
            return 0.0


def _begun(body: bytes, size: int) -> int:
    told = fields.mapping(fields.parse(body, "upload"), "upload")
    return fields.integer(told.get("offset"), "offset", 0, size)
