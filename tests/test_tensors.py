"""Layouts and the arithmetic of models."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import LayoutError
from fedkit.tensors import (
    Flat,
    Layout,
    Tensors,
    add,
    digest,
    flat,
    norm,
    pick,
    scale,
    sealed,
    sealed_copy,
    subtract,
    zeros,
    zeros_like,
)

LAYOUT = Layout(("weight", "bias", "none"), ((2, 3), (), (0, 4)), ("float32",) * 3)


@st.composite
def models(draw: st.DrawFn) -> Tensors:
    """Plain dicts of arrays of one dtype."""
    dtype = draw(st.sampled_from(["float32", "float64"]))
    names = draw(st.lists(st.text(max_size=5), max_size=4, unique=True))
    made = {}
    for name in names:
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
        values = st.lists(
            st.floats(-1e3, 1e3, width=32), min_size=math.prod(shape), max_size=math.prod(shape)
        )
        made[name] = np.array(draw(values), dtype).reshape(shape)
    return made


def equal(a: Tensors, b: Tensors) -> bool:
    """Names in order, dtypes, shapes, bits."""
    return list(a) == list(b) and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes() for n in a
    )


@given(models())
def test_flatten_and_view_are_inverse(model: Tensors) -> None:
    layout = Layout.of(model)
    vector = layout.flatten(model)
    assert vector.shape == (layout.size,)
    assert equal(layout.view(vector), model)
    assert layout.flatten(layout.view(vector)) is vector


@given(models(), st.floats(-4, 4, width=16))
def test_flat_and_plain_arithmetic_agree(model: Tensors, factor: float) -> None:
    twin = flat(model)
    assert equal(add(twin, twin, scale=factor), add(model, model, scale=factor))
    assert equal(subtract(twin, twin), zeros_like(model))
    assert equal(scale(twin, factor), scale(model, factor))
    assert norm(twin) == pytest.approx(norm(model))


@given(models())
def test_digest_sees_every_bit_name_and_shape(model: Tensors) -> None:
    assert digest(flat(model)) == digest(model)
    for name, array in model.items():
        if array.size:
            changed = dict(model)
            changed[name] = array.copy()
            changed[name].reshape(-1)[0] += 1
            assert digest(changed) != digest(model)
        assert digest({**model, name: array.reshape(-1, 1)}) != digest(model) or array.shape == (
            array.size,
            1,
        )
    assert digest({**model, "another": np.zeros(0, np.float32)}) != digest(model) or "another" in model


def test_views_share_the_vector() -> None:
    made = zeros(LAYOUT)
    made.vector[:] = np.arange(7)
    assert made["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert made["bias"].shape == ()
    assert made["none"].shape == (0, 4)
    made["weight"][0, 0] = 9.0
    assert made.vector[0] == 9.0


def test_sizes_offsets_and_digest() -> None:
    assert (LAYOUT.sizes, LAYOUT.offsets, LAYOUT.size, LAYOUT.nbytes) == ((6, 1, 0), (0, 6, 7), 7, 28)
    assert Layout.of(zeros(LAYOUT)).digest == LAYOUT.digest
    others = [
        Layout(("weight", "bias", "no"), LAYOUT.shapes, LAYOUT.dtypes),
        Layout(LAYOUT.names, ((3, 2), (), (0, 4)), LAYOUT.dtypes),
        Layout(LAYOUT.names, LAYOUT.shapes, ("float64",) * 3),
        Layout(LAYOUT.names[::-1], LAYOUT.shapes[::-1], LAYOUT.dtypes),
    ]
    assert len({LAYOUT.digest, *(other.digest for other in others)}) == 5


def test_an_empty_layout_is_good() -> None:
    empty = Layout((), (), ())
    assert (empty.size, empty.nbytes, len(zeros(empty))) == (0, 0, 0)
    assert equal(add(zeros(empty), {}), {})


def test_locate_names_the_tensor_of_an_entry() -> None:
    layout = Layout(("a", "empty", "b"), ((2,), (0,), (1,)), ("float32",) * 3)
    assert [layout.locate(i) for i in range(3)] == ["a", "a", "b"]
    trailing = Layout(("a", "empty"), ((2,), (0,)), ("float32",) * 2)
    assert trailing.locate(1) == "a"


@pytest.mark.parametrize(
    ("change", "subject", "reason"),
    [
        ({"bias": None}, "bias", "is missing"),
        ({"more": np.zeros(1, np.float32)}, "more", "is not in the layout"),
        ({"weight": np.zeros((3, 2), np.float32)}, "weight", "has shape (3, 2), agreed was (2, 3)"),
        ({"weight": np.zeros((2, 3), np.int32)}, "weight", "has dtype int32"),
    ],
)
def test_flatten_names_the_tensor_that_does_not_fit(
    change: dict[str, np.ndarray | None], subject: str, reason: str
) -> None:
    tensors = {n: a for n, a in {**zeros(LAYOUT), **change}.items() if a is not None}
    with pytest.raises(LayoutError) as caught:
        LAYOUT.flatten(tensors)
    assert caught.value.subject == subject
    assert reason in str(caught.value)


def test_flat_of_another_layout_is_checked() -> None:
    other = Layout(("weight",), ((7,),), ("float32",))
    with pytest.raises(LayoutError):
        LAYOUT.flatten(zeros(other))


def test_mixed_dtypes_are_refused() -> None:
    mixed = Layout(("a", "b"), ((1,), (1,)), ("float32", "float64"))
    with pytest.raises(LayoutError, match="mixed dtypes float32, float64"):
        zeros(mixed)


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(LayoutError, match="layout needs"):
        LAYOUT.view(np.zeros(6, np.float32))


def test_operands_must_have_the_same_names() -> None:
    with pytest.raises(LayoutError, match="'b': is in one operand only"):
        add({"a": np.zeros(1)}, {"a": np.zeros(1), "b": np.zeros(1)})


def test_the_dtype_is_that_of_the_first_operand() -> None:
    low, high = {"w": np.ones(2, np.float32)}, {"w": np.ones(2, np.float64)}
    assert add(low, high)["w"].dtype == np.float32
    assert subtract(high, low)["w"].dtype == np.float64
    assert scale(low, np.float64(0.5))["w"].dtype == np.float32


def test_scalars_stay_arrays() -> None:
    model = {"s": np.array(2.0, np.float32)}
    for made in (add(model, model), subtract(model, model), scale(model, 2.0)):
        assert isinstance(made["s"], np.ndarray)


def test_norm_is_computed_in_float64() -> None:
    assert norm({"a": np.full(1000, 1e20, np.float32)}) == pytest.approx(1e20 * math.sqrt(1000), rel=1e-6)
    assert norm({"a": np.array([3.0]), "b": np.array([4.0])}) == 5.0


def test_flat_pickles_and_behaves_as_a_mapping() -> None:
    made = zeros(LAYOUT)
    made.vector[:] = np.arange(7)
    twin = pickle.loads(pickle.dumps(made))
    assert isinstance(twin, Flat)
    assert equal(twin, made)
    assert ("bias" in made, "other" in made, len(made), list(made)) == (True, False, 3, list(LAYOUT.names))


def test_a_flat_has_the_dtype_of_its_layout() -> None:
    layout = Layout(("w",), ((3,),), ("float32",))
    for dtype in ("float64", ">f4", "int32", "float16"):
        with pytest.raises(LayoutError, match="the layout needs float32"):
            layout.view(np.zeros(3, dtype))


@pytest.mark.parametrize("wrong", [{"w": [0.0] * 3}, {"w": 1.0}, None, [np.zeros(3)], np.zeros(3)], ids=str)
def test_what_are_no_arrays_do_not_flatten(wrong: Any) -> None:
    with pytest.raises(LayoutError, match=r"not a numpy array|no mapping from names to arrays"):
        Layout(("w",), ((3,),), ("float32",)).flatten(wrong)


def test_sealed_tensors_share_values_and_refuse_assignment() -> None:
    mine: Tensors = {"w": np.zeros(3, np.float32), "n": np.arange(2)}
    for given_ in (mine, flat({"w": np.zeros(3, np.float32)})):
        made = sealed(given_)
        given_["w"][0] = 5
        assert made["w"][0] == 5
        for array in made.values():
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 1
        assert sealed(made)["w"][0] == 5
    once = sealed(flat({"w": np.zeros(3)}))
    assert sealed(once) is once


def test_a_sealed_copy_is_its_own_and_of_the_whole_layout() -> None:
    mine = flat({"w": np.zeros(3, np.float32)})
    made, part = sealed_copy(mine, mine.layout), pick({"x": np.ones(1), **mine}, mine.layout)
    mine.vector[:] = 7
    for copy in (made, part):
        assert copy.vector.tolist() == [0, 0, 0]
        assert not copy.vector.flags.writeable
    with pytest.raises(LayoutError, match="'x'"):
        sealed_copy({"x": np.ones(1), **mine}, mine.layout)
