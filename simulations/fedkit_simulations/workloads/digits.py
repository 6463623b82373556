"""Scikit-learn's bundled handwritten digits: 1,797 images of 8x8, 10 classes; needs no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fedkit.config import Population
from fedkit.errors import ConfigError, nearest
from fedkit.seeds import stream
from fedkit_clients.data import ClientArrays
from fedkit_clients.numpy_trainer import MLP, NumpyWorkload, Softmax
from fedkit_simulations.population import partition

DEFAULT_POPULATION = Population(clients=50, partition="dirichlet", alpha=0.3)
TEST_SHARE = 0.2
FILE = "datasets/data/digits.csv.gz"


def digits(
    *,
    model: Literal["mlp", "softmax"] = "mlp",
    hidden: int = 64,
    population: Population = DEFAULT_POPULATION,
    seed: int = 0,
) -> NumpyWorkload:
    """Handwritten digits, 8x8 pixels, divided among clients; comes with scikit-learn.

    model: "mlp" (one hidden layer of `hidden` units) or "softmax". A fifth of every class, drawn by
    `seed`, is the server's test set. Source: Alpaydin, Kaynak 1998, UCI "Optical Recognition of
    Handwritten Digits" (its test part).
    """
    if model not in ("mlp", "softmax"):
        raise ConfigError(f"workload digits: model = {model!r}; {nearest(model, ['mlp', 'softmax'])}")
    x, y = _images()
    test = _stratified(y, seed)
    train = np.setdiff1d(np.arange(len(y)), test)
    clients = ClientArrays(x[train], y[train], partition(y[train], population, seed))
    network = MLP(64, (hidden,), 10) if model == "mlp" else Softmax(64, 10)
    return NumpyWorkload(network, clients, test=(x[test], y[test]))


def _images() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows of pixels, and labels. From scikit-learn's file: to import it takes longer than many a run."""
    sklearn = find_spec("sklearn")
    if sklearn is None:
        raise ConfigError("workload digits needs scikit-learn: pip install 'fedkit[demo]'")
    path = Path(sklearn.origin or "").parent / FILE
    if path.is_file():
        table = np.loadtxt(path, delimiter=",")
        x, y = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        x, y = cast("tuple[NDArray[Any], NDArray[Any]]", load_digits(return_X_y=True))
    return (x / 16).astype(np.float32), y.astype(np.int64)


def _stratified(y: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Sorted rows of the test set: TEST_SHARE of every class, rounded."""
    chosen = []
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        draw = stream(seed, "digits", "test", int(label))
        chosen.append(rows[draw.choice(len(rows), round(TEST_SHARE * len(rows)))])
    return np.sort(np.concatenate(chosen))
