"""What a client checks, one function for each rule: ProtocolRefused says which the server broke.

The client calls them through this module; each is the only place of its rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fedkit.errors import ConfigError, CryptoError, ProtocolRefused, many
from fedkit.messages import ClientId, Kind
from fedkit.secagg.closing import Quorum
from fedkit.secagg.frames import Flags
from fedkit.secagg.header import Encoding, Header
from fedkit.secagg.identity import Floors, Trust
from fedkit.secagg.memory import Sessions
from fedkit.secagg.messages import Advert, Inbox, Opening, Roster
from fedkit.secagg.parameters import Mode, Parameters
from fedkit.secagg.primitives.keys import canonical, check_public
from fedkit.secagg.primitives.signatures import verify
from fedkit.secagg.session import Session, advert_text, agree_text, header_text

FLOORS = {
    "corrupt": "corrupt",
    "dropout": "dropout",
    "sigma": "sigma",
    "smallest": "least",
}  # rule: attribute


class Expected(NamedTuple):
    """What the client knows of the session by itself, from its job and its task. model: SHA-256."""

    job: str
    round: int
    kind: Kind
    attempt: int
    model: bytes
    encoding: Encoding


def check_turn(step: str, turn: str | None) -> None:
    """Every step is made once, in its turn: a second answer could undo the secrecy of the first."""
    if step != turn:
        raise ProtocolRefused(
            "stage", f"asked to {step}; " + (f"its turn is {turn}" if turn else "it is over")
        )


# The header


def check_server(trust: Trust, opening: Opening) -> None:
    """The aggregator signed the header."""
    if trust.kind == "none":
        return
    if not verify(trust.server, header_text(opening.header), opening.signature):
        raise ProtocolRefused("server", "the header is not signed by the aggregator that this client knows")


def check_expected(header: Header, expected: Expected) -> None:
    """The header is of the job, the model and the encoding that the client has."""
    for name, own in expected._asdict().items():
        if name not in ("model", "encoding") and (said := getattr(header, name)) != own:
            raise ProtocolRefused(name, f"the session is of {name} {said!r}; this client is in {own!r}")
    check_model(header, expected)
    check_encoding(header, expected)


def check_model(header: Header, expected: Expected) -> None:
    """All train from one model, context and settings: else one who alone has others shows in the sum."""
    if header.model != expected.model:
        raise ProtocolRefused("model", "the session is about another model than the one this client was sent")


def check_encoding(header: Header, expected: Expected) -> None:
    """Vectors are what the job says: with other scales or bounds a sum could wrap, or tell more."""
    if header.encoding != expected.encoding:
        raise ProtocolRefused(
            "encoding", f"the session sums {header.encoding}, the job of this client {expected.encoding}"
        )


def check_identities(header: Header, trust: Trust, floors: Floors) -> None:
    """Keys are vouched for as the client wants it."""
    if header.identities != trust.kind:
        raise ProtocolRefused(
            "identities", f"the session has identities {header.identities!r}, this client {trust.kind!r}"
        )
    if floors.policy.mode is Mode.LYING_SERVER and trust.kind == "none":
        raise ProtocolRefused(
            "identities",
            "nobody vouches for keys, so a lying server could play all others: give this client a roster or "
            "a CA, or let it trust the server (honest_server)",
        )


def check_floors(header: Header, floors: Floors) -> None:
    """The policy of the session is at least the client's own."""
    own, said = floors.policy, header.policy
    if own.mode is Mode.LYING_SERVER and said.mode is not Mode.LYING_SERVER:
        raise ProtocolRefused("mode", f"the session is {said.mode}, this client insists on {own.mode}")
    for name, value in FLOORS.items():
        offered, least = getattr(said, value), getattr(own, value)
        if offered < least:
            raise ProtocolRefused(
                name,
                f"the session has {name} {offered:g}, {least - offered:g} below the {least:g} of this client",
            )


def check_sid(header: Header, sessions: Sessions) -> None:
    """The session is new; it is remembered from here on."""
    if sessions.seen(header.sid):
        raise ProtocolRefused("sid", "this client has been in this session before")


def check_unsigned(header: Header, sessions: Sessions) -> None:
    """Rounds grow, and no model is measured twice: two sums of one thing differ by somebody's vector."""
    if sessions.signed(header.job, header.round, header.kind, header.model):
        raise ProtocolRefused(
            "second sum",
            f"this client has signed the survivors of round {header.round + 1} ({header.kind}) or of a later "
            "one already, or has measured this model",
        )


# The roster


def check_clients(count: int, header: Header, floors: Floors) -> None:
    """Enough clients are in it."""
    least = max(header.policy.least, floors.policy.least)
    if count < least:
        raise ProtocolRefused("n_min", f"{many(count, 'client')} where {least} are the fewest")


def check_order(clients: Sequence[ClientId]) -> None:
    """Every client stands in the roster once: ids ascend."""
    for before, after in pairwise(clients):
        if not before < after:
            raise ProtocolRefused("order", f"client {after!r} stands after {before!r} in the roster")


def check_known(clients: Iterable[ClientId], trust: Trust) -> None:
    """Nobody was made up to fill the roster."""
    for client in clients:
        if not trust.knows(client):
            raise ProtocolRefused("unknown client", f"client {client!r} is not in this client's roster file")


def check_own(roster: Roster, own: Advert) -> None:
    """The client's own advert is there, as it was sent."""
    found = [d for client, d in zip(roster.clients, roster.digests, strict=True) if client == own.client]
    if found != [own.digest]:
        raise ProtocolRefused(
            "own advert", "the roster has this client's advert changed, twice or not at all"
        )


