"""A small federation on paper: what the laws of strategies are tried on.

Three clients minimise |w - target|^2 / 2, each with its own target, by gradient steps through
Strategy.correct. No workload, no federation, no codec: only the strategy is at work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedkit.aggregate import Grid, WeightedSum
from fedkit.messages import ClientId, Key, Pass, Settings, Task, Trained, Update
from fedkit.seeds import derive, stream
from fedkit.strategy import Strategy
from fedkit.tensors import Layout, Memory, State, Tensors, add
from fedkit.trainer import travelling

CLIENTS: tuple[ClientId, ...] = ("a", "b", "c")
SHAPES: Mapping[str, tuple[int, ...]] = {
    "conv.weight": (2, 1, 3, 3),
    "norm.weight": (4,),
    "norm.running_mean": (4,),
    "head.weight": (3, 4),
    "head.bias": (3,),
    "scale": (),
}
TRAIN: Settings = {"epochs": 1, "steps": 0, "batch": 4, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
STEPS = 4


@dataclass
class Rehearsal:
    """Rounds of one strategy on one seed. model: what travels. memory: the clients' own."""

    strategy: Strategy
    seed: int
    dtype: str = "float32"
    model: Tensors = field(init=False)
    state: State = field(init=False)
    layout: Layout = field(init=False)
    memory: dict[ClientId, Memory] = field(init=False)

    def __post_init__(self) -> None:
        whole = {name: self.noise(shape, "model", name) for name, shape in SHAPES.items()}
        self.layout = travelling(whole, (), self.strategy.shared)
        self.model = self.layout.view(self.layout.flatten({n: whole[n] for n in self.layout.names}))
        self.state = self.strategy.init(self.model)
        self.memory = {client: {} for client in CLIENTS}

    def noise(self, shape: tuple[int, ...], *path: str | int) -> np.ndarray:
        """Standard normal values named by `path`."""
        values = stream(self.seed, "rehearsal", *path).normal(int(np.prod(shape, dtype=np.int64)))
        return values.reshape(shape).astype(self.dtype)

    def zero(self) -> WeightedSum:
        """An empty sum with the strategy's extras."""
        return WeightedSum(self.layout, Grid(), Layout.of(self.strategy.extras(self.model)))

    def task(self, client: ClientId, round: int) -> Task:
        """The train task of one client."""
        settings = {**TRAIN, **self.strategy.settings(self.state, round)}
        context = self.strategy.context(self.state)
        key = Key("rehearsal", round, "train", "", 0, client)
        seed = derive(self.seed, "train", round, client)
        return Task(key, round + 1, self.model, context, settings, seed, 1.0, 1e6, "", 1e6)

    def train(self, pass_: Pass, task: Task) -> Trained:
        """Gradient steps towards the client's target, corrected by the strategy."""
        weight = {name: np.array(array) for name, array in pass_.start.items()}
        for _ in range(STEPS):
            for name in weight:
                target = self.noise(weight[name].shape, "target", task.key.client, name)
                grad = weight[name] - target
                if name in pass_.anchor:
                    extra = {e: tensors[name] for e, tensors in pass_.extra.items()}
                    grad = self.strategy.correct(grad, weight[name], pass_.anchor[name], extra)
                weight[name] = (weight[name] - 0.1 * grad).astype(self.dtype)
        examples = float(10 + 5 * CLIENTS.index(task.key.client))
        loss = float(stream(task.seed, "loss").random())
        return Trained(add(weight, pass_.start, scale=-1.0), STEPS, examples, {"loss": loss})

    def client(self, client: ClientId, round: int) -> tuple[Update, Memory]:
        """The client half of one task: begin, train, finish."""
        task, memory = self.task(client, round), self.memory[client]
        passes = self.strategy.begin(task, memory)
        return self.strategy.finish(task, memory, [self.train(p, task) for p in passes])

    def gather(self, updates: Sequence[tuple[ClientId, Update]]) -> WeightedSum:
        """The sum of these updates, as the server forms it."""
        if self.strategy.needs_each_update:
            return self.strategy.combine(updates, self.zero())
        total = self.zero()
        for client, update in updates:
            total.add(client, update)
        return total

    def updates(self, round: int) -> list[tuple[ClientId, Update]]:
        """What the clients send; their memory is committed."""
        made = []
        for client in CLIENTS:
            update, self.memory[client] = self.client(client, round)
            made.append((client, update))
        return made

    def play(self, rounds: int) -> Rehearsal:
        """Play whole rounds; returns itself."""
        for round in range(rounds):
            total = self.gather(self.updates(round))
            self.model, self.state = self.strategy.step(self.model, self.state, total)
        return self


@dataclass(frozen=True)
class Case:
    """A strategy and a seed; each law starts afresh."""

    strategy: Strategy
    seed: int

    def rehearse(self, rounds: int = 0, dtype: str = "float32") -> Rehearsal:
        """A rehearsal after so many rounds."""
        return Rehearsal(self.strategy, self.seed, dtype).play(rounds)
