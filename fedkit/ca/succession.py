"""How one CA takes over from another: both say so in one text, and both are believed for a while."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedkit import fields
from fedkit.ca.texts import encode, next_text, octets
from fedkit.errors import ConfigError, CryptoError, WireError
from fedkit.secagg.identity import SigningKey, Trust, check_signer, verify

FILE = "next-ca.json"
LIMIT = 1024
"""Most bytes of an announcement."""


@dataclass(frozen=True)
class Succession:
    """The word of two CAs that `ca` comes after `before`, and that both are believed until `until`.

    until: unix seconds. signature: by `before`, so whoever believes that one believes `ca`. consent: by `ca`,
    so whoever was told of that one alone believes the certificates there are. CryptoError: one has not
    signed.
    """

    before: bytes
    ca: bytes
    until: int
    signature: bytes
    consent: bytes

    def __post_init__(self) -> None:
        check_signer(self.before)
        check_signer(self.ca)
        signed = next_text(self.before, self.ca, self.until)
        for key, signature, which in (
            (self.before, self.signature, "old"),
            (self.ca, self.consent, "new"),
        ):
            if not verify(key, signed, signature):
                raise CryptoError(f"the announcement of a new CA is not signed by the {which} one")

    def data(self) -> bytes:
        """The announcement as bytes."""
        content = {
            "before": self.before.hex(),
            "ca": self.ca.hex(),
            "consent": self.consent.hex(),
            "signature": self.signature.hex(),
            "until": self.until,
        }
        return encode(content).encode("ascii")

    def concerns(self, trust: Trust) -> bool:
        """Whether it is about the CA that is believed."""
        return trust.ca in (self.before, self.ca)

    def applied(self, trust: Trust, now: float) -> Trust:
        """What is believed by this announcement. CryptoError: it is not of the CA that is believed."""
        if not self.concerns(trust):
            raise CryptoError("the announcement of a new CA is of another one than that is believed")
        if now > self.until:
            return Trust.of_ca(self.ca, trust.server)
        return Trust.of_ca(self.before, trust.server, self.ca)


def announce(old: SigningKey, new: SigningKey, until: int) -> Succession:
    """The word of both CAs."""
    signed = next_text(old.public, new.public, until)
    return Succession(old.public, new.public, until, old.sign(signed), new.sign(signed))


def read_succession(data: bytes) -> Succession:
    """The announcement of these bytes. WireError: it is none, or one of the two has not signed it."""
    if len(data) > LIMIT:
        raise WireError(f"an announcement of {len(data)} bytes, the limit is {LIMIT}")
    found = fields.mapping(fields.parse(data, "the announcement"), "the announcement")
    fields.exactly(found, "before", "ca", "consent", "signature", "until")
    try:
        return Succession(
            octets(found["before"], "before", 32),
            octets(found["ca"], "ca", 32),
            fields.integer(found["until"], "until"),
            octets(found["signature"], "signature", 64),
            octets(found["consent"], "consent", 64),
        )
    except CryptoError as error:
        raise WireError(str(error)) from None


def believed(path: Path, trust: Trust, now: float) -> Trust:
    """What is believed by the announcement in this file, if there is one. ConfigError: it is damaged.

    An announcement of other CAs is from before this trust was chosen anew, and says nothing.
    """
    if trust.kind != "ca" or not path.exists():
        return trust
    try:
        made = read_succession(path.read_bytes())
    except WireError as error:
        raise ConfigError(f"{path}: {error}: remove it, and have it announced again") from None
    return made.applied(trust, now) if made.concerns(trust) else trust
