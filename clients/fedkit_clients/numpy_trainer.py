"""Local training without torch: softmax regression and a small multi-layer perceptron, by SGD."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import ConfigError, DataError
from fedkit.messages import ClientId, Metrics, Pass, Settings, Task, Trained
from fedkit.tensors import Tensors
from fedkit.trainer import Correct
from fedkit_clients.checks import find_client, require_examples, require_finite, require_mapping
from fedkit_clients.correction import Correction
from fedkit_clients.data import ClientArrays, Clients, Examples, client_size, label_counts, max_weight
from fedkit_clients.models import MLP, Model, Network, Softmax
from fedkit_clients.settings import TRAIN_SETTINGS, TrainSettings, epochs

__all__ = ["MLP", "NumpyTrainer", "NumpyWorkload", "Softmax"]

_EVALUATION_BATCH = 1024


class NumpyWorkload:
    """A numpy model on clients' arrays; implements fedkit.trainer.Workload.

    clients, held_out: (inputs, integer labels) per client; held_out is what a client evaluates on,
    its training data otherwise. test: the server's. scale multiplies inputs batch by batch, so that
    images may stay bytes in memory; inputs of any shape are flattened. Raises DataError on data
    that do not fit the model.
    """

    train_settings: ClassVar[Mapping[str, str]] = TRAIN_SETTINGS
    frozen: Collection[str] = ()

    def __init__(
        self,
        model: Model,
        clients: Clients,
        test: Examples | None = None,
        held_out: Clients | None = None,
        scale: float = 1.0,
    ) -> None:
        require_mapping(clients)
        self.model = model
        self.data = clients
        self.test = test
        self.held_out = held_out if held_out is not None else {}
        self.scale = scale
        self.network = Network(model)
        self._features, self._classes = _ends(self.network)
        for where, (x, y) in _parts(clients, self.held_out, test):
            self._check(where, x, y)
        self.max_weight = max_weight(clients, self.held_out)

    def init(self, seed: int) -> Tensors:
        """The initial parameters, one flat vector."""
        return self.model.init(seed)

    def clients(self) -> Sequence[ClientId]:
        """All clients, sorted."""
        return sorted(self.data)

    def check_train(self, settings: Settings) -> None:
        """ConfigError, naming the key, on settings that cannot be trained with."""
        _settings(settings)

    def trainer(self, client: ClientId) -> NumpyTrainer:
        """The trainer on that client's data; ConfigError if there is none."""
        return NumpyTrainer(self, find_client(self.data, client))

    def evaluate(self, model: Tensors) -> Metrics:
        """Accuracy and mean loss on the test data; empty if there is none."""
        return self.score(model, self.test) if self.test is not None else {}

    def label_counts(self) -> Mapping[ClientId, NDArray[np.int64]]:
        """Examples per class of every client."""
        return label_counts(self.data)

    def score(self, model: Tensors, examples: Examples) -> Metrics:
        """Accuracy and mean loss of `model` on `examples`, of which there is at least one."""
        network = self.network
        network.weight[:] = network.layout.flatten(model)
        loss, right, (x, y) = 0.0, 0, examples
        for start in range(0, len(y), _EVALUATION_BATCH):
            part = slice(start, start + _EVALUATION_BATCH)
            with np.errstate(over="ignore", invalid="ignore"):  # a diverged model has a loss of nan
                some_loss, some_right = network.score(self.inputs(x[part]), y[part])
            loss += some_loss
            right += some_right
        return {"accuracy": right / len(y), "loss": loss / len(y)}

    def inputs(self, x: NDArray[Any]) -> NDArray[Any]:
        """A batch as the model takes it: (examples, features), scaled, in the model's dtype."""
        rows, dtype = x.reshape(len(x), self._features), self.network.layout.dtype
        if self.scale == 1.0:
            return rows.astype(dtype, copy=False)
        scaled: NDArray[Any] = np.multiply(rows, dtype.type(self.scale), dtype=dtype, casting="unsafe")
        return scaled

    def _check(self, where: str, x: NDArray[Any], y: NDArray[Any]) -> None:
        """DataError unless inputs and labels suit the model."""
        if len(x) != len(y):
            raise DataError(f"{where}: {len(x)} inputs but {len(y)} labels")
        if not len(y):
            return
        if x.dtype.kind not in "fiub":
            raise DataError(f"{where}: inputs are {x.dtype.name}, they must be numbers")
        if math.prod(x.shape[1:]) != self._features:
            shape = "x".join(map(str, x.shape[1:]))
            raise DataError(f"{where}: inputs of shape {shape}, the model takes {self._features} features")
        if y.ndim != 1 or y.dtype.kind not in "iu":
            raise DataError(
                f"{where}: labels are {y.dtype.name} {y.shape}, they must be a vector of integers"
            )
        if y.min() < 0 or y.max() >= self._classes:
            raise DataError(
                f"{where}: labels {y.min()} to {y.max()}, the model has {self._classes} classes (0 ...)"
            )


