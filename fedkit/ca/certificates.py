"""X.509 for devices: certificates and lists of what was revoked, by a CA whose key is known.

A device's certificate has its id as the attribute UID of the subject (an id may have 255 bytes; a common
name has 64 characters). Nothing is looked for in other certificates than that of the CA's key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from fedkit.errors import CryptoError
from fedkit.messages import ClientId
from fedkit.secagg.identity import SigningKey, verify

LIFE = timedelta(days=180)
CA_LIFE = timedelta(days=3650)
EARLIER = timedelta(days=1)
"""How long before now certificates begin: for clocks that are slow."""


@dataclass(frozen=True)
class Certified:
    """What a device's certificate says. serial: in hex; begins, ends: unix seconds; ca: who signed it."""

    client: ClientId
    key: bytes
    serial: str
    begins: int
    ends: int
    ca: bytes


@dataclass(frozen=True)
class Revocations:
    """What a CA has revoked: serials in hex. number: grows with each list that has more; at: when it was
    signed, in unix seconds.
    """

    number: int
    serials: frozenset[str]
    at: int


def make_ca(key: SigningKey, now: datetime) -> x509.Certificate:
    """The self-signed certificate of a CA."""
    name = _ca_name(key.public)
    public = Ed25519PublicKey.from_public_bytes(key.public)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    return (
        x509.CertificateBuilder(name, name, public, x509.random_serial_number())
        .not_valid_before(_whole(now - EARLIER))
        .not_valid_after(_whole(now + CA_LIFE))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(_private(key), None)
    )


def ca_key(pem: bytes) -> bytes:
    """The key of a CA's certificate. CryptoError: it is no certificate of Ed25519."""
    try:
        public = x509.load_pem_x509_certificate(pem).public_key()
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise CryptoError(f"not a certificate in PEM: {error}") from None
    if not isinstance(public, Ed25519PublicKey):
        raise CryptoError("a certificate of another kind of key; Ed25519 is needed")
    return public.public_bytes_raw()


def certify(
    key: SigningKey, client: ClientId, public: bytes, now: datetime, life: timedelta = LIFE
) -> x509.Certificate:
    """A device's certificate by the CA whose key this is."""
    device = Ed25519PublicKey.from_public_bytes(public)
    issuer = Ed25519PublicKey.from_public_bytes(key.public)
    subject = x509.Name([x509.NameAttribute(NameOID.USER_ID, client)])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    begin, end = _whole(now - EARLIER), _whole(now + life)
    return (
        x509.CertificateBuilder(_ca_name(key.public), subject, device, x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(device), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
        .sign(_private(key), None)
    )


def read_certificate(pem: bytes, cas: tuple[bytes, ...]) -> Certified:
    """What a certificate says that one of these CAs signed. CryptoError: none did, or it is no device's."""
    try:
        found = x509.load_pem_x509_certificate(pem)
        ca = _issuer(found, cas)  # first: what a stranger has written may make the rest raise anything
        public, names = found.public_key(), found.subject.get_attributes_for_oid(NameOID.USER_ID)
        authority = found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.InvalidVersion, x509.ExtensionNotFound) as error:
        raise CryptoError(f"not a device's certificate: {error}") from None
    if authority or len(names) != 1 or not isinstance(public, Ed25519PublicKey):
        raise CryptoError("not a device's certificate: it names no client, or has another kind of key")
    client = names[0].value
    if not isinstance(client, str):
        raise CryptoError("not a device's certificate: its client is no text")
    begins, ends = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    key, serial = public.public_bytes_raw(), f"{found.serial_number:x}"
    return Certified(client, key, serial, int(begins), int(ends), ca)


def revoke(
    key: SigningKey, serials: Mapping[str, datetime], number: int, now: datetime
) -> x509.CertificateRevocationList:
    """The CA's list of what it has revoked: serials in hex, and when."""
    made = x509.CertificateRevocationListBuilder(_ca_name(key.public), _whole(now), _whole(now + CA_LIFE))
    for serial, at in sorted(serials.items()):
        one = x509.RevokedCertificateBuilder(int(serial, 16), _whole(at)).build()
        made = made.add_revoked_certificate(one)
    return made.add_extension(x509.CRLNumber(number), critical=False).sign(_private(key), None)


def read_revocations(pem: bytes, ca: bytes) -> Revocations:
    """The list that this CA has signed. CryptoError: it has not, or it is no list."""
    try:
        found = x509.load_pem_x509_crl(pem)
        _issuer(found, (ca,))
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (ValueError, x509.InvalidVersion, x509.ExtensionNotFound) as error:
        raise CryptoError(f"not a list of revocations: {error}") from None
    serials = frozenset(f"{one.serial_number:x}" for one in found)
    return Revocations(number, serials, int(found.last_update_utc.timestamp()))


def pem(made: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """As a file holds it."""
    return made.public_bytes(Encoding.PEM)


def _issuer(found: x509.Certificate | x509.CertificateRevocationList, cas: tuple[bytes, ...]) -> bytes:
    """Which of these keys signed it with Ed25519. CryptoError: none did."""
    if isinstance(found, x509.Certificate):
        told, kind = found.tbs_certificate_bytes, found.signature_algorithm_oid
    else:
        told, kind = found.tbs_certlist_bytes, found.signature_algorithm_oid
    signed = [ca for ca in cas if verify(ca, told, found.signature)]
    if kind != SignatureAlgorithmOID.ED25519 or not signed:
        raise CryptoError("it is not signed by the CA that is trusted here")
    return signed[0]


def _ca_name(public: bytes) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedkit CA {public.hex()[:16]}")])


def _whole(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(microsecond=0)


def _private(key: SigningKey) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(key.secret)
