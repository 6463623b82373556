"""Finite fields: tables against multiplication bit by bit, and the laws of a field."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.secagg.primitives.field import GF256, GF65536, Elements, Field
from fedkit.seeds import stream

FIELDS = (GF256, GF65536)
both = pytest.mark.parametrize("field", FIELDS, ids=["GF(2^8)", "GF(2^16)"])


def times(field: Field, a: int, b: int) -> int:
    """The product of two polynomials over GF(2), reduced: school arithmetic."""
    product = 0
    for bit in range(field.bits):
        product ^= (a << bit) * (b >> bit & 1)
    for bit in reversed(range(field.bits, 2 * field.bits)):
        product ^= (field.polynomial << bit - field.bits) * (product >> bit & 1)
    return product


def fast(field: Field, a: int, b: int) -> int:
    elements = np.array([[a]], field.dtype), np.array([[b]], field.dtype)
    return int(field.dot(field.log(elements[0]), elements[1])[0])


def random(field: Field, *shape: int) -> Elements:
    size = int(np.prod(shape)) * field.dtype.itemsize
    return np.frombuffer(stream(0, "elements").bytes(size), field.dtype).reshape(shape)


def test_products_of_fips_197() -> None:
    """Section 4.2: {57} {83} = {c1}, {57} {13} = {fe}; and what tables may get wrong, zero and one."""
    assert fast(GF256, 0x57, 0x83) == 0xC1
    assert fast(GF256, 0x57, 0x13) == 0xFE
    for x in (0, 1, 2, 255):
        assert (fast(GF256, x, 0), fast(GF256, 0, x), fast(GF256, x, 1)) == (0, 0, x)


@both
@given(data=st.data())
def test_products_are_those_of_school(field: Field, data: st.DataObject) -> None:
    a, b = (data.draw(st.integers(0, field.order)) for _ in range(2))
    assert fast(field, a, b) == fast(field, b, a) == times(field, a, b)


@both
@given(data=st.data())
def test_products_distribute_over_sums(field: Field, data: st.DataObject) -> None:
    a, b, c = (data.draw(st.integers(0, field.order)) for _ in range(3))
    assert fast(field, a, b ^ c) == fast(field, a, b) ^ fast(field, a, c)


@both
def test_logarithms_and_powers_undo_each_other(field: Field) -> None:
    elements = np.arange(1, field.order + 1).astype(field.dtype)
    logs = field.log(elements)
    assert np.array_equal(np.sort(logs), np.arange(field.order))
    assert np.array_equal(field.exp(logs), elements)
    assert np.array_equal(field.exp(logs + field.order), elements)


@both
def test_dot_is_a_sum_of_products(field: Field) -> None:
    weights, rows = random(field, 5), random(field, 5, 3)
    expected = [0, 0, 0]
    for weight, row in zip(weights.tolist(), rows.tolist(), strict=True):
        expected = [e ^ times(field, weight, x) for e, x in zip(expected, row, strict=True)]
    assert field.dot(field.log(weights), rows).tolist() == expected


@both
def test_dot_with_a_matrix_of_weights(field: Field) -> None:
    weights, rows = random(field, 4, 6).copy(), random(field, 4, 3).copy()
    weights[1, 2] = rows[0, 0] = 0
    made = field.dot(field.log(weights)[:, :, None], rows[:, None, :])
    assert made.shape == (6, 3)
    for i in range(6):
        assert np.array_equal(made[i], field.dot(field.log(weights[:, i]), rows))


def test_a_polynomial_that_factors_makes_no_field() -> None:
    with pytest.raises(ValueError, match="0x100 is no irreducible"):
        Field(8, 0x100).log(np.zeros(1, np.uint8))
