"""TLS to an aggregator whose key is known: the key is checked, not names, dates or issuers.

An aggregator's certificate says nothing that its key does not: whoever has the key can make another. So the
handshake proves that the peer has the key, and that key must be the pinned one. Nothing depends on a
device's clock, which may have no battery. Nothing is sent before the check.
"""

from __future__ import annotations

import ssl

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedkit.secagg.identity import fingerprint


class _Context(ssl.SSLContext):
    """A context with the one key that is believed."""

    pin: bytes


class _Socket(ssl.SSLSocket):
    """A connection that ends with its handshake unless the peer has that key."""

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _check(self.context, self.getpeercert(binary_form=True))


class _Object(ssl.SSLObject):
    """The same through a proxy that is itself reached by TLS."""

    def do_handshake(self) -> None:
        super().do_handshake()
        _check(self.context, self.getpeercert(binary_form=True))


def pinned(server: bytes) -> ssl.SSLContext:
    """TLS 1.3 to whoever has the Ed25519 key `server`, and to nobody else (SSLCertVerificationError)."""
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.pin = server
    context.sslsocket_class, context.sslobject_class = _Socket, _Object
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # no chain: `_check` is the verification
    return context


def _check(context: ssl.SSLContext, certificate: bytes | None) -> None:
    pin = context.pin if isinstance(context, _Context) else b""
    found = _key(certificate)
    if not pin or found != pin:
        shown = fingerprint(found) if found else "none of Ed25519"
        raise ssl.SSLCertVerificationError(
            ssl.SSL_ERROR_SSL,  # one argument alone is shown as a tuple
            f"the peer's key is {shown}, not the pinned {fingerprint(pin)}: this is not the aggregator",
        )


def _key(certificate: bytes | None) -> bytes:
    """The Ed25519 key of a certificate in DER; empty if there is none."""
    try:
        public = x509.load_der_x509_certificate(certificate or b"").public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.UnsupportedGeneralNameType):
        return b""
    return public.public_bytes_raw() if isinstance(public, Ed25519PublicKey) else b""
