"""Local training of any torch.nn.Module, on the CPU or a CUDA device."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeAlias

from fedkit.errors import ConfigError

try:
    import torch
except ImportError as error:
    raise ConfigError("torch is not installed: pip install 'fedkit[torch]'") from error

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fedkit.messages import ClientId, Metrics, Pass, Settings, Task, Trained
from fedkit.tensors import Tensors
from fedkit.trainer import Correct
from fedkit_clients.checks import (
    find_client,
    require_examples,
    require_finite,
    require_mapping,
    require_pairs,
)
from fedkit_clients.correction import Correction
from fedkit_clients.data import client_size, label_counts, max_weight
from fedkit_clients.settings import TRAIN_SETTINGS, TrainSettings, epochs
from fedkit_clients.torch_data import Source, TorchExamples, check, source
from fedkit_clients.torch_module import Resident, as_tensor
from fedkit_clients.torch_optimizer import Steps, check_optimizer, steps

Loss: TypeAlias = Callable[[Any, Any], Tensor]
Metric: TypeAlias = Callable[[Any, Any], Tensor | float]

_EVALUATION_BATCH = 1024


class TorchWorkload:
    """A torch module on clients' data; implements fedkit.trainer.Workload.

    model: a module, whose weights are the initial ones, or a function that makes one, called under
    the seed of the run. loss(output, targets): the mean over a batch. clients, held_out: a pair
    (x, y) of arrays or tensors, or a map-style Dataset, per client; held_out is what a client
    evaluates on, its training data otherwise. test: the server's. metrics: name -> mean over a
    batch of (output, targets), instead of the accuracy that integer targets get by themselves.
    channels_last: hand images (N, C, H, W) over in that memory order, in which convolutions are
    faster on most machines; the module must then use `reshape`, or nn.Flatten, where it used `view`.

    Tensors go by their state_dict names. Floating buffers (batch-norm statistics) are averaged like
    weights; integer buffers and frozen parameters keep their initial values. A module with
    BatchNorm1d gets slightly larger batches where an epoch would end with a single example, and a
    client with one example fails. One module serves all clients: not for use by several threads.
    """

    train_settings: ClassVar[Mapping[str, str]] = TRAIN_SETTINGS

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        loss: Loss,
        clients: Mapping[ClientId, TorchExamples],
        test: TorchExamples | None = None,
        held_out: Mapping[ClientId, TorchExamples] | None = None,
        *,
        metrics: Mapping[str, Metric] | None = None,
        device: str | torch.device = "cpu",
        channels_last: bool = False,
    ) -> None:
        require_mapping(clients)
        self._model = copy.deepcopy(model) if isinstance(model, nn.Module) else model
        self.device = usable(device)
        self.loss: Loss = nn.Module.to(loss, self.device) if isinstance(loss, nn.Module) else loss
        self.data = clients
        self.test = test
        self.held_out = held_out if held_out is not None else {}
        self._metrics: Mapping[str, Metric] = {"accuracy": accuracy} if metrics is None else metrics
        self._channels_last = channels_last
        self._resident: Resident | None = None
        check(self.data)
        check(self.held_out)
        self.max_weight = max_weight(self.data, self.held_out)
        self.metric_names = ("loss", *self._metrics)

    @property
    def resident(self) -> Resident:
        """The one module; made with seed 0 if `init` was never called."""
        return self._resident if self._resident is not None else self._make(0)

    @property
    def frozen(self) -> Sequence[str]:
        """Names of the parameters that do not require gradients."""
        return self.resident.frozen

    def init(self, seed: int) -> Tensors:
        """The whole initial model: what trains first, then frozen parameters and integer buffers."""
        resident = self._make(seed)
        initial = resident.read()
        return {**initial, **resident.fixed} if resident.fixed else initial

    def clients(self) -> Sequence[ClientId]:
        """All clients, sorted."""
        return sorted(self.data)

    def check_train(self, settings: Settings) -> None:
        """ConfigError, naming the key, on settings that cannot be trained with."""
        check_optimizer(TrainSettings.of(settings))

    def trainer(self, client: ClientId) -> TorchTrainer:
        """The trainer on that client's data; ConfigError if there is none."""
        return TorchTrainer(self, find_client(self.data, client))

    def evaluate(self, model: Tensors) -> Metrics:
        """Mean loss and metrics on the test data; empty if there is none."""
        return self.score(model, self.source(self.test)) if self.test is not None else {}

    def label_counts(self) -> Mapping[ClientId, NDArray[np.int64]]:
        """Examples per class of every client; empty unless targets are class numbers."""
        return label_counts(self.data)

    def module(self, model: Tensors) -> nn.Module:
        """A module of your own with the weights of `model`, in evaluation mode."""
        with self.resident.evaluating(model):
            return self.resident.copy()

    def source(self, examples: TorchExamples) -> Source:
        """Examples on the device, in the module's dtype."""
        return source(examples, self.resident.dtype, self.device)

    def forward(self, x: Any) -> Any:
        """The resident module's output."""
        if self._channels_last and isinstance(x, Tensor) and x.ndim == 4:
            x = in_channels_last(x)
        return self.resident.module(x)

    def score(self, model: Tensors, examples: Source) -> Metrics:
        """Mean loss and metrics of `model` on `examples`, of which there is at least one."""
        count = len(examples)
        sums: dict[str, float] = {}
        with seeded(0, self.device), self.resident.evaluating(model):
            for x, y in examples.batches(None, _EVALUATION_BATCH, math.ceil(count / _EVALUATION_BATCH)):
                output = self.forward(x)
                for name, value in self._measure(output, y):
                    sums[name] = sums.get(name, 0.0) + float(value) * len(y)
        return {name: total / count for name, total in sums.items()}

    def _measure(self, output: Any, y: Tensor) -> Iterator[tuple[str, Tensor | float]]:
        yield "loss", self.loss(output, y)
        for name, metric in self._metrics.items():
            if metric is not accuracy or _classifies(output, y):
                yield name, metric(output, y)

    def _make(self, seed: int) -> Resident:
        if isinstance(self._model, nn.Module):
            module = copy.deepcopy(self._model)
        else:
            with seeded(seed, self.device):
                module = self._model()
        self._resident = Resident(module, self.device)
        return self._resident


