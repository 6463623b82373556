"""A scenario that is served ends with the model of its simulation, bit for bit, also when the server dies."""

from __future__ import annotations

import hashlib
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fedkit import jobfile, packing, runfolder, scenario, wire
from fedkit.aggregator import blobs
from fedkit.aggregator.app import App
from fedkit.aggregator.deployed import Deployed
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.listener import Listener
from fedkit.aggregator.registry import Roster
from fedkit.aggregator.serve import _warn, serve
from fedkit.aggregator.service import Service
from fedkit.clientstore import MemoryStore
from fedkit.config import Scenario
from fedkit.downlink import Follower
from fedkit.errors import ConfigError, RunFailed
from fedkit.federation import Verdict
from fedkit.history import Outcome
from fedkit.launch import build, run_scenario
from fedkit.messages import Task
from fedkit.participant import Participant
from fedkit.secagg.identity import SigningKey, Trust
from fedkit.seeds import stream
from fedkit.signing import headers
from fedkit.tensors import pick
from tests.ports import reserved

OWN = '''
import numpy as np
from fedkit_clients.numpy_trainer import NumpyWorkload, Softmax


def make(*, seed: int):
    """Two Gaussians, four clients."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, 2)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    return NumpyWorkload(Softmax(2, 2), {f"c{i}": (x[i::4], y[i::4]) for i in range(4)}, test=(x, y))
'''
TOML = """
workload = "own.py:make"
[rounds]
count = 4
quorum = 4
[train]
epochs = 1
batch = 5
lr = 0.3
[codec]
up = "topk:share=0.5|int8"
down = "sign"
feedback = "on"
"""
KEYS = {f"c{i}": SigningKey(hashlib.sha256(bytes([i])).digest()) for i in range(4)}
SERVER = SigningKey(hashlib.sha256(b"server").digest())
TRUST = Trust.of_roster({name: key.public for name, key in KEYS.items()}, SERVER.public)


class Device:
    """One client in a thread: polls, trains, uploads; it outlives servers."""

    def __init__(self, url: str, name: str, of: Scenario) -> None:
        self.url, self.name, self.workload = url, name, build(of).workload
        self.participant: Participant | None = None
        self.done: dict[int, bytes] = {}
        self.owed: dict[str, list[Any]] = {"settled": [], "tasks": []}
        self.followed = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.live)

    def live(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60.0) as self.client:
            while not self.stopped.is_set():
                try:
                    self.turn()
                except (httpx.HTTPError, LookupError):
                    self.stopped.wait(0.05)

    def turn(self) -> None:
        if self.participant is None:
            self.job = jobfile.decode(self.ask("GET", "/v1/job"))
            self.participant = Participant(self.job, self.workload, MemoryStore())
            self.follower = Follower(self.job.codec_down, self.job.layout, self.job.model_seed)
            self.follower.snapshot(1, pick(self.workload.init(self.job.model_seed), self.job.layout))
        news = json.loads(self.ask("POST", "/v1/tasks?wait=1", told(self.owed)))
        self.owed = {"settled": [], "tasks": []}
        for row in news["settled"]:
            self.participant.settle(wire.read_key(row[:6]), Verdict(row[6]))
            self.owed["settled"].append(row[:6])
        for offer in news["tasks"]:
            self.work(self.participant, offer)
            self.owed["tasks"].append(offer["id"])

    def work(self, participant: Participant, offer: Mapping[str, Any]) -> None:
        task = wire.decode(self.ask("GET", f"/v1/blobs/{offer['frame']}"))
        assert isinstance(task, Task)
        if offer["id"] not in self.done:
            (reply,) = participant.handle(replace(task, model=self.model(offer)))
            self.done[offer["id"]] = wire.encode(reply)
        frame = self.done[offer["id"]]
        about = {
            "bytes": len(frame),
            "key": wire.key_row(task.key),
            "sha256": hashlib.sha256(frame).hexdigest(),
        }
        begun = json.loads(self.ask("POST", "/v1/uploads", told(about)))
        if begun["offset"] < len(frame):
            rest, more = frame[begun["offset"] :], {"Upload-Offset": str(begun["offset"])}
            self.ask("PATCH", f"/v1/uploads/{begun['id']}", rest, more)

    def model(self, offer: Mapping[str, Any]) -> Any:
        """By the difference where it leads from what is held; both ways give the same bytes."""
        layout, way = self.job.layout, offer["difference"]
        data = self.ask("GET", f"/v1/blobs/{offer['model']['sha256']}")
        whole = layout.view(np.frombuffer(data, "<f4").astype(np.float32))
        if way is not None and way["base"] == self.follower.version:
            self.follower.follow(offer["version"], way["base"], self.ask("GET", f"/v1/blobs/{way['sha256']}"))
            assert b"".join(packing.raw(self.follower.model)) == data
            self.followed += 1
        elif offer["version"] > self.follower.version:
            self.follower.snapshot(offer["version"], whole)
        return whole

    def ask(
        self, method: str, target: str, body: bytes = b"", more: Mapping[str, str] | None = None
    ) -> bytes:
        signed = headers(KEYS[self.name], self.name, TRUST.server, method, target, body, time.time())
        got = self.client.request(method, target, content=body or None, headers={**signed, **(more or {})})
        if got.status_code >= 400:
            raise LookupError(got.text)
        return got.content


