"""Lengths are checked before anything is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.codecs.reader import Reader, varint
from fedkit.errors import WireError


@given(st.lists(st.integers(0, 2**62)))
def test_varints_come_back(values: list[int]) -> None:
    reader = Reader(b"".join(map(varint, values)))
    assert [reader.varint(2**62) for _ in values] == values
    reader.done()


def test_published_examples_of_leb128() -> None:
    assert [varint(n).hex() for n in (0, 1, 127, 128, 624485)] == ["00", "01", "7f", "8001", "e58e26"]


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\x00", b"\x81\x80\x00", b"\xff" * 9 + b"\x01", b"\xff" * 50]
)
def test_bad_varints_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        Reader(data).varint(2**70)


def test_a_varint_above_its_limit_is_refused() -> None:
    assert Reader(varint(300)).varint(300) == 300
    with pytest.raises(WireError, match="at most 299"):
        Reader(varint(300)).varint(299)


def test_taking_more_than_there_is_and_leaving_some_are_refused() -> None:
    reader = Reader(b"abcd")
    assert bytes(reader.take(1)) == b"a"
    with pytest.raises(WireError, match="4 bytes wanted, 3 left"):
        reader.take(4)
    with pytest.raises(WireError, match="3 bytes too many"):
        reader.done()
    assert reader.uint16(1).tolist() == [0x6362]
    assert bytes(reader.rest()) == b"d"
    reader.done()
