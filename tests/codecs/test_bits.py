"""bfloat16 against its definition, uniform numbers, scaling, chunks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkit.codecs import bits
from fedkit.codecs.reader import Reader
from fedkit.errors import WireError
from fedkit.seeds import stream

FLOATS = st.lists(st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100), min_size=1, max_size=50)


def array(values: list[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


@given(FLOATS)
def test_bfloat16_is_the_nearest_and_ties_go_to_even(values: list[float]) -> None:
    x = array(values)
    low = bits.from_bfloat16((x.view(np.uint32) >> np.uint32(16)).astype(np.uint16)).astype(np.float64)
    high = bits.from_bfloat16(((x.view(np.uint32) >> np.uint32(16)) + np.uint32(1)).astype(np.uint16))
    to_low, to_high = np.abs(x - low), np.abs(high.astype(np.float64) - x)
    made = bits.bfloat16(x)
    got = np.abs(bits.from_bfloat16(made).astype(np.float64) - x)
    assert np.array_equal(got, np.minimum(to_low, to_high))
    assert (made[to_low == to_high] % 2 == 0).all()


@given(FLOATS)
def test_rounding_up_never_gives_less(values: list[float]) -> None:
    x = np.abs(array(values))
    made = bits.from_bfloat16(bits.bfloat16_up(x))
    assert (made >= x).all()
    assert (made <= x * np.float32(1 + 2**-7) + np.float32(1e-40)).all()


def test_stochastic_rounding_is_unbiased() -> None:
    x = np.repeat(array([1.001, -3.3, 1e-3, 7e20]), 1 << 16)
    made = bits.from_bfloat16(bits.bfloat16_stochastic(x, stream(1, "x"))).astype(np.float64)
    mean = made.reshape(4, -1).mean(axis=1)
    spread = made.reshape(4, -1).std(axis=1) / 256
    assert (spread > 0).all()
    assert (np.abs(mean - x[:: 1 << 16].astype(np.float64)) <= 4 * spread).all()


def test_what_bfloat16_holds_is_kept_by_every_rounding() -> None:
    x = array([0.0, -0.0, 1.0, -2.5, 2.0**-126, 2.0**100])
    rounded = (bits.bfloat16(x), bits.bfloat16_stochastic(x, stream(0, "x")), bits.bfloat16_up(np.abs(x)))
    for made, expected in zip(rounded, (x, x, np.abs(x)), strict=True):
        assert bits.from_bfloat16(made).tobytes() == expected.tobytes()


@pytest.mark.parametrize("bad", [0x8000, 0x7F80, 0x7FC0, 0xBF80])
def test_scales_that_are_negative_or_not_finite_are_refused(bad: int) -> None:
    good = np.array([0, 0x3F80], np.uint16)
    assert bits.read_scales(Reader(bits.little(good)), 2).tolist() == [0.0, 1.0]
    with pytest.raises(WireError, match="scale"):
        bits.read_scales(Reader(bits.little(np.array([0x3F80, bad], np.uint16))), 2)


def test_centred_numbers_are_uniform_and_rounding_with_them_is_unbiased() -> None:
    u = bits.centred(stream(3, "u"), (1 << 9, 1 << 9))
    assert u.min() >= -0.5
    assert u.max() < 0.5
    assert abs(float(u.mean())) < 4 * (1 / 12) ** 0.5 / 512
    assert np.var(u, dtype=np.float64) == pytest.approx(1 / 12, rel=0.01)
    mean = float(np.rint(np.float32(0.3) + u).mean())
    assert mean == pytest.approx(0.3, abs=4 * 0.46 / 512)


@pytest.mark.parametrize("top", [1e-45, 1e-20, 2.0**-40, 1.0, 2.0**40, 1e20, 2.0**100])
def test_the_exponent_brings_the_peak_into_range_and_scaling_comes_back(top: float) -> None:
    x = array([top, -top / 2, 0.0])
    e = bits.exponent(x)
    near = bits.scaled(x, -e)
    assert 2.0**-40 <= bits.peak(near) <= 2.0**40
    assert bits.scaled(near, e).tobytes() == x.tobytes()
    assert (e == 0) == (2.0**-40 <= top <= 2.0**40)


def test_the_peak_sees_nan_and_the_empty_vector() -> None:
    assert np.isnan(bits.peak(array([1.0, np.nan, 2.0])))
    assert bits.peak(array([1.0, -3.0])) == 3.0
    assert bits.peak(array([])) == 0.0
    assert bits.exponent(array([])) == 0


@given(FLOATS, st.sampled_from([2.0**-60, 1.0, 2.0**100]))
def test_a_bound_on_the_energy_never_hides_a_larger_magnitude(values: list[float], limit: float) -> None:
    x = array(values)
    assert bits.within(x, limit) == (float(np.abs(x).max()) <= limit)
    for bad in (np.nan, np.inf, -np.inf):
        assert not bits.within(np.append(x, np.float32(bad)), limit)


@pytest.mark.parametrize("limit", [2.0**-40, 1.5, 2.0**100, float(np.finfo(np.float32).max)])
def test_the_bound_is_exact(limit: float) -> None:
    x = array([0.0, -limit])
    assert bits.within(x, limit)
    assert bits.within(array([]), limit)
    with np.errstate(over="ignore"):
        assert not bits.within(np.nextafter(x, array([0.0, -np.inf])), limit)


@pytest.mark.parametrize("top", [2.0**-41, 2.0**-40, 2.0**-31, 2.0**31, 2.0**40, 2.0**41])
def test_the_exponent_of_many_entries_is_that_of_their_peak(top: float) -> None:
    assert bits.exponent(np.full(100_000, top, np.float32)) == bits.exponent(array([top]))
    assert bits.exponent(np.append(np.zeros(99_999, np.float32), np.float32(top))) == bits.exponent(
        array([top])
    )


@given(st.integers(1, 12), st.sampled_from([16, 100, 1024]), st.integers(0, 99))
def test_rows_have_their_peaks_and_are_multiplied_bit_for_bit(count: int, block: int, seed: int) -> None:
    x = stream(seed, "x").normal(count * block).astype(np.float32).reshape(count, block)
    x[count // 2] = -0.0
    peaks, before = bits.peaks(x), np.getbufsize()
    assert peaks.tobytes() == np.array([np.abs(row).max() for row in x]).tobytes()
    made = bits.times(x, peaks, np.empty_like(x))
    assert made.tobytes() == np.array([row * p for row, p in zip(x, peaks, strict=True)]).tobytes()
    assert np.getbufsize() == before


@given(st.integers(0, 2000), st.sampled_from([16, 100, 1024]))
def test_rows_cover_the_vector_in_order(size: int, block: int) -> None:
    x = np.arange(size, dtype=np.float32)
    pieces = list(bits.rows(x, block))
    assert np.array_equal(np.concatenate([x[:0], *(r.reshape(-1) for _, r in pieces)]), x)
    assert all(rows.shape[1] == block for _, rows in pieces[:-1])
    assert all(rows.size == 0 or rows[0, 0] == low for low, rows in pieces)