class NumpyTrainer:
    """SGD on one client's arrays; implements fedkit.trainer.Trainer."""

    def __init__(self, workload: NumpyWorkload, client: ClientId) -> None:
        self._workload = workload
        self._client = client

    @property
    def examples(self) -> int:
        """Number of the client's training examples."""
        return client_size(self._workload.data, self._client)

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        """SGD from pass_.start; the metric "loss" is the mean over the steps.

        Raises ClientFailed: "no_data" without examples, "diverged" naming "loss" or the tensor.
        """
        settings = _settings(task.settings)
        x, y = self._workload.data[self._client]
        count = require_examples(len(y), "examples")
        steps = settings.steps_done(count, task.work)
        network = self._workload.network
        start = network.layout.flatten(pass_.start)
        network.weight[:] = start
        correction = None
        if correct is not None:
            correction = Correction(correct, pass_, network.layout, network.grad, network.weight, np.asarray)
        total = 0.0
        optimiser = _SGD(settings, network)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # told of below
            for bx, by in self._batches(x, y, task.seed, settings.batch_size(count), steps):
                total += network.backward(bx, by)
                if correction is not None:
                    correction.apply()
                optimiser.step()
        delta = network.layout.view(network.weight - start)
        require_finite(total, delta)
        return Trained(delta, steps, float(count), {"loss": total / steps})

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        """Accuracy and loss on the client's held-out data, or on all of it if none is held out."""
        held_out = self._workload.held_out
        examples = (held_out if self._client in held_out else self._workload.data)[self._client]
        count = require_examples(len(examples[1]), "held-out examples")
        return self._workload.score(model, examples), count

    def _batches(
        self, x: NDArray[Any], y: NDArray[Any], seed: int, batch: int, steps: int
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        inputs = self._workload.inputs
        for order, some in epochs(seed, len(y), batch, steps):
            rows, labels = (x, y) if order is None else (x[order], y[order])
            for start in range(0, some * batch, batch):
                part = slice(start, start + batch)
                yield inputs(rows[part]), labels[part]


class _SGD:
    """weight <- weight - lr * buffer, buffer <- momentum * buffer + grad, as torch.optim.SGD does."""

    def __init__(self, settings: TrainSettings, network: Network) -> None:
        self._settings = settings
        self._weight = network.weight
        self._grad = network.grad
        self._buffer = np.zeros_like(network.grad) if settings.momentum else None

    def step(self) -> None:
        """One step in place; the gradient is used up."""
        settings, grad = self._settings, self._grad
        if settings.clip:
            norm = math.sqrt(float(grad @ grad))
            grad *= min(1.0, settings.clip / (norm + 1e-6))
        if settings.weight_decay:
            grad += settings.weight_decay * self._weight
        if self._buffer is not None:
            self._buffer *= settings.momentum
            self._buffer += grad
            grad[:] = self._buffer
        grad *= settings.lr
        self._weight -= grad


def _settings(given: Settings) -> TrainSettings:
    settings = TrainSettings.of(given)
    if settings.optimizer != "sgd":
        raise ConfigError(
            f"train.optimizer {settings.optimizer!r}: the numpy trainer has 'sgd' alone; "
            "use a torch model for others"
        )
    return settings


def _ends(network: Network) -> tuple[int, int]:
    """(features, classes): the first and the last width."""
    shapes = network.layout.shapes
    return shapes[0][0], shapes[-1][0]


def _parts(clients: Clients, held_out: Clients, test: Examples | None) -> Iterator[tuple[str, Examples]]:
    """Every array pair to check, with its name; shared arrays once."""
    for kind, group in (("client", clients), ("held-out data of client", held_out)):
        if isinstance(group, ClientArrays):
            yield f"{kind} data", (group.x, group.y)
        else:
            yield from ((f"{kind} {name!r}", examples) for name, examples in group.items())
    if test is not None:
        yield "test data", test
