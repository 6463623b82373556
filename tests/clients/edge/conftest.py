"""A scripted aggregator, as docs/edge-protocol.md has it, and what goes wrong between it and a client."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import httpx
import numpy as np
import pytest

from fedkit import jobfile, plugins, signing, wire
from fedkit.aggregate import Grid
from fedkit.clientstore import MemoryStore
from fedkit.downlink import Downlink, Release, relative
from fedkit.dressing import codec_context, undress
from fedkit.federation import Verdict
from fedkit.job import Job
from fedkit.messages import EncodedUpdate, Key, Task
from fedkit.packing import raw
from fedkit.participant import Participant
from fedkit.secagg.identity import SigningKey, verify
from fedkit.seeds import derive
from fedkit.tensors import Layout, Tensors, add, pick
from fedkit_clients import NumpyWorkload, Softmax
from fedkit_clients.edge import runtime
from fedkit_strategies import FedAvg

NAME = "ward 7"
KEY = SigningKey(bytes(range(32)))
SERVER = SigningKey(bytes(range(1, 33))).public
VERDICTS = [Verdict.counted, Verdict.late, Verdict.counted, Verdict.refused, Verdict.counted]
"""What becomes of the reply to each round: those counted change the client's residual."""
Fault = Callable[[str, str, int], str | None]
"""(method, path, number of the request) -> what goes wrong with it, if anything."""


def make_workload() -> NumpyWorkload:
    draws = np.random.default_rng(0)
    x = draws.normal(size=(24, 64)).astype(np.float32)
    y = (x @ draws.normal(size=(64, 10))).argmax(axis=1).astype(np.int64)
    return NumpyWorkload(Softmax(64, 10), {NAME: (x, y), "other": (x[:4], y[:4])})


@lru_cache  # looking up its plugins takes a while
def make_job(down: str, base: Any) -> Job:
    layout = Layout.of(make_workload().init(5))
    up, train = plugins.codec("tensors:below=1|topk:share=0.2|int8"), {"epochs": 1, "batch": 8, "lr": 0.2}
    extras = Layout((), (), ())
    return Job(FedAvg(), up, plugins.codec(down), layout, extras, Grid(), train, 5, True, base, 1)


_BYTES: dict[str, bytes] = {}


