"""Whether an aggregator could play the CA: who issues certificates can invent clients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedkit.errors import ConfigError
from fedkit.keyfile import NAME

LARGEST = 1 << 16
"""Bytes beyond which a file is no key."""


def demand_apart(directory: Path, cas: Sequence[bytes]) -> None:
    """ConfigError if the secret of a CA with one of these public keys lies in `directory` or below.

    cas: all that are believed; empty where a roster says who is who.
    """
    if not cas:
        return
    for path in sorted(directory.rglob("*.pem")):
        if path.is_file() and path.stat().st_size <= LARGEST and _public(path.read_bytes()) in cas:
            raise ConfigError(
                f"{path} is the key of a CA: with it this aggregator could invent clients, which "
                "lying_server is to stand; move the CA to a machine of its own, or take honest_server"
            )


def key_beside(certificate: Path, cas: Sequence[bytes]) -> Path | None:
    """The secret of one of these CAs, if it lies beside a certificate and may be read here."""
    path = certificate.with_name(NAME)
    try:
        return path if _public(path.read_bytes()) in cas else None
    except OSError:
        return None


def _public(pem: bytes) -> bytes:
    """The public key of a secret one in PEM; empty if it is none."""
    try:
        found = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        return b""
    return found.public_key().public_bytes_raw() if isinstance(found, Ed25519PrivateKey) else b""
