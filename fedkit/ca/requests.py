"""What a device asks of the CA, by way of the aggregator, and what it is given."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fedkit import fields
from fedkit.ca.texts import Purpose, check_party, encode, octets, sanction_text, text
from fedkit.errors import CryptoError, WireError
from fedkit.messages import ClientId
from fedkit.secagg.identity import SigningKey, verify
from fedkit.signing import client_header

LIMIT = 4096
"""Most bytes of a request."""
ANSWER_LIMIT = 1 << 14
"""Most bytes of an answer."""


@dataclass(frozen=True)
class Request:
    """The wish that `key` be certified as the key of `client`.

    by: whose word stands for it: the one-time key of an invite, or the key that was certified before. until:
    unix seconds after which it is void; of an invite, its end. sanction: the CA's signature on the invite;
    empty for a renewal. proof, possession: signatures by `by` and by `key`.
    """

    client: ClientId
    key: bytes
    by: bytes
    until: int
    sanction: bytes
    proof: bytes
    possession: bytes

    @property
    def renews(self) -> bool:
        """Whether it is a renewal."""
        return not self.sanction

    @property
    def signed(self) -> bytes:
        """What both keys sign."""
        purpose: Purpose = "renew" if self.renews else "join"
        return text(purpose, client_header(self.client), self.key.hex(), self.by.hex(), str(self.until))

    @property
    def id(self) -> str:
        """The name of the request: SHA-256 of what is signed, in hex."""
        return hashlib.sha256(self.signed).hexdigest()

    def data(self) -> bytes:
        """The request as bytes."""
        content = {
            "by": self.by.hex(),
            "client": self.client,
            "key": self.key.hex(),
            "possession": self.possession.hex(),
            "proof": self.proof.hex(),
            "sanction": self.sanction.hex(),
            "until": self.until,
        }
        return encode(content).encode("ascii")

    def check(self, cas: tuple[bytes, ...], now: float) -> None:
        """CryptoError unless all signatures hold and it is not void; an invite is of one of these CAs."""
        check_party(self.client, self.key)
        if self.until < now:
            raise CryptoError("the invite is over" if not self.renews else "the request is too old")
        if not verify(self.key, self.signed, self.possession):
            raise CryptoError("whoever asks does not have the key that is to be certified")
        if not verify(self.by, self.signed, self.proof):
            raise CryptoError("the request is not signed by the key that stands for it")
        sanctioned = sanction_text(self.client, self.by, self.until)
        if not self.renews and not any(verify(ca, sanctioned, self.sanction) for ca in cas):
            raise CryptoError("no invite of this CA stands behind the request")


def make_request(
    client: ClientId, key: SigningKey, by: SigningKey, until: int, sanction: bytes = b""
) -> Request:
    """A signed request; sanction: that of an invite."""
    bare = Request(client, key.public, by.public, until, sanction, b"", b"")
    proof, possession = by.sign(bare.signed), key.sign(bare.signed)
    return Request(client, key.public, by.public, until, sanction, proof, possession)


def read_request(data: bytes) -> Request:
    """The request of these bytes, its signatures unchecked. WireError."""
    if len(data) > LIMIT:
        raise WireError(f"a request of {len(data)} bytes, the limit is {LIMIT}")
    found = fields.mapping(fields.parse(data, "the request"), "the request")
    fields.exactly(found, "by", "client", "key", "possession", "proof", "sanction", "until")
    return Request(
        fields.text(found["client"], "client"),
        octets(found["key"], "key", 32),
        octets(found["by"], "by", 32),
        fields.integer(found["until"], "until"),
        octets(found["sanction"], "sanction", 64) if found["sanction"] != "" else b"",
        octets(found["proof"], "proof", 64),
        octets(found["possession"], "possession", 64),
    )


@dataclass(frozen=True)
class Grant:
    """The CA's answer to the request `id`: a certificate in PEM and the voucher for peers, or why not."""

    id: str
    certificate: str = ""
    voucher: bytes = b""
    refused: str = ""

    def data(self) -> bytes:
        """The answer as bytes."""
        content = {
            "certificate": self.certificate,
            "id": self.id,
            "refused": self.refused,
            "voucher": self.voucher.hex(),
        }
        return encode(content).encode("ascii")


def read_grant(data: bytes) -> Grant:
    """The answer of these bytes, its signatures unchecked. WireError."""
    if len(data) > ANSWER_LIMIT:
        raise WireError(f"an answer of {len(data)} bytes, the limit is {ANSWER_LIMIT}")
    found = fields.mapping(fields.parse(data, "the answer"), "the answer")
    fields.exactly(found, "certificate", "id", "refused", "voucher")
    refused = fields.text(found["refused"], "refused")
    return Grant(
        octets(found["id"], "id", 32).hex(),
        fields.text(found["certificate"], "certificate"),
        b"" if refused else octets(found["voucher"], "voucher", 64),
        refused[:400],
    )
