"""docs/wire.md says what is hashed, signed and keyed: a client of three, computed from that page alone."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedkit.secagg.messages import Stage
from fedkit.secagg.primitives.suite import Suite

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

NAMES = ("c000", "c001", "c002")
ME = "c001"
PREFIX = 16  # of a frame


def st(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "little") + part for part in (b"fedkit/secagg/1", *parts))


def named(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(2, "little") + part for part in (b"fedkit/secagg/1", *parts))


def id1(client: str) -> bytes:
    return bytes([len(client)]) + client.encode()


def key(context: bytes, agreed: bytes, info: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=context, info=info).derive(agreed)


def agree(secret: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))


def stream(suite: Suite, secret: bytes, count: int) -> bytes:
    start, text = bytes(16), b"".join((i + 1).to_bytes(16, "big") for i in range(count // 16))
    if suite is Suite.CHACHA:
        return Cipher(algorithms.ChaCha20(secret, start), mode=None).encryptor().update(bytes(count))
    return Cipher(algorithms.AES(secret), modes.CTR(start)).encryptor().update(text)


def context_of(session: Rehearsal) -> bytes:
    """Of three clients: the leaves of the first two make a node, the third one goes with it."""
    adverts = [session.seen[Stage.advertise, name] for name in NAMES]
    leaves = [
        sha256(b"\0" + sha256(advert).digest() + name.encode()).digest()
        for advert, name in zip(adverts, NAMES, strict=True)
    ]
    root = sha256(b"\1" + sha256(b"\1" + leaves[0] + leaves[1]).digest() + leaves[2]).digest()
    return sha256(sha256(session.header.to_bytes()).digest() + root).digest()


def publics(session: Rehearsal, name: str) -> tuple[bytes, bytes, bytes]:
    """mask, box, identity: of an advert's body, behind the id."""
    body = session.seen[Stage.advertise, name][PREFIX + 1 + len(name) :]
    return body[:32], body[32:64], body[96:128]


def said(text: bytes, public: bytes, signature: bytes) -> None:
    Ed25519PublicKey.from_public_bytes(public).verify(signature, text)  # InvalidSignature if not


@pytest.mark.parametrize("suite", Suite)
def test_a_masked_vector_and_all_that_is_said_with_it(rehearse: type[Rehearsal], suite: Suite) -> None:
    session = rehearse(3, suite=suite).until(Stage.mask)
    inside = session.clients[ME]._held.rest()
    mask, box, own = inside["mask"], inside["box"], inside["own"]
    context, size = context_of(session), 16 if suite is Suite.AES else 32
    vector, tail = session.vectors[ME].copy(), session.tails[ME].copy()
    keys = [(key(context, own, named(b"mask", ME.encode(), ME.encode(), b"self"), size), 1)]
    for low, high, peer, sign in (("c000", ME, "c000", -1), (ME, "c002", "c002", 1)):
        info = named(b"mask", low.encode(), high.encode(), b"both")
        keys.append((key(context, agree(mask, publics(session, peer)[0]), info, size), sign))
    for secret, sign in keys:
        flow = stream(suite, secret, 64 + vector.nbytes + 16)
        tail += np.uint64(sign % 2**64) * np.frombuffer(flow[: tail.nbytes], "<u8")
        vector += np.uint32(sign % 2**32) * np.frombuffer(flow[64 : 64 + vector.nbytes], "<u4")
    session.step()
    body = session.seen[Stage.mask, ME][PREFIX:]
    cut = tail.nbytes
    assert body[:cut] == tail.tobytes()
    assert body[cut + 80 :] == vector.tobytes()

    tag, signature = body[cut : cut + 16], body[cut + 16 : cut + 80]
    claims = sha256(st(b"claims", bytes([0b111]), tail.tobytes())).digest()
    link = key(context, agree(box, session.header.server), st(b"link", b"mask", id1(ME), claims), 32)
    sealed = (AESGCM if suite is Suite.AES else ChaCha20Poly1305)(link).encrypt(
        bytes(12), b"", vector.tobytes()
    )
    assert tag == sealed
    said(st(b"mask", context, claims, tag), publics(session, ME)[2], signature)


def test_boxes_commitments_and_signatures(rehearse: type[Rehearsal]) -> None:
    session = rehearse(3).until(Stage.mask)
    mine, context = session.clients[ME]._held.rest(), context_of(session)
    advert = session.seen[Stage.advertise, ME]
    assert advert[PREFIX + 5 :][64:96] == sha256(b"b" + session.header.sid + mine["own"]).digest()
    identity, header = publics(session, ME)[2], session.header.to_bytes()
    said(st(b"advert", sha256(header).digest(), advert[PREFIX:-64]), identity, advert[-64:])
    opening = session.server._board.opening
    said(st(b"header", header), session.signer.public, opening[-64:])

    agreed = agree(mine["box"], publics(session, "c002")[1])
    secret = key(context, agreed, named(b"box", b"c001", b"c002", b"up"), 32)
    boxes = session.seen[Stage.share, ME][PREFIX:-16]  # for c000 and c002
    text = st(b"box", context, id1(ME), id1("c002"))
    shares = AESGCM(secret).decrypt(bytes(12), boxes[80:], text)
    session.step()
    assert session.clients["c002"]._held.rest()["held"][1] == shares
    session.step()
    agreed_text = sha256(st(b"agree", context, bytes([0b111]), bytes([0b111]))).digest()
    said(agreed_text, identity, session.seen[Stage.agree, ME][-64:])
