"""What devices may ask of an aggregator: the resources of docs/edge-protocol.md, as an ASGI application."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import BinaryIO

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from fedkit import fields, wire
from fedkit.aggregator import enrolling
from fedkit.aggregator.bells import Bells, heard
from fedkit.aggregator.blobs import Blobs
from fedkit.aggregator.connections import Places
from fedkit.aggregator.enrol import Enrolment
from fedkit.aggregator.guard import Guard
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.leases import LEASE, MOST, Leases
from fedkit.aggregator.meters import Meters
from fedkit.aggregator.news import News
from fedkit.aggregator.refusal import HANDLERS, Refusal
from fedkit.aggregator.registry import Registry
from fedkit.aggregator.uploads import Uploads
from fedkit.fields import Fields
from fedkit.messages import ClientId, Key

LONGEST = 120
"""Seconds that a poll may wait: shorter than most networks take to forget a connection that is silent."""
MOST_VERSIONS = 10**12
MOST_TOLD = 4 * MOST
"""Tasks, and verdicts, that one question may acknowledge: a device was told of far fewer since the last."""
_LOOK = 5.0
"""Seconds after which a waiting poll looks again: a lease may have run out."""
_PIECE = 1 << 15
WRITERS = 4
"""Uploads that are written and hashed at the same time: more take more memory, and no less time."""
_TOGETHER = 0.25
"""Seconds that a verdict waits for the next task, which mostly is not far."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class App:
    """The application over one journal. registry: who the clients are; clock: unix time.

    `asgi` is what a server runs. lease: seconds until a task is offered again.
    """

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        lease: float = LEASE,
        clock: Callable[[], float] = time.time,
        meters: Meters | None = None,
        places: Places | None = None,
    ) -> None:
        self._journal = journal
        self._blobs = Blobs(journal.directory / "blobs")
        self._blobs.check()
        self._leases = Leases(journal, self._blobs)
        self._registry = registry
        self._news = News(journal, registry, self._blobs, self._leases, lease)
        self._uploads = Uploads(journal, journal.directory / "uploads")
        self._writers = asyncio.Semaphore(WRITERS)
        self._bells, self._draining, self._opened = Bells(), False, False
        journal.listen(self._bells.ring)
        routes = [
            Route("/v1/job", self._job, methods=["GET"]),
            Route("/v1/tasks", self._tasks, methods=["GET", "POST"]),
            Route("/v1/blobs/{digest}", self._blob, methods=["GET"]),
            Route("/v1/uploads", self._begin, methods=["POST"]),
            Route("/v1/uploads/{name}", self._offset, methods=["HEAD"]),
            Route("/v1/uploads/{name}", self._append, methods=["PATCH"]),
            Route("/v1/uploads/{name}", self._put, methods=["PUT"]),
        ]
        if isinstance(registry, Enrolment):
            routes.extend(enrolling.routes(registry))
        inner = Starlette(routes=routes, exception_handlers=dict(HANDLERS), lifespan=self._bells.running)
        inner.router.redirect_slashes = False  # to wherever the header Host says
        self.asgi: ASGIApp = Guard(inner, journal, registry, clock, meters, places)

    def drain(self) -> None:
        """Answer from now on that the aggregator is going down; waiting polls are let go."""
        self._draining = True
        self._bells.ring(None)

    async def _job(self, request: Request) -> Response:
        self._demand_open()
        job = await run_in_threadpool(self._journal.meta, "job")
        tag = f'"{await run_in_threadpool(self._journal.meta, "job_id")}.{self._run()}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        data = job if isinstance(job, bytes) else b""
        return Response(data, headers={"ETag": tag}, media_type="application/json")

    async def _tasks(self, request: Request) -> Response:
        client = _client(request)
        wait, held = _number(request, "wait", LONGEST), _number(request, "held", MOST_VERSIONS)
        given = _acknowledged(request) if request.method == "POST" else ([], [])
        again = bool(_number(request, "again", 1))
        end, look = time.monotonic() + wait, partial(self._heed, request, *given, again)
        key = await run_in_threadpool(self._registry.key, client)
        with self._bells.hung(client) as bell:
            while True:
                self._demand_open()
                bell.clear()
                news = await run_in_threadpool(look, client, held)
                look = partial(self._look_again, key)
                if news["settled"]:
                    end = min(end, time.monotonic() + _TOGETHER)
                left = end - time.monotonic()
                if news["messages"] or news["tasks"] or left <= 0:
                    return _answer(news)
                await heard(bell, min(left, _LOOK))
                if await request.is_disconnected():  # or a task would be leased to nobody
                    return _answer(news)

    def _heed(
        self,
        request: Request,
        tasks: Sequence[int],
        settled: Sequence[Key],
        again: bool,
        client: ClientId,
        held: int,
    ) -> dict[str, object]:
        """Take note of what has arrived, or was lost; what is new. Refusal if another run is meant."""
        self._demand_run(request)
        if again:
            self._leases.reopen(client)
        if tasks or settled:
            self._leases.acknowledge(client, tasks, settled)
        return self._news.read(client, held)

    def _look_again(self, key: bytes | None, client: ClientId, held: int) -> dict[str, object]:
        """What is new since. Refusal: meanwhile the client may not ask any more, or is another device."""
        if self._registry.key(client) != key:
            raise Refusal(401, "signature", f"client {client!r} has another key now")
        self._registry.demand(client)
        return self._news.read(client, held, first=False)

    async def _blob(self, request: Request) -> Response:
        digest = str(request.path_params["digest"])
        wanted = re.fullmatch(r"bytes=([0-9]{1,15})-", request.headers.get("range", ""))
        return await run_in_threadpool(_streamed, self._blobs, digest, int(wanted[1]) if wanted else None)

    async def _begin(self, request: Request) -> Response:
        self._demand_open()
        await run_in_threadpool(self._demand_run, request)
        given = _given(request, "bytes", "key", "sha256")
        digest = fields.text(given["sha256"], "sha256")
        if not _DIGEST.fullmatch(digest):
            raise Refusal(400, "request", "sha256 is not 64 lower-case hex digits")
        key, size = wire.read_key(given["key"]), fields.integer(given["bytes"], "bytes")
        name, offset = await run_in_threadpool(self._uploads.begin, _client(request), key, size, digest)
        return _answer({"id": name, "offset": offset})

    async def _offset(self, request: Request) -> Response:
        held, size = await run_in_threadpool(
            self._uploads.offset, _client(request), request.path_params["name"]
        )
        return Response(headers={"Upload-Offset": str(held), "Upload-Length": str(size)})

    async def _append(self, request: Request) -> Response:
        self._demand_open()
        await run_in_threadpool(self._demand_run, request)
        offset, body = request.headers.get("upload-offset", ""), request.scope["fedkit.body"]
        if not re.fullmatch(r"[0-9]{1,15}", offset):
            raise Refusal(400, "request", "Upload-Offset is missing or no number")
        name = request.path_params["name"]
        async with self._writers:
            held, size = await run_in_threadpool(
                self._uploads.append, _client(request), name, int(offset), body
            )
        return Response(status_code=201 if held == size else 204, headers={"Upload-Offset": str(held)})

    async def _put(self, request: Request) -> Response:
        self._demand_open()
        async with self._writers:
            await run_in_threadpool(self._keep, request)
        return Response(status_code=201)

    def _keep(self, request: Request) -> None:
        """Accept the result in the body, whose digest was signed."""
        self._demand_run(request)
        digest = request.headers["content-digest"].removeprefix("sha-256=:").removesuffix(":")
        body, sha256 = request.scope["fedkit.body"], base64.b64decode(digest).hex()
        self._uploads.put(_client(request), request.path_params["name"], body, sha256)

    def _run(self) -> str:
        return str(self._journal.meta("run") or "")

    def _demand_run(self, request: Request) -> None:
        """Refusal 409 `run`: the device means another run, whose rounds are numbered as these are."""
        named, own = request.query_params.get("run"), self._run()
        if named is not None and named != own:
            raise Refusal(409, "run", f"this is run {own!r}: fetch the job, and forget the other run's tasks")

    def _demand_open(self) -> None:
        if self._draining:
            raise Refusal(503, "draining", "the aggregator is going down", {"Retry-After": "5"})
        self._opened = self._opened or self._journal.meta("job_id") is not None
        if not self._opened:
            raise Refusal(503, "idle", "no run is open yet", {"Retry-After": "1"})


