"""Late updates are carried over the network: a slow client counts in the round in which it arrives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkit import RoundPolicy, run
from fedkit.aggregator.app import App
from fedkit.aggregator.federation import EdgeFederation
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.listener import Listener
from fedkit.aggregator.registry import Roster
from fedkit.clientstore import MemoryStore
from fedkit.downlink import Release
from fedkit.events import RoundEnded
from fedkit.federation import Arrival, Request, Standing, Traffic, Verdict
from fedkit.history import Carried, Outcome
from fedkit.job import Job
from fedkit.messages import ClientId, Key, Task
from fedkit.participant import Participant
from fedkit.rounds import Result
from fedkit.secagg.identity import SigningKey, Trust
from fedkit.tensors import State
from fedkit_clients import NumpyWorkload, Softmax
from fedkit_clients.edge import EdgeClient, Transport, runtime
from fedkit_clients.edge.answers import Refused, Unreachable
from fedkit_clients.edge.root import Root
from fedkit_clients.numpy_trainer import NumpyTrainer
from fedkit_strategies import FedAvg

NAMES = ("a", "b", "slow")
KEYS = {name: SigningKey(name.encode().ljust(32)) for name in NAMES}
SERVER = SigningKey(bytes(32)).public
ROUNDS = 4
POLICY = RoundPolicy(quorum=1, deadline=10.0, late="carry", carry_rounds=3)


class Workload(NumpyWorkload):
    """In which one client trains when it is let."""

    gate: threading.Event | None = None

    def trainer(self, client: ClientId) -> NumpyTrainer:
        if client == "slow" and self.gate is not None:
            assert self.gate.wait(600)
        return super().trainer(client)


def make_workload(gate: threading.Event | None = None) -> Workload:
    draws = np.random.default_rng(0)
    x = draws.normal(size=(30, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    made = Workload(Softmax(4, 2), {n: (x[i::3], y[i::3]) for i, n in enumerate(NAMES)}, test=(x, y))
    made.gate = gate
    return made


def live(name: ClientId, url: str, folder: Path, gate: threading.Event, stopped: threading.Event) -> None:
    client = EdgeClient(Transport(url, name, KEYS[name], SERVER), name, make_workload(gate), Root(folder))
    while not stopped.is_set():
        try:
            client.step()
        except (Unreachable, Refused, OSError):
            stopped.wait(0.05)
    client.close()


class Opens:
    """Lets the slow client go on once the first round is over, and waits for what it sends."""

    def __init__(self, gate: threading.Event, federation: EdgeFederation) -> None:
        self._gate, self._federation = gate, federation

    def round_ended(self, event: RoundEnded) -> None:
        if self._gate.is_set():
            return
        self._gate.set()
        end = time.monotonic() + 600
        while not self._federation._uploads.replies(self._federation._turn):
            assert time.monotonic() < end, "the slow client does not come"
            time.sleep(0.01)


class Replay:
    """A federation in which replies come in the rounds that are told: (round, client of which round)."""

    def __init__(self, told: Mapping[int, set[tuple[int, ClientId]]]) -> None:
        self._told, self._now = told, 0.0

    def open(self, job: Job) -> None:
        self._participant, self._tasks = Participant(job, make_workload(), MemoryStore()), dict[Key, Task]()

    def publish(self, release: Release) -> None:
        """Everybody is told at once."""

    def clients(self) -> Sequence[ClientId]:
        return NAMES

    def send(self, requests: Iterable[Request]) -> None:
        self._tasks |= {one.key: one for one in requests if isinstance(one, Task)}
        self._round = max(key.round for key in self._tasks)

    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        for key in sorted(self._tasks):
            if (key.round, key.client) in self._told[self._round]:
                (reply,) = self._participant.handle(self._tasks.pop(key))
                yield Arrival(key, 0.0, reply)

    def outstanding(self) -> Mapping[Key, Standing]:
        return {key: Standing(True, "") for key in self._tasks}

    def settle(self, verdicts: Mapping[Key, Verdict]) -> None:
        for key, verdict in verdicts.items():
            self._tasks.pop(key, None)
            self._participant.settle(key, verdict)

    def now(self) -> float:
        return self._now

    def traffic(self) -> Traffic:
        return Traffic()

    def save(self) -> State:
        return {}

    def load(self, state: State) -> None:
        """Nothing to load."""


def go(federation: Any, *observers: object) -> Result:
    train = {"epochs": 1, "batch": 5, "lr": 0.3}
    return run(
        FedAvg(), make_workload(), federation, rounds=ROUNDS, policy=POLICY, train=train, observers=observers
    )  # fmt: skip


def arrived(result: Result) -> dict[int, set[tuple[int, ClientId]]]:
    """In which round the updates of which rounds were counted."""
    made: dict[int, set[tuple[int, ClientId]]] = {}
    for record in result.history.rounds:
        own = {(record.round, c) for c, fate in record.fates.items() if fate.outcome is Outcome.counted}
        made[record.round] = own | {(late.round, c) for c, late in record.carried.items()}
    return made


def test_a_slow_client_counts_in_a_later_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "PATIENCE", 2)
    monkeypatch.setattr(runtime, "LONGEST", 2)
    monkeypatch.setattr(runtime, "HASTE", 0.0)
    gate, stopped, journal = threading.Event(), threading.Event(), Journal(tmp_path / "journal")
    roster = Roster(Trust.of_roster({name: key.public for name, key in KEYS.items()}, SERVER))
    app = App(journal, roster)
    with Listener(app.asgi, "127.0.0.1", 0, drain=app.drain) as server:
        threads = [
            threading.Thread(target=live, args=(name, server.url, tmp_path / name, gate, stopped))
            for name in NAMES
        ]
        for thread in threads:
            thread.start()
        try:
            federation = EdgeFederation(journal, roster, wait_for=3, patience=600.0)
            got = go(federation, Opens(gate, federation))
        finally:
            stopped.set()
            gate.set()
    for thread in threads:
        thread.join()
    journal.close()
    rounds = got.history.rounds
    assert rounds[0].fates["slow"].outcome is Outcome.late
    late = [(r.round, r.carried["slow"]) for r in rounds if "slow" in r.carried]
    assert len(late) == 1, "once"
    at, carried = late[0]
    assert at == 1
    assert isinstance(carried, Carried)
    assert (carried.round, carried.outcome) == (0, Outcome.counted)
    assert all("slow" not in r.fates for r in rounds[1 : at + 1]), "it is not asked while it is at work"
    assert all(r.fates["slow"].outcome is Outcome.counted for r in rounds[at + 1 :])
    wanted = go(Replay(arrived(got)))
    assert {n: t.tobytes() for n, t in got.model.items()} == {n: t.tobytes() for n, t in wanted.model.items()}
    assert not list((tmp_path / "journal" / "uploads").iterdir())
