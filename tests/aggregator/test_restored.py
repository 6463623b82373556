"""An aggregator that is restored from a copy: devices that have gone on since do its rounds again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkit import RoundPolicy, run
from fedkit.aggregator.app import App
from fedkit.aggregator.backup import hand_over, stage
from fedkit.aggregator.federation import EdgeFederation
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.listener import Listener
from fedkit.aggregator.registry import Roster
from fedkit.events import RoundStarted
from fedkit.rounds import Result
from fedkit.secagg.identity import SigningKey, Trust
from fedkit_clients import NumpyWorkload, Softmax
from fedkit_clients.edge import EdgeClient, Transport, runtime
from fedkit_clients.edge.answers import Refused, Unreachable
from fedkit_clients.edge.root import Root
from fedkit_strategies import FedAvg

KEYS = {name: SigningKey(name.encode().ljust(32)) for name in ("a", "b")}
SERVER = SigningKey(bytes(32)).public
ROSTER = Roster(Trust.of_roster({name: key.public for name, key in KEYS.items()}, SERVER))


def make_workload() -> NumpyWorkload:
    draws = np.random.default_rng(0)
    x = draws.normal(size=(20, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    return NumpyWorkload(Softmax(4, 2), {n: (x[i::2], y[i::2]) for i, n in enumerate(KEYS)}, test=(x, y))


def live(name: str, url: str, folder: Path, stopped: threading.Event) -> None:
    client = EdgeClient(Transport(url, name, KEYS[name], SERVER), name, make_workload(), Root(folder))
    while not stopped.is_set():
        try:
            client.step()
        except (Unreachable, Refused, OSError):
            stopped.wait(0.02)
    client.close()


@contextmanager
def served(home: Path, devices: Path) -> Iterator[EdgeFederation]:
    """The aggregator in `home`, and its devices."""
    stopped, journal = threading.Event(), Journal(home / "journal")
    app = App(journal, ROSTER)
    with ExitStack() as after, Listener(app.asgi, "127.0.0.1", 0, drain=app.drain) as server:
        threads = [threading.Thread(target=live, args=(n, server.url, devices / n, stopped)) for n in KEYS]
        for thread in threads:
            thread.start()
            after.callback(thread.join, 600)
        after.callback(stopped.set)
        yield EdgeFederation(journal, ROSTER, wait_for=2, patience=600.0)
    journal.close()


def go(federation: EdgeFederation, home: Path, *, resume: bool = False, observers: Any = ()) -> Result:
    return run(
        *(FedAvg(), make_workload(), federation),
        rounds=4,
        policy=RoundPolicy(quorum=2, deadline=120.0),
        train={"epochs": 1, "batch": 5, "lr": 0.3},
        codec_up="topk:share=0.5|bfloat16",
        feedback="on",
        out=home / "run",
        resume=resume,
        observers=observers,
    )


class Copies:
    """Copies the aggregator in its second round, whose plan is durable by then."""

    def __init__(self, home: Path, to: Path, federation: EdgeFederation) -> None:
        self._home, self._to, self._journal = home, to, federation._journal

    def round_started(self, event: RoundStarted) -> None:
        if event.plan.round == 1:
            with self._journal.held() as db:
                stage(self._home, db)
            hand_over(self._home, self._to)


def test_all_rounds_of_a_copy_are_done_again_with_error_feedback_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "PATIENCE", 2)
    monkeypatch.setattr(runtime, "LONGEST", 2)
    monkeypatch.setattr(runtime, "HASTE", 0.0)
    home, copy = tmp_path / "home", tmp_path / "copy"
    with served(home, tmp_path) as federation:
        first = go(federation, home, observers=[Copies(home, copy, federation)])
    with served(copy, tmp_path) as federation:
        again = go(federation, copy, resume=True)
    for result in (first, again):
        assert [sum(f.outcome == "counted" for f in r.fates.values()) for r in result.history.rounds] == [
            2
        ] * 4
