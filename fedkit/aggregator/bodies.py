"""Bodies of requests: bounded before they are read, checked against what was signed, never many in memory.

A hundred devices may upload at the same time over slow links: what comes of a PATCH goes to a file without
a name beyond the first 16 KiB, and what comes of a PUT to one that need only be renamed, so that memory does
not grow with the number of devices.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, cast

from starlette.types import Receive

from fedkit.aggregator.refusal import Refusal

JSON_LIMIT = 1 << 18
LIMITS = {"PATCH": 1 << 20, "PUT": 1 << 22}
"""Most bytes of a body that is not JSON."""
BODY_SECONDS = 60.0
INCOMING = "incoming"
"""The folder of what comes by PUT, in that of the journal."""
_IN_MEMORY = 1 << 14


def length_of(headers: Mapping[str, str], method: str, limit: int) -> int:
    """Bytes of the body that is to come; Refusal for one that is not to be read."""
    if headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "encoding", "a body comes as it is, without Content-Encoding")
    length = headers.get("content-length")
    if "transfer-encoding" in headers or (length is None and method not in ("GET", "HEAD")):
        raise Refusal(411, "length", "a body needs a Content-Length")
    if length is not None and not re.fullmatch(r"[0-9]{1,15}", length):
        raise Refusal(411, "length", "Content-Length is not a number")
    if int(length or 0) > limit:
        raise Refusal(413, "size", f"a body of {length} bytes, the limit is {limit}")
    return int(length or 0)


def make_incoming(folder: Path) -> None:
    """An empty folder for what comes by PUT; what a crash has left there was never whole."""
    (folder / INCOMING).mkdir(parents=True, exist_ok=True)
    for path in (folder / INCOMING).iterdir():
        path.unlink()


@contextmanager
def place(method: str, folder: Path) -> Iterator[IO[bytes]]:
    """Where the body of a request goes, gone afterwards. A PUT's has a name, by which it may be moved."""
    if method != "PUT":
        with SpooledTemporaryFile(_IN_MEMORY, dir=str(folder)) as spooled:
            yield cast("IO[bytes]", spooled)
        return
    path = folder / INCOMING / f"{secrets.token_hex(16)}.tmp"
    with path.open("x+b") as file:
        try:
            yield file
        finally:
            path.unlink(missing_ok=True)


async def take(receive: Receive, digest: str, limit: int, file: IO[bytes]) -> int:
    """Write a body to `file`, whole and as it was signed; its size. Refusal.

    digest: the Content-Digest that was signed.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            size, found = await _read(receive, limit, file)
    except TimeoutError:
        raise Refusal(408, "slow", f"the body took longer than {BODY_SECONDS:.0f} s") from None
    if not hmac.compare_digest(found, digest):
        raise Refusal(422, "body", "the body is not the one whose digest was signed")
    return size


async def _read(receive: Receive, limit: int, file: IO[bytes]) -> tuple[int, str]:
    """Write what comes to `file`; its size and its Content-Digest."""
    hashed, size, more = hashlib.sha256(), 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Refusal(400, "request", "the connection broke within the body")
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise Refusal(413, "size", f"a body beyond the limit of {limit}")
        hashed.update(part)
        file.write(part)  # into the page cache as a rule; a thread for each part costs more than that
        more = message.get("more_body", False)
    file.flush()
    return size, f"sha-256=:{base64.b64encode(hashed.digest()).decode()}:"
