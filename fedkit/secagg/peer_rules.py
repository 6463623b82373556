"""What the server checks, one function for each rule: PeerRefused says which a client broke.

All of them run before anything changes, so a refused message leaves the session as it was.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedkit.errors import CryptoError, PeerRefused
from fedkit.messages import ClientId
from fedkit.secagg.closing import Agreed, Opened
from fedkit.secagg.frames import Flags
from fedkit.secagg.header import Header
from fedkit.secagg.identity import Trust
from fedkit.secagg.messages import Advert
from fedkit.secagg.primitives.keys import canonical, check_public
from fedkit.secagg.primitives.signatures import verify
from fedkit.secagg.session import Link, Session, advert_text, agree_text


def check_owner(client: ClientId, advert: Advert) -> None:
    """A client advertises itself."""
    if advert.client != client:
        raise PeerRefused(client, "owner", f"the advert is of client {advert.client!r}")


def check_certificate(advert: Advert, trust: Trust) -> None:
    """The identity key is that client's."""
    if not trust.vouches(advert.client, advert.public, advert.voucher):
        raise PeerRefused(advert.client, "certificate", "nobody vouches for its key")


def check_one_key(advert: Advert, first: Advert | None) -> None:
    """A client has one identity in a session: what another key says is no contradiction of the first."""
    if first is not None and advert.public != first.public:
        raise PeerRefused(advert.client, "certificate", "it has advertised under another key already")


def check_advert_signature(advert: Advert, header: Header) -> None:
    """The advert is for this session."""
    if not verify(advert.public, advert_text(header.digest, advert), advert.signature):
        raise PeerRefused(
            advert.client, "signature", "its advert is not signed by it, or for another session"
        )


def keys_of(advert: Advert) -> tuple[bytes, bytes, bytes]:
    """The keys of an advert, each in the one spelling of its point."""
    return canonical(advert.mask), canonical(advert.box), advert.public


def check_keys(advert: Advert, used: Mapping[bytes, ClientId]) -> None:
    """Its keys are its own, and not of low order. used: `keys_of` others, and the server's key."""
    keys = keys_of(advert)
    for key in keys:
        if used.get(key, advert.client) != advert.client:
            raise PeerRefused(advert.client, "duplicate key", f"client {used[key]!r} has this key already")
    if len(set(keys)) < len(keys):
        raise PeerRefused(advert.client, "duplicate key", "two of its keys are one")
    try:
        check_public(advert.mask)
        check_public(advert.box)
    except CryptoError as error:
        raise PeerRefused(advert.client, "low order", str(error)) from None


def check_tag(link: Link, purpose: str, data: bytes | memoryview, tag: bytes, claims: bytes = b"") -> None:
    """The client sent these bytes, in this session; of a vector, masked with these sharers and this tail."""
    if not link.holds(purpose, data, tag, claims):
        raise PeerRefused(link.client, "tag", f"its {purpose} message is not authentic")


def check_agreed(session: Session, advert: Advert, sets: tuple[Flags, Flags], agreed: Agreed) -> None:
    """The client signed these survivors. sets: sharers, survivors."""
    if not verify(advert.public, agree_text(session.context, *sets), agreed.signature):
        raise PeerRefused(advert.client, "signature", "it signed other survivors")


def check_owners(client: ClientId, opened: Opened, asked: Flags) -> None:
    """There are shares of nobody but those that shared."""
    if (opened.owners & ~asked).any():
        places = np.flatnonzero(opened.owners & ~asked).tolist()
        raise PeerRefused(client, "owners", f"it gives shares of clients that never shared, at {places}")
