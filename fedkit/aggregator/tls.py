"""The aggregator's certificate for TLS: self-signed by the key that devices have pinned, remade by itself."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fedkit.keyfile import NAME, read_key
from fedkit.runfolder import replace_file
from fedkit.secagg.identity import SigningKey

CERTIFICATE = "tls.pem"
LIFE = timedelta(days=90)
EARLIER = timedelta(days=7)
"""How long before now a certificate begins: for peers whose clock is slow."""
LOOK = 3600
"""Seconds after which a running aggregator looks whether its certificate is half over."""


def certificate(directory: Path, now: datetime | None = None) -> Path:
    """The certificate of the key in `directory`, made anew if it is of another key or past half its life."""
    path, key, today = directory / CERTIFICATE, read_key(directory), now or datetime.now(UTC)
    if not _fresh(path, key, today):
        replace_file(path, _make(key, today).public_bytes(Encoding.PEM))
    return path


def load(context: ssl.SSLContext, directory: Path) -> None:
    """Let new connections see the certificate of `directory`."""
    context.load_cert_chain(certificate(directory), directory / NAME)


def _fresh(path: Path, key: SigningKey, now: datetime) -> bool:
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError, x509.InvalidVersion):
        return False
    begin, end = found.not_valid_before_utc, found.not_valid_after_utc
    return found.public_key() == _private(key).public_key() and begin <= now < begin + (end - begin) / 2


def _make(key: SigningKey, now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedkit aggregator")])
    private = _private(key)
    return (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, None)
    )


def _private(key: SigningKey) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(key.secret)
