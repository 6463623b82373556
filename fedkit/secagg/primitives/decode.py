"""Which of many shares are wrong: decoding of Reed-Solomon codes (Reed and Solomon 1960).

The symbols at one place of all shares are a polynomial's values, and at most (m - t) / 2 of m wrong values
leave one polynomial of t coefficients that all others are on. Sums over the shares that vanish where all
are right (syndromes) tell where the wrong ones are (Massey 1969, IEEE Transactions on Information Theory
15-1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedkit.secagg.primitives.field import GF65536, Elements, Field
from fedkit.secagg.primitives.shamir import distances, points_of, symbols_of


def misfits(
    xs: ArrayLike, shares: ArrayLike, threshold: int, *, field: Field = GF65536
) -> NDArray[np.bool_] | None:
    """Which shares are not on the polynomials that the others are on; None: too many are wrong to tell.

    xs: (m,), who holds the shares: (m, bytes). At most (m - threshold) // 2 wrong ones are told; a share is
    wrong if one of its symbols is. CryptoError: an x or a share that is none.
    """
    points, symbols = points_of(xs, field), symbols_of(shares, field)
    wrong = np.zeros(len(points), np.bool_)
    most = (len(points) - threshold) // 2
    for syndromes in _syndromes(points, symbols, threshold, field).T:
        if not syndromes.any():
            continue
        locator, errors = _locator(syndromes, field)
        inverse = -field.log(points) % field.order
        powers = np.arange(len(locator))[:, None] * inverse % field.order
        here = field.dot(powers, locator[:, None]) == 0
        if np.count_nonzero(here) != errors:
            return None
        wrong |= here
        if np.count_nonzero(wrong) > most:
            return None
    return wrong


def _syndromes(points: Elements, symbols: Elements, threshold: int, field: Field) -> Elements:
    """Sums over shares of symbol v x^j, j below m - t; 1 / v is the product of distances: (m - t, 16)."""
    scale = -distances(points, field)
    powers = np.arange(len(points) - threshold) * field.log(points)[:, None]
    return field.dot(((scale[:, None] + powers) % field.order)[:, :, None], symbols[:, None, :])


def _locator(syndromes: Elements, field: Field) -> tuple[Elements, int]:
    """The shortest recurrence that makes the syndromes: product of 1 - x z over the wrong x; its length."""
    count = len(syndromes)
    current, before = np.zeros(count + 1, field.dtype), np.zeros(count + 1, field.dtype)
    current[0] = before[0] = 1
    length, gap, last = 0, 1, np.ones(1, field.dtype)  # last: what `before` was off by, `gap` steps ago
    for at in range(count):
        off = np.bitwise_xor.reduce(_product(current[: at + 1], syndromes[at::-1], field), keepdims=True)
        if not off.any():
            gap += 1
            continue
        ratio = field.exp(field.log(off) - field.log(last) + field.order)
        change = np.zeros_like(current)
        change[gap:] = _product(before[: count + 1 - gap], ratio, field)
        if 2 * length <= at:
            before, length, gap, last = current, at + 1 - length, 0, off
        current = current ^ change
        gap += 1
    return current, length


def _product(left: Elements, right: Elements, field: Field) -> Elements:
    return field.exp(field.log(left) + field.log(right))
