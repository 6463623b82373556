"""Ed25519 signatures (RFC 8032)."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedkit.errors import CryptoError
from fedkit.secagg.primitives.suite import RANDOM, SECRET_BYTES, Random, draw

KEY_BYTES = 32
SIGNATURE_BYTES = 64
PRIME = 2**255 - 19
CURVE = -121665 * pow(121666, -1, PRIME) % PRIME
"""d of -x^2 + y^2 = 1 + d x^2 y^2 (RFC 8032, section 5.1)."""

_EIGHTH = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
LOW_ORDER = frozenset({0, 1, PRIME - 1, _EIGHTH, PRIME - _EIGHTH})
"""The y of the eight points of low order: anybody can sign for such a key."""


class SigningKey:
    """A secret of Ed25519; `public` is what others know its owner by."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise CryptoError(f"a secret of {len(secret)} bytes: Ed25519 has {SECRET_BYTES}")
        self.secret = secret
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def new(cls, random: Random = RANDOM) -> SigningKey:
        """A fresh key."""
        return cls(draw(random, SECRET_BYTES))

    def sign(self, message: bytes) -> bytes:
        """The signature of `message`, 64 bytes."""
        return self._key.sign(message)


def check_signer(public: bytes) -> None:
    """CryptoError unless `public` is a point that somebody alone can sign for, in its one spelling."""
    if len(public) != KEY_BYTES:
        raise CryptoError(f"a public key of Ed25519 has {KEY_BYTES} bytes, not {len(public)}")
    if _weak(public):
        raise CryptoError("a key of low order, for which anybody can sign, or not in its one spelling")
    square = _y(public) ** 2 % PRIME
    if pow((square - 1) * (CURVE * square + 1), (PRIME - 1) // 2, PRIME) != 1:
        raise CryptoError("no point of the curve: no public key of Ed25519, perhaps mistyped")


def _y(public: bytes) -> int:
    return int.from_bytes(public, "little") % (1 << 255)


def _weak(public: bytes) -> bool:
    return (y := _y(public)) >= PRIME or y in LOW_ORDER


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the owner of `public` signed `message`; False too for bytes that are no key or signature, and
    for a key of low order.
    """
    if _weak(public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