class TorchTrainer:
    """Trains the workload's module on one client's data; implements fedkit.trainer.Trainer."""

    def __init__(self, workload: TorchWorkload, client: ClientId) -> None:
        self._workload = workload
        self._client = client

    @property
    def examples(self) -> int:
        """Number of the client's training examples."""
        return client_size(self._workload.data, self._client)

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        """Train from pass_.start; the metric "loss" is the mean over the steps.

        torch's random numbers (dropout) come from task.seed alone. Raises ClientFailed: "no_data"
        without examples, "diverged" naming "loss" or the tensor.
        """
        settings = TrainSettings.of(task.settings)
        resident = self._workload.resident
        examples = self._workload.source(self._workload.data[self._client])
        count = require_examples(len(examples), "examples")
        if resident.norms_batches:
            require_pairs(count, settings.batch)
            settings = settings.without_single_examples(count)
        batch, planned = settings.batch_size(count), settings.steps_done(count, task.work)
        start = resident.load(pass_.start)
        resident.mode(training=True)
        stepper = steps(settings, resident, corrected=correct is not None)
        corrections = _corrections(correct, pass_, resident)
        losses: list[Tensor] = []
        with seeded(task.seed, resident.device):
            for order, some in epochs(task.seed, count, batch, planned):
                for x, y in examples.batches(order, batch, some):
                    losses.append(self._gradient(stepper, x, y))
                    for correction in corrections:
                        correction.apply()
                    stepper.step()
        delta = resident.change(start)
        mean = sum(loss.item() for loss in losses) / planned
        require_finite(mean, delta)
        return Trained(delta, planned, float(count), {"loss": mean})

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        """Loss and metrics on the client's held-out data, or on all of it if none is held out."""
        workload = self._workload
        group = workload.held_out if self._client in workload.held_out else workload.data
        examples = workload.source(group[self._client])
        count = require_examples(len(examples), "held-out examples")
        return workload.score(model, examples), count

    def _gradient(self, stepper: Steps, x: Any, y: Tensor) -> Tensor:
        """The loss of a batch; its gradients are left with the parameters."""
        stepper.zero()
        loss = self._workload.loss(self._workload.forward(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def usable(device: str | torch.device) -> torch.device:
    """The device; ConfigError unless this torch can hold and compute numbers on it."""
    try:
        found = torch.device(device)
        if found.type == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"device = {str(device)!r}: this torch finds no CUDA device; use device='cpu'")
        torch.zeros(1, device=found).item()  # "meta" fails here: its tensors hold no numbers
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device = {str(device)!r} cannot be used: {reason}; use device='cpu'") from error
    return found


def in_channels_last(images: Tensor) -> Tensor:
    """`images` (N, C, H, W), stored (N, H, W, C).

    The strides are set by hand: with one channel torch takes either order for both, and its
    convolutions then choose the slower.
    """
    channels, height, width = images.shape[1:]
    stored = images.permute(0, 2, 3, 1).contiguous()
    strides = (height * width * channels, 1, width * channels, channels)
    return stored.as_strided(images.shape, strides)


def accuracy(output: Tensor, y: Tensor) -> Tensor:
    """Share of targets whose class scores highest; classes on the last axis, or else on axis 1."""
    axis = -1 if output.shape[:-1] == y.shape else 1
    return (output.argmax(axis) == y).double().mean()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's default generators under `seed`; afterwards they are as they were."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        index = device.index if device.index is not None else torch.cuda.current_device()
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _classifies(output: Any, y: Tensor) -> bool:
    """Whether targets are class numbers and the output has an axis of at least two classes."""
    if not isinstance(output, Tensor) or y.dtype != torch.int64 or output.ndim != y.ndim + 1:
        return False
    last = output.shape[:-1] == y.shape
    axis = -1 if last else 1
    return (last or output.shape[:1] + output.shape[2:] == y.shape) and output.shape[axis] > 1


def _corrections(correct: Correct | None, pass_: Pass, resident: Resident) -> list[Correction]:
    """One per slab; most modules have one."""
    if correct is None:
        return []

    def convert(dtype: torch.dtype) -> Callable[[NDArray[Any]], Tensor]:
        return lambda vector: as_tensor(vector).to(resident.device, dtype)

    return [
        Correction(correct, pass_, slab.layout, slab.grad, slab.flat, convert(slab.flat.dtype))
        for slab in resident.trained
    ]
