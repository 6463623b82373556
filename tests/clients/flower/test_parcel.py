"""Parcels come back as they were, and bytes that are none are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import WireError
from fedkit_clients.flower.parcel import MAGIC, Row, only, pack, unpack

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
rows = st.lists(
    st.builds(
        Row, st.sampled_from(["a", "b"]), st.lists(values, max_size=3).map(tuple), st.binary(max_size=20)
    ),
    max_size=5,
)


@given(rows)
def test_rows_come_back(given_rows: list[Row]) -> None:
    assert unpack(pack(given_rows), "a", "b") == given_rows


@given(st.binary(max_size=60))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    for start in (b"", MAGIC):
        try:
            unpack(start + data, "a")
        except WireError:
            continue
        assert start + data == pack(unpack(start + data, "a"))


@given(rows, st.data())
def test_a_parcel_that_is_cut_or_too_long_is_refused(given_rows: list[Row], draw: st.DataObject) -> None:
    data = pack(given_rows)
    cut = draw.draw(st.integers(0, len(data) - 1))
    for changed in (data[:cut], data + b"x"):
        with pytest.raises(WireError):
            unpack(changed, "a", "b")


def test_a_row_of_another_kind_is_refused() -> None:
    with pytest.raises(WireError, match="kind 'machine', not of reply"):
        unpack(pack([Row("machine", (), b"secret")]), "reply")


def test_an_index_that_is_too_long_is_not_read() -> None:
    with pytest.raises(WireError, match="limit"):
        unpack(MAGIC + b"\xff\xff\xff\xff" + b"[" * 100, "a")


def test_only_wants_one() -> None:
    assert only([Row("a", (1,)), Row("b")], "a") == Row("a", (1,))
    for given_rows in ([], [Row("a"), Row("a")]):
        with pytest.raises(WireError, match="not one"):
            only(given_rows, "a")
