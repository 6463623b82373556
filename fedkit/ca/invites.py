"""An invite: all that a device needs to find an aggregator, to know it, and to be known, in one line."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from fedkit import fields
from fedkit.ca.texts import check_party, encode, octets, sanction_text
from fedkit.errors import ConfigError, CryptoError, WireError, shown
from fedkit.messages import ClientId
from fedkit.secagg.identity import SigningKey, verify

PREFIX = "fedkit1."
LONGEST = 8192


@dataclass(frozen=True)
class Invite:
    """The right to enrol once as `client`, until `expires` (unix seconds).

    address: https://HOST:PORT. ca, server: Ed25519 keys. seed: the secret of a key that signs one request.
    sanction: the CA's signature of `sanction_text`. ConfigError: it is none of this CA.
    """

    address: str
    ca: bytes
    server: bytes
    client: ClientId
    expires: int
    seed: bytes = field(repr=False)
    sanction: bytes

    def __post_init__(self) -> None:
        try:
            check_party(self.client, self.server)
            check_party(self.client, self.ca)
        except CryptoError as error:
            raise ConfigError(f"the invite is damaged: {error}") from None
        if not verify(self.ca, sanction_text(self.client, self.once.public, self.expires), self.sanction):
            raise ConfigError("the invite is damaged or forged: its CA has not signed it")

    @property
    def once(self) -> SigningKey:
        """The one-time key."""
        return SigningKey(self.seed)

    def token(self) -> str:
        """The invite as one line."""
        content = {
            "address": self.address,
            "ca": self.ca.hex(),
            "client": self.client,
            "expires": self.expires,
            "sanction": self.sanction.hex(),
            "seed": self.seed.hex(),
            "server": self.server.hex(),
        }
        return PREFIX + base64.urlsafe_b64encode(encode(content).encode("ascii")).decode().rstrip("=")


def read_invite(token: str) -> Invite:
    """The invite of a line. ConfigError: it is none, or not whole. The secret is in no message."""
    told = token.strip()
    if not told.startswith(PREFIX):
        raise ConfigError(
            f"{shown(told[:12])} ... is no invite, whose line begins with {PREFIX!r}: copy the whole line "
            "(from a file: fedkit join - < FILE)"
        )
    try:
        if len(told) > LONGEST:
            raise WireError(f"it has {len(told)} characters")
        part = told.removeprefix(PREFIX)
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        return _invite(fields.mapping(fields.parse(data, "the invite"), "the invite"))
    except (ValueError, WireError) as error:
        raise ConfigError(f"the invite is damaged ({error}): copy the whole line") from None


def _invite(found: fields.Fields) -> Invite:
    fields.exactly(found, "address", "ca", "client", "expires", "sanction", "seed", "server")
    return Invite(
        fields.text(found["address"], "address"),
        octets(found["ca"], "ca", 32),
        octets(found["server"], "server", 32),
        fields.text(found["client"], "client"),
        fields.integer(found["expires"], "expires"),
        octets(found["seed"], "seed", 32),
        octets(found["sanction"], "sanction", 64),
    )
