"""The identity codec."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedkit.codecs import CodecContext
from fedkit.codecs.none import Plain
from fedkit.conformance import check_codec
from fedkit.errors import LayoutError, WireError
from fedkit.tensors import Flat, Layout

CTX = CodecContext()


def test_it_keeps_the_laws() -> None:
    assert "is unbiased if it says so" in check_codec(Plain())


@given(
    st.sampled_from([np.float32, np.float64]).flatmap(
        lambda d: hnp.arrays(d, st.integers(0, 40), elements={"allow_nan": False, "allow_infinity": False})
    )
)
def test_what_comes_back_is_the_same_to_the_bit(vector: np.ndarray) -> None:
    layout = (
        Layout(("a", "b"), ((1,), (vector.size - 1,)), (vector.dtype.name,) * 2)
        if vector.size
        else Layout((), (), ())
    )
    made = Plain().decode(Plain().encode(layout.view(vector.astype(layout.dtype)), layout, CTX), layout, CTX)
    assert isinstance(made, Flat)
    assert made.vector.tobytes() == vector.tobytes()
    assert made.vector.dtype == layout.dtype


def test_golden_bytes() -> None:
    layout = Layout(("a", "b"), ((2,), ()), ("float32", "float32"))
    delta = {"b": np.array(-2.0, np.float32), "a": np.array([1.0, 0.5], np.float32)}
    assert Plain().encode(delta, layout, CTX).hex() == "0000803f0000003f000000c0"
    assert sys.byteorder in ("little", "big")  # the bytes are little-endian on either


def test_lengths_are_exact() -> None:
    layout = Layout(("a",), ((3,),), ("float64",))
    assert (Plain().min_len(layout), Plain().max_len(layout), Plain().fixed_size) == (24, 24, True)
    for length in (0, 23, 25, 12):
        with pytest.raises(WireError, match=f"payload has {length} bytes, the layout needs 24"):
            Plain().decode(bytes(length), layout, CTX)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_at_both_ends(bad: float) -> None:
    layout = Layout(("a", "b"), ((2,), (2,)), ("float32", "float32"))
    vector = np.array([0, 1, bad, 3], np.float32)
    with pytest.raises(LayoutError, match="'b': holds"):
        Plain().encode(layout.view(vector), layout, CTX)
    with pytest.raises(WireError, match="'b' holds"):
        Plain().decode(vector.astype("<f4").tobytes(), layout, CTX)


def test_decoding_costs_no_copy() -> None:
    layout = Layout(("a",), ((4,),), ("float32",))
    payload = np.arange(4, dtype="<f4").tobytes()
    made = Plain().decode(payload, layout, CTX)
    assert isinstance(made, Flat)
    assert np.shares_memory(made.vector, np.frombuffer(payload, np.float32)) == (sys.byteorder == "little")
