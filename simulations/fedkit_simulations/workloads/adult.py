"""Census income: does an adult earn more than $50,000 a year? UCI Adult, 48,842 people."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedkit.config import Population
from fedkit.errors import ConfigError, nearest
from fedkit_clients.data import ClientArrays
from fedkit_clients.numpy_trainer import NumpyWorkload, Softmax
from fedkit_simulations.population import partition
from fedkit_simulations.workloads.data import load
from fedkit_simulations.workloads.features import one_hot, standardise

FILE = "adult.npz"
NUMERIC = ("age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week")
CATEGORICAL = (
    "workclass",
    "education",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "native_country",
)
NATURAL = Population()


class Adult(NumpyWorkload):
    """NumpyWorkload that knows the names of its classes."""

    class_names: ClassVar[tuple[str, ...]] = ("<=50K", ">50K")


def adult(
    *, data: str | None = None, by: str = "occupation", population: Population = NATURAL, seed: int = 0
) -> NumpyWorkload:
    """Census income above $50,000, logistic regression on 108 features; the official test split.

    by: the column whose values are the natural clients ("occupation": 15 of them, "native_country",
    "workclass" ...); other partitions ignore it. Numeric columns are standardised by the training
    rows, the others one-hot coded, "?" being a value of its own. Source: Becker, Kohavi 1996 (UCI).
    Data file: adult.npz.
    """
    if by not in CATEGORICAL:
        raise ConfigError(f"workload adult: by = {by!r}; {nearest(by, CATEGORICAL)}")
    arrays = load(FILE, data, _keys())
    training = arrays["split"] == 0
    x, y = _features(arrays, training), arrays["y"].astype(np.int64)
    natural = arrays[f"levels_{by}"][arrays[f"cat_{by}"]][training]
    indices = partition(y[training], population, seed, natural=natural)
    clients = ClientArrays(x[training], y[training], indices)
    return Adult(Softmax(x.shape[1], 2), clients, test=(x[~training], y[~training]))


def _keys() -> dict[str, tuple[int | str, ...]]:
    keys: dict[str, tuple[int | str, ...]] = {"split": ("n",), "y": ("n",)}
    keys |= {f"num_{name}": ("n",) for name in NUMERIC}
    keys |= {f"cat_{name}": ("n",) for name in CATEGORICAL}
    return keys | {f"levels_{name}": (name,) for name in CATEGORICAL}


def _features(arrays: dict[str, NDArray[Any]], training: NDArray[np.bool_]) -> NDArray[np.float32]:
    numbers = np.stack([arrays[f"num_{name}"] for name in NUMERIC], axis=1)
    codes = [one_hot(arrays[f"cat_{name}"], len(arrays[f"levels_{name}"])) for name in CATEGORICAL]
    return np.concatenate([standardise(numbers, training), *codes], axis=1)
