"""Every message of a simulated run goes through the real wire: what is simulated can be deployed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fedkit import RoundPolicy, run, wire
from fedkit.config import Devices
from fedkit.conformance.laws import same
from fedkit.messages import EncodedUpdate, Failure, Task
from fedkit_clients.numpy_trainer import NumpyWorkload, Softmax
from fedkit_simulations.engine import Simulation
from fedkit_strategies import FedProx


def workload() -> NumpyWorkload:
    """Six small clients; one has a value that makes it diverge."""
    random = np.random.default_rng(0)
    clients = {
        f"c{i}": (random.standard_normal((8, 4)).astype(np.float32), random.integers(0, 3, 8))
        for i in range(6)
    }
    clients["c0"][0][0, 0] = np.nan
    return NumpyWorkload(Softmax(4, 3), clients)


def test_every_simulated_message_survives_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    size = wire.size

    def checked(message: wire.Message) -> int:
        frame = wire.encode(message)
        assert size(message) == len(frame)
        twin = wire.decode(frame)
        assert twin.key == message.key
        if isinstance(message, Task):
            assert isinstance(twin, Task)
            assert same(dict(twin.model), dict(message.model))
            assert (twin.settings, twin.seed, twin.work) == (message.settings, message.seed, message.work)
        elif isinstance(message, EncodedUpdate):
            assert twin == message
        seen[type(message).__name__] += 1
        return len(frame)

    monkeypatch.setattr(wire, "size", checked)
    federation = Simulation(workload(), seed=0, devices=Devices(stragglers=0.5))
    policy = RoundPolicy(quorum=1)
    result = run(
        FedProx(mu=0.1),
        workload(),
        federation,
        rounds=3,
        policy=policy,
        train={"epochs": 2},
        evaluate_on="clients",
    )
    assert len(result.history.rounds) == 3
    assert min(seen[kind.__name__] for kind in (Task, EncodedUpdate, Failure)) >= 3
