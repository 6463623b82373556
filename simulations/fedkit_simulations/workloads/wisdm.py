"""Activity recognition from the accelerometers of 36 phones: WISDM v1.1, transformed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import ConfigError, nearest
from fedkit_clients.data import ClientArrays
from fedkit_clients.numpy_trainer import MLP, NumpyWorkload, Softmax
from fedkit_simulations.workloads.data import load
from fedkit_simulations.workloads.features import standardise

FILE = "wisdm_har.npz"
TEST_SHARE = 0.2
_KEYS: Mapping[str, tuple[int | str, ...]] = {"x": ("n", 43), "y": ("n",), "user": ("n",)}


class Wisdm(NumpyWorkload):
    """NumpyWorkload that knows the names of its classes."""

    class_names: ClassVar[tuple[str, ...]] = (
        "Walking",
        "Jogging",
        "Upstairs",
        "Downstairs",
        "Sitting",
        "Standing",
    )


def wisdm(
    *, data: str | None = None, model: Literal["mlp", "softmax"] = "mlp", hidden: int = 64
) -> NumpyWorkload:
    """Six activities of 36 phone users from 43 accelerometer features of ten-second windows.

    model: "mlp" (one hidden layer of `hidden` units) or "softmax". The last fifth of each user's
    windows of each activity is held out; the server tests on all of these together. Source: Kwapisz,
    Weiss, Moore 2010 (SensorKDD). Data file: wisdm_har.npz.
    """
    if model not in ("mlp", "softmax"):
        raise ConfigError(f"workload wisdm: model = {model!r}; {nearest(model, ['mlp', 'softmax'])}")
    arrays = load(FILE, data, _KEYS)
    y, user = arrays["y"].astype(np.int64), arrays["user"]
    test = latest(user, y)
    x = standardise(arrays["x"], ~test)
    parts = {f"u{k:02d}": user == k for k in np.unique(user)}
    clients = ClientArrays(x, y, {name: np.flatnonzero(rows & ~test) for name, rows in parts.items()})
    held_out = ClientArrays(x, y, {name: np.flatnonzero(rows & test) for name, rows in parts.items()})
    network = MLP(43, (hidden,), 6) if model == "mlp" else Softmax(43, 6)
    return Wisdm(network, clients, test=(x[test], y[test]), held_out=held_out)


def latest(user: NDArray[Any], y: NDArray[Any]) -> NDArray[np.bool_]:
    """Marks the last TEST_SHARE of each user's rows of each class.

    Neighbouring windows of one recording are alike: a random split would test on what was trained.
    """
    marked = np.zeros(len(y), np.bool_)
    for who in np.unique(user):
        for label in np.unique(y[user == who]):
            rows = np.flatnonzero((user == who) & (y == label))
            marked[rows[len(rows) - int(TEST_SHARE * len(rows)) :]] = True
    return marked
