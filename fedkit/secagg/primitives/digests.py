"""Hashes: commitments, Merkle roots, comparison in constant time."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256

DIGEST_BYTES = 32


def same(a: bytes, b: bytes) -> bool:
    """Whether two byte strings are equal, in time that does not tell where they differ."""
    return hmac.compare_digest(a, b)


def commit(sid: bytes, secret: bytes) -> bytes:
    """SHA-256("b" ‖ sid ‖ secret): fixes a uniform 32-byte secret for one session without telling it."""
    return sha256(b"b" + sid + secret).digest()


def opens(commitment: bytes, sid: bytes, secret: bytes) -> bool:
    """Whether `commitment` was made from this secret in this session."""
    return same(commitment, commit(sid, secret))


def merkle_root(entries: Sequence[bytes]) -> bytes:
    """Root of the Merkle tree over `entries`, in their order (RFC 6962, section 2.1).

    Leaves are hashed with prefix 0, inner nodes with prefix 1, so that none passes for the other.
    """
    if not entries:
        return sha256(b"").digest()
    level = [sha256(b"\0" + entry).digest() for entry in entries]
    while len(level) > 1:
        paired = [sha256(b"\1" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        # the odd one out moves up as it is: the same tree as RFC 6962's largest power of two on the left
        level = paired + level[len(level) & ~1 :]
    return level[0]
