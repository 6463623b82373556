"""A server that plays clients: other keys, other neighbours, another model for one; what it gains by that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import pytest

from fedkit.errors import ProtocolRefused, SecAggAborted
from fedkit.messages import ClientId
from fedkit.secagg import peer_rules, server
from fedkit.secagg.closing import Masked
from fedkit.secagg.identity import Authority, SigningKey
from fedkit.secagg.messages import BOX_BYTES, Advert, Boxes, Inbox, Opening, Roster, Stage
from fedkit.secagg.parameters import Policy
from fedkit.secagg.primitives.boxes import open_box
from fedkit.secagg.primitives.keys import LOW_ORDER, AgreementKey, box_key
from fedkit.secagg.primitives.masks import Lanes
from fedkit.secagg.primitives.shamir import rebuild
from fedkit.secagg.primitives.suite import SECRET_BYTES
from fedkit.secagg.server import SecAggServer
from fedkit.secagg.session import (
    advert_text,
    box_text,
    header_text,
    lanes_of,
    mask_both,
    pair_mask,
    self_mask,
)
from fedkit.seeds import stream

if TYPE_CHECKING:
    from tests.secagg.conftest import Lie, Rehearsal

Off: TypeAlias = Callable[..., None]

VICTIM = "c000"
NOBODY = Policy(corrupt=0.0)  # with it, k = 4 and t = 3 will do for 12 clients


class Helper(NamedTuple):
    """A neighbour as the victim was told: the name, and keys that the server has."""

    name: ClientId
    mask: AgreementKey
    box: AgreementKey


def keys_for(name: ClientId) -> Helper:
    draws = stream(0, "server", name)
    return Helper(name, AgreementKey(draws.bytes(32)), AgreementKey(draws.bytes(32)))


def spy(session: Rehearsal, roster: bytes) -> None:
    """Take the victim from a made-up roster to its masked vector."""
    known = session.server.parameters
    assert known is not None
    everybody = np.ones(session.n, np.bool_)
    for stage, body in (
        (Stage.share, roster),
        (Stage.mask, Inbox(everybody, (bytes(BOX_BYTES),) * known.neighbours).to_bytes()),
    ):
        session.seen[stage, VICTIM] = session.answer(stage, VICTIM, body)


def bare(session: Rehearsal, helpers: Sequence[Helper]) -> Lanes:
    """The victim's vector, from what it sent and what the helpers know."""
    known, own, me = session.clients[VICTIM]._session, 0, session.clients[VICTIM]._advert
    numbers, context = known.graph[own].tolist(), known.context
    boxes = Boxes.from_bytes(session.seen[Stage.share, VICTIM], len(helpers)).boxes
    rows = []
    for helper, box in zip(helpers, boxes, strict=True):
        key = box_key(context, helper.box.agree(me.box), VICTIM, helper.name)
        rows.append(open_box(session.suite, key, box, box_text(context, VICTIM, helper.name)))
    shares = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
    xs = [number + 1 for number in numbers]
    secret = rebuild(xs, shares, known.parameters.threshold).tobytes()
    masks = [self_mask(known, secret[SECRET_BYTES:], own, sign=-1)]
    for number, helper in zip(numbers, helpers, strict=True):
        masks.append(pair_mask(known, helper.mask.agree(me.mask), number, own))  # what it would add
    encoding = session.encoding
    sent = Masked.from_bytes(session.seen[Stage.mask, VICTIM], encoding.vector_bytes, encoding.tail)
    found = lanes_of(sent.vector, encoding.width).copy()
    mask_both(known, found, np.zeros(encoding.tail, np.uint64), masks)
    return found


def refused(session: Rehearsal, roster: bytes) -> str:
    with pytest.raises(ProtocolRefused) as caught:
        spy(session, roster)
    return caught.value.rule


# Keys that are not theirs


def swapped(session: Rehearsal, helpers: Sequence[Helper]) -> bytes:
    """The victim's roster with the server's keys in all adverts, and the signatures that there are."""
    true = Roster.from_bytes(session.server.outbox()[VICTIM], session.n)
    both = zip(true.adverts, helpers, strict=True)
    adverts = tuple(replace(a, mask=h.mask.public, box=h.box.public) for a, h in both)
    return Roster(true.clients, (true.digests[0], *(a.digest for a in adverts)), adverts).to_bytes()


