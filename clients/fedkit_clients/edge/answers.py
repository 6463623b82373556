"""What an aggregator answers, read with care: any proxy, or a stranger, may have answered in its place."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import httpx

from fedkit import fields
from fedkit.errors import FedkitError, WireError, shown

TIMEOUT = 30.0
"""Seconds without a byte after which a connection is given up; a poll has its own time beside."""

T = TypeVar("T")


class Unreachable(FedkitError):
    """The link or the aggregator cannot now: try again, not before `after` seconds."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class Refused(FedkitError):
    """The aggregator understood and says no; `word` says why, for programs."""

    def __init__(self, status: int, word: str, message: str) -> None:
        super().__init__(f"the aggregator refuses ({status} {word}): {message}")
        self.status, self.word = status, word


class OtherRun(FedkitError):
    """The aggregator has another run than the one that was joined."""


@dataclass(frozen=True)
class Answer:
    """A short answer, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def read_short(response: httpx.Response, limit: int, patience: float) -> Answer:
    """The answer, read to its end; Unreachable if it is too long, or too long in coming."""
    data, until = bytearray(), time.monotonic() + patience + 2 * TIMEOUT
    with closing(response):
        for chunk in response.iter_raw():
            data += chunk
            if len(data) > limit or time.monotonic() > until:
                raise Unreachable(f"an answer of more than {limit} bytes, or slower than it may be")
    return Answer(response.status_code, response.headers, bytes(data))


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
    told = headers.get("Upload-Offset", "")
    if not (told.isascii() and told.isdigit() and len(told) < 16 and int(told) <= size):
        raise WireError(f"Upload-Offset is {shown(told)}")
    return int(told)


def run_of(headers: Mapping[str, str]) -> str:
    """The id of the run in the ETag of a job."""
    found = re.fullmatch(r'"[^".]*\.([0-9a-f]{16})"', headers.get("ETag", ""))
    if not found:
        raise WireError(f"the ETag of the job is {shown(headers.get('ETag', ''))}")
    return found[1]


def understood(read: Callable[[], T]) -> T:
    """What was read of an answer; Unreachable if that is no answer to the question."""
    try:
        return read()
    except WireError as error:
        raise Unreachable(f"the aggregator's answer is not understood: {error}") from error
