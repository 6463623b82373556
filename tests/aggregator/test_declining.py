"""Devices that decline, on real sockets: the round hears it at once, and the operator who and why."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fedkit.aggregator.app import App
from fedkit.aggregator.federation import EdgeFederation
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.listener import Listener
from fedkit.aggregator.progress import Progress
from fedkit.aggregator.registry import Roster
from fedkit.cli import app as command
from fedkit.federation import RoundPolicy
from fedkit.history import Fate, Outcome
from fedkit.rounds import run
from fedkit.secagg.identity import SigningKey, Trust
from fedkit_clients import NumpyWorkload, Softmax
from fedkit_clients.edge import EdgeClient, Transport
from fedkit_clients.edge.answers import Refused, Unfit, Unreachable
from fedkit_clients.edge.declining import Declining
from fedkit_clients.edge.device import Device
from fedkit_clients.edge.policy import DevicePolicy
from fedkit_clients.edge.root import Root
from fedkit_strategies import FedAvg

SERVER = SigningKey(bytes(range(32))).public
POLICIES = {
    "able": DevicePolicy(),
    "short": DevicePolicy(max_epochs=1, tells_why=False),
    "strict": DevicePolicy(max_epochs=1),
}
UNFIT = "unfit"
KEYS = {name: SigningKey(name.encode().ljust(32)) for name in (*POLICIES, UNFIT)}


def make_workload() -> NumpyWorkload:
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(20, 4)).astype(np.float32), draws.integers(2, size=20)
    return NumpyWorkload(Softmax(4, 2), dict.fromkeys(KEYS, (x, y)), test=(x, y))


def live(name: str, url: str, folder: Path) -> tuple[Callable[[], object], Callable[[], None]]:
    """What a device does again and again, and at its end."""
    way = Transport(url, name, KEYS[name], SERVER)
    if name == UNFIT:
        declining = Declining(way.job()[0], Unfit("the model has other tensors"), "model", name, folder)
        return partial(declining.step, way, 1), way.close
    client = EdgeClient(way, name, make_workload(), Root(folder), device=Device(POLICIES[name]))
    return client.step, client.close


def go_on(name: str, url: str, folder: Path, stopped: threading.Event) -> None:
    step, close = live(name, url, folder)
    while not stopped.is_set():
        try:
            step()
        except (Unreachable, Refused):
            stopped.wait(0.05)
    close()


def test_the_round_and_the_operator_are_told_who_declines_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedkit_clients.edge.runtime.PATIENCE", 1)
    monkeypatch.setattr("fedkit_clients.edge.runtime.LONGEST", 1)
    stopped, journal, progress = threading.Event(), Journal(tmp_path / "journal"), Progress()
    roster = Roster(Trust.of_roster({name: key.public for name, key in KEYS.items()}, SERVER))
    app = App(journal, roster)
    federation = EdgeFederation(journal, roster, wait_for=len(KEYS), patience=600.0)
    with Listener(app.asgi, "127.0.0.1", 0, drain=app.drain) as server:
        publishes = federation.open
        threads = list[threading.Thread]()

        def begin(job: object) -> None:
            publishes(job)  # type: ignore[arg-type]
            for name in KEYS:
                threads.append(
                    threading.Thread(target=go_on, args=(name, server.url, tmp_path / name, stopped))
                )
                threads[-1].start()

        monkeypatch.setattr(federation, "open", begin)
        try:
            made = run(
                *(FedAvg(), make_workload(), federation),
                rounds=1,
                policy=RoundPolicy(quorum=1, deadline=600.0),
                train={"epochs": 2, "batch": 5, "lr": 0.1},
                observers=[progress],
                out=tmp_path / "run",
            )
        finally:
            stopped.set()
            for thread in threads:
                thread.join()
    journal.close()
    failed = partial(Fate, Outcome.failed)
    assert made.history.rounds[0].fates == {
        "able": Fate(Outcome.counted),
        "short": failed("refused"),
        "strict": failed("refused: ProtocolRefused: max_epochs"),
        UNFIT: failed("refused: model"),
    }
    told = progress.told()["failing"]
    assert told == {
        "short": "round 1: refused",
        "strict": "round 1: refused: ProtocolRefused: max_epochs",
        UNFIT: "round 1: refused: model",
    }
    shown = CliRunner().invoke(command, ["status", "--dir", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    rows = {line.split()[0]: line for line in shown.output.splitlines() if line}
    for name, why in told.items():
        assert rows[name].endswith(why)
    assert "refused" not in rows["able"]