def parameters_of(header: Header, clients: int) -> Parameters:
    """Graph and threshold, computed by the client itself."""
    try:
        return header.parameters(clients)
    except ConfigError as error:
        raise ProtocolRefused("parameters", str(error)) from None


def check_threshold(made: Parameters, floors: Floors) -> None:
    """As many shares are needed as the client would choose.

    A higher share of losses, and k and t given by hand, make t smaller than it could be: among few clients
    down to where nobody may collude, though the policy is kept. In a sparse graph as large a share of the
    neighbours may collude as by the client's own choice.
    """
    try:
        own = floors.parameters(made.clients)
    except ConfigError as error:
        raise ProtocolRefused("threshold", str(error)) from None
    if own.complete:
        less = not made.complete or made.threshold < own.threshold
    else:
        stands = replace(made, mode=own.mode).colluding  # a client that trusts the server needs less
        less = stands * own.neighbours < own.colluding * made.neighbours
    if less:
        raise ProtocolRefused(
            "threshold",
            f"{made.threshold} of {made.holders} shares would do; this client insists on {own.threshold} of "
            f"{own.holders}, as by its own policy of corrupt={floors.policy.corrupt:g}, "
            f"dropout={floors.policy.dropout:g}",
        )


def check_graph(session: Session, own: int, adverts: Sequence[Advert]) -> None:
    """The neighbours served are those of the graph that the client computes."""
    try:
        expected = [session.clients[number] for number in session.graph[own]]
    except ConfigError as error:  # of some k there are few graphs
        raise ProtocolRefused("graph", str(error)) from None
    if [advert.client for advert in adverts] != expected:
        raise ProtocolRefused("graph", "the neighbours served are not those of the session's graph")


def check_root(session: Session, advert: Advert) -> None:
    """An advert is the one that the roster, and so every other client, has."""
    if session.digests[session.number[advert.client]] != advert.digest:
        raise ProtocolRefused("root", f"the advert of {advert.client!r} is not the one in the roster")


def check_certificate(advert: Advert, trust: Trust) -> None:
    """The identity key in an advert is that client's."""
    if not trust.vouches(advert.client, advert.public, advert.voucher):
        raise ProtocolRefused("certificate", f"nobody vouches for the key of client {advert.client!r}")


def check_advert_signature(advert: Advert, header: Header) -> None:
    """The owner of the identity key made the advert, for this session."""
    if not verify(advert.public, advert_text(header.digest, advert), advert.signature):
        raise ProtocolRefused("signature", f"the advert of client {advert.client!r} is not signed by it")


def check_keys(adverts: Sequence[Advert], header: Header) -> None:
    """No key stands for two, and none is of low order."""
    keys = [canonical(key) for advert in adverts for key in (advert.mask, advert.box)]
    keys.append(canonical(header.server))
    names = [advert.public for advert in adverts]
    if len(set(keys)) != len(keys) or len(set(names)) != len(names):
        raise ProtocolRefused("duplicate key", "two adverts have a key in common")
    try:
        for key in keys:
            check_public(key)
    except CryptoError as error:
        raise ProtocolRefused("low order", str(error)) from None


# Who shared, who survived


def check_self(flags: Flags, own: int, what: str) -> None:
    """The client is in the set: a client that is told that it is lost opens nothing."""
    if not flags[own]:
        raise ProtocolRefused("self", f"this client is not among the {what}, though it answered")


def check_enough(flags: Flags, header: Header, floors: Floors, what: str) -> None:
    """The set is not too small to hide in."""
    count, least = int(np.count_nonzero(flags)), max(header.policy.least, floors.policy.least)
    if count < least:
        raise ProtocolRefused("n_min", f"{count} {what} where {least} are the fewest")


def check_holders(session: Session, own: int, flags: Flags, what: str) -> None:
    """At least t holders of this client's shares are in the set."""
    count, least = session.holders(own, flags), session.parameters.threshold
    if count < least:
        raise ProtocolRefused("holders", f"{count} of this client's holders are {what}; {least} are needed")


def check_inbox(session: Session, own: int, inbox: Inbox) -> None:
    """There is a box from each neighbour that shared, and from nobody else."""
    expected = int(np.count_nonzero(inbox.sharers[session.graph[own]]))
    if len(inbox.boxes) != expected:
        raise ProtocolRefused("inbox", f"{len(inbox.boxes)} boxes from {expected} neighbours that shared")


def check_within(survivors: Flags, sharers: Flags) -> None:
    """Only those that shared survive: one status for each peer, and no mask of an unknown one."""
    if (survivors & ~sharers).any():
        raise ProtocolRefused("survivors", "a client survives that did not share")


def check_connected(session: Session, survivors: Flags) -> None:
    """So many are left that the survivors still hang together: else parts of the sum would show."""
    if not session.connected(survivors):
        alive = int(np.count_nonzero(survivors))
        raise ProtocolRefused("connected", f"{alive} of {len(survivors)} clients are left: parts could show")


def check_quorum(
    session: Session, own: int, sets: tuple[Flags, Flags], quorum: Quorum, keys: Sequence[bytes]
) -> None:
    """At least t holders of this client, itself included, signed the same survivors.

    sets: sharers, survivors. keys: Ed25519 keys of the neighbours, in order.
    """
    sharers, survivors = sets
    text, needed, valid = agree_text(session.context, sharers, survivors), session.parameters.threshold, 1
    signatures = iter(quorum.signatures)
    for number, public, signed in zip(session.graph[own], keys, quorum.signers, strict=True):
        signature = next(signatures) if signed else b""
        valid += bool(signed and survivors[number] and verify(public, text, signature))
        if valid >= needed:
            return
    raise ProtocolRefused("quorum", f"{valid} holders signed these survivors; {needed} are needed")