def told(content: object) -> bytes:
    return json.dumps(content).encode()


@pytest.fixture
def given(tmp_path: Path) -> Scenario:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "scenario.toml").write_text(TOML)
    return scenario.read(str(tmp_path / "scenario.toml"))


@contextmanager
def devices(given: Scenario) -> Iterator[tuple[int, list[Device]]]:
    """A port, and devices that look for a server there."""
    with reserved() as port:
        made = [Device(f"http://127.0.0.1:{port}", name, given) for name in KEYS]
        for device in made:
            device.thread.start()
        try:
            yield port, made
        finally:
            for device in made:
                device.stopped.set()
            for device in made:
                device.thread.join()


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(one[n].tobytes() == other[n].tobytes() for n in one)


def test_a_served_run_is_its_simulation(given: Scenario, tmp_path: Path) -> None:
    wanted = run_scenario(given)
    heard: list[str] = []
    with devices(given) as (port, clients):
        service = Service(TRUST, SERVER, port=port, lease=5.0)
        got = serve(given, service, tmp_path / "journal", out=tmp_path / "run", listening=heard.append)
    assert heard == [f"http://127.0.0.1:{port}"]
    assert [record.count(Outcome.counted) for record in got.history.rounds] == [4] * 4, got.history.rounds
    assert same(got.model, wanted.model)
    assert got.summary["bytes_up"] > 0
    assert all(device.followed >= 2 for device in clients), "differences were taken"
    assert list((tmp_path / "journal" / "uploads").iterdir()) == []


class Crash(BaseException):
    """The process is gone."""


@contextmanager
def mortal(steps: int) -> Iterator[None]:
    """The training loop dies at this write, and writes nothing any more."""
    left = [steps]
    write, transaction = runfolder.replace_file, Journal.transaction

    def step() -> None:
        if threading.current_thread() is threading.main_thread():
            left[0] -= 1
            if left[0] <= 0:
                raise Crash

    def mortal_write(path: Path, data: bytes) -> None:
        step()
        write(path, data)
        step()

    @contextmanager
    def mortal_transaction(journal: Journal, durable: bool = False) -> Iterator[Any]:
        with transaction(journal, durable) as db:
            yield db
            step()
        step()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runfolder, "replace_file", mortal_write)
        patch.setattr(blobs, "place_file", mortal_write)
        patch.setattr(Journal, "transaction", mortal_transaction)
        yield


def test_a_server_that_dies_again_and_again_ends_with_the_same_model(given: Scenario, tmp_path: Path) -> None:
    wanted = run_scenario(given)
    lives, deaths, got = [int(n) for n in stream(0, "deaths").integers(20, 90, 8)], 0, None
    with devices(given) as (port, _):
        service = Service(TRUST, SERVER, port=port, lease=0.5)
        while got is None:
            resume = (tmp_path / "run" / "scenario.toml").is_file()
            out = tmp_path / "run"
            try:
                with mortal(lives[deaths] if deaths < len(lives) else 10**9):
                    got = serve(given, service, tmp_path / "journal", out=out, resume=resume)
            except Crash:
                deaths += 1
    assert deaths >= 4, "how many writes there are depends on when devices ask"
    assert same(got.model, wanted.model)
    assert [record.count(Outcome.counted) for record in got.history.rounds] == [4] * 4


@contextmanager
def full_disk(first: int, last: int) -> Iterator[list[int]]:
    """No transaction from `first` to `last` can be written, whoever asks for it, nor any file then."""
    count, failed, lock = [0], list[int](), threading.Lock()
    transaction, write = Journal.transaction, runfolder.replace_file

    def is_full() -> bool:
        return first <= count[0] < last

    @contextmanager
    def full_transaction(journal: Journal, durable: bool = False) -> Iterator[Any]:
        with lock:
            count[0] += 1
        if is_full():
            failed.append(count[0])
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        with transaction(journal, durable) as db:
            yield db

    def full_write(path: Path, data: bytes) -> None:
        if is_full():
            raise RunFailed(f"{path} cannot be written") from OSError(28, "No space left on device")
        write(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "transaction", full_transaction)
        patch.setattr(runfolder, "replace_file", full_write)
        patch.setattr("fedkit.aggregator.persevering.LOOK", 0.1)
        yield failed


