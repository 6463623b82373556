"""Preparing table columns: scaling by training statistics, one-hot codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def standardise(x: NDArray[Any], train: NDArray[Any]) -> NDArray[np.float32]:
    """Columns of x (rows, features) shifted and divided by mean and deviation of the rows x[train].

    A missing value (NaN) becomes the training mean, that is 0; a column constant in training is only
    shifted.
    """
    rows = x[train].astype(np.float64)
    mean, deviation = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
    scaled = (x - mean) / np.where(deviation == 0, 1.0, deviation)
    return np.where(np.isnan(scaled), 0.0, scaled).astype(np.float32)


def one_hot(codes: NDArray[Any], levels: int) -> NDArray[np.float32]:
    """Codes (rows,) in [0, levels) as a (rows, levels) array of 0 and 1."""
    hot: NDArray[np.float32] = np.eye(levels, dtype=np.float32)[codes]
    return hot
