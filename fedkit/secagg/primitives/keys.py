"""X25519 agreement (RFC 7748) and the keys that HKDF-SHA256 (RFC 5869) makes of it.

Every key is bound to the header of its session, by the salt, and to its purpose, pair and direction, by
the info: two clients who were shown different headers have no key in common.
"""

from __future__ import annotations

from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedkit.errors import CryptoError
from fedkit.secagg.primitives.suite import RANDOM, SECRET_BYTES, Random, draw

KEY_BYTES = 32
BOX_KEY_BYTES = 32
PRIME = 2**255 - 19

LOW_ORDER = frozenset(
    bytes.fromhex(point)
    for point in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
"""The seven points with which anybody's agreement is zero, whatever the secret (RFC 7748, section 6.1)."""


class Label(StrEnum):
    """What a key is for."""

    BOX = "box"
    MASK = "mask"


def check_public(public: bytes) -> None:
    """CryptoError unless `public` is 32 bytes and not one of the points of low order."""
    if len(public) != KEY_BYTES:
        raise CryptoError(f"a public key of {len(public)} bytes: X25519 has {KEY_BYTES}")
    # X25519 ignores the top bit, so a point has two spellings
    if public[:-1] + bytes([public[-1] & 0x7F]) in LOW_ORDER:
        raise CryptoError("a public key of low order: its owner would share a key that everybody knows")


def canonical(public: bytes) -> bytes:
    """The spelling of a public key that its owner writes: X25519 takes others for the same point."""
    number = int.from_bytes(public, "little") % (1 << 255) % PRIME
    return number.to_bytes(KEY_BYTES, "little")


class AgreementKey:
    """A secret of X25519 and its public key. `secret` is what gets shared among neighbours."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise CryptoError(f"a secret of {len(secret)} bytes: X25519 has {SECRET_BYTES}")
        self.secret = secret
        self._key = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def new(cls, random: Random = RANDOM) -> AgreementKey:
        """A fresh key."""
        return cls(draw(random, SECRET_BYTES))

    def agree(self, public: bytes) -> bytes:
        """The secret shared with the owner of `public`. CryptoError: a point of low order, a wrong length."""
        check_public(public)
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise CryptoError(f"no key can be agreed with this public key: {error}") from error


def hkdf(salt: bytes, ikm: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 (RFC 5869): `length` bytes from the input `ikm`."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(ikm)


def box_key(header: bytes, agreed: bytes, sender: str, receiver: str) -> bytes:
    """The key of the one box that `sender` seals for `receiver` in the session of `header` (its SHA-256)."""
    direction = b"up" if sender < receiver else b"down"
    return hkdf(header, agreed, _info(Label.BOX, sender, receiver, direction), BOX_KEY_BYTES)


def mask_key(header: bytes, agreed: bytes, a: str, b: str, length: int) -> bytes:
    """The key of the mask that clients `a` and `b` have in common, the same from both sides."""
    return hkdf(header, agreed, _info(Label.MASK, a, b, b"both"), length)


def self_key(header: bytes, secret: bytes, owner: str, length: int) -> bytes:
    """The key of the mask that `owner` makes of its own secret alone."""
    return hkdf(header, secret, _info(Label.MASK, owner, owner, b"self"), length)


def _info(label: Label, a: str, b: str, direction: bytes) -> bytes:
    """label ‖ lo ‖ hi ‖ direction; lengths before names, so that no two names run into one."""
    low, high = sorted((a.encode(), b.encode()))
    parts = (b"fedkit/secagg/1", label.encode(), low, high, direction)
    return b"".join(len(part).to_bytes(2, "little") + part for part in parts)
