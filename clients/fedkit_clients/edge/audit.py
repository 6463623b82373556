"""The owner's record of what leaves a device: each field of each request, as a line of JSON.

    {"at": 1790000000, "request": "POST /v1/uploads", "headers": {...}, "body": {...}}
    {"at": 1790000000, "request": "PUT /v1/uploads/ID", "headers": {...}, "bytes": 4096, "sha256": "..."}
    {"at": 1790000000, "message": "EncodedUpdate", "key": [...], "weight": 20.0, ..., "sha256": "..."}

A message is told once, before it is uploaded; the pieces that carry it follow as requests. docs/data-flow.md
says what each field is for. A line is written before its bytes leave: what is not written is not sent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from fedkit import wire
from fedkit.errors import ConfigError
from fedkit.messages import EncodedUpdate, Failure
from fedkit_clients.edge.files import append_line

log = logging.getLogger("fedkit.edge")
MOST = 1 << 24
"""Bytes of the file after which it is moved to FILE.1, over the one before."""


class Audit:
    """Appends to `path`. ConfigError: it cannot be written. clock: unix time."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write({})
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}; give another --audit") from error

    def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        """A request that is about to leave. OSError: it is not to leave."""
        named = {name.lower(): value for name, value in headers.items()}
        told: dict[str, object] = {"request": f"{method} {target}", "headers": named}
        if method in ("PATCH", "PUT"):
            told |= _bytes(body)
        elif body:
            told["body"] = json.loads(body)
        self._write(told)

    def message(self, frame: bytes) -> None:
        """A message whose upload begins."""
        found = wire.decode(frame)
        told: dict[str, object] = {"message": type(found).__name__, "key": wire.key_row(found.key)}
        if isinstance(found, EncodedUpdate):
            told |= {"codec": found.codec, "metrics": dict(found.metrics), "payload": len(found.payload)}
            told |= {"weight": found.weight, "work": found.work}
        elif isinstance(found, Failure):
            told |= {"code": found.code, "exception": found.exception, "subject": found.subject}
        self._write(told | _bytes(frame))

    def _write(self, told: Mapping[str, object]) -> None:
        """Append a line; nothing for an empty one."""
        if self._path.exists() and self._path.stat().st_size > MOST:
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        line = json.dumps({"at": int(self._clock()), **told}) + "\n" if told else ""
        append_line(self._path, line.encode())


def _bytes(data: bytes) -> dict[str, object]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
