"""Ed25519 signatures (RFC 8032)."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedkit.errors import CryptoError
from fedkit.secagg.primitives.suite import RANDOM, SECRET_BYTES, Random, draw

SIGNATURE_BYTES = 64


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


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the owner of `public` signed `message`; False too for bytes that are no key or signature."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
