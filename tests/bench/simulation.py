"""Time of one training round: fedkit, the obvious loop and pfl, on one thread, turn by turn.

    python tests/bench/simulation.py [TASK ...] [--turns N]

Figures are medians of CPU time per round (time.process_time). "fedkit" is `fedkit.run` with the
torch trainer and all that a round does: plan, tasks, virtual clock, codec, exact sum, history.
"obvious" copies the model for each client, trains it with torch.optim.SGD and averages state dicts.
pfl (pip install pfl) trains through its SimulatedBackend; its column is left out where it is absent.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedkit import RoundPolicy, run
from fedkit.events import RoundEnded
from fedkit_clients.torch_trainer import TorchWorkload

LR = 0.05
Data = list[tuple[Tensor, Tensor]]
Runner = Callable[["Task", Data], list[float]]
"""Runs rounds of a task; the CPU seconds of each but the first."""


@dataclass(frozen=True)
class Task:
    """A model and a cohort. rounds: how many a turn takes, about half a second of them.

    channels_last: what fedkit's TorchWorkload is given; the others know no such setting.
    """

    name: str
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    cohort: int
    examples: int
    batch: int
    rounds: int
    channels_last: bool = False


def perceptron() -> nn.Module:
    """McMahan's 2NN: 199,210 parameters."""
    return nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))


def convolutional() -> nn.Module:
    """Two 5x5 convolutions with pooling and two dense layers: 218,346 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, 160), nn.ReLU(), nn.Linear(160, 10)),
    )


TASKS = (
    Task("softmax", partial(nn.Linear, 64, 10), (64,), 100, 20, 10, 12),
    Task("mlp", perceptron, (784,), 50, 100, 20, 4),
    Task("cnn", convolutional, (1, 28, 28), 20, 100, 20, 2),
    Task("cnn-last", convolutional, (1, 28, 28), 20, 100, 20, 2, channels_last=True),
)


def main() -> None:
    """Print one line for each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=[task.name for task in TASKS])
    parser.add_argument("--turns", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # there is no test data, which a run points out
    runners: dict[str, Runner] = {"fedkit": fedkit_rounds, "obvious": obvious_rounds}
    if importlib.util.find_spec("pfl") is not None:
        runners["pfl"] = pfl_rounds
    else:
        print("pfl is not installed: its column is left out")
    heads = [f"{name} ms" for name in runners] + [f"{name}/fedkit" for name in runners if name != "fedkit"]
    print("task".ljust(10) + "".join(head.rjust(16) for head in heads))
    for task in TASKS:
        if task.name in given.tasks:
            times = measure(task, runners, given.turns)
            ratios = [times[name] / times["fedkit"] for name in runners if name != "fedkit"]
            cells = [f"{1000 * seconds:.2f}" for seconds in times.values()] + [f"{r:.2f}" for r in ratios]
            print(task.name.ljust(10) + "".join(cell.rjust(16) for cell in cells), flush=True)


def measure(task: Task, runners: dict[str, Runner], turns: int) -> dict[str, float]:
    """Median CPU seconds per round of each runner; they take turns, so that all see the same machine."""
    draw = torch.Generator().manual_seed(0)
    data = [
        (
            torch.randn(task.examples, *task.shape, generator=draw),
            torch.randint(10, (task.examples,), generator=draw),
        )
        for _ in range(2 * task.cohort)
    ]
    times: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(turns + 1):
        for name, rounds in runners.items():
            gc.collect()
            some = rounds(task, data)
            times[name] += some if turn else []  # the first turn warms caches
    return {name: median(some) for name, some in times.items()}


@dataclass(frozen=True)
class Clock:
    """Notes the CPU time at the end of every round."""

    marks: list[float]

    def round_ended(self, event: RoundEnded) -> None:
        self.marks.append(time.process_time())


def fedkit_rounds(task: Task, data: Data) -> list[float]:
    """`fedkit.run`, whole."""
    clients = {f"c{i:05d}": pair for i, pair in enumerate(data)}
    clock = Clock([])
    run(
        "fedavg",
        TorchWorkload(task.model, cross_entropy, clients, channels_last=task.channels_last),
        rounds=task.rounds + 1,
        policy=RoundPolicy(cohort=task.cohort),
        train={"epochs": 1, "batch": task.batch, "lr": LR},
        observers=[clock],
    )
    return gaps(clock.marks)


def obvious_rounds(task: Task, data: Data) -> list[float]:
    """What one writes first: a copy of the model per client, and a mean of state dicts."""
    model, marks, draw = task.model(), [], np.random.default_rng(0)
    for _ in range(task.rounds + 1):
        chosen = draw.choice(len(data), task.cohort, replace=False)
        states = [train_copy(model, data[i][0], data[i][1], task.batch) for i in chosen]
        weight = [len(data[i][1]) / (task.cohort * task.examples) for i in chosen]
        mean = {
            name: sum(w * state[name] for w, state in zip(weight, states, strict=True)) for name in states[0]
        }
        model.load_state_dict(mean)
        marks.append(time.process_time())
    return gaps(marks)


def train_copy(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> dict[str, Any]:
    """One epoch of SGD on a copy of the model; its state dict."""
    local = copy.deepcopy(model)
    local.train()
    optimiser = torch.optim.SGD(local.parameters(), lr=LR)
    for rows in torch.split(torch.randperm(len(y)), batch):
        optimiser.zero_grad()
        loss = cross_entropy(local(x[rows]), y[rows])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return local.state_dict()


def pfl_rounds(task: Task, data: Data) -> list[float]:
    """pfl's FederatedAveraging on its simulated backend, without evaluation or postprocessors."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    marks: list[float] = []

    class Mark(TrainingProcessCallback):  # type: ignore[misc]
        def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Any]:
            marks.append(time.process_time())
            return False, Metrics()

    users = [PyTorchTensorDataset(pair, user_id=str(i)) for i, pair in enumerate(data)]
    sampler = get_user_sampler("random", range(len(users)))
    federated = FederatedDataset(users.__getitem__, sampler)
    module = with_loss(task.model())
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    FederatedAveraging().run(
        NNAlgorithmParams(task.rounds + 1, 10**9, task.cohort, None),
        SimulatedBackend(federated, federated, [WeightByDatapoints()]),
        model,
        NNTrainHyperParams(task.batch, 1, LR),
        callbacks=[Mark()],
        send_metrics_to_platform=False,
    )
    return gaps(marks)


def with_loss(network: nn.Module) -> nn.Module:
    """The network as pfl wants it: with a loss and metrics of its own."""
    from pfl.metrics import Weighted

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(self.network(x), y)

        def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
            return {"loss": Weighted(len(y) * self.loss(x, y).item(), len(y))}

    return Module()


def gaps(marks: Sequence[float]) -> list[float]:
    """Seconds between marks: the first round, which ends at the first mark, is left out."""
    return [late - early for early, late in pairwise(marks)]


if __name__ == "__main__":
    main()
