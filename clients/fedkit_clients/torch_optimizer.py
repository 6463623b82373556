"""One optimiser step on flat tensors: SGD fused here, all others from torch.optim."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fedkit.errors import ConfigError, nearest
from fedkit_clients.settings import TrainSettings
from fedkit_clients.torch_module import Resident

# These treat every entry alike, so one flat parameter gives what many shaped ones would.
_ELEMENTWISE = {
    "adadelta",
    "adagrad",
    "adam",
    "adamw",
    "adamax",
    "asgd",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
}
_UNSUITED = {"lbfgs", "sparseadam", "optimizer"}  # need a closure, need sparse gradients, abstract


class Steps(Protocol):
    """`zero` before the backward pass of a step, `step` after it."""

    def zero(self) -> None: ...

    def step(self) -> None: ...


def steps(settings: TrainSettings, resident: Resident, corrected: bool) -> Steps:
    """What takes the optimiser steps of one training call; raises what Stepper raises.

    corrected: whether somebody changes the resident gradients between backward and step.
    """
    plain = settings.optimizer.lower() == "sgd" and not (
        settings.momentum or settings.weight_decay or settings.clip
    )
    return PlainSGD(settings.lr, resident) if plain and not corrected else Stepper(settings, resident)


def check_optimizer(settings: TrainSettings) -> None:
    """ConfigError on an optimiser that torch does not have or that does not know a setting."""
    name = settings.optimizer.lower()
    if name != "sgd":
        _build(name, settings, [nn.Parameter(torch.zeros(1))])


class PlainSGD:
    """weight <- weight - lr * gradient, from the tensors that backward made.

    Nothing is zeroed, summed or copied: a quarter less memory traffic than by way of the resident
    gradients.
    """

    def __init__(self, lr: float, resident: Resident) -> None:
        self._lr = lr
        self._pairs = [(param, param.data) for param in resident.params]

    def zero(self) -> None:
        """Forget the gradients of the step before."""
        for param, _ in self._pairs:
            param.grad = None

    def step(self) -> None:
        """Update the parameters that the loss used."""
        for param, weight in self._pairs:
            if param.grad is not None:
                weight.add_(param.grad, alpha=-self._lr)


class Stepper:
    """Clips the resident gradients and takes one step; a fresh one for each training call.

    Raises ConfigError on an optimiser that torch does not have or that does not know a setting.
    """

    def __init__(self, settings: TrainSettings, resident: Resident) -> None:
        resident.hold_gradients()
        self._settings = settings
        self._pairs = [(slab.flat, slab.grad) for slab in resident.trained if slab.grad is not None]
        name = settings.optimizer.lower()
        self._optimizer = None if name == "sgd" else _build(name, settings, self._params(name, resident))
        self._buffers = [torch.zeros_like(grad) for _, grad in self._pairs] if settings.momentum else []

    def zero(self) -> None:
        """Set all gradients to 0, in place: a parameter that the loss does not use keeps this."""
        for _, grad in self._pairs:
            grad.zero_()

    def step(self) -> None:
        """Update the parameters from their gradients."""
        if self._settings.clip:
            self._clip()
        if self._optimizer is not None:
            self._optimizer.step()
        else:
            self._sgd()

    def _sgd(self) -> None:
        """As torch.optim.SGD: decay added to the gradient, momentum without dampening."""
        settings = self._settings
        for i, (flat, grad) in enumerate(self._pairs):
            if settings.weight_decay:
                grad.add_(flat, alpha=settings.weight_decay)
            if settings.momentum:
                grad = self._buffers[i].mul_(settings.momentum).add_(grad)
            flat.add_(grad, alpha=-settings.lr)

    def _clip(self) -> None:
        """As torch.nn.utils.clip_grad_norm_, without waiting for the device."""
        norms = [torch.linalg.vector_norm(grad, dtype=_wide(grad)) for _, grad in self._pairs]
        norm = (
            norms[0]
            if len(norms) == 1
            else torch.linalg.vector_norm(torch.stack([n.double() for n in norms]))
        )
        factor = (self._settings.clip / (norm + 1e-6)).clamp(max=1.0)
        for _, grad in self._pairs:
            grad.mul_(factor)

    def _params(self, name: str, resident: Resident) -> list[Tensor]:
        if name not in _ELEMENTWISE:
            return list(resident.params)
        params: list[Tensor] = []
        for flat, grad in self._pairs:
            param = nn.Parameter(flat)
            param.grad = grad
            params.append(param)
        return params


def _wide(grad: Tensor) -> torch.dtype:
    """The dtype to take a norm in: at least float32."""
    return torch.promote_types(grad.dtype, torch.float32)


def _build(name: str, settings: TrainSettings, params: list[Tensor]) -> torch.optim.Optimizer:
    kind, known = _known(name)
    options: dict[str, Any] = {"lr": settings.lr}
    for key, value in (("momentum", settings.momentum), ("weight_decay", settings.weight_decay)):
        if key in known:
            options[key] = value
        elif value:
            raise ConfigError(f"train.{key}: {kind.__name__} has no such setting; leave it out")
    return kind(params, **options)


@cache
def _known(name: str) -> tuple[type[torch.optim.Optimizer], frozenset[str]]:
    """The optimiser class of that name, in any case, and its parameters."""
    classes = _optimizers()
    if name not in classes:
        hint = nearest(name, [*classes, "sgd"])
        raise ConfigError(
            f"train.optimizer {name!r} is not in torch.optim, or cannot run step by step: {hint}"
        )
    return classes[name], frozenset(inspect.signature(classes[name]).parameters)


def _optimizers() -> Mapping[str, type[torch.optim.Optimizer]]:
    members = inspect.getmembers(torch.optim, inspect.isclass)
    kinds = {name.lower(): kind for name, kind in members if issubclass(kind, torch.optim.Optimizer)}
    return {name: kind for name, kind in kinds.items() if name not in _UNSUITED}
