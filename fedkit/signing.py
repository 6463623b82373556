"""Requests of a device to an aggregator: what is signed, and the headers that carry it.

To the byte in docs/edge-protocol.md. Both sides use this module; the server checks in aggregator/guard.py.
"""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import quote

from fedkit.messages import ClientId
from fedkit.secagg.identity import RANDOM, Random, SigningKey, draw

VERSION = 1
VERSIONS = tuple(range(max(1, VERSION - 1), VERSION + 1))
"""What an aggregator answers: this version and the one before it."""
SKEW = 300
"""Seconds that the clocks of both sides may differ, and that a nonce is remembered on either side of now."""
NONCE_BYTES = 16


def content_digest(body: bytes) -> str:
    """Content-Digest of a body (RFC 9530).

    >>> content_digest(b"")
    'sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:'
    """
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def statement(
    server: bytes,
    method: str,
    target: str,
    digest: str,
    time: str,
    nonce: str,
    client: str,
    version: int = VERSION,
) -> bytes:
    """The bytes that are signed. server: the aggregator's key, or it could say this elsewhere.

    target: path with query. The rest are the values of the headers.
    """
    lines = (f"fedkit/{version}", server.hex(), method, target, digest, time, nonce, client)
    return "\n".join(lines).encode("ascii")


def client_header(client: ClientId) -> str:
    """A client's id as a header holds it: percent-encoded UTF-8.

    >>> client_header("ward 7")
    'ward%207'
    """
    return quote(client, safe="")


def headers(
    key: SigningKey,
    client: ClientId,
    server: bytes,
    method: str,
    target: str,
    body: bytes,
    at: float,
    random: Random = RANDOM,
) -> dict[str, str]:
    """The headers of a signed request to the aggregator with the key `server`.

    target: path with query, as sent. at: unix seconds.
    """
    digest, time = content_digest(body), str(int(at))
    nonce, name = draw(random, NONCE_BYTES).hex(), client_header(client)
    signature = key.sign(statement(server, method, target, digest, time, nonce, name))
    return {
        "Fedkit-Version": str(VERSION),
        "Fedkit-Client": name,
        "Fedkit-Time": time,
        "Fedkit-Nonce": nonce,
        "Content-Digest": digest,
        "Fedkit-Signature": signature.hex(),
    }
