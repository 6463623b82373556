"""The frame around a payload."""

from __future__ import annotations

import hashlib

import pytest

from fedkit.codecs import frame
from fedkit.errors import WireError
from fedkit.tensors import Layout

LAYOUT = Layout(("w",), ((3,),), ("float32",))
AGREED = frame.contract("ecsq/1:delta=4", LAYOUT)


def test_the_frame_is_what_its_page_says() -> None:
    sealed = frame.seal(AGREED, b"ab", b"c")
    assert sealed[:11] == b"FK\x01" + AGREED
    assert sealed[11:14] == b"abc"
    assert sealed[14:] == hashlib.sha256(sealed[:14]).digest()[:16]
    assert len(sealed) == 3 + frame.OVERHEAD
    assert bytes(frame.unseal(sealed, AGREED, 0, 100)) == b"abc"
    assert frame.peek(sealed) == AGREED
    assert frame.peek(sealed[:26]) == b""


def test_the_contract_tells_specs_and_layouts_apart() -> None:
    other = Layout(("w",), ((4,),), ("float32",))
    made = {frame.contract(spec, layout) for spec in ("a", "b") for layout in (LAYOUT, other)}
    assert len(made) == 4


def test_every_flipped_bit_is_seen() -> None:
    sealed = frame.seal(AGREED, b"abc")
    for place in range(8 * len(sealed)):
        bad = bytearray(sealed)
        bad[place // 8] ^= 1 << place % 8
        with pytest.raises(WireError):
            frame.unseal(bytes(bad), AGREED, 0, 100)


def test_lengths_outside_the_bounds_and_other_contracts_are_refused() -> None:
    sealed = frame.seal(AGREED, b"abc")
    with pytest.raises(WireError, match="30 bytes; the codec makes 31 to 40"):
        frame.unseal(sealed, AGREED, 31, 40)
    with pytest.raises(WireError, match="30 bytes"):
        frame.unseal(sealed, AGREED, 0, 29)
    with pytest.raises(WireError, match="another codec"):
        frame.unseal(sealed, frame.contract("ecsq/2:delta=4", LAYOUT), 0, 100)
    with pytest.raises(WireError, match="bytes"):
        frame.unseal(b"FK", AGREED, 0, 100)
