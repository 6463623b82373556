"""Clients written for Flower as a fedkit workload: anything with NumPyClient's `fit` and `evaluate`.

    workload = NumPyClients(Net().state_dict(), {"ann": AnnsClient(), "bob": BobsClient()})

What they return is checked before it counts. Flower itself is not needed.
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import ClientFailed, ConfigError, nearest, shown
from fedkit.messages import SCALE, ClientId, Metrics, Pass, Task, Trained
from fedkit.tensors import Tensors
from fedkit.trainer import Correct

PROXIMAL = "proximal-mu"
"""The setting by which Flower's FedProx tells clients of its pull; they apply it themselves."""

Config: TypeAlias = dict[str, float | int | str | bool]
Evaluate: TypeAlias = Callable[[Tensors], Metrics]


class NumPyClientLike(Protocol):
    """What of flwr.client.NumPyClient is used; no base class is asked for."""

    def fit(self, parameters: list[NDArray[Any]], config: Config) -> tuple[Any, Any, Any]:
        """Train; returns the parameters in the same order, the number of examples, metrics."""
        ...

    def evaluate(self, parameters: list[NDArray[Any]], config: Config) -> tuple[Any, Any, Any]:
        """Returns the loss, the number of examples, metrics."""
        ...


class FlowerWorkload(ABC):
    """Model and clients of a Flower project; a subclass says how a client is asked.

    model: the initial one, as a mapping (a state_dict, an ArrayRecord) or a list, whose arrays get the names
    "0", "1" ... as in Flower. evaluate(model): metrics on the server's test data. examples: how many each
    client holds, for the clock of a simulation; Flower clients tell only after training.
    """

    frozen: Collection[str] = ()
    max_weight: float = 2.0**16
    """The most examples of one client."""
    metric_names: Sequence[str] = ("loss", "accuracy")

    def __init__(
        self, model: object, evaluate: Evaluate | None, examples: Mapping[ClientId, int] | None
    ) -> None:
        self._initial = as_tensors(model)
        self._evaluate = evaluate
        self.held = dict(examples or {})

    @abstractmethod
    def clients(self) -> Sequence[ClientId]:
        """All clients."""

    @abstractmethod
    def fit(self, client: ClientId, model: Tensors, config: Config) -> tuple[Tensors, object, object]:
        """(model, number of examples, metrics) after training; ClientFailed if it answers anything else."""

    @abstractmethod
    def score(self, client: ClientId, model: Tensors, config: Config) -> tuple[object, object]:
        """(number of examples, metrics) of the model on the client's own data."""

    def init(self, seed: int) -> Tensors:
        """The initial model, which does not depend on the seed."""
        return self._initial

    def trainer(self, client: ClientId) -> FlowerTrainer:
        """The trainer of that client; ConfigError if there is none."""
        if client not in self.clients():
            raise ConfigError(f"the workload has no client {client!r}; {nearest(client, self.clients())}")
        return FlowerTrainer(self, client)

    def evaluate(self, model: Tensors) -> Metrics:
        """The server's metrics; empty if it has no data."""
        return self._evaluate(model) if self._evaluate is not None else {}

    def whole(self, part: Tensors) -> dict[str, NDArray[Any]]:
        """The model in its own order with what does not travel, as copies that a client may change."""
        return {name: np.array(part.get(name, array)) for name, array in self._initial.items()}


@dataclass(frozen=True)
class FlowerTrainer:
    """One client; implements fedkit.trainer.Trainer. As deterministic as the client is in config["seed"]."""

    workload: FlowerWorkload
    client: ClientId

    @property
    def examples(self) -> int:
        """Number of training examples, 0 if the workload does not know."""
        return self.workload.held.get(self.client, 0)

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        """What the client makes of pass_.start; ClientFailed names what is wrong with its answer."""
        if correct is not None and PROXIMAL not in task.settings:
            reason = "corrects gradients, and a Flower client takes its steps unseen: use another strategy"
            raise ClientFailed("strategy", "correct", reason)
        made, count, metrics = self.workload.fit(
            self.client, self.workload.whole(pass_.start), config_of(task)
        )
        delta = {name: _moved(name, made, start) for name, start in pass_.start.items()}
        return Trained(delta, 1, examples_of(count), numbers_of(metrics))

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        """The client's own metrics and the number of examples they are of."""
        count, metrics = self.workload.score(self.client, self.workload.whole(model), {})
        return numbers_of(metrics), int(examples_of(count))