def job_bytes(job: Job) -> bytes:
    """The job as bytes."""
    if job.id not in _BYTES:
        _BYTES[job.id] = jobfile.encode(job)
    return _BYTES[job.id]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Broken(httpx.SyncByteStream):
    """A body that is cut in the middle."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        yield self._data[: len(self._data) // 2]
        raise httpx.ReadError("cut")


class Aggregator(httpx.BaseTransport):
    """One client's tasks, round after round; a round begins when the one before has its verdict."""

    def __init__(self, down: str = "none", base: str = "last") -> None:
        self.workload = make_workload()
        self.job = make_job(down, base)
        self.downlink = Downlink(
            self.job.codec_down, self.job.layout, self.job.model_seed, self.job.down_base
        )
        self.model: Tensors = pick(self.workload.init(5), self.job.layout)
        self.releases: list[Release] = []
        self.tasks: dict[int, Task] = {}
        self.acknowledged: set[int] = set()
        self.settled: dict[Key, Verdict] = {}
        self.blobs: dict[str, bytes] = {}
        self.uploads: dict[str, tuple[int, str, bytearray]] = {}
        self.results: dict[Key, bytes] = {}
        self.fault: Fault = lambda method, path, number: None
        self.log: list[tuple[str, str, int]] = []
        self.time, self.nonces = 1_790_000_000, set[str]()
        self.retry_after = "0"
        self.held: int | None = None  # the version whose difference the client says that it holds
        self.run = sha(repr((down, base)).encode())[:16]
        self.offers_all = self.tells_all = False
        self.inline = True  # short frames come with the answer
        self.last: dict[str, Any] | None = None  # the model of a run that is over
        self.begin()

    # the run

    @property
    def folder(self) -> str:
        """Where a device keeps the run."""
        return f"{self.job.id}-{self.run}"

    @property
    def done(self) -> bool:
        return len(self.results) == len(VERDICTS) and not self.settled

    def begin(self) -> Task:
        """The next round."""
        number = len(self.results)
        self.releases.append(self.downlink.publish(self.model))
        release, seed = self.releases[-1], derive(7, "task", number)
        key = Key(self.job.id, number, "train", "", 0, NAME)
        task = Task(key, release.version, release.model, {}, self.job.settings, seed, 1.0, 2e9, "", 2e9)
        self.tasks[number + 1] = task
        return task

    def accept(self, frame: bytes) -> Verdict:
        """A reply: add it, and begin the next round."""
        reply = wire.decode(frame)
        assert isinstance(reply, EncodedUpdate), reply
        verdict, task = VERDICTS[reply.key.round], self.tasks[reply.key.round + 1]
        self.results[reply.key] = frame
        ctx = codec_context(self.job, reply.key.round, task.seed)
        self.model = add(self.model, undress(self.job, reply, ctx).delta)
        self.settled[reply.key] = verdict
        if len(self.results) < len(VERDICTS):
            self.begin()
        return verdict

    def direct(self) -> list[bytes]:
        """The replies of a participant that is asked without a network between."""
        participant = Participant(self.job, self.workload, MemoryStore())
        for number in range(len(VERDICTS)):
            task = self.tasks[number + 1]
            (reply,) = participant.handle(task)
            participant.settle(task.key, self.accept(wire.encode(reply)))
        return list(self.results.values())

    # the protocol

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        method, target = request.method, request.url.raw_path.decode()
        self.log.append((method, target, len(request.read())))
        fault = self.fault(method, target, len(self.log) - 1)
        if fault == "away":
            raise httpx.ConnectError("nobody there")
        if fault == "cut upload":
            raise httpx.WriteError("cut")
        if fault in ("502", "503"):
            return httpx.Response(
                int(fault), headers={"Retry-After": self.retry_after}, stream=httpx.ByteStream(b"")
            )
        answer = self._guarded(request, method, target)
        answer.headers.update({"Fedkit-Version": "1", "Fedkit-Time": str(self.time)})
        if fault == "lost":
            raise httpx.ReadError("the answer is lost")
        if fault == "cut":
            return httpx.Response(answer.status_code, headers=answer.headers, stream=Broken(answer.content))
        return httpx.Response(
            answer.status_code, headers=answer.headers, stream=httpx.ByteStream(answer.content)
        )

    def _guarded(self, request: httpx.Request, method: str, target: str) -> httpx.Response:
        names = ("Content-Digest", "Fedkit-Time", "Fedkit-Nonce", "Fedkit-Client")
        digest, time, nonce, name = (request.headers[header] for header in names)
        said = signing.statement(SERVER, method, target, digest, time, nonce, name)
        if digest != signing.content_digest(request.content) or name != "ward%207":
            return error(400, "headers")
        if abs(int(time) - self.time) > signing.SKEW:
            return error(401, "skew")
        if not verify(KEY.public, said, bytes.fromhex(request.headers["Fedkit-Signature"])):
            return error(401, "signature")
        if nonce in self.nonces:
            return error(401, "replay")
        self.nonces.add(nonce)
        return self._answer(method, target, request)

    def _answer(self, method: str, target: str, request: httpx.Request) -> httpx.Response:
        path = target.partition("?")[0]
        if path == "/v1/job":
            tag = f'"{self.job.id}.{self.run}"'
            return httpx.Response(200, content=job_bytes(self.job), headers={"ETag": tag})
        if request.url.params.get("run", self.run) != self.run:
            return error(409, "run")
        if path == "/v1/tasks":
            self.held = int(request.url.params.get("held", "0"))
            if request.url.params.get("again") == "1":
                self.acknowledged.clear()
            if method == "POST":
                self._acknowledge(json.loads(request.content))
            return self._news()
        if path.startswith("/v1/blobs/"):
            return self._blob(path.split("/")[-1], request.headers.get("Range"))
        if path == "/v1/uploads":
            return self._begin(json.loads(request.content))
        if method == "PUT":
            return self._put(path.split("/")[-1], request.content)
        return self._append(path.split("/")[-1], request)

    def _news(self) -> httpx.Response:
        tasks = [
            self._offer(number, task) for number, task in self.tasks.items() if self._is_due(number, task)
        ]
        settled = [[*key_row(key), verdict] for key, verdict in self.settled.items()]
        if self.tells_all:
            settled = [[*key_row(key), VERDICTS[key.round]] for key in self.results]
        news = {"ca": "", "last": self.last, "messages": [], "now": 0.0, "settled": settled, "tasks": tasks}
        return httpx.Response(200, json=news)

    def end(self) -> None:
        """The run is over: the model after its last round is told of."""
        self.releases.append(self.downlink.publish(self.model))
        data = b"".join(raw(self.releases[-1].model))
        self.last = {"bytes": len(data), "sha256": self._keep(data), "version": self.releases[-1].version}

    def _is_due(self, number: int, task: Task) -> bool:
        return self.offers_all or (number not in self.acknowledged and task.key not in self.results)

    def _offer(self, number: int, task: Task) -> dict[str, Any]:
        frame = wire.encode(replace(task, model={}))
        release = self.releases[task.version - 1]
        model = b"".join(raw(release.model))
        told = {"sha256": self._keep(model), "bytes": len(model)}
        return {
            **{"id": number, "lease": 60.0, "frame": self._keep(frame), "bytes": len(frame)},
            **{"version": task.version, "model": told, "difference": self._difference(release)},
            "data": base64.b64encode(frame).decode() if self.inline else None,
        }

    def _difference(self, release: Release) -> dict[str, Any] | None:
        if release.frame is None:
            return None
        frame, told_by = release.frame, 0
        held = release.version - 1 if self.held is None else self.held
        before = self.releases[held - 1].frame if held else None
        if release.base == 1 and before is not None:
            told = relative(self.job.codec_down, self.job.layout, frame, before)
            frame, told_by = (told, held) if told is not None else (frame, 0)
        return {"base": release.base, "told_by": told_by, "sha256": self._keep(frame), "bytes": len(frame)}

    def _keep(self, data: bytes) -> str:
        self.blobs[sha(data)] = data
        return sha(data)

    def _acknowledge(self, body: Any) -> None:
        self.acknowledged |= set(body["tasks"])
        for row in body["settled"]:
            self.settled.pop(Key(*row), None)

    def _blob(self, digest: str, wanted: str | None) -> httpx.Response:
        if digest not in self.blobs:
            return error(404, "unknown")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        data = self.blobs[digest][start:]
        return httpx.Response(206 if wanted else 200, content=data) if data else error(416, "range")

    def _put(self, place: str, frame: bytes) -> httpx.Response:
        key = next(task.key for task in self.tasks.values() if wire.name_of(task.key) == place)
        if key not in self.results:
            self.accept(frame)
        return httpx.Response(201)

    def _begin(self, body: Any) -> httpx.Response:
        place = wire.name_of(Key(*body["key"]))
        _, digest, held = self.uploads.setdefault(place, (body["bytes"], body["sha256"], bytearray()))
        if digest != body["sha256"]:
            return error(409, "other")
        return httpx.Response(200, json={"id": place, "offset": len(held)})

    def _append(self, place: str, request: httpx.Request) -> httpx.Response:
        size, digest, held = self.uploads[place]
        if len(held) == size:
            return httpx.Response(201)
        if int(request.headers["Upload-Offset"]) != len(held):
            return error(409, "offset", {"Upload-Offset": str(len(held))})
        held += request.content
        if len(held) < size:
            return httpx.Response(204, headers={"Upload-Offset": str(len(held))})
        assert sha(bytes(held)) == digest
        self.accept(bytes(held))
        return httpx.Response(201, headers={"Upload-Offset": str(size)})


def key_row(key: Key) -> list[Any]:
    return [key.job, key.round, key.kind, key.stage, key.attempt, key.client]


def error(status: int, word: str, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(status, json={"error": word, "message": "as the script says"}, headers=headers)


@pytest.fixture
def new_aggregator() -> Callable[..., Aggregator]:
    return Aggregator


@pytest.fixture
def aggregator() -> Aggregator:
    return Aggregator()


_decode = lru_cache(jobfile.decode)


@pytest.fixture(autouse=True)
def _known_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins are looked up once."""
    monkeypatch.setattr(jobfile, "decode", _decode)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script answers at once, however long that takes on this machine."""
    monkeypatch.setattr(runtime, "HASTE", math.inf)


@pytest.fixture
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk: what this process has written, it will read again."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