def _client(request: Request) -> ClientId:
    return str(request.scope["fedkit.client"])


def _number(request: Request, name: str, most: int) -> int:
    """A whole number of the query, 0 if it is not given; Refusal."""
    given = request.query_params.get(name, "0")
    if not re.fullmatch(r"[0-9]{1,15}", given) or int(given) > most:
        raise Refusal(400, "request", f"{name} is not a whole number up to {most}")
    return int(given)


def _given(request: Request, *names: str) -> Fields:
    """The fields of a JSON body."""
    found = fields.mapping(fields.parse(request.scope["fedkit.body"], "the body"), "the body")
    fields.exactly(found, *names)
    return found


def _acknowledged(request: Request) -> tuple[list[int], list[Key]]:
    """Tasks that are safe on the device, and keys whose verdicts it knows."""
    given = _given(request, "settled", "tasks")
    tasks, keys = (fields.items(given[name], name) for name in ("tasks", "settled"))
    if max(len(tasks), len(keys)) > MOST_TOLD:
        raise Refusal(413, "size", f"more than {MOST_TOLD} tasks or verdicts are acknowledged at once")
    return [fields.integer(task, "task") for task in tasks], [wire.read_key(key) for key in keys]


def _answer(content: Mapping[str, object]) -> Response:
    return Response(_json(content).encode("ascii"), media_type="application/json")


def _streamed(blobs: Blobs, digest: str, start: int | None) -> Response:
    """A blob from `start`; None: without a range."""
    path = blobs.find(digest)
    if path is None:
        raise Refusal(404, "unknown", "there is no such blob: its task was settled, or never was")
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise Refusal(404, "unknown", "the blob is gone: its task was settled") from None
    size = path.stat().st_size if start is None else file.seek(0, 2)
    if start is not None and start >= size:
        file.close()
        raise Refusal(416, "range", f"the blob has {size} bytes", {"Content-Range": f"bytes */{size}"})
    headers = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes", "Content-Length": str(size - (start or 0))}
    if start is not None:
        headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
    status = 200 if start is None else 206
    return StreamingResponse(_pieces(file, start or 0), status, headers, "application/octet-stream")


async def _pieces(file: BinaryIO, start: int) -> AsyncIterator[bytes]:
    """Read in the event loop: a blob is in the page cache as a rule, and a thread costs more than that."""
    with file:
        file.seek(start)
        while piece := file.read(_PIECE):
            yield piece
