"""Dirichlet draws from a fedkit stream, in logarithms: small concentrations do not underflow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkit.seeds import Stream


def dirichlet(stream: Stream, concentration: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """`rows` draws of Dir(concentration), shape (rows, len(concentration)); each row sums to 1.

    As normalised gamma variables (Devroye 1986, "Non-Uniform Random Variate Generation", XI.4).
    """
    shape = np.tile(concentration, (rows, 1))
    logs = log_gamma(stream, shape.reshape(-1)).reshape(shape.shape)
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def log_gamma(stream: Stream, shape: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithm of one Gamma(shape, 1) draw for each entry of `shape` (> 0).

    Rejection of Marsaglia and Tsang 2000 ("A Simple Method for Generating Gamma Variables") on
    shape + 1, then their boost G(a) = G(a + 1) U^(1/a).
    """
    count = len(shape)
    d = shape + 1.0 - 1.0 / 3.0
    c = 1.0 / np.sqrt(9.0 * d)
    result = np.empty(count)
    open_ = np.arange(count)
    while len(open_):
        z = stream.normal(len(open_))
        log_u = np.log1p(-stream.uniform(len(open_)))
        cube = np.maximum(1.0 + c[open_] * z, 1e-300) ** 3
        accept = (1.0 + c[open_] * z > 0) & (
            log_u < 0.5 * z * z + d[open_] * (1.0 - cube + np.log(np.maximum(cube, 1e-300)))
        )
        taken = open_[accept]
        result[taken] = np.log(d[taken]) + np.log(cube[accept])
        open_ = open_[~accept]
    return np.asarray(result + np.log1p(-stream.uniform(count)) / shape)
