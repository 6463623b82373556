"""A client that lies: its message is dropped, by the rule's name, and the others have their sum.

Where one check of the server is switched off, that client alone stops the session, or spoils the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest

from fedkit.errors import PeerRefused, SecAggAborted
from fedkit.messages import ClientId
from fedkit.secagg import peer_rules, recovery
from fedkit.secagg import server as server_module
from fedkit.secagg.blame import WRONG_SHARES, Offence
from fedkit.secagg.closing import Masked, Opened
from fedkit.secagg.frames import Reader
from fedkit.secagg.identity import SigningKey
from fedkit.secagg.messages import Advert, Stage
from fedkit.secagg.primitives.keys import LOW_ORDER
from fedkit.secagg.primitives.shamir import values
from fedkit.secagg.server import SecureSum
from fedkit.secagg.session import advert_text, mask_claims, mask_text

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

Craft: TypeAlias = Callable[["Rehearsal", bytes], bytes]
"""What the liar sends in place of its own answer."""
Off: TypeAlias = Callable[..., None]

LIAR, PEER = "c002", "c001"


@pytest.fixture
def lax(monkeypatch: pytest.MonkeyPatch) -> Off:
    """Switches checks of the server off."""

    def switch(*names: str) -> None:
        for name in names:
            monkeypatch.setattr(peer_rules, name, lambda *_: None)

    return switch


def sending(session: Rehearsal, stage: Stage, craft: Craft) -> Rehearsal:
    def up(at: Stage, name: ClientId, body: bytes) -> bytes:
        return craft(session, body) if (at, name) == (stage, LIAR) else body

    session.up = up
    return session


def lies(first: Rehearsal, stage: Stage, craft: Craft) -> Iterator[Rehearsal]:
    """Two rounds in which the liar sends this."""
    for session in first.rounds():
        yield sending(session, stage, craft)


def refused(sessions: Iterable[Rehearsal]) -> tuple[SecureSum, set[str]]:
    """The sum of the others, and the rules that the liar broke: nobody else is refused anything.

    Of the last session; all are so. The round after it is told the truth, and the liar is in its sum.
    """
    for session in sessions:
        found = session.run()
        assert session.right(found)
        assert {error.client for error in session.peer_refused} == {LIAR}
        assert not session.refused
        assert not session.server.offences
    assert session.goes_on()
    return found, {error.rule for error in session.peer_refused}


# Adverts


def advert(**change: bytes) -> Craft:
    """Other fields, and signed."""

    def craft(session: Rehearsal, body: bytes) -> bytes:
        made = replace(Advert.from_bytes(body), **change)  # type: ignore[arg-type]
        key = session.keys[LIAR]
        return replace(made, signature=key.sign(advert_text(session.header.digest, made))).to_bytes()

    return craft


def own_key(session: Rehearsal, body: bytes) -> bytes:
    """An identity of its own making."""
    key = SigningKey(b"l" * 32)
    made = replace(Advert.from_bytes(body), public=key.public)
    return replace(made, signature=key.sign(advert_text(session.header.digest, made))).to_bytes()


def stale(session: Rehearsal, _: bytes) -> bytes:
    """Its advert of the round before."""
    before = replace(session, round=session.round - 1, sessions={}, up=lambda *given: given[2])
    return before.until(Stage.share).seen[Stage.advertise, LIAR]


def copied(session: Rehearsal, body: bytes) -> bytes:
    """A neighbour's key, in the other spelling that X25519 takes for it."""
    key = Advert.from_bytes(session.seen[Stage.advertise, PEER]).box
    return advert(box=key[:-1] + bytes([key[-1] | 0x80]))(session, body)


ADVERTS: Mapping[str, tuple[str, Craft]] = {
    "certificate": ("check_certificate", own_key),
    "signature": ("check_advert_signature", stale),
    "duplicate key": ("check_keys", copied),
    "low order": ("check_keys", advert(mask=min(LOW_ORDER))),
}


@pytest.mark.parametrize("rule", ADVERTS)
def test_an_advert_that_lies(rehearse: type[Rehearsal], lax: Off, rule: str) -> None:
    """A server that passes it on loses the session: all others refuse the roster."""
    check, craft = ADVERTS[rule]
    found, rules = refused(lies(rehearse(5), Stage.advertise, craft))
    assert rules == {rule}
    assert LIAR not in found.members
    lax(check)
    for session in lies(rehearse(5), Stage.advertise, craft):
        with pytest.raises(SecAggAborted):
            session.run()
        assert {session.refused[name].rule for name in session.names if name != LIAR} == {rule}