def test_a_disk_that_is_full_for_a_while_costs_time_alone(given: Scenario, tmp_path: Path) -> None:
    wanted = run_scenario(given)
    with devices(given) as (port, _), full_disk(60, 90) as failed:
        service = Service(TRUST, SERVER, port=port, lease=0.5)
        got = serve(given, service, tmp_path / "journal", out=tmp_path / "run")
    assert failed, "the disk was full"
    assert same(got.model, wanted.model)
    assert [record.count(Outcome.counted) for record in got.history.rounds] == [4] * 4


def test_an_address_that_is_taken(given: Scenario, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        service = Service(TRUST, SERVER, port=other.getsockname()[1])
        with pytest.raises(ConfigError, match="cannot be served"):
            serve(given, service, tmp_path / "journal", out=tmp_path / "run")


def test_a_journal_without_its_run_folder_is_not_begun_again(given: Scenario, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.put(job_id="abc")
    journal.close()
    with pytest.raises(ConfigError, match="whose folder"):
        serve(given, Service(TRUST, SERVER, port=0), tmp_path / "journal", out=tmp_path / "run")


def test_who_the_devices_are_must_be_known(given: Scenario, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a roster of their keys, or a CA"):
        serve(given, Service(Trust.none(), SERVER), tmp_path / "journal", out=tmp_path / "run")


def test_a_roster_that_names_another_server(given: Scenario, tmp_path: Path) -> None:
    service = Service(TRUST, SigningKey(bytes(range(32))))
    with pytest.raises(ConfigError, match="into the roster, on every device too"):
        serve(given, service, tmp_path / "journal", out=tmp_path / "run")


def test_places_for_devices_that_are_to_come(given: Scenario) -> None:
    made = Deployed(build(given).workload, ["z", "a"], 4, "CA 00")
    assert made.clients() == ("a", "z", "free place 2", "free place 3")
    assert made.enrolled_by == "CA 00"


def test_where_the_data_of_devices_are_unknown_the_bound_on_weights_is_told(
    given: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    key = SigningKey(bytes(32))
    known = Service(Trust.of_ca(SigningKey(b"c" * 32).public, key.public), key)
    _warn(given, build(given), known)
    bounded = replace(given, aggregate=replace(given.aggregate, max_weight=500.0))
    _warn(bounded, build(bounded), replace(known, clients=300))
    assert caplog.text == ""
    _warn(given, build(given), replace(known, clients=300))
    assert "weighs more than 16," in caplog.text
    assert "set aggregate.max_weight" in caplog.text


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_head(tmp_path: Path) -> None:
    """As it does for 40 ms where Nagle's algorithm meets delayed acknowledgements."""
    journal = Journal(tmp_path)
    journal.put(job=b"{}", job_id="0")
    with (
        Listener(App(journal, Roster(TRUST)).asgi, "127.0.0.1", 0) as server,
        httpx.Client(timeout=600.0) as client,
    ):

        def seconds() -> float:
            signed = headers(KEYS["c0"], "c0", TRUST.server, "GET", "/v1/tasks", b"", time.time())
            began = time.perf_counter()
            assert client.get(f"{server.url}/v1/tasks", headers=signed).status_code == 200
            return time.perf_counter() - began

        assert any(seconds() < 0.03 for _ in range(1000)), "on a busy machine most take longer, but not all"
    journal.close()


def test_polls_are_let_go_when_the_server_stops(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.put(job=b"{}", job_id="0")
    app = App(journal, Roster(TRUST))
    server = Listener(app.asgi, "127.0.0.1", 0, drain=app.drain)
    with httpx.Client(timeout=600.0) as client:
        answers: list[int] = []

        def poll() -> None:
            signed = headers(KEYS["c0"], "c0", TRUST.server, "GET", "/v1/tasks?wait=30", b"", time.time())
            answers.append(client.get(f"{server.url}/v1/tasks?wait=30", headers=signed).status_code)

        thread = threading.Thread(target=poll)
        with server:
            thread.start()
            while not app._bells._waiting:
                assert thread.is_alive(), "it was answered at once"
                time.sleep(0.01)
        thread.join()
    journal.close()
    assert answers == [503], "had it waited to its end, it would be 200"
