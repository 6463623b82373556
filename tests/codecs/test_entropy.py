"""Small integers into few bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedkit.codecs import entropy
from fedkit.codecs.deflate import section
from fedkit.codecs.reader import varint
from fedkit.errors import WireError
from fedkit.seeds import stream

INT8, INT16 = np.dtype(np.int8), np.dtype(np.int16)


def laplace(n: int, scale: float, seed: int = 0) -> NDArray[np.int16]:
    """Rounded exponential magnitudes with random signs."""
    noise = stream(seed, "laplace")
    sizes = -scale * np.log1p(-noise.uniform(n))
    return np.rint(np.where(noise.uniform(n) < 0.5, 1, -1) * sizes).astype(np.int16)


@given(
    arrays(
        np.int8,
        st.integers(0, 300),
        elements=st.one_of(st.just(0), st.integers(-2, 2), st.integers(-127, 127)),
    )
)
def test_bytes_come_back(symbols: NDArray[np.int8]) -> None:
    coded = entropy.encode(symbols)
    assert len(coded) <= entropy.max_len(len(symbols), INT8)
    assert np.array_equal(entropy.decode(memoryview(coded), len(symbols), INT8), symbols)


@given(st.integers(0, 3000), st.floats(0.01, 8000), st.integers(0, 5))
def test_numbers_of_16_bits_come_back(n: int, scale: float, seed: int) -> None:
    symbols = np.clip(laplace(n, scale, seed), -32767, 32767)
    again = entropy.decode(memoryview(entropy.encode(symbols)), n, INT16)
    assert again.dtype == np.int16
    assert np.array_equal(again, symbols)


@pytest.mark.parametrize("scale", [0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 4.0, 12.0, 40.0])
def test_the_size_is_within_4_percent_of_the_entropy(scale: float) -> None:
    symbols = np.clip(laplace(200_000, scale), -127, 127).astype(np.int8)
    share = np.bincount(symbols.astype(int) + 127) / len(symbols)
    bound = -(share[share > 0] * np.log2(share[share > 0])).sum() * len(symbols) / 8
    assert len(entropy.encode(symbols)) <= 1.04 * bound + 100


def test_every_way_of_coding_is_taken() -> None:
    cases = {0: np.arange(-127, 128), 1: np.arange(3000) == 5, 2: laplace(3000, 0.3), 4: laplace(3000, 1.2)}
    cases[3], cases[5] = stream(0, "x").integers(-2, 3, 3000), laplace(3000, 9.0)
    for way, symbols in cases.items():
        coded = entropy.encode(symbols.astype(np.int8))
        assert coded[0] == way
        again = entropy.decode(memoryview(coded), len(symbols), INT8)
        assert np.array_equal(again, symbols)


def test_what_the_encoder_cannot_have_made_is_refused() -> None:
    good = entropy.encode(laplace(3000, 0.3).astype(np.int8))
    above = (
        varint(1) + b"\0" + varint(1) + section(b"\x02") + section(b"\xff") + (65535).to_bytes(2, "little")
    )
    below = varint(1) + b"\0" + varint(1) + section(b"\x01") + section(b"")
    ones = section(bytes([2 * (1 + 3 + 9 + 27 + 81)] * 600))
    for bad in (
        b"",
        b"\x06",
        b"\xff",
        b"\0" + bytes(2999),
        b"\0" + bytes(3001),
        b"\x02" + section(bytes([243] * 600)) + b"\0",
        b"\x02" + section(bytes(599)) + b"\0",
        b"\x02" + ones + above,
        b"\x02" + ones + below,
        b"\x01" + above,
        good + b"\0",
        good[:-1],
    ):
        with pytest.raises(WireError):
            entropy.decode(memoryview(bad), 3000, INT8)
    assert entropy.decode(memoryview(b"\x02" + ones + b"\0"), 3000, INT8).tolist() == [1] * 3000
