"""Packed states: what goes in comes out, whatever the names, and damage is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit import packing
from fedkit.errors import WireError
from fedkit.tensors import Flat, Layout, State, Tensors

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def states(draw: st.DrawFn) -> State:
    """States with odd names, empty groups, scalars and mixed dtypes."""
    made: dict[str, Tensors] = {}
    for group in draw(st.lists(names, max_size=3, unique=True)):
        tensors: dict[str, Any] = {}
        for name in draw(st.lists(names, max_size=3, unique=True)):
            shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
            dtype = draw(st.sampled_from(["float16", "float32", "float64", "int64", "uint8"]))
            tensors[name] = np.asarray(np.arange(math.prod(shape)).reshape(shape).astype(dtype))
        made[group] = tensors
    return made


def same(a: State, b: State) -> bool:
    """Equal names in equal order, dtypes, shapes and bits."""

    def simple(state: State) -> list[object]:
        return [
            (group, [(n, a.dtype.name, a.shape, a.tobytes()) for n, a in tensors.items()])
            for group, tensors in sorted(state.items())
        ]

    return simple(a) == simple(b)


@given(states())
def test_unpack_gives_back_what_was_packed(state: State) -> None:
    assert same(packing.unpack(packing.pack(state)), state)


@given(states())
def test_a_copy_is_held_as_if_it_had_been_read(state: State) -> None:
    read = packing.unpack(packing.pack(state))
    for group, tensors in state.items():
        made = packing.copy(tensors)
        assert same({"": made}, {"": tensors})
        assert type(made) is type(read[group])


def test_a_copy_shares_no_memory() -> None:
    layout = Layout(("w",), ((3,),), ("float32",))
    source = layout.view(np.ones(3, np.float32))
    for tensors in (source, {"w": source["w"]}, {"w": source["w"], "n": np.ones(1, np.int64)}):
        made = packing.copy(tensors)
        source.vector[:] = 7.0
        assert made["w"].tolist() == [1.0, 1.0, 1.0]
        source.vector[:] = 1.0


def test_arrays_of_any_memory_order_are_packed_by_value() -> None:
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    for array in (base.T, base[:, ::2], base[::-1], np.asfortranarray(base), base.astype(">f4")):
        made = packing.unpack(packing.pack({"g": {"a": array}}))["g"]["a"]
        assert made.dtype == np.float32
        assert np.array_equal(made, array)


def test_floating_tensors_of_one_dtype_become_flat() -> None:
    made = packing.unpack(packing.pack({"g": {"a": np.ones(2), "b": np.zeros((1, 2))}}))
    assert isinstance(made["g"], Flat)


@given(states(), st.data())
def test_damage_is_refused_or_read(state: State, data: st.DataObject) -> None:
    packed = packing.pack(state)
    with pytest.raises(WireError):
        packing.unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])
    with pytest.raises(WireError):
        packing.unpack(packed + b"\0")
    changed = bytearray(packed)
    changed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        packing.unpack(bytes(changed))
    except WireError:
        return  # a bit of a value or of a name was flipped otherwise


def test_a_length_beyond_the_data_is_refused() -> None:
    with pytest.raises(WireError, match="longer than the data"):
        packing.unpack((2**60).to_bytes(8, "little") + b"[]")


def test_groups_out_of_order_are_refused() -> None:
    table = b'[["b",[]],["a",[]]]'
    with pytest.raises(WireError, match="not sorted"):
        packing.unpack(len(table).to_bytes(8, "little") + table)


def test_nbytes_counts_mixed_dtypes() -> None:
    layout = Layout(("a", "b"), ((2, 3), ()), ("float64", "uint8"))
    assert packing.nbytes(layout) == 49
