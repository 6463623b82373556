"""Boxes: authenticated encryption of one message under a key of its own.

AES-256-GCM (SP 800-38D) or ChaCha20-Poly1305 (RFC 8439). The nonce is zero because a key seals once:
a second box under the same key and nonce would give away the difference of both messages.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from fedkit.errors import CryptoError
from fedkit.secagg.primitives.keys import BOX_KEY_BYTES
from fedkit.secagg.primitives.suite import Suite

NONCE = bytes(12)
TAG_BYTES = 16


class Sealer:
    """Seals one message under one key."""

    def __init__(self, suite: Suite, key: bytes) -> None:
        self._cipher: AESGCM | ChaCha20Poly1305 | None = _cipher(suite, key)

    def seal(self, text: bytes, aad: bytes | memoryview) -> bytes:
        """The box: as long as `text` and 16 bytes more. ValueError: this key has sealed its message."""
        if self._cipher is None:
            raise ValueError("this key has sealed its one message: make another key")
        cipher, self._cipher = self._cipher, None
        return cipher.encrypt(NONCE, text, aad)


def open_box(suite: Suite, key: bytes, box: bytes, aad: bytes | memoryview) -> bytes:
    """What was sealed. CryptoError: another key, other associated data, or changed bytes."""
    try:
        return _cipher(suite, key).decrypt(NONCE, box, aad)
    except InvalidTag as error:
        raise CryptoError("a box that does not open: wrong key, wrong context or changed bytes") from error


def _cipher(suite: Suite, key: bytes) -> AESGCM | ChaCha20Poly1305:
    if len(key) != BOX_KEY_BYTES:
        raise ValueError(f"a box key has {BOX_KEY_BYTES} bytes, not {len(key)}")
    return AESGCM(key) if suite is Suite.AES else ChaCha20Poly1305(key)
