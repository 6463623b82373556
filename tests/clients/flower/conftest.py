"""Flower, imported once where it is installed: what its own imports warn of is not ours.

And a fleet without Flower: nodes in this process, that keep between two messages what a real one keeps.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from fedkit.messages import ClientId
from fedkit.secagg.settings import SecAgg
from fedkit.trainer import Workload
from fedkit_clients import NumpyWorkload, Softmax
from fedkit_clients.flower.fleet import Call, Reply
from fedkit_clients.flower.node import Kept, answer
from fedkit_clients.flower.parcel import Row, pack
from fedkit_clients.flower.setup import Setup

with contextlib.suppress(ImportError), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import flwr.app
    import flwr.clientapp
    import flwr.serverapp  # noqa: F401


@pytest.fixture
def in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower makes messages only in the process of a run: here it is in one."""
    identity = pytest.importorskip("flwr.supercore.task_identity").TaskIdentity
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(identity, name, 1)


@dataclass
class LocalFleet:
    """Nodes in this process. Each call of `pull` brings what was pushed before.

    deaf: nodes that answer nothing. wrong: nodes for whom Flower answers with an error. change: what becomes
    of a node's parcel on its way back.
    """

    setups: dict[int, Setup]
    states: dict[int, bytes] = field(default_factory=dict)
    deaf: set[int] = field(default_factory=set)
    wrong: dict[int, tuple[str, str]] = field(default_factory=dict)
    change: Callable[[int, bytes], bytes] = lambda _, parcel: parcel
    pushed: list[tuple[int, Call, bytes]] = field(default_factory=list)
    waiting: dict[str, Reply] = field(default_factory=dict)

    def nodes(self) -> Sequence[int]:
        return list(self.setups)

    def push(self, node: int, call: Call, blob: bytes, ttl: float) -> str:
        assert ttl > 0
        self.pushed.append((node, call, blob))
        name = f"message {len(self.pushed)}"
        if node in self.wrong:
            self.waiting[name] = Reply(name, b"", self.wrong[node])
        elif node not in self.deaf:
            made = self.hello(node) if call == "query.hello" else self.work(node, blob)
            self.waiting[name] = Reply(name, self.change(node, made))
        return name

    def pull(self, messages: Sequence[str]) -> Sequence[Reply]:
        return [self.waiting.pop(name) for name in messages if name in self.waiting]

    def hello(self, node: int) -> bytes:
        turn = Kept.read(self.states.get(node, b"")).turn
        return pack([Row("hello", (turn, *self.setups[node].clients))])

    def work(self, node: int, blob: bytes) -> bytes:
        made = answer(blob, self.states.get(node, b""), self.setups[node])
        self.states[node] = made.state
        return made.parcel


def workload() -> NumpyWorkload:
    """Two classes of points; four clients of ten each."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    clients = {f"c{i}": (x[i::4], y[i::4]) for i in range(4)}
    return NumpyWorkload(Softmax(2, 2), clients, test=(x, y))


@pytest.fixture
def work() -> NumpyWorkload:
    """A small workload."""
    return workload()


@pytest.fixture
def make_fleet() -> Callable[..., LocalFleet]:
    """A fleet: one node for each group of clients."""

    def make(
        *groups: tuple[ClientId, ...], secagg: SecAgg | str = "off", of: Workload | None = None
    ) -> LocalFleet:
        parts = groups or (("c0",), ("c1",), ("c2",), ("c3",))
        data = of if of is not None else workload()
        return LocalFleet({number: Setup(data, part, secagg) for number, part in enumerate(parts, 7)})

    return make
