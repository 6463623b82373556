"""The synthetic(alpha, beta) benchmark of FedProx: Li et al. 2020, arXiv:1812.06127, section 5.1.

The recipe is that of the authors' code (github.com/litian96/FedProx): alpha and beta act as standard
deviations, and one draw u_k is the mean of both W_k and b_k.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import ConfigError
from fedkit.messages import ClientId
from fedkit.seeds import Stream, stream
from fedkit_clients.numpy_trainer import NumpyWorkload, Softmax

FEATURES = 60
CLASSES = 10
TRAIN_SHARE = 0.9
Split = tuple[NDArray[np.float32], NDArray[np.int64]]


def fedprox_synthetic(
    *, alpha: float = 1.0, beta: float = 1.0, clients: int = 30, seed: int = 0
) -> NumpyWorkload:
    """Synthetic softmax data whose model (alpha) and features (beta) differ among clients.

    60 features, 10 classes, softmax regression; a tenth of each client's examples is its test set,
    and the server tests on all of them together. Source: Li et al. 2020, arXiv:1812.06127.
    """
    if clients < 1:
        raise ConfigError(f"workload fedprox-synthetic: clients = {clients}, must be at least 1")
    if alpha < 0 or beta < 0:
        raise ConfigError(f"workload fedprox-synthetic: alpha = {alpha}, beta = {beta}, must not be negative")
    train: dict[ClientId, Split] = {}
    held_out: dict[ClientId, Split] = {}
    for client, (x, y) in generate(alpha, beta, clients, seed).items():
        cut = int(TRAIN_SHARE * len(y))
        train[client], held_out[client] = (x[:cut], y[:cut]), (x[cut:], y[cut:])
    pooled = (
        np.concatenate([x for x, _ in held_out.values()]),
        np.concatenate([y for _, y in held_out.values()]),
    )
    return NumpyWorkload(Softmax(FEATURES, CLASSES), train, test=pooled, held_out=held_out)


def generate(alpha: float, beta: float, clients: int, seed: int) -> dict[ClientId, Split]:
    """All examples of each client: x (n_k, 60), y (n_k,), n_k = floor(LogNormal(4, 2)) + 50."""
    shared = stream(seed, "fedprox-synthetic", "population")
    sizes = np.floor(np.exp(4 + 2 * shared.normal(clients))).astype(np.int64) + 50
    means = alpha * shared.normal(clients)
    centres = beta * shared.normal(clients)
    return {
        f"f{k:05d}": _client(
            int(sizes[k]), means[k], centres[k], stream(seed, "fedprox-synthetic", "client", k)
        )
        for k in range(clients)
    }


def _client(size: int, mean: float, centre: float, draw: Stream) -> Split:
    """x ~ N(v_k, diag(j^-1.2)), y = argmax(x W_k + b_k); entries of W_k, b_k ~ N(u_k, 1), v_k ~ N(B_k, 1)."""
    weight = mean + draw.normal(FEATURES * CLASSES).reshape(FEATURES, CLASSES)
    bias = mean + draw.normal(CLASSES)
    middle = centre + draw.normal(FEATURES)
    deviation = np.arange(1, FEATURES + 1) ** -0.6
    x = middle + deviation * draw.normal(size * FEATURES).reshape(size, FEATURES)
    return x.astype(np.float32), np.argmax(x @ weight + bias, axis=1).astype(np.int64)
