"""float32 by its bits: bfloat16 with three roundings, uniform numbers, safe scaling, chunks.

bfloat16 is the upper half of a float32. Its bit operations are exact on every platform.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs.reader import Reader
from fedkit.codecs.stage import Vector
from fedkit.errors import WireError
from fedkit.seeds import Stream

CHUNK = 1 << 17
"""Coordinates handled at a time: their temporaries stay in a core's cache. Eden's bit planes are one
chunk long, so this number is part of its format."""

BATCH = 1 << 18
"""Coordinates that `rows` gives at a time: their temporaries stay in a shared cache, and the few calls a
batch that handle one number a row take a twentieth of its time."""

Half = NDArray[np.uint16]
_UP, _NEAR, _ONE = np.uint32(0xFFFF), np.uint32(0x7FFF), np.uint32(1)
_SHIFT = np.uint32(16)


def bfloat16(x: Vector) -> Half:
    """x rounded to the nearest bfloat16, ties to even."""
    raw = x.view(np.uint32)
    return ((raw + (_NEAR + ((raw >> _SHIFT) & _ONE))) >> _SHIFT).astype(np.uint16)


def bfloat16_up(x: Vector) -> Half:
    """Positive x rounded up."""
    return ((x.view(np.uint32) + _UP) >> _SHIFT).astype(np.uint16)


def bfloat16_stochastic(x: Vector, stream: Stream) -> Half:
    """x rounded up or down at random: the expectation is x."""
    noise = np.frombuffer(stream.bytes(2 * x.size), "<u2")
    raw: NDArray[np.uint32] = x.view(np.uint32) + noise
    return (raw >> _SHIFT).astype(np.uint16)


def from_bfloat16(half: Half) -> Vector:
    """The float32 values of bfloat16 bits."""
    return (half.astype(np.uint32) << _SHIFT).view(np.float32)


def little(half: Half) -> bytes:
    """16-bit numbers as bytes, low byte first."""
    return half.astype("<u2", copy=False).tobytes()


def read_scales(reader: Reader, count: int) -> Vector:
    """`count` bfloat16 scales; WireError if one is negative or not finite."""
    scales = from_bfloat16(reader.uint16(count))
    if not (np.isfinite(scales) & ~np.signbit(scales)).all():
        raise WireError("payload: a scale is negative or not finite")
    return scales


def centred(stream: Stream, shape: tuple[int, ...]) -> Vector:
    """Uniform values in [-1/2, 1/2), multiples of 2^-16.

    Rounding x + u to the nearest integer is then unbiased within 2^-16.
    """
    drawn = np.frombuffer(stream.bytes(2 * math.prod(shape)), "<i2").reshape(shape)
    return drawn * np.float32(2.0**-16)


def peak(vector: Vector) -> float:
    """The largest magnitude; NaN if there is one."""
    return max(float(vector.max()), -float(vector.min())) if vector.size else 0.0


def energy(vector: Vector) -> float:
    """The sum of squares as float32 holds it, in half the time of `peak`; NaN if there is one.

    Its last bits depend on the platform. However it rounds, it is at least the rounded square of the peak.
    """
    return float(np.vdot(vector, vector))


def within(vector: Vector, limit: float) -> bool:
    """Whether no magnitude is above `limit`; False if there is a NaN."""
    return energy(vector) <= limit * limit / 2 or peak(vector) <= limit


def exponent(vector: Vector) -> int:
    """The e for which the peak of vector * 2^(-8 e) is in [2^-40, 2^40]; 0 wherever possible."""
    if vector.size * 2.0**-60 <= energy(vector) <= 2.0**60:
        return 0  # the peak is far inside the range, so its exact value does not matter
    top = peak(vector)
    if top == 0.0 or 2.0**-40 <= top <= 2.0**40:
        return 0
    return math.frexp(top)[1] // 8


def scaled(vector: Vector, e: int) -> Vector:
    """vector * 2^(8 e); itself when e is 0. Overflow gives inf."""
    if e == 0:
        return vector
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(vector, np.int32(8 * e))


def rows(vector: Vector, block: int) -> Iterator[tuple[int, Vector]]:
    """(offset, rows of `block` entries) for pieces of `vector`; a shorter tail is a row of its own."""
    whole = vector.size - vector.size % block
    step = max(1, BATCH // block) * block
    for low in range(0, whole, step):
        yield low, vector[low : min(low + step, whole)].reshape(-1, block)
    if whole < vector.size:
        yield whole, vector[whole:].reshape(1, -1)


def scratch(size: int) -> Vector:
    """Room for the largest array that `rows` gives."""
    return np.empty(min(BATCH, size), np.float32)


def peaks(rows: Vector) -> Vector:
    """The largest magnitude of each row."""
    flat, starts = rows.reshape(-1), np.arange(0, rows.size, rows.shape[1])
    # reduceat takes three quarters of the time of max(axis=1) on rows of 1024 entries, half on rows of 128
    return np.maximum(np.maximum.reduceat(flat, starts), np.abs(np.minimum.reduceat(flat, starts)))


def times(rows: Vector, factors: Vector, out: Vector) -> Vector:
    """Each row times its factor, in `out`."""
    size = np.setbufsize(512)  # with the default of 8192, numpy first spells out the factors of shorter rows
    try:
        return np.multiply(rows, factors[:, None], out=out)
    finally:
        np.setbufsize(size)


def divided(rows: Vector, step: Vector, spare: Vector) -> Vector:
    """Each row times the inverse of its step, in `spare`; 0 where the step is 0, or has no inverse."""
    inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step > 2.0**-120)
    return times(rows, inverse, spare[: rows.size].reshape(rows.shape))
