"""What is signed, against golden requests and against a second reading of docs/edge-protocol.md."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fedkit import wire
from fedkit.secagg.identity import SigningKey
from fedkit.signing import client_header, headers

GOLDEN = json.loads((Path(__file__).parent / "vectors" / "edge-1.json").read_text())


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["method"])
def test_headers_are_the_golden_ones(case: dict[str, Any]) -> None:
    key, nonce = SigningKey(bytes.fromhex(case["secret"])), bytes.fromhex(case["nonce"])
    body = bytes.fromhex(case["body"])
    server, at = bytes.fromhex(case["server"]), case["time"] + 0.9
    what = (case["method"], case["target"], body, at)
    made = headers(key, case["client"], server, *what, lambda n: nonce[:n])
    assert made == case["headers"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["method"])
def test_the_page_alone_says_what_is_signed(case: dict[str, Any]) -> None:
    digest = hashlib.sha256(bytes.fromhex(case["body"])).digest()
    parts = ["fedkit/1", case["server"], case["method"], case["target"]]
    parts += [f"sha-256=:{base64.b64encode(digest).decode()}:"]
    parts += [str(case["time"]), case["nonce"], "ward%207"]
    key = Ed25519PublicKey.from_public_bytes(SigningKey(bytes.fromhex(case["secret"])).public)
    signature = bytes.fromhex(case["headers"]["Fedkit-Signature"])
    key.verify(signature, "\n".join(parts).encode())
    for line in range(len(parts)):
        changed = [*parts[:line], parts[line] + "0", *parts[line + 1 :]]
        with pytest.raises(InvalidSignature):
            key.verify(signature, "\n".join(changed).encode())


def test_uploads_are_called_by_the_digest_of_their_key() -> None:
    (case,) = (case for case in GOLDEN if "key" in case)
    row = json.dumps(case["key"], separators=(",", ":")).encode()
    name = hashlib.sha256(row).hexdigest()[:32]
    assert (
        case["target"] == f"/v1/uploads/{name}" == f"/v1/uploads/{wire.name_of(wire.read_key(case['key']))}"
    )


def test_nonces_differ() -> None:
    key = SigningKey(bytes(32))
    made = [headers(key, "a", bytes(32), "GET", "/v1/job", b"", 0) for _ in range(2)]
    assert made[0]["Fedkit-Nonce"] != made[1]["Fedkit-Nonce"]
    assert len(made[0]["Fedkit-Nonce"]) == 32


@pytest.mark.parametrize("client", ["a\nb", "a/b", "é", "a:b\r\n", "%41"])
def test_any_id_fits_into_a_header(client: str) -> None:
    told = client_header(client)
    assert told.isascii()
    assert told.replace("%", "").isalnum()
