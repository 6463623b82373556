"""Who is who in a secure session: without this a server can play all the other clients.

A roster pins the key of every client; or a CA apart from the aggregator certifies them; or nobody vouches
for a key, which protects against an honest server only. Keys are of Ed25519.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from fedkit.errors import ConfigError, CryptoError, WireError, shown
from fedkit.messages import ClientId
from fedkit.secagg.frames import client_bytes, statement
from fedkit.secagg.header import Identities
from fedkit.secagg.messages import Certificate
from fedkit.secagg.parameters import Parameters, Policy, by_hand, choose
from fedkit.secagg.primitives.keys import AgreementKey
from fedkit.secagg.primitives.signatures import SigningKey, check_signer, verify
from fedkit.secagg.primitives.suite import RANDOM, Random, draw

__all__ = [
    "RANDOM",
    "AgreementKey",
    "Authority",
    "Certificate",
    "Floors",
    "Identity",
    "Random",
    "SigningKey",
    "Trust",
    "check_signer",
    "draw",
    "fingerprint",
    "verify",
]


@dataclass(frozen=True)
class Trust:
    """Whose keys are believed: those of a roster, those that a CA certifies, or any (`none`).

    server: the key of the aggregator, which signs headers; empty without identities. Make one with `none`,
    `of_roster` or `of_ca`. ConfigError: a key that is none, or one key for two.
    """

    kind: Identities
    roster: Mapping[ClientId, bytes] = field(default_factory=dict)
    ca: bytes = b""
    server: bytes = b""
    next_ca: bytes = b""

    def __post_init__(self) -> None:
        named = [*self.roster.items()] + [("the CA", self.ca)] * (self.kind == "ca")
        named += [("the next CA", self.next_ca)] * bool(self.next_ca)
        named += [("the server", self.server)] * (self.kind != "none")
        owners: dict[bytes, str] = {}
        for name, key in named:
            try:
                check_signer(key)
                client_bytes(name)
            except (CryptoError, WireError) as error:
                raise ConfigError(f"{shown(name)}: {error}") from None
            if key in owners:
                raise ConfigError(f"{owners[key]} and {name} have the same key: each needs its own")
            owners[key] = name

    @classmethod
    def none(cls) -> Trust:
        """Nobody vouches for a key."""
        return cls("none")

    @classmethod
    def of_roster(cls, roster: Mapping[ClientId, bytes], server: bytes) -> Trust:
        """The key of every client is known beforehand."""
        return cls("roster", dict(roster), server=server)

    @classmethod
    def of_ca(cls, ca: bytes, server: bytes, next_ca: bytes = b"") -> Trust:
        """Certificates of `ca` are believed, and those of `next_ca`, which is to come after it."""
        return cls("ca", ca=ca, server=server, next_ca=next_ca)

    def vouches(self, client: ClientId, public: bytes, voucher: bytes) -> bool:
        """Whether `public` is the key of `client`; voucher: the CA's signature, empty without a CA."""
        if self.kind == "ca":
            return any(_certified(ca, client, public, voucher) for ca in self.cas)
        return not voucher and (self.kind == "none" or self.roster.get(client) == public)

    @property
    def cas(self) -> tuple[bytes, ...]:
        """The CAs whose certificates are believed."""
        return tuple(ca for ca in (self.ca, self.next_ca) if ca)

    def knows(self, client: ClientId) -> bool:
        """Whether such a client may exist, as far as that is known."""
        return self.kind != "roster" or client in self.roster


@lru_cache(maxsize=1 << 16)  # the same certificates come back in every session
def _certified(ca: bytes, client: ClientId, public: bytes, voucher: bytes) -> bool:
    return verify(ca, _certificate(client, public), voucher)


def _certificate(client: ClientId, public: bytes) -> bytes:
    return statement("certificate", client_bytes(client), public)


@dataclass(frozen=True)
class Authority:
    """A CA, run by anyone but the aggregator."""

    key: SigningKey

    def certify(self, client: ClientId, public: bytes) -> Certificate:
        """The word that `public` is the key of `client`, for as long as the CA is trusted."""
        return Certificate(client, public, self.key.sign(_certificate(client, public)))


@dataclass(frozen=True)
class Identity:
    """A client's own key; its certificate where a CA gives them. ConfigError: a certificate of another."""

    client: ClientId
    key: SigningKey = field(repr=False)
    certificate: Certificate | None = None

    def __post_init__(self) -> None:
        made = self.certificate
        if made is not None and (made.client, made.public) != (self.client, self.key.public):
            raise ConfigError(
                f"client {self.client!r} holds the certificate of {made.client!r} or of an older key"
            )

    @property
    def voucher(self) -> bytes:
        """What goes with the key into an advert."""
        return self.certificate.signature if self.certificate else b""


@dataclass(frozen=True)
class Floors:
    """What a client insists on, whatever the server says: no header below `policy` is joined.

    With mode lying_server that includes identities. explicit: k and t that the client has agreed to; None:
    it would choose them, and on a complete graph it takes no smaller t.
    """

    policy: Policy = field(default_factory=Policy)
    explicit: tuple[int, int] | None = None

    def parameters(self, clients: int) -> Parameters:
        """What the client would take by itself. ConfigError: nothing."""
        return by_hand(clients, self.explicit, self.policy) if self.explicit else choose(clients, self.policy)


def fingerprint(public: bytes) -> str:
    """A public key for people to compare.

    >>> fingerprint(bytes(range(32)))[:24]
    '00010203 04050607 08090a'
    """
    text = public.hex()
    return " ".join(text[at : at + 8] for at in range(0, len(text), 8))
