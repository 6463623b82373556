"""Shamir's secret sharing (Shamir 1979) over GF(2^bits), symbol by symbol.

A secret of many bytes is shared as its symbols, each by a polynomial of its own whose value at zero it
is; a share is the values at the holder's x. Any t shares give the secret back, fewer tell nothing.
Where many secrets are held by the same x, they are rebuilt by one vector of weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedkit.errors import CryptoError
from fedkit.secagg.primitives.field import GF65536, Elements, Field, Logs
from fedkit.secagg.primitives.suite import RANDOM, Random, draw

Shares = NDArray[np.uint8]


def share(
    secret: bytes, xs: Sequence[int], threshold: int, *, random: Random = RANDOM, field: Field = GF65536
) -> Shares:
    """Shares of `secret`, one row for each x: (len(xs), len(secret)) bytes; any `threshold` of them rebuild.

    Several secrets for the same holders are shared at once by joining them. CryptoError: an x that is zero,
    doubled or beyond the field, a threshold that cannot be met.
    """
    points = points_of(xs, field)
    if not 1 <= threshold <= len(points):
        raise CryptoError(f"threshold {threshold} of {len(points)} shares: it must be 1 to {len(points)}")
    if not secret or len(secret) % field.dtype.itemsize:
        raise CryptoError(f"a secret of {len(secret)} bytes: not a whole number of symbols of the field")
    drawn = draw(random, (threshold - 1) * len(secret))
    coefficients = np.frombuffer(secret + drawn, field.dtype).reshape(threshold, -1)
    powers = np.arange(threshold)[:, None] * field.log(points) % field.order
    return field.dot(powers[:, :, None], coefficients[:, None, :]).view(np.uint8)


def rebuild(xs: ArrayLike, shares: ArrayLike, threshold: int, *, field: Field = GF65536) -> NDArray[np.uint8]:
    """The secrets of `shares`: rows are holders, as many as xs has; the shape is that of one row.

    xs: (m,) when all secrets are held by the same x, else (m, owners) with shares (m, owners, bytes). The
    first `threshold` rows rebuild; further ones must lie on the same polynomials, which tells a threshold
    that is too low and shares that are wrong, at the cost of a rebuild each. CryptoError: they do not, too
    few shares, or an x that is zero, doubled or beyond the field.
    """
    points, symbols = points_of(xs, field), symbols_of(shares, field)
    if not 1 <= threshold <= len(points) or len(symbols) != len(points):
        raise CryptoError(f"{len(symbols)} shares for {len(points)} holders: {threshold} are needed")
    if symbols.shape[1:-1] != points.shape[1:] and points.ndim > 1:
        raise CryptoError(f"shares of shape {symbols.shape} do not fit holders of shape {points.shape}")
    base, known = points[:threshold], symbols[:threshold]
    for x, claimed in zip(points[threshold:], symbols[threshold:], strict=True):
        if not np.array_equal(_at(x, base, known, field), claimed):
            raise CryptoError(f"shares are not on one polynomial of {threshold} coefficients")
    return _at(np.zeros_like(base[0]), base, known, field).view(np.uint8)


def values(
    others: ArrayLike, xs: ArrayLike, shares: ArrayLike, *, field: Field = GF65536
) -> NDArray[np.uint8]:
    """The shares that other holders have, if these (t, bytes) are right: (len(others), bytes).

    CryptoError: an x or a share that is none.
    """
    targets, points, symbols = points_of(others, field), points_of(xs, field), symbols_of(shares, field)
    to_x = field.log(points[:, None] ^ targets)
    weights = (to_x.sum(axis=0) - to_x - distances(points, field)[:, None]) % field.order
    return field.dot(weights[:, :, None], symbols[:, None, :]).view(np.uint8)


def distances(points: Elements, field: Field) -> Logs:
    """Logarithms of the product of each point's distances to the others."""
    logs: Logs = np.zeros(points.shape, np.int64)
    for other in points:
        # the distance of a point to itself is zero, whose logarithm is zero modulo the order
        logs += field.log(points ^ other)
    return logs


def symbols_of(shares: ArrayLike, field: Field) -> Elements:
    """Shares as symbols of the field, along the last axis. CryptoError: no whole number of them."""
    rows = np.ascontiguousarray(shares, np.uint8)
    if not rows.shape[-1] or rows.shape[-1] % field.dtype.itemsize:
        raise CryptoError(f"shares of {rows.shape[-1]} bytes: not a whole number of symbols of the field")
    return rows.view(field.dtype)


def points_of(holders: ArrayLike, field: Field) -> Elements:
    """The x of holders along the first axis. CryptoError: zero, doubled, or beyond the field."""
    xs = np.asarray(holders, np.int64)
    if not xs.size:
        raise CryptoError("no share")
    ordered = np.sort(xs, axis=0)
    if ordered[0].min() < 1 or ordered[-1].max() > field.order:
        raise CryptoError(f"an x is from 1 to {field.order}; here {ordered[0].min()} to {ordered[-1].max()}")
    if (ordered[1:] == ordered[:-1]).any():
        raise CryptoError("two shares have the same x")
    return xs.astype(field.dtype)


def _at(x: Elements, points: Elements, rows: Elements, field: Field) -> Elements:
    """The value at `x` of the polynomials that pass through `rows` at `points`."""
    weights = _weights(x, points, field)
    return field.dot(weights.reshape(weights.shape + (1,) * (rows.ndim - weights.ndim)), rows)


def _weights(x: Elements, points: Elements, field: Field) -> Logs:
    """Logarithms of Lagrange's weights: product over j != i of (x - x_j) / (x_i - x_j)."""
    to_x = field.log(points ^ x)
    logs: Logs = (to_x.sum(axis=0) - to_x - distances(points, field)) % field.order
    return logs
