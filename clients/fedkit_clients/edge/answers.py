"""What an aggregator answers, read with care: any proxy, or a stranger, may have answered in its place."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, TypeVar

from fedkit import fields
from fedkit.errors import FedkitError, WireError, shown

TIMEOUT = 30.0
"""Seconds without a byte after which a connection is given up; a poll has its own time beside."""

UNWANTED = frozenset((404, 409, 411, 413))
"""Answers after which an upload is not tried again; others may be mended at the server."""

T = TypeVar("T")


class Unreachable(FedkitError):
    """The link or the aggregator cannot now: try again, not before `after` seconds."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class Fruitless(Unreachable):
    """The aggregator answers at once, again and again, and brings nothing that is new.

    The next attempt is `least` seconds away or more, whatever came over the link meanwhile.
    """

    least = 1.0


class Refused(FedkitError):
    """The aggregator understood and says no; `word` says why, for programs."""

    def __init__(self, status: int, word: str, message: str) -> None:
        super().__init__(f"the aggregator refuses ({status} {word}): {message}")
        self.status, self.word = status, word


class OtherRun(FedkitError):
    """The aggregator has another run than the one that was joined."""


class Unfit(FedkitError):
    """The aggregator's next run is not for this device, which declines its tasks and waits for another."""


class Response(Protocol):
    """An answer whose body is still to come. headers: by their names in lower case."""

    status: int
    headers: Mapping[str, str]

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes. Unreachable: it is cut off."""
        ...

    def close(self) -> None:
        """Nothing more is wanted of it."""
        ...


class Way(Protocol):
    """How requests go to an aggregator: over the network (link.py), or in tests without one."""

    def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, patience: float = 0.0
    ) -> Response:
        """The answer to a request with these headers; Unreachable. patience: seconds beside TIMEOUT."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


@dataclass(frozen=True)
class Answer:
    """A short answer, whole. headers: by their names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def read_short(response: Response, limit: int, patience: float) -> Answer:
    """The answer, read to its end; Unreachable if it is too long, or too long in coming."""
    data, until = bytearray(), time.monotonic() + patience + 2 * TIMEOUT
    with closing(response):
        for chunk in response.pieces():
            data += chunk
            if len(data) > limit or time.monotonic() > until:
                raise Unreachable(f"an answer of more than {limit} bytes, or slower than it may be")
    return Answer(response.status, response.headers, bytes(data))


def reason(answer: Answer) -> tuple[str, str]:
    """Word and message of an error, shortened; empty if it is none of ours."""
    if answer.status < 400:
        return "", ""
    try:
        told = fields.mapping(fields.parse(answer.body, "error"), "error")
        return fields.text(told.get("error"), "error")[:40], fields.text(told.get("message"), "message")[:400]
    except WireError:
        return "", ""


def offset(headers: Mapping[str, str], size: int) -> int:
    told = headers.get("upload-offset", "")
    if not (told.isascii() and told.isdigit() and len(told) < 16 and int(told) <= size):
        raise WireError(f"Upload-Offset is {shown(told)}")
    return int(told)


def run_of(headers: Mapping[str, str]) -> str:
    """The id of the run in the ETag of a job."""
    found = re.fullmatch(r'"[^".]*\.([0-9a-f]{16})"', headers.get("etag", ""))
    if not found:
        raise WireError(f"the ETag of the job is {shown(headers.get('ETag', ''))}")
    return found[1]


def understood(read: Callable[[], T]) -> T:
    """What was read of an answer; Unreachable if that is no answer to the question."""
    try:
        return read()
    except WireError as error:
        raise Unreachable(f"the aggregator's answer is not understood: {error}") from error


def framed(place: str, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
    """All headers of a request: these, and what HTTP asks for. place: HOST:PORT."""
    length = {"Content-Length": str(len(body))} if body else {}
    return {"Host": place, "Accept-Encoding": "identity", **length, **headers}
