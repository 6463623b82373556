"""X.509: what other tools accept, and what is refused."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from ssl import DER_cert_to_PEM_cert

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fedkit.ca import certificates
from fedkit.errors import CryptoError
from fedkit.secagg.identity import SigningKey

CA, DEVICE, OTHER = SigningKey(b"a" * 32), SigningKey(b"d" * 32), SigningKey(b"o" * 32)
NOW = datetime(2026, 11, 20, 12, 30, 15, 7, tzinfo=UTC)


def test_a_certificate_says_who_and_until_when() -> None:
    name = "Station 7 " + "ü" * 100
    pem = certificates.pem(certificates.certify(CA, name, DEVICE.public, NOW, timedelta(days=3)))
    made = certificates.read_certificate(pem, (OTHER.public, CA.public))
    assert (made.client, made.key) == (name, DEVICE.public)
    assert made.ends == int((NOW + timedelta(days=3)).timestamp())
    assert made.begins < NOW.timestamp()
    assert certificates.ca_key(certificates.pem(certificates.make_ca(CA, NOW))) == CA.public


def test_the_chain_is_one_that_others_verify() -> None:
    authority, device = certificates.make_ca(CA, NOW), certificates.certify(CA, "c", DEVICE.public, NOW)
    device.verify_directly_issued_by(authority)
    assert device.issuer == authority.subject
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_another_ca_or_none_is_refused() -> None:
    pem = certificates.pem(certificates.certify(CA, "c", DEVICE.public, NOW))
    for cas in ((OTHER.public,), ()):
        with pytest.raises(CryptoError, match="not signed by the CA"):
            certificates.read_certificate(pem, cas)
    own = certificates.pem(certificates.make_ca(CA, NOW))
    with pytest.raises(CryptoError, match="no client"):
        certificates.read_certificate(own, (CA.public,))
    for junk in (b"", b"junk", pem[:200], own[:-40]):
        with pytest.raises(CryptoError):
            certificates.read_certificate(junk, (CA.public,))


def test_a_certificate_of_another_kind_is_refused() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.USER_ID, "c")])
    made = x509.CertificateBuilder(name, name, private.public_key(), 5).not_valid_before(NOW)
    basic = x509.BasicConstraints(ca=False, path_length=None)
    signed = made.not_valid_after(NOW + timedelta(days=1)).add_extension(basic, True).sign(private, SHA256())
    with pytest.raises(CryptoError, match="not signed by the CA"):
        certificates.read_certificate(certificates.pem(signed), (CA.public,))
    with pytest.raises(CryptoError, match="another kind of key"):
        certificates.ca_key(certificates.pem(signed))


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("06032b6570032100", "06032b657f032100"),  # a key of a kind that nobody knows
        ("0603551d23", "0603551d0e"),  # an extension twice
        ("a003020102", "a003020130"),  # a version that there is not
    ],
)
def test_what_a_stranger_has_written_is_not_read(was: str, becomes: str) -> None:
    """Else a lying aggregator could end a device that renews."""
    der = certificates.certify(CA, "c", DEVICE.public, NOW).public_bytes(Encoding.DER)
    odd = DER_cert_to_PEM_cert(der.replace(bytes.fromhex(was), bytes.fromhex(becomes), 1)).encode()
    with pytest.raises(CryptoError):
        certificates.read_certificate(odd, (CA.public,))


def test_a_list_that_a_stranger_has_written_is_not_read() -> None:
    der = certificates.revoke(CA, {"ab": NOW}, 4, NOW).public_bytes(Encoding.DER)
    text = base64.encodebytes(der.replace(bytes.fromhex("0603551d14"), bytes.fromhex("0603551d23"), 1))
    odd = b"-----BEGIN X509 CRL-----\n" + text + b"-----END X509 CRL-----\n"
    with pytest.raises(CryptoError, match="not signed"):
        certificates.read_revocations(odd, CA.public)


def test_revocations_are_of_their_ca_and_numbered() -> None:
    pem = certificates.pem(certificates.revoke(CA, {"ab": NOW, "1": NOW}, 4, NOW))
    assert certificates.read_revocations(pem, CA.public) == certificates.Revocations(
        4, frozenset(("ab", "1")), int(NOW.timestamp())
    )
    with pytest.raises(CryptoError, match="not signed"):
        certificates.read_revocations(pem, OTHER.public)
    with pytest.raises(CryptoError, match="not a list"):
        certificates.read_revocations(b"junk", CA.public)
