"""MNIST with the people who wrote it: 539 writers of the training set as natural clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedkit.config import Population
from fedkit.errors import ConfigError, nearest
from fedkit.messages import ClientId
from fedkit.trainer import Workload
from fedkit_clients.data import ClientArrays
from fedkit_clients.numpy_trainer import MLP, NumpyWorkload, Softmax
from fedkit_simulations.population import partition
from fedkit_simulations.workloads.data import load

FILE = "mnist.npz"
SCALE = 1 / 255
NATURAL = Population()
MODELS = ("softmax", "2nn", "cnn", "cnn-small")
_KEYS: Mapping[str, tuple[int | str, ...]] = {
    "x_train": ("train", 28, 28),
    "y_train": ("train",),
    "x_test": ("test", 28, 28),
    "y_test": ("test",),
    "writer_train": ("train",),
    "hsf_train": ("train",),
}


def mnist(
    *,
    data: str | None = None,
    model: Literal["softmax", "2nn", "cnn", "cnn-small"] = "softmax",
    by: Literal["writer", "hsf"] = "writer",
    population: Population = NATURAL,
    seed: int = 0,
) -> Workload:
    """MNIST, 60,000 training images by 539 real writers; the server tests on the 10,000 test images.

    model: "softmax" (7,850 parameters), "2nn" (784-200-200-10, 199,210) or "cnn" (1,663,370; needs
    torch), the last two of McMahan et al. 2017, arXiv:1602.05629; "cnn-small" (215,370; torch). by:
    the natural clients, "writer" (539, ids as "w0123") or "hsf" (2 collections: "hsf0" Census Bureau
    employees, "hsf4" high-school students). Data file: mnist.npz.
    """
    if model not in MODELS:
        raise ConfigError(f"workload mnist: model = {model!r}; {nearest(model, MODELS)}")
    arrays = load(FILE, data, _KEYS)
    y = arrays["y_train"].astype(np.int64)
    indices = partition(y, population, seed, natural=_natural(arrays, by))
    clients = ClientArrays(arrays["x_train"], y, indices)
    test = arrays["x_test"], arrays["y_test"].astype(np.int64)
    if model == "softmax":
        return NumpyWorkload(Softmax(784, 10), clients, test=test, scale=SCALE)
    if model == "2nn":
        return NumpyWorkload(MLP(784, (200, 200), 10), clients, test=test, scale=SCALE)
    return _torch(model, clients, test)


def _natural(arrays: Mapping[str, NDArray[Any]], by: str) -> NDArray[np.str_]:
    names = {"writer": ("writer_train", "w{:04d}"), "hsf": ("hsf_train", "hsf{}")}
    if by not in names:
        raise ConfigError(f"workload mnist: by = {by!r}; {nearest(by, names)}")
    key, form = names[by]
    values, codes = np.unique(arrays[key], return_inverse=True)
    return np.array([form.format(value) for value in values])[codes]


class Planes(Mapping[ClientId, tuple[NDArray[np.float32], NDArray[np.int64]]]):
    """Client images as float32 planes (n, 1, 28, 28) in [0, 1], made when a client is asked for."""

    def __init__(self, clients: Mapping[ClientId, tuple[NDArray[Any], NDArray[Any]]]) -> None:
        self._clients = clients

    def __getitem__(self, client: ClientId) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        x, y = self._clients[client]
        return planes(x), y

    def __iter__(self) -> Iterator[ClientId]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)


def planes(x: NDArray[Any]) -> NDArray[np.float32]:
    """Images (n, 28, 28) of 0..255 as (n, 1, 28, 28) in [0, 1]."""
    return x[:, None].astype(np.float32) * np.float32(SCALE)


def cnn(first: int = 32, second: int = 64, dense: int = 512) -> Any:
    """McMahan's CNN as a torch module: two 5x5 convolutions with 2x2 pooling, one dense layer."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, first, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * 49, dense),
        nn.ReLU(),
        nn.Linear(dense, 10),
    )


def cnn_small() -> Any:
    """The same CNN with 16 and 32 channels and 128 dense units."""
    return cnn(16, 32, 128)


def _torch(model: str, clients: ClientArrays, test: tuple[NDArray[Any], NDArray[Any]]) -> Workload:
    try:
        from torch.nn.functional import cross_entropy
    except ImportError as error:
        raise ConfigError(f"mnist model {model!r} needs torch: pip install 'fedkit[torch]'") from error
    from fedkit_clients.torch_trainer import TorchWorkload

    factory = cnn if model == "cnn" else cnn_small
    return TorchWorkload(factory, cross_entropy, Planes(clients), test=(planes(test[0]), test[1]))