def test_an_advert_of_another(rehearse: type[Rehearsal], lax: Off) -> None:
    """True, and not the liar's: a server that takes it believes that the liar is in a roster without it."""

    def craft(session: Rehearsal, _: bytes) -> bytes:
        return session.seen[Stage.advertise, PEER]

    assert refused(lies(rehearse(5), Stage.advertise, craft))[1] == {"owner"}
    lax("check_owner")
    with pytest.raises(KeyError, match=LIAR):
        sending(rehearse(5), Stage.advertise, craft).run()


# Messages of the session


def masked(session: Rehearsal, vector: bytes, tail: bytes) -> bytes:
    """A vector that the liar stands by."""
    client, link = session.clients[LIAR], session.server._intake._link(LIAR)
    claims = mask_claims(client._sharers, tail)
    tag = link.tag(Stage.mask, vector, claims)
    signature = session.keys[LIAR].sign(mask_text(client._session.context, claims, tag))
    return Masked(tail, tag, signature, vector).to_bytes()


def parts(session: Rehearsal, body: bytes) -> Masked:
    return Masked.from_bytes(body, session.encoding.vector_bytes, session.encoding.tail)


def of_round_before(stage: Stage) -> Craft:
    """A replay."""

    def craft(session: Rehearsal, _: bytes) -> bytes:
        before = replace(session, round=session.round - 1, sessions={}, up=lambda *given: given[2])
        before.run()
        return before.seen[stage, LIAR]

    return craft


REPLAYS: Mapping[Stage, tuple[str, tuple[str, ...]]] = {
    Stage.share: ("tag", ("check_tag",)),
    Stage.mask: ("tag", ("check_tag",)),
    Stage.agree: ("signature", ("check_agreed",)),
    Stage.unmask: ("tag", ("check_tag",)),
}


@pytest.mark.parametrize("stage", REPLAYS)
def test_messages_of_the_round_before(rehearse: type[Rehearsal], lax: Off, stage: Stage) -> None:
    """Of six, five are enough. What is taken unchecked spoils the sum, or is found later at some cost."""
    rule, checks = REPLAYS[stage]
    craft = of_round_before(stage)
    found, rules = refused(lies(rehearse(6, round=2), stage, craft))
    assert rules == {rule}
    assert (LIAR in found.members) == (stage in (Stage.agree, Stage.unmask))
    lax(*checks)
    session = sending(rehearse(6, round=2), stage, craft)
    if stage is Stage.agree:  # a signature too few, unless others are there
        assert session.right(session.run())
    elif stage is Stage.unmask:  # wrong shares, worked round
        assert session.right(session.run())
        assert session.server.offences == (Offence((LIAR,), WRONG_SHARES),)
    else:
        with pytest.raises(SecAggAborted, match=r"shares came of c002|masked wrongly"):
            session.run()
    assert not session.peer_refused