def test_keys_swapped_by_the_server(rehearse: type[Rehearsal], off: Off) -> None:
    helpers = [keys_for(f"c{i:03}") for i in range(1, 5)]
    for session in rehearse(5).rounds():
        session.until(Stage.share)
        assert refused(session, swapped(session, helpers)) == "signature"
    assert session.goes_on()
    off("check_advert_signature")
    for session in rehearse(5).rounds():
        session.until(Stage.share)
        spy(session, swapped(session, helpers))
        assert (bare(session, helpers) == session.vectors[VICTIM]).all()


def puppets(rehearse: type[Rehearsal]) -> Iterator[Rehearsal]:
    """All but the victim are the server's: right names, keys of its own. The victim has the true roster."""
    for session in rehearse(5).rounds():
        true = session.trust
        for name in session.names[1:]:
            session.keys[name] = SigningKey(stream(0, "puppet", name).bytes(32))
        session.trust = session.make_trust()
        session.server = restarted(session)
        session.clients = {name: session.make_client(name) for name in session.names}
        session.clients[VICTIM]._trust = true
        yield session


def restarted(session: Rehearsal) -> SecAggServer:
    signer = session.signer if session.trust.server else None
    return SecAggServer(
        session.header, session.trust, session.names, signer=signer, agreement=session.agreement
    )


def less(session: Rehearsal, others: Sequence[ClientId]) -> Lanes:
    """The sum without those that the server knows."""
    found = session.run()
    assert found.members == tuple(session.names)
    rest: Lanes = found.vector - session.sums(others)[0]
    return rest


def test_a_server_that_plays_all_others(rehearse: type[Rehearsal], off: Off) -> None:
    for session in puppets(rehearse):
        session.run()
        assert {name: error.rule for name, error in session.refused.items()} == {VICTIM: "certificate"}
    off("check_certificate")
    for session in puppets(rehearse):
        assert (less(session, session.names[1:]) == session.vectors[VICTIM]).all()


def test_keys_that_another_ca_certifies(rehearse: type[Rehearsal], off: Off) -> None:
    """With the voucher of a CA that the client does not know."""

    def lie(session: Rehearsal, _: ClientId, body: bytes) -> bytes:
        found, key = Roster.from_bytes(body, session.n), SigningKey(b"p" * 32)
        true = found.adverts[-1]
        voucher = Authority(SigningKey(b"q" * 32)).certify(true.client, key.public).signature
        return with_last(session, found, replace(true, public=key.public, voucher=voucher), key)

    assert rehearse(5, identities="ca").lying(Stage.share, lie).refusals() == {"certificate"}
    off("check_certificate")
    assert rehearse(5, identities="ca").lying(Stage.share, lie).answered(Stage.share)


