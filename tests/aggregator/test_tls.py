"""The aggregator's certificate: of its own key, remade in time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedkit.aggregator.tls import LIFE, certificate
from fedkit.keyfile import NAME, make_key

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def test_a_certificate_is_of_the_aggregators_key_and_signed_by_it(tmp_path: Path) -> None:
    key = make_key(tmp_path)
    made = x509.load_pem_x509_certificate(certificate(tmp_path, NOW).read_bytes())
    public = made.public_key()
    assert isinstance(public, Ed25519PublicKey)
    assert public.public_bytes_raw() == key.public
    made.verify_directly_issued_by(made)
    assert made.not_valid_before_utc < NOW < made.not_valid_after_utc == NOW + LIFE


def test_it_is_remade_at_half_its_life_or_for_another_key(tmp_path: Path) -> None:
    make_key(tmp_path)
    first = certificate(tmp_path, NOW).read_bytes()
    assert certificate(tmp_path, NOW + timedelta(days=20)).read_bytes() == first
    later = certificate(tmp_path, NOW + LIFE / 2).read_bytes()
    assert later != first
    (tmp_path / NAME).unlink()
    make_key(tmp_path)
    assert certificate(tmp_path, NOW + LIFE / 2).read_bytes() != later
    (tmp_path / "tls.pem").write_bytes(b"damaged")
    assert x509.load_pem_x509_certificate(certificate(tmp_path, NOW).read_bytes())
