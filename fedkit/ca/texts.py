"""What the parties of an enrolment sign: lines of ASCII, so that no text can stand for another."""

from __future__ import annotations

import json
from typing import Literal, TypeAlias

from fedkit import fields
from fedkit.errors import CryptoError, WireError
from fedkit.messages import ClientId
from fedkit.secagg.frames import client_bytes
from fedkit.secagg.identity import check_signer
from fedkit.signing import client_header

Purpose: TypeAlias = Literal["invite", "join", "renew", "next-ca"]

encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
"""JSON as docs/edge-protocol.md has it: names sorted, no spaces, ASCII."""


def text(purpose: Purpose, *parts: str) -> bytes:
    """The bytes that are signed.

    >>> text("invite", "ward%207", "00ff", "1790000000")
    b'fedkit/enrol/1\\ninvite\\nward%207\\n00ff\\n1790000000'
    """
    return "\n".join(("fedkit/enrol/1", purpose, *parts)).encode("ascii")


def sanction_text(client: ClientId, once: bytes, expires: int) -> bytes:
    """The CA's word that who holds the one-time key `once` may enrol as `client` until then."""
    return text("invite", client_header(client), once.hex(), str(expires))


def next_text(before: bytes, ca: bytes, until: int) -> bytes:
    """The word of two CAs that `ca` comes after `before`, and that both are believed until then."""
    return text("next-ca", before.hex(), ca.hex(), str(until))


def octets(value: object, name: str, size: int) -> bytes:
    """Bytes that JSON holds as lower-case hex. WireError: they are not, or not so many."""
    told = fields.text(value, name)
    if len(told) != 2 * size or not all(c in "0123456789abcdef" for c in told):
        raise WireError(f"{name} is not {2 * size} lower-case hex digits")
    return bytes.fromhex(told)


def check_party(client: ClientId, public: bytes) -> None:
    """CryptoError unless a client may have this id, and the key is one that somebody alone can sign for."""
    try:
        client_bytes(client)
    except WireError as error:
        raise CryptoError(str(error)) from None
    check_signer(public)
