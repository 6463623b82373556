"""Models that need numpy alone: softmax regression and a multi-layer perceptron."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import ConfigError
from fedkit.seeds import stream
from fedkit.tensors import Flat, Layout, zeros


class Model(Protocol):
    """A stack of dense layers with ReLU between them, and softmax cross-entropy on top.

    layout: weight (inputs, outputs) and bias (outputs,) of each layer in turn.
    """

    @property
    def layout(self) -> Layout:
        """Names, shapes and dtype of the parameters."""
        ...

    def init(self, seed: int) -> Flat:
        """The initial parameters."""
        ...


@dataclass(frozen=True)
class Softmax:
    """Multinomial logistic regression: tensors "weight" (features, classes) and "bias".

    init_scale: standard deviation of the initial weights; 0 starts from zero.
    """

    features: int
    classes: int
    dtype: str = "float32"
    init_scale: float = 0.0

    def __post_init__(self) -> None:
        _check((self.features, self.classes), self.dtype)

    @property
    def layout(self) -> Layout:
        return _layout((self.features, self.classes), ("",), self.dtype)

    def init(self, seed: int) -> Flat:
        model = zeros(self.layout)
        if self.init_scale:
            noise = stream(seed, "weight").normal(self.features * self.classes)
            model["weight"][...] = self.init_scale * noise.reshape(self.features, self.classes)
        return model


@dataclass(frozen=True)
class MLP:
    """Dense layers with ReLU: tensors "0.weight" (inputs, outputs), "0.bias", "1.weight" ...

    Weights start normal with variance 2 / inputs before a ReLU (He et al. 2015, arXiv:1502.01852)
    and 2 / (inputs + outputs) in the last layer (Glorot and Bengio 2010); biases start at zero.
    """

    features: int
    hidden: tuple[int, ...]
    classes: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        _check(self._widths, self.dtype)

    @property
    def _widths(self) -> tuple[int, ...]:
        return (self.features, *self.hidden, self.classes)

    @property
    def layout(self) -> Layout:
        prefixes = tuple(f"{i}." for i in range(len(self.hidden) + 1))
        return _layout(self._widths, prefixes, self.dtype)

    def init(self, seed: int) -> Flat:
        model = zeros(self.layout)
        for i, (inputs, outputs) in enumerate(zip(self._widths, self._widths[1:], strict=False)):
            variance = 2 / inputs if i < len(self.hidden) else 2 / (inputs + outputs)
            noise = stream(seed, "weight", i).normal(inputs * outputs)
            model[f"{i}.weight"][...] = math.sqrt(variance) * noise.reshape(inputs, outputs)
        return model


def _check(widths: tuple[int, ...], dtype: str) -> None:
    if min(widths) < 1:
        raise ConfigError(f"a model of layers {widths} cannot be built: every width must be at least 1")
    if dtype not in ("float32", "float64"):
        raise ConfigError(f"dtype {dtype!r} is not supported: use 'float32' or 'float64'")


@lru_cache
def _layout(widths: tuple[int, ...], prefixes: tuple[str, ...], dtype: str) -> Layout:
    names: list[str] = []
    shapes: list[tuple[int, ...]] = []
    for prefix, inputs, outputs in zip(prefixes, widths, widths[1:], strict=False):
        names += [f"{prefix}weight", f"{prefix}bias"]
        shapes += [(inputs, outputs), (outputs,)]
    return Layout(tuple(names), tuple(shapes), (dtype,) * len(names))


class Network:
    """A model at work: resident parameters and gradients, each one flat vector."""

    def __init__(self, model: Model) -> None:
        self.layout = model.layout
        self.weight = np.zeros(self.layout.size, self.layout.dtype)
        self.grad = np.zeros(self.layout.size, self.layout.dtype)  # no memory before it is used
        self._layers = _pairs(self.layout.view(self.weight))
        self._grads = _pairs(self.layout.view(self.grad))

    def logits(self, x: NDArray[Any]) -> NDArray[Any]:
        """Scores (examples, classes) of inputs (examples, features)."""
        return self._forward(x)[-1]

    def backward(self, x: NDArray[Any], y: NDArray[np.int64]) -> float:
        """The mean loss of a batch; its gradient is left in `grad`."""
        *inputs, logits = self._forward(x)
        losses, delta = _cross_entropy(logits, y)
        delta /= len(y)
        for i in range(len(self._layers) - 1, -1, -1):
            weight_grad, bias_grad = self._grads[i]
            np.matmul(inputs[i].T, delta, out=weight_grad)
            np.add.reduce(delta, axis=0, out=bias_grad)
            if i:
                delta = delta @ self._layers[i][0].T
                delta *= inputs[i] > 0
        return float(np.add.reduce(losses)) / len(y)

    def score(self, x: NDArray[Any], y: NDArray[np.int64]) -> tuple[float, int]:
        """Sum of the losses, and how many examples are classified rightly."""
        logits = self.logits(x)
        right = int((logits.argmax(axis=1) == y).sum())
        return float(_cross_entropy(logits, y)[0].sum(dtype=np.float64)), right

    def _forward(self, x: NDArray[Any]) -> list[NDArray[Any]]:
        """The input of each layer, then the logits."""
        flow = [x]
        for i, (weight, bias) in enumerate(self._layers):
            out = flow[-1] @ weight
            out += bias
            if i < len(self._layers) - 1:
                np.maximum(out, 0, out=out)
            flow.append(out)
        return flow


def _pairs(model: Flat) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    arrays = list(model.values())
    return list(zip(arrays[::2], arrays[1::2], strict=True))


def _cross_entropy(logits: NDArray[Any], y: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Loss of each example, and its gradient by the logits, which are overwritten.

    Reductions are called as ufuncs: the methods of arrays take as long again on a small batch.
    """
    at = np.arange(0, logits.size, logits.shape[1]) + y
    flat = logits.reshape(-1)
    logits -= np.maximum.reduce(logits, axis=1, keepdims=True)
    target = flat.take(at)
    np.exp(logits, out=logits)
    total = np.add.reduce(logits, axis=1, keepdims=True)
    logits /= total
    flat[at] -= 1
    return np.log(total).reshape(-1) - target, logits