class NumPyClients(FlowerWorkload):
    """Objects with NumPyClient's `fit` and `evaluate`, one per client.

    `fit` gets the parameters as a list and a config of [train], the strategy's settings, "server-round"
    (from 1), "seed" and "work". Other parameters: see FlowerWorkload.
    """

    def __init__(
        self,
        model: object,
        clients: Mapping[ClientId, NumPyClientLike],
        evaluate: Evaluate | None = None,
        examples: Mapping[ClientId, int] | None = None,
    ) -> None:
        super().__init__(model, evaluate, examples)
        if not isinstance(clients, Mapping):
            raise ConfigError(
                f"clients is a {type(clients).__name__}: give a mapping from client name to client"
            )
        for name, client in clients.items():
            for method in ("fit", "evaluate"):
                if isinstance(client, type) or not callable(getattr(client, method, None)):
                    raise ConfigError(f"client {name!r} is {client!r}: give an object with fit and evaluate")
        self._clients = dict(clients)

    def clients(self) -> Sequence[ClientId]:
        return sorted(self._clients)

    def fit(self, client: ClientId, model: Tensors, config: Config) -> tuple[Tensors, object, object]:
        answer = _three("fit", self._clients[client].fit(list(model.values()), config))
        arrays = answer[0]
        if not isinstance(arrays, list | tuple) or len(arrays) != len(model):
            told = f"{len(arrays)}" if isinstance(arrays, list | tuple) else f"a {type(arrays).__name__}"
            raise ClientFailed(
                "update", "parameters", f"fit returned {told}, not a list of {len(model)} arrays"
            )
        return dict(zip(model, arrays, strict=True)), answer[1], answer[2]

    def score(self, client: ClientId, model: Tensors, config: Config) -> tuple[object, object]:
        loss, count, metrics = _three(
            "evaluate", self._clients[client].evaluate(list(model.values()), config)
        )
        return count, {"loss": loss, **(metrics if isinstance(metrics, Mapping) else {})}


def as_tensors(model: object) -> dict[str, NDArray[Any]]:
    """Named arrays, of a mapping or list of numpy arrays, torch tensors or Flower's Arrays."""
    named = model if isinstance(model, Mapping) else None
    if named is None and isinstance(model, list | tuple):
        named = {str(number): array for number, array in enumerate(model)}
    if not named:
        raise ConfigError(f"model is {shown(model)}: give a mapping or a list of arrays, at least one")
    return {
        name: np.asarray(array.numpy() if hasattr(array, "numpy") else array) for name, array in named.items()
    }


def config_of(task: Task) -> Config:
    """What a client is told beside the model."""
    told = {name: value for name, value in task.settings.items() if name != SCALE}
    return {**told, "server-round": task.key.round + 1, "seed": task.seed, "work": task.work}


def examples_of(count: object) -> float:
    """A number of examples; ClientFailed unless it is above 0 and finite."""
    if isinstance(count, numbers.Real) and 0 < float(count) < math.inf:
        return float(count)
    raise ClientFailed("update", "num-examples", f"is {count!r}: it must be a number above 0")


def numbers_of(metrics: object) -> Metrics:
    """The metrics that are numbers; words and lists of a Flower client have no mean and stay behind."""
    given = metrics if isinstance(metrics, Mapping) else {}
    return {str(n): float(v) for n, v in given.items() if isinstance(v, numbers.Real)}


def _moved(name: str, made: Tensors, start: NDArray[Any]) -> NDArray[Any]:
    """How far a tensor was moved; ClientFailed, naming it, unless it is what was sent, trained."""
    array = made.get(name)
    if not isinstance(array, np.ndarray | np.generic):
        told = "is missing" if array is None else f"is a {type(array).__name__}, not a numpy array"
        raise ClientFailed("update", name, f"{told} after training")
    if array.shape != start.shape or array.dtype.kind != "f":
        was = f"{start.dtype.name} {start.shape}"
        raise ClientFailed(
            "update", name, f"is {array.dtype.name} {array.shape} after training, sent was {was}"
        )
    return np.asarray(array - start, start.dtype)


def _three(method: str, answer: object) -> tuple[Any, Any, Any]:
    if isinstance(answer, tuple) and len(answer) == 3:
        return answer
    raise ClientFailed("update", method, f"returned a {type(answer).__name__}, not a tuple of three")
