"""Answers of 400 and above: an exception that becomes one (docs/edge-protocol.md, Errors)."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Mapping
from typing import cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from fedkit.errors import RunFailed, WireError, shown

log = logging.getLogger("fedkit.aggregator")

DISK_SECONDS = 30
"""When to come again if the disk refuses."""


class Refusal(Exception):
    """A request that is not served. word: for programs; text: for people."""

    def __init__(self, status: int, word: str, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.word, self.text = status, word, text
        self.headers = dict(headers or {})


USUAL = frozenset(("draining", "idle", "offset", "run", "skew", "unknown"))
"""Words of refusals that every healthy client meets."""
DISK = (sqlite3.Error, OSError, RunFailed)
"""What writing raises where the disk is full or broken."""


def answer(error: Exception) -> Response:
    """The answer that an error becomes; one that has no place here is raised again."""
    refusal = _refusal(error)
    content = json.dumps({"error": refusal.word, "message": refusal.text}, separators=(",", ":"))
    return Response(content, refusal.status, refusal.headers, "application/json")


def _refusal(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, WireError):
        return Refusal(400, "request", str(error))
    if isinstance(error, DISK):
        wait = {"Retry-After": str(DISK_SECONDS)}
        return Refusal(503, "disk", "the aggregator cannot write now", wait)
    raise error


def note(scope: Scope, error: Exception) -> None:
    """Log and count a refusal: as a warning unless it belongs to the course of things."""
    refusal = _refusal(error)
    level = logging.DEBUG if refusal.word in USUAL else logging.WARNING
    target = scope["raw_path"].decode("ascii", "replace")[:200]
    about = {"word": refusal.word, "status": refusal.status, "client": scope.get("fedkit.client")}
    about |= {"method": scope["method"], "target": target, "peer": (scope.get("client") or ("",))[0]}
    log.log(level, "%s %s refused: %s", scope["method"], shown(target), error, extra=about)
    if "fedkit.meters" in scope:
        scope["fedkit.meters"].refused(refusal.word)


async def handled(request: Request, error: Exception) -> Response:
    """`answer`, for Starlette."""
    note(request.scope, error)
    return answer(error)


async def nowhere(request: Request, error: Exception) -> Response:
    """The answer to a path or a method that there is not."""
    status = cast("HTTPException", error).status_code
    return await handled(request, Refusal(status, "request", "there is no such resource"))


HANDLERS = dict.fromkeys((Refusal, WireError, *DISK), handled) | {HTTPException: nowhere}
"""What the application hands to them."""
