"""Late updates are carried over the network: a slow client counts in the round in which it arrives."""

from __future__ import annotations

import threading
import time
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
from fedkit.events import RoundEnded
from fedkit.history import Carried, Outcome
from fedkit.messages import ClientId
from fedkit.rounds import Result
from fedkit.secagg.identity import SigningKey, Trust
from fedkit_clients import NumpyWorkload, Softmax
from fedkit_clients.edge import EdgeClient, Transport, runtime
from fedkit_clients.edge.answers import Refused, Unreachable
from fedkit_clients.edge.root import Root
from fedkit_clients.numpy_trainer import NumpyTrainer
from fedkit_strategies import FedAvg
from tests.federations import Replay

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
    came = arrived(got)
    wanted = go(Replay(make_workload(), NAMES, lambda now, key: (key.round, key.client) in came[now]))
    assert {n: t.tobytes() for n, t in got.model.items()} == {n: t.tobytes() for n, t in wanted.model.items()}
    assert not list((tmp_path / "journal" / "uploads").iterdir())
