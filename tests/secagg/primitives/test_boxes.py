"""Boxes: published vectors, every change refused, one message under a key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import CryptoError
from fedkit.secagg.primitives.boxes import TAG_BYTES, Sealer, _cipher, open_box
from fedkit.secagg.primitives.suite import Suite

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))


def test_aes_gcm_of_its_specification_with_our_nonce() -> None:
    """McGrew and Viega, test case 14: AES-256, zero key, zero nonce, one zero block."""
    expected = "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919"
    assert Sealer(Suite.AES, bytes(32)).seal(bytes(16), b"").hex() == expected
    assert open_box(Suite.AES, bytes(32), bytes.fromhex(expected), b"") == bytes(16)


def test_aes_128_gcm_test_case_2() -> None:
    """The same library with the key length of the best-known vector."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    expected = "0388dace60b6a392f328c2b971b2fe78" + "ab6e47d42cec13bdf53a67b21257bddf"
    assert AESGCM(bytes(16)).encrypt(bytes(12), bytes(16), b"").hex() == expected


def test_chacha20_poly1305_of_rfc_8439_section_2_8_2() -> None:
    """Its nonce is not ours: the cipher that a box uses is asked."""
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    made = _cipher(Suite.CHACHA, bytes(range(0x80, 0xA0))).encrypt(
        bytes.fromhex("070000004041424344454647"), text, bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    )
    assert made[:16].hex() == "d31a8d34648e60db7b86afbc53ef7ec2"
    assert made[-TAG_BYTES:].hex() == "1ae10b594f09e26a7e902ecbd0600691"


@given(st.sampled_from(Suite), st.binary(max_size=200), st.binary(max_size=50))
def test_a_box_opens_to_what_was_sealed(suite: Suite, text: bytes, aad: bytes) -> None:
    box = Sealer(suite, KEY).seal(text, aad)
    assert open_box(suite, KEY, box, aad) == text
    assert len(box) == len(text) + TAG_BYTES


@pytest.mark.parametrize("suite", Suite)
def test_every_changed_bit_is_refused(suite: Suite) -> None:
    box = Sealer(suite, KEY).seal(b"share", b"header, i, j")
    for at in range(8 * len(box)):
        changed = bytearray(box)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(CryptoError, match="does not open"):
            open_box(suite, KEY, bytes(changed), b"header, i, j")


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("cut", [0, 1, TAG_BYTES - 1, TAG_BYTES])
def test_a_short_box_is_refused(suite: Suite, cut: int) -> None:
    with pytest.raises(CryptoError, match="does not open"):
        open_box(suite, KEY, Sealer(suite, KEY).seal(b"share", b"")[:cut], b"")


@pytest.mark.parametrize("suite", Suite)
def test_another_key_context_or_suite_is_refused(suite: Suite) -> None:
    box = Sealer(suite, KEY).seal(b"share", b"from 1 to 2")
    for key, aad, used in ((OTHER, b"from 1 to 2", suite), (KEY, b"from 2 to 1", suite), (KEY, b"", suite)):
        with pytest.raises(CryptoError, match="does not open"):
            open_box(used, key, box, aad)
    with pytest.raises(CryptoError, match="does not open"):
        open_box(Suite.CHACHA if suite is Suite.AES else Suite.AES, KEY, box, b"from 1 to 2")


def test_a_key_seals_once() -> None:
    sealer = Sealer(Suite.AES, KEY)
    sealer.seal(b"one", b"")
    with pytest.raises(ValueError, match="make another key"):
        sealer.seal(b"two", b"")


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_keys_of_another_length(length: int) -> None:
    with pytest.raises(ValueError, match=f"not {length}"):
        Sealer(Suite.AES, bytes(length))
    with pytest.raises(ValueError, match=f"not {length}"):
        open_box(Suite.CHACHA, bytes(length), bytes(40), b"")
