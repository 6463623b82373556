"""X25519 and HKDF: the RFCs' vectors, low order, and keys that are bound to their purpose."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import CryptoError
from fedkit.secagg.primitives import keys
from fedkit.secagg.primitives.keys import AgreementKey, box_key, check_public, hkdf, mask_key, self_key
from fedkit.seeds import stream

HEADER = bytes(range(32))


def bits(text: str) -> bytes:
    return bytes.fromhex(text)


@pytest.mark.parametrize(
    ("secret", "point", "agreed"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_x25519_of_rfc_7748_section_5_2(secret: str, point: str, agreed: str) -> None:
    assert AgreementKey(bits(secret)).agree(bits(point)) == bits(agreed)


def test_a_thousand_turns_of_rfc_7748_section_5_2() -> None:
    """k, u <- X25519(k, u), k; the first turn and the thousandth."""
    scalar = point = bits("0900000000000000000000000000000000000000000000000000000000000000")
    for turn in range(1000):
        scalar, point = AgreementKey(scalar).agree(point), scalar
        if turn == 0:
            assert scalar == bits("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079")
    assert scalar == bits("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51")


def test_the_exchange_of_rfc_7748_section_6_1() -> None:
    a = AgreementKey(bits("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    b = AgreementKey(bits("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    assert a.public == bits("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert a.agree(b.public) == b.agree(a.public)
    assert a.agree(b.public) == bits("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")


def spellings() -> list[bytes]:
    return [p[:-1] + bytes([p[-1] | top]) for p in sorted(keys.LOW_ORDER) for top in (0, 0x80)]


@pytest.mark.parametrize("point", spellings(), ids=lambda p: p[:2].hex() + p[-1:].hex())
def test_points_of_low_order_are_refused(point: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the list; and, if that were lost, by the agreement that comes out zero."""
    key = AgreementKey.new()
    with pytest.raises(CryptoError, match="low order"):
        check_public(point)
    with pytest.raises(CryptoError, match="low order"):
        key.agree(point)
    monkeypatch.setattr(keys, "LOW_ORDER", frozenset[bytes]())
    with pytest.raises(CryptoError, match="no key can be agreed"):
        key.agree(point)


def test_the_list_has_seven_points_and_other_points_pass() -> None:
    assert len(keys.LOW_ORDER) == 7
    check_public(AgreementKey.new().public)
    check_public(bytes([9]) + bytes(31))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(CryptoError, match=f"{length} bytes"):
        check_public(bytes(length))
    with pytest.raises(CryptoError, match=f"{length} bytes"):
        AgreementKey.new().agree(bytes(length))
    with pytest.raises(CryptoError, match=f"{length} bytes"):
        AgreementKey(bytes(length))


def test_new_keys_come_from_the_random_source_that_is_given() -> None:
    a, again = (AgreementKey.new(stream(1, "keys").bytes) for _ in range(2))
    assert a.secret == again.secret
    assert AgreementKey.new().secret != AgreementKey.new().secret
    assert AgreementKey.new().secret not in repr(AgreementKey.new()).encode()
    with pytest.raises(ValueError, match="31 bytes"):
        AgreementKey.new(lambda count: bytes(count - 1))


@pytest.mark.parametrize(
    ("ikm", "salt", "info", "okm"),
    [
        (
            "0b" * 22,
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)).hex(),
            bytes(range(0x60, 0xB0)).hex(),
            bytes(range(0xB0, 0x100)).hex(),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            "0b" * 22,
            "",
            "",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
    ids=["A.1", "A.2", "A.3"],
)
def test_hkdf_of_rfc_5869(ikm: str, salt: str, info: str, okm: str) -> None:
    assert hkdf(bits(salt), bits(ikm), bits(info), len(okm) // 2) == bits(okm)


def test_both_ends_make_the_same_keys_and_a_box_has_a_direction() -> None:
    a, b = AgreementKey.new(), AgreementKey.new()
    one, two = a.agree(b.public), b.agree(a.public)
    assert mask_key(HEADER, one, "a", "b", 16) == mask_key(HEADER, two, "b", "a", 16)
    assert box_key(HEADER, one, "a", "b") == box_key(HEADER, two, "a", "b")
    assert box_key(HEADER, one, "a", "b") != box_key(HEADER, one, "b", "a")


def test_a_key_serves_one_purpose_pair_header_and_secret() -> None:
    """Also for names that would run into one without their lengths."""
    made: list[bytes] = []
    for header, secret in itertools.product((HEADER, bytes(32)), repeat=2):
        for a, b in (("a", "bc"), ("ab", "c"), ("", "abc"), ("a", "b"), ("a", "a")):
            made += [mask_key(header, secret, a, b, 32), self_key(header, secret, a + "|" + b, 32)]
            made += {box_key(header, secret, a, b), box_key(header, secret, b, a)}
    assert len(set(made)) == len(made)


@given(st.text(max_size=8), st.text(max_size=8))
def test_a_mask_does_not_depend_on_who_computes_it(a: str, b: str) -> None:
    forth, back = (mask_key(HEADER, bytes(32), x, y, 32) for x, y in ((a, b), (b, a)))
    assert forth == back
    assert forth != self_key(HEADER, bytes(32), a, 32)


def test_derived_keys_are_frozen() -> None:
    """Labels are part of the wire: other bytes here are another protocol."""
    assert mask_key(HEADER, bytes(32), "a", "b", 16).hex() == "8e8d6f59d6741912dfaaf92b3be773d9"
    assert self_key(HEADER, bytes(32), "a", 16).hex() == "18ea2369a4b026bbca5dac3a69daefc1"
    assert box_key(HEADER, bytes(32), "b", "a")[:16].hex() == "70f98e0a57553886d52cfd4a7b200357"


@pytest.mark.parametrize("number", [9, 0, 18, 2**254 + 1])
def test_a_point_has_one_canonical_spelling(number: int) -> None:
    """X25519 ignores the top bit, and takes numbers from the prime on modulo it (RFC 7748, section 5)."""
    spelled = [number, number + 2**255] + ([number + keys.PRIME] if number + keys.PRIME < 2**255 else [])
    found = {keys.canonical(value.to_bytes(32, "little")) for value in spelled}
    assert found == {number.to_bytes(32, "little")}


def test_other_spellings_agree_on_the_same_key() -> None:
    own, peer = AgreementKey(bytes(range(32))), AgreementKey(bytes(range(1, 33))).public
    other = peer[:-1] + bytes([peer[-1] | 0x80])
    assert own.agree(other) == own.agree(peer)
    assert keys.canonical(other) == keys.canonical(peer) == peer