@pytest.mark.parametrize("lanes", [1, 39, 41])
def test_a_vector_of_another_length(
    rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    """A single lane would be added to all of them."""

    def craft(session: Rehearsal, body: bytes) -> bytes:
        return masked(
            session, bytes(parts(session, body).vector)[:4] * lanes, bytes(parts(session, body).tail)
        )

    assert refused(lies(rehearse(5), Stage.mask, craft))[1] == {"malformed"}

    def any_length(data: bytes, _: int, tail: int) -> Masked:
        reader = Reader(data, Masked.kind)
        start = reader.view(8 * tail), reader.take(16), reader.take(64)
        return Masked(*start, reader.view(reader.left))

    monkeypatch.setattr(Masked, "from_bytes", any_length)
    session = sending(rehearse(5), Stage.mask, craft)
    if lanes > 1:
        with pytest.raises(ValueError, match="broadcast"):
            session.run()
    else:
        assert not session.right(session.run())


def test_a_client_that_counts_for_more(rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tail says 2: nobody can say whose it was, so there is no sum."""

    def sessions() -> Iterator[Rehearsal]:
        for made in rehearse(5).rounds():
            made.tails[LIAR][0] = 2
            yield made

    for session in sessions():
        with pytest.raises(SecAggAborted, match="counts 6 clients, not 5") as caught:
            session.run()
        assert not caught.value.retry
    assert session.goes_on()
    monkeypatch.setattr(server_module, "miscounted", lambda *_: "")
    for session in sessions():
        assert session.run().tail[0] == 6


def test_equivocation(rehearse: type[Rehearsal]) -> None:
    """The first of two vectors counts; the pair is kept once, however many more come."""
    for session in rehearse(5).rounds():
        contradict(session)
        without_liar(session)
        assert session.right(session.run())
    for session in rehearse(5).rounds():
        contradict(session)
        session.server.answers._said[Stage.mask].clear()  # a server that has forgotten what came
        assert session.server.receive(LIAR, other_vector(session, 0))
        without_liar(session)
        with pytest.raises(SecAggAborted, match="masked wrongly"):
            session.run()


def other_vector(session: Rehearsal, lane: int) -> bytes:
    sent = parts(session, session.seen[Stage.mask, LIAR])
    vector = bytearray(sent.vector)
    vector[4 * lane] ^= 1
    return masked(session, bytes(vector), bytes(sent.tail))


def without_liar(session: Rehearsal) -> None:
    """The others send their vectors."""
    session.lose = {LIAR: Stage.mask}
    session.step()
    session.lose = {}


def contradict(session: Rehearsal) -> None:
    """The liar's vector is taken, twenty others are not."""
    outbox = session.until(Stage.mask).server.outbox()
    first = session.ask(LIAR, outbox[LIAR])
    assert first is not None
    assert session.server.receive(LIAR, first)
    for lane in range(20):
        with pytest.raises(PeerRefused, match="two different mask messages"):
            session.server.receive(LIAR, other_vector(session, lane))
    assert not session.server.receive(LIAR, first)
    assert session.server.offences == (Offence((LIAR,), "two different mask messages"),)


# Shares


def opened(change: Callable[[list[bytes]], list[bytes]]) -> Craft:
    """Other shares than it holds, and authentic."""

    def craft(session: Rehearsal, body: bytes) -> bytes:
        made = Opened.from_bytes(body, session.n)
        lied = replace(made, shares=tuple(change(list(made.shares))))
        link = session.server._intake._link(LIAR)
        return replace(lied, tag=link.tag(Stage.unmask, lied.claims)).to_bytes()

    return craft


LIES: Mapping[str, Craft] = {
    "bad": opened(lambda shares: [bytes([share[0] ^ 1]) + share[1:] for share in shares]),
    "of another owner": opened(lambda shares: shares[1:] + shares[:1]),
    "zero": opened(lambda shares: [bytes(32) for _ in shares]),
}


@pytest.mark.parametrize("lie", LIES)
def test_shares_that_are_wrong(rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch, lie: str) -> None:
    """They are noticed by what owners published; others are taken, and the holder is named."""
    for session in lies(rehearse(6), Stage.unmask, LIES[lie]):
        assert session.right(session.run())
        assert session.server.offences == (Offence((LIAR,), WRONG_SHARES),)
    monkeypatch.setattr(recovery.Recovery, "_holds", lambda *_: True)
    session = sending(rehearse(6), Stage.unmask, LIES[lie])
    with pytest.raises(SecAggAborted, match="masked wrongly"):
        session.run()
    assert session.server.offences == ()


def test_wrong_shares_of_everybody_are_little_work(
    rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shares of three owners are compared: the third is the liar, who cannot say that they came so."""
    compared: list[int] = []

    def counting(others: Sequence[int], *known: Any) -> recovery.Bytes:
        compared.append(len(others))
        return values(others, *known)

    monkeypatch.setattr(recovery, "values", counting)
    for session in lies(rehearse(20), Stage.unmask, LIES["bad"]):
        compared.clear()
        assert session.right(session.run())
        assert session.server.offences == (Offence((LIAR,), f"{WRONG_SHARES}, unless 7 others lied"),)
        assert len(compared) == 3


FALSE = "shares of another secret than it published, unless 3 of its holders lied"


def test_a_commitment_to_something_else(rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner is named. Unchecked, it could deal what it likes and choose later what it masked with."""

    def committing(made: Rehearsal, body: bytes) -> bytes:
        lied = advert(commitment=b"x" * 32)(made, body)
        made.clients[LIAR]._advert = Advert.from_bytes(lied)
        return lied

    for lied in lies(rehearse(6), Stage.advertise, committing):
        with pytest.raises(SecAggAborted, match=FALSE):
            lied.run()
        assert lied.server.offences == (Offence((LIAR,), FALSE),)
    assert lied.goes_on()
    monkeypatch.setattr(recovery, "opens", lambda *_: True)
    for lied in lies(rehearse(6), Stage.advertise, committing):
        assert lied.right(lied.run())
        assert lied.server.offences == ()


def test_shares_of_who_never_shared(rehearse: type[Rehearsal], lax: Off) -> None:
    def craft(session: Rehearsal, body: bytes) -> bytes:
        made = Opened.from_bytes(body, session.n)
        lied = Opened(np.ones(session.n, np.bool_), (*made.shares, bytes(32)), b"")
        link = session.server._intake._link(LIAR)
        return replace(lied, tag=link.tag(Stage.unmask, lied.claims)).to_bytes()

    def sessions() -> Iterator[Rehearsal]:
        return lies(rehearse(6, lose={"c005": Stage.share}), Stage.unmask, craft)

    assert refused(sessions())[1] == {"owners"}
    lax("check_owners")
    for taken in sessions():
        assert taken.right(taken.run())
        assert not taken.peer_refused
