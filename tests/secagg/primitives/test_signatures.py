"""Ed25519: RFC 8032, and what is not a signature."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedkit.errors import CryptoError
from fedkit.secagg.primitives.signatures import (
    LOW_ORDER,
    PRIME,
    SIGNATURE_BYTES,
    SigningKey,
    check_signer,
    verify,
)
from fedkit.seeds import stream


@pytest.mark.parametrize(
    ("secret", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
            "4a7c15e9716ed28dc027beceea1ec40a",
        ),
    ],
    ids=["TEST 1", "TEST 2", "TEST 3"],
)
def test_ed25519_of_rfc_8032_section_7_1(secret: str, public: str, message: str, signature: str) -> None:
    key = SigningKey(bytes.fromhex(secret))
    assert key.public.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert verify(key.public, bytes.fromhex(message), bytes.fromhex(signature))


def test_every_changed_bit_of_a_signature_is_refused() -> None:
    key = SigningKey.new(stream(0, "sign").bytes)
    signature = key.sign(b"survivors")
    assert verify(key.public, b"survivors", signature)
    for at in range(8 * SIGNATURE_BYTES):
        changed = bytearray(signature)
        changed[at // 8] ^= 1 << at % 8
        assert not verify(key.public, b"survivors", bytes(changed))


def test_another_message_key_or_length_is_refused() -> None:
    key, other = SigningKey.new(), SigningKey.new()
    signature = key.sign(b"survivors")
    assert not verify(key.public, b"survivor", signature)
    assert not verify(other.public, b"survivors", signature)
    assert not verify(key.public, b"survivors", signature[:-1])
    assert not verify(key.public, b"survivors", b"")
    assert not verify(key.public[:-1], b"survivors", signature)
    assert not verify(b"", b"survivors", signature)


def test_keys_come_from_the_random_source_and_have_32_bytes() -> None:
    assert SigningKey.new(stream(3, "a").bytes).public == SigningKey.new(stream(3, "a").bytes).public
    assert SigningKey.new().public != SigningKey.new().public
    with pytest.raises(CryptoError, match="31 bytes"):
        SigningKey(bytes(31))


TORSION = sorted(
    (y + (sign << 255)).to_bytes(32, "little")
    for y in LOW_ORDER
    for sign in (0, 1)
    if not (sign and y in (1, PRIME - 1))
)


def passes(public: bytes, message: bytes, signature: bytes) -> bool:
    """Without the check."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize("public", TORSION)
def test_nobody_signs_for_a_key_of_low_order(public: bytes) -> None:
    """Without a secret: a point of low order and zero, for one message of a few."""
    forged = [(str(at).encode(), point + bytes(32)) for at in range(40) for point in TORSION]
    assert any(passes(public, *one) for one in forged)
    assert not any(verify(public, *one) for one in forged)
    with pytest.raises(CryptoError, match="low order"):
        check_signer(public)


def test_there_are_eight_points_of_low_order() -> None:
    assert len(set(TORSION)) == 8


@pytest.mark.parametrize("y", [2, 7, PRIME + 3, 2**255 - 1])
def test_what_is_no_public_key(y: int) -> None:
    with pytest.raises(CryptoError, match="no point" if y < PRIME else "its one spelling"):
        check_signer(y.to_bytes(32, "little"))


def test_real_keys_are_keys() -> None:
    for seed in range(20):
        check_signer(SigningKey.new(stream(seed, "key").bytes).public)
    with pytest.raises(CryptoError, match="32 bytes, not 31"):
        check_signer(bytes(31))
