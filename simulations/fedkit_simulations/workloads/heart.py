"""Heart disease in four hospitals (UCI), prepared as FLamby's Fed-Heart-Disease."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from fedkit.errors import ConfigError, nearest
from fedkit_clients.data import ClientArrays
from fedkit_clients.numpy_trainer import NumpyWorkload, Softmax
from fedkit_simulations.workloads.data import load
from fedkit_simulations.workloads.features import standardise

FILE = "heart_disease.npz"
_KEYS: Mapping[str, tuple[int | str, ...]] = {
    "x": ("n", 13),
    "y": ("n",),
    "center": ("n",),
    "split": ("n",),
    "center_names": (4,),
}


class Heart(NumpyWorkload):
    """NumpyWorkload that knows the names of its classes."""

    class_names: ClassVar[tuple[str, ...]] = ("healthy", "diseased")


def heart(
    *, data: str | None = None, standardised: Literal["hospital", "pooled"] = "hospital"
) -> NumpyWorkload:
    """Heart disease diagnosis, 740 patients of 4 hospitals, logistic regression on 13 features.

    standardised: by the training patients of each "hospital" on its own, which is what a federation
    can do (and what FLamby does), or of all hospitals "pooled". The server tests on the test
    patients of all hospitals. Source: Ogier du Terrail et al. 2022, arXiv:2210.04620 (FLamby); Janosi,
    Steinbrunn, Pfisterer, Detrano 1988. Data file: heart_disease.npz.
    """
    if standardised not in ("hospital", "pooled"):
        hint = nearest(standardised, ["hospital", "pooled"])
        raise ConfigError(f"workload heart: standardised = {standardised!r}; {hint}")
    arrays = load(FILE, data, _KEYS)
    training = arrays["split"] == 0
    hospitals = {str(name): arrays["center"] == k for k, name in enumerate(arrays["center_names"])}
    x = standardise(arrays["x"], training)
    if standardised == "hospital":
        for rows in hospitals.values():
            x[rows] = standardise(arrays["x"][rows], training[rows])
    y = arrays["y"].astype(np.int64)
    train_rows = {name: np.flatnonzero(rows & training) for name, rows in hospitals.items()}
    test_rows = {name: np.flatnonzero(rows & ~training) for name, rows in hospitals.items()}
    clients, held_out = ClientArrays(x, y, train_rows), ClientArrays(x, y, test_rows)
    return Heart(Softmax(13, 2), clients, test=(x[~training], y[~training]), held_out=held_out)