def test_a_session_without_identities(
    rehearse: type[Rehearsal], off: Off, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody vouches for anybody, and the header says that a lying server is stood: one that lies says so."""
    monkeypatch.setattr(server, "_check_arguments", lambda *_: None)
    assert rehearse(5, identities="none").refusals() == {"identities"}
    off("check_identities")
    for session in rehearse(5, identities="none").rounds():
        assert (less(session, session.names[1:]) == session.vectors[VICTIM]).all()


def with_last(session: Rehearsal, found: Roster, advert: Advert, key: SigningKey) -> bytes:
    """The roster with another advert of the last neighbour, signed by `key`."""
    made = replace(advert, signature=key.sign(advert_text(session.header.digest, advert)))
    at = found.clients.index(made.client)
    digests = (*found.digests[:at], made.digest, *found.digests[at + 1 :])
    return replace(found, digests=digests, adverts=(*found.adverts[:-1], made)).to_bytes()


def doubled(spelling: int, field: str) -> Lie:
    """A client that colludes has a key of another one; X25519 takes both spellings for it."""

    def lie(session: Rehearsal, _: ClientId, body: bytes) -> bytes:
        found = Roster.from_bytes(body, session.n)
        key: bytes = found.adverts[0].mask
        last = replace(found.adverts[-1], **{field: key[:-1] + bytes([key[-1] | spelling])})  # type: ignore[arg-type]
        return with_last(session, found, last, session.keys[last.client])

    return lie


@pytest.mark.parametrize("spelling", [0, 0x80])
@pytest.mark.parametrize("field", ["mask", "box"])
def test_one_key_for_two(rehearse: type[Rehearsal], off: Off, spelling: int, field: str) -> None:
    lie = doubled(spelling, field)
    assert rehearse(5).lying(Stage.share, lie).refusals() == {"duplicate key"}
    off("check_keys")
    assert rehearse(5).lying(Stage.share, lie).answered(Stage.share)


def low(session: Rehearsal, _: ClientId, body: bytes) -> bytes:
    found = Roster.from_bytes(body, session.n)
    last = replace(found.adverts[-1], box=min(LOW_ORDER))
    return with_last(session, found, last, session.keys[last.client])


def test_a_key_that_everybody_shares(
    rehearse: type[Rehearsal], off: Off, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A point of low order: whoever listens opens the box. Agreement itself refuses it, too."""
    assert rehearse(5).lying(Stage.share, low).refusals() == {"low order"}
    off("check_keys")
    assert rehearse(5).lying(Stage.share, low).refusals() == {"low order"}
    true = AgreementKey.agree
    monkeypatch.setattr(
        AgreementKey, "agree", lambda own, key: bytes(32) if key in LOW_ORDER else true(own, key)
    )
    session = rehearse(5).lying(Stage.share, low)
    assert session.answered(Stage.share)
    known, last = session.clients[VICTIM]._session, session.names[-1]
    box = Boxes.from_bytes(session.seen[Stage.share, VICTIM], 4).boxes[-1]
    key = box_key(known.context, bytes(32), VICTIM, last)
    assert len(open_box(session.suite, key, box, box_text(known.context, VICTIM, last))) == 2 * SECRET_BYTES


# Other neighbours


def test_neighbours_that_the_server_picked(rehearse: type[Rehearsal], off: Off) -> None:
    """Four clients collude, none or few of whom the graph puts beside the victim: it is told that all are."""

    def start(session: Rehearsal) -> tuple[list[Helper], bytes]:
        true = Roster.from_bytes(session.until(Stage.share).server.outbox()[VICTIM], session.n)
        near = {advert.client for advert in true.adverts}
        colluding = [name for name in session.names[1:] if name not in near][:4]
        vaults = [session.clients[name]._held for name in colluding]
        helpers = [Helper(n, v._mask, v._box) for n, v in zip(colluding, vaults, strict=True)]
        sent = [Advert.from_bytes(session.seen[Stage.advertise, name]) for name in colluding]
        return helpers, replace(true, adverts=tuple(sent)).to_bytes()

    for session in rehearse(12, policy=NOBODY, explicit=(4, 3)).rounds():
        assert refused(session, start(session)[1]) == "graph"
    assert session.goes_on()
    off("check_graph")
    for session in rehearse(12, policy=NOBODY, explicit=(4, 3)).rounds():
        helpers, roster = start(session)
        spy(session, roster)
        assert (bare(session, helpers) == session.vectors[VICTIM]).all()


# Other models


def for_one(session: Rehearsal) -> Rehearsal:
    """All but the victim were sent a model that nothing is learnt from (Pasquini et al., CCS 2022)."""
    true, other = session.expected(), session.expected()._replace(model=b"m" * 32)
    for name in session.names[1:]:
        session.vectors[name][:] = 0
    answer = session.answer

    def each(stage: Stage, name: ClientId, body: bytes) -> bytes:
        session.expected = lambda: other if name == VICTIM else true  # type: ignore[method-assign]
        return answer(stage, name, body)

    session.answer = each  # type: ignore[method-assign]
    return session


def test_another_model_for_one(rehearse: type[Rehearsal], off: Off) -> None:
    for session in map(for_one, rehearse(5).rounds()):
        session.run()
        assert {name: error.rule for name, error in session.refused.items()} == {VICTIM: "model"}
    assert session.goes_on()
    off("check_model")
    for session in map(for_one, rehearse(5).rounds()):
        assert (session.run().vector == session.vectors[VICTIM]).all()


def test_another_header_for_one(rehearse: type[Rehearsal], off: Off, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a header of its own the victim takes its model, and has no key in common with anybody."""
    for name in ("check_advert_signature", "check_tag", "check_agreed"):
        monkeypatch.setattr(peer_rules, name, lambda *_: None)

    def two_headers(session: Rehearsal) -> Rehearsal:
        data = replace(session.header, model=b"m" * 32).to_bytes()
        body = Opening(data, session.signer.sign(header_text(data))).to_bytes()
        for_one(session).down = lambda stage, name, true: (
            body if (stage, name) == (Stage.advertise, VICTIM) else true
        )
        return session

    for session in map(two_headers, rehearse(5).rounds()):
        assert session.refusals_once() == {"signature"}
    assert session.goes_on()
    off("check_advert_signature")
    for session in map(two_headers, rehearse(5).rounds()):
        with suppress(SecAggAborted):
            session.run()
        assert session.refused[VICTIM].rule == "quorum"
        known, others = session.clients[VICTIM]._session, session.clients["c001"]._session
        assert known.clients == others.clients
        assert known.context != others.context
