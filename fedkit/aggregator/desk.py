"""The operator's own door: health, metrics, status and backup, on loopback, by a token in a file.

Devices never come here, and it is no part of what they are served. Who may read the token's file may ask.
"""

from __future__ import annotations

import hmac
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fedkit.aggregator.backup import ADDRESS, TOKEN, stage
from fedkit.aggregator.connections import Places
from fedkit.aggregator.federation import REACH
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.listener import Listener
from fedkit.aggregator.meters import Meters
from fedkit.aggregator.persevering import PROBE
from fedkit.aggregator.progress import Progress
from fedkit.aggregator.registry import Registry
from fedkit.aggregator.status import standing
from fedkit.errors import ConfigError, FedkitError
from fedkit.loopback import is_loopback
from fedkit.runfolder import replace_file
from fedkit.signing import VERSIONS


class Desk(Collector):
    """What an operator may ask. home: the aggregator's folder, where the token and the address are kept.

    ConfigError: the token cannot be kept there.
    """

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        meters: Meters,
        progress: Progress,
        places: Places,
        home: Path,
    ) -> None:
        self._journal, self._registry, self._meters = journal, registry, meters
        self._progress, self._places, self._home = progress, places, home
        self._token, self._began = make_token(home), time.monotonic()
        self._copying = threading.Lock()
        meters.registry.register(self)
        routes = [
            Route("/healthz", self._health, methods=["GET"]),
            Route("/metrics", self._guarded(self._metrics), methods=["GET"]),
            Route("/status", self._guarded(self._status), methods=["GET"]),
            Route("/backup", self._guarded(self._copy), methods=["POST"]),
        ]
        self.asgi: ASGIApp = Starlette(routes=routes)

    def status(self) -> dict[str, Any]:
        """Everything that `fedkit status` shows, as JSON."""
        seats = self._registry.seats()
        enrolled = (*seats.held, *seats.waiting, *seats.left)
        told = standing(self._journal.directory, enrolled, self._journal.now())
        for row in told["clients"]:
            row["uplink"] = self._meters.uplink(row["client"])
        strangers, devices = self._places.counts()
        return {
            **told,
            "run": self._progress.told(),
            "connections": {"devices": devices, "strangers": strangers},
            "protocols": list(VERSIONS),
            "uptime": time.monotonic() - self._began,
        }

    def collect(self) -> Iterator[Metric]:
        """The figures of the moment, for Prometheus."""
        told = self.status()
        run = told["run"]
        reachable = sum(row["seen"] is not None and row["seen"] < REACH for row in told["clients"])
        yield _gauge("fedkit_rounds_planned", "Rounds that the run is to have.", run["rounds"])
        yield _gauge("fedkit_rounds_done", "Rounds that are over.", run["done"])
        yield _gauge("fedkit_rounds_failed", "Rounds that left the model as it was.", run["failed"])
        yield _family(
            "fedkit_metric", "The model's metrics after the last evaluation.", "name", run["metrics"]
        )
        yield _family("fedkit_outcomes", "What became of invited clients.", "outcome", run["outcomes"])
        yield _gauge("fedkit_clients_known", "Clients that may take part.", len(told["clients"]))
        yield _gauge("fedkit_clients_reachable", "Clients heard of in the last three minutes.", reachable)
        waiting = len(told["enrolments"])
        yield _gauge("fedkit_enrolments_pending", "Devices that wait for a certificate.", waiting)
        if places := told["places"]:
            counts = {name: places[name] for name in ("taken", "free")}
            counts["waiting"] = len(places["waiting"])
            yield _family("fedkit_places", "Places for devices, and who waits for one.", "state", counts)
        yield _family("fedkit_tasks", "Tasks in the journal by how far they are.", "state", told["tasks"])
        yield _family("fedkit_connections", "Open connections.", "of", told["connections"])
        yield _family("fedkit_disk_bytes", "Bytes on the disk, and free.", "what", told["disk"])
        yield _counter("fedkit_bytes", "Bytes of bodies since the run began.", "way", told["traffic"])
        turned = {"turned_away": self._places.turned_away}
        yield _counter("fedkit_connections_refused", "Connections that found no place.", "why", turned)
        yield _gauge("fedkit_uptime_seconds", "Since the process began.", told["uptime"])

    def _guarded(self, serve: Callable[[], Response]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            told = request.headers.get("authorization", "").encode("utf-8", "replace")
            if not hmac.compare_digest(told, f"Bearer {self._token}".encode()):
                headers = {"WWW-Authenticate": "Bearer"}
                return JSONResponse({"error": "the token is missing or wrong"}, 401, headers)
            return await run_in_threadpool(serve)

        return answer

    async def _health(self, _request: Request) -> Response:
        """200 while the journal can be written, and there is room for more, else 503."""
        try:
            await run_in_threadpool(self._journal.beat)
            free = shutil.disk_usage(self._home).free
        except (sqlite3.Error, OSError) as error:
            return JSONResponse({"ok": False, "reason": f"the journal cannot be written: {error}"}, 503)
        if free < PROBE:  # a row that is written again takes none of it
            return JSONResponse({"ok": False, "reason": f"the disk is full: {free} bytes are free"}, 503)
        return JSONResponse({"ok": True})

    def _metrics(self) -> Response:
        return Response(generate_latest(self._meters.registry), media_type=CONTENT_TYPE_LATEST)

    def _status(self) -> Response:
        return JSONResponse(self.status())

    def _copy(self) -> Response:
        try:
            with self._copying, self._journal.held() as db:
                return JSONResponse({"path": str(stage(self._home, db))})
        except (FedkitError, OSError, sqlite3.Error) as error:
            return JSONResponse({"error": str(error)}, 503)


def make_token(directory: Path) -> str:
    """The operator's token of this directory, made at the first start; ConfigError if it cannot be kept."""
    path = directory / TOKEN
    try:
        if path.exists() and (known := path.read_text("ascii").strip()):
            return known
        directory.mkdir(parents=True, exist_ok=True)
        token = secrets.token_urlsafe(32)
        beside = path.with_name(path.name + ".tmp")
        beside.unlink(missing_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(token + "\n")
        beside.replace(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be used: {error}") from error
    return token


@contextmanager
def opened(desk: Desk, host: str, port: int, home: Path) -> Iterator[str]:
    """The desk at its address, which the operator's commands find in `home`; ConfigError off loopback."""
    if not is_loopback(host):
        raise ConfigError(f"--operator {host}:{port}: it is for this machine only; from others, use ssh -L")
    with Listener(desk.asgi, host, port) as listener:
        replace_file(home / ADDRESS, listener.url.encode() + b"\n")
        try:
            yield listener.url
        finally:
            (home / ADDRESS).unlink(missing_ok=True)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _family(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    made = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        made.add_metric([key], value)
    return made


def _counter(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    made = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        made.add_metric([key], value)
    return made
