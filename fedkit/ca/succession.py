"""How one CA takes over from another: the old one announces the new one, and both are believed a while."""

from __future__ import annotations

from dataclasses import dataclass

from fedkit import fields
from fedkit.ca.texts import encode, next_text, octets
from fedkit.errors import CryptoError, WireError
from fedkit.secagg.identity import SigningKey, Trust, check_signer, verify

FILE = "next-ca.json"
LIMIT = 1024
"""Most bytes of an announcement."""


@dataclass(frozen=True)
class Succession:
    """The word of a CA that `ca` comes after it, and that both are believed until `until` (unix seconds)."""

    ca: bytes
    until: int
    signature: bytes

    def data(self) -> bytes:
        """The announcement as bytes."""
        content = {"ca": self.ca.hex(), "signature": self.signature.hex(), "until": self.until}
        return encode(content).encode("ascii")

    def applied(self, trust: Trust, now: float) -> Trust:
        """What is believed by this announcement. CryptoError: it is not of the CA that is believed."""
        if trust.ca == self.ca:  # it has taken over
            return trust
        if not verify(trust.ca, next_text(self.ca, self.until), self.signature):
            raise CryptoError("the announcement of a new CA is not signed by the old one")
        if now > self.until:
            return Trust.of_ca(self.ca, trust.server)
        return Trust.of_ca(trust.ca, trust.server, self.ca)


def announce(old: SigningKey, ca: bytes, until: int) -> Succession:
    """The old CA's word."""
    return Succession(ca, until, old.sign(next_text(ca, until)))


def read_succession(data: bytes) -> Succession:
    """The announcement of these bytes, its signature unchecked. WireError."""
    if len(data) > LIMIT:
        raise WireError(f"an announcement of {len(data)} bytes, the limit is {LIMIT}")
    found = fields.mapping(fields.parse(data, "the announcement"), "the announcement")
    fields.exactly(found, "ca", "signature", "until")
    made = Succession(
        octets(found["ca"], "ca", 32),
        fields.integer(found["until"], "until"),
        octets(found["signature"], "signature", 64),
    )
    try:
        check_signer(made.ca)
    except CryptoError as error:
        raise WireError(f"ca: {error}") from None
    return made
