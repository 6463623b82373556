"""A small job, a journal, and a device that speaks to an application."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fedkit import jobfile, wire
from fedkit.aggregate import Grid
from fedkit.aggregator.app import App
from fedkit.aggregator.blobs import Blobs
from fedkit.aggregator.federation import EdgeFederation
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.leases import Leases
from fedkit.aggregator.registry import Roster
from fedkit.aggregator.uploads import Uploads
from fedkit.downlink import Release
from fedkit.job import Job
from fedkit.messages import EncodedUpdate, Key, Task
from fedkit.plugins import codec, strategy
from fedkit.secagg.identity import SigningKey, Trust
from fedkit.signing import headers
from fedkit.tensors import Layout, flat

LAYOUT = Layout(("w", "b"), ((3, 2), (2,)), ("float32", "float32"))
KEYS = {name: SigningKey(hashlib.sha256(name.encode()).digest()) for name in ("alice", "bob", "ward 7")}
SERVER = SigningKey(hashlib.sha256(b"server").digest()).public
ROSTER = Roster(Trust.of_roster({name: key.public for name, key in KEYS.items()}, SERVER))


@cache
def make_job() -> Job:
    plain = codec("none")
    return Job(strategy("fedavg"), plain, plain, LAYOUT, Layout((), (), ()), Grid(1024.0, 256.0, 4096), {}, 7)


def make_model(value: float = 0.5) -> Any:
    return flat({"w": np.full((3, 2), value, np.float32), "b": np.zeros(2, np.float32)})


def make_task(job: Job, client: str, round: int = 0, version: int = 1, until: float = 4e9) -> Task:
    return Task(
        Key(job.id, round, "train", "", 0, client), version, make_model(), {}, {}, 5, 1.0, until, "", until
    )


def make_frame(key: Key, weight: float = 1.0) -> bytes:
    payload = np.ones(8, "<f4").tobytes()
    return wire.encode(EncodedUpdate(key, "none", payload, weight, {}, 1.0))


NOW = 1_790_000_000.0


@dataclass
class Site:
    """All of an aggregator that is not a socket; `again` is what a restart makes of it."""

    directory: Path
    open_journals: list[Journal] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.again()

    def again(self) -> Site:
        for journal in self.open_journals:
            journal.close()
        self.journal = Journal(self.directory)
        self.open_journals = [self.journal]
        self.job = make_job()
        self.federation = EdgeFederation(self.journal, ROSTER, patience=0.0)
        self.federation.open(self.job)
        self.leases = Leases(self.journal, Blobs(self.directory / "blobs"))
        self.uploads = Uploads(self.journal, self.directory / "uploads")
        self.publish()
        return self

    def fresh_app(self) -> App:
        return App(self.journal, ROSTER, clock=lambda: NOW)

    def publish(
        self, version: int = 1, value: float = 0.5, frame: bytes | None = None, base: int = 0
    ) -> None:
        self.federation.publish(Release(version, make_model(value), frame, base))

    def task(self, client: str, round: int = 0, version: int = 1) -> Task:
        return make_task(self.job, client, round, version)

    def deliver(self, task: Task, weight: float = 1.0) -> None:
        """Lease the tasks of its client and upload a result to this one."""
        client = task.key.client
        self.leases.news(client)[1]
        frame = make_frame(task.key, weight)
        name, offset = self.uploads.begin(client, task.key, len(frame), hashlib.sha256(frame).hexdigest())
        if offset < len(frame):
            self.uploads.append(client, name, offset, frame[offset:])


@pytest.fixture(autouse=True, scope="session")
def encode_a_job_once() -> Iterator[None]:
    """Encoding looks for plugins in all installed packages, which takes longer than everything else here."""
    real, known = jobfile.encode, dict[str, bytes]()

    def once(job: Job) -> bytes:
        if job.id not in known:
            known[job.id] = real(job)
        return known[job.id]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobfile, "encode", once)
        yield


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "site")
    yield made
    for journal in made.open_journals:
        journal.close()


@dataclass
class Device:
    """One client of an application, without a socket."""

    client: httpx.AsyncClient
    name: str
    clock: Callable[[], float]

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        change: Mapping[str, str | bytes] | None = None,
        drop: Iterable[str] = (),
        more: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        made = headers(KEYS[self.name], self.name, SERVER, method, target, body, self.clock())
        changed = {**made, **(change or {}), **(more or {})}
        for name in drop:
            changed.pop(name)
        signed = {k.encode(): v if isinstance(v, bytes) else v.encode() for k, v in changed.items()}
        return await self.client.request(method, target, content=body or None, headers=signed)

    async def post(self, target: str, content: object) -> httpx.Response:
        return await self.ask("POST", target, json.dumps(content).encode())


@pytest.fixture
def call(site: Site) -> Callable[..., Any]:
    """Run `use(device)` against the site's application, at NOW."""

    def run(use: Callable[[Device], Any], name: str = "alice", app: App | None = None) -> Any:
        async def inside() -> Any:
            served = app or site.fresh_app()
            transport = httpx.ASGITransport(served.asgi, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
                return await use(Device(client, name, lambda: NOW))

        return asyncio.run(inside())

    return run
