"""The server: what it refuses of clients, what it keeps, when it ends."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fedkit.errors import ConfigError, PeerRefused, SecAggAborted
from fedkit.messages import ClientId
from fedkit.secagg.closing import Agreed, Masked, Opened
from fedkit.secagg.frames import PREFIX
from fedkit.secagg.identity import AgreementKey, SigningKey, Trust
from fedkit.secagg.messages import Advert, Boxes, Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.primitives.keys import LOW_ORDER
from fedkit.secagg.server import NEXT, NEXT_UNAGREED, SecAggServer
from fedkit.secagg.session import Session, advert_text, mask_claims

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

HONEST = Policy(mode=Mode.HONEST_SERVER)
ME = "c000"


def refused(session: Rehearsal, body: bytes, name: ClientId = ME) -> str:
    """The rule that a message breaks; the server goes on as if it had not come."""
    before = (session.server.stage, session.server.waiting(), session.server.offences)
    with pytest.raises(PeerRefused) as caught:
        session.server.receive(name, body)
    assert caught.value.client == name
    assert (session.server.stage, session.server.waiting(), session.server.offences) == before
    return caught.value.rule


def answer(session: Rehearsal, name: ClientId = ME) -> bytes:
    """A right answer of the present stage."""
    return session.answer(session.server.stage, name, session.server.outbox()[name])


def flipped(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :] if at >= 0 else flipped(body, len(body) + at)


def forged(session: Rehearsal, key: SigningKey | None = None, **change: Any) -> bytes:
    """The first client's advert, changed and signed again."""
    made = replace(Advert.from_bytes(answer(session)), **change)
    text = advert_text(session.header.digest, made)
    return replace(made, signature=(key or session.keys[ME]).sign(text)).to_bytes()


# Adverts


def test_a_client_advertises_itself(rehearse: type[Rehearsal]) -> None:
    assert refused(rehearse(4), answer(rehearse(4), "c001")) == "owner"


def test_who_is_not_invited_is_refused(rehearse: type[Rehearsal]) -> None:
    session = rehearse(4)
    assert refused(session, answer(session), "stranger") == "stage"


def test_the_identity_of_an_advert_is_vouched_for(rehearse: type[Rehearsal]) -> None:
    key = SigningKey(b"x" * 32)
    for identities in ("roster", "ca"):
        session = rehearse(4, identities=identities)
        assert refused(session, forged(session, key=key, public=key.public)) == "certificate"


def test_an_advert_is_signed_for_this_session(rehearse: type[Rehearsal]) -> None:
    session = rehearse(4)
    assert refused(session, flipped(answer(session), -1)) == "signature"
    assert refused(session, answer(rehearse(4, round=2))) == "signature"


@pytest.mark.parametrize("field", ["mask", "box"])
def test_a_key_is_used_by_one_client(rehearse: type[Rehearsal], field: str) -> None:
    session = rehearse(4)
    other = answer(session, "c001")
    session.server.receive("c001", other)
    stolen = Advert.from_bytes(other).mask
    assert refused(session, forged(session, None, **{field: stolen})) == "duplicate key"
    for own in (session.header.server, session.keys[ME].public):
        session = rehearse(4)
        assert refused(session, forged(session, None, **{field: own})) == "duplicate key"


@pytest.mark.parametrize("field", ["mask", "box"])
def test_a_key_of_low_order_is_refused(rehearse: type[Rehearsal], field: str) -> None:
    session = rehearse(4)
    point = max(LOW_ORDER)
    assert refused(session, forged(session, None, **{field: point})) == "low order"


def test_a_refused_client_can_still_answer_well(rehearse: type[Rehearsal]) -> None:
    session = rehearse(4)
    good = answer(session)
    assert refused(session, flipped(good, -1)) == "signature"
    assert session.server.receive(ME, good)


# Later stages


def at(rehearse: type[Rehearsal], stage: Stage, **options: Any) -> Rehearsal:
    return rehearse(4, **options).until(stage)


def test_boxes_are_authentic(rehearse: type[Rehearsal]) -> None:
    session = at(rehearse, Stage.share)
    good = answer(session)
    assert refused(session, flipped(good, PREFIX)) == "tag"
    assert refused(session, flipped(good, -1)) == "tag"
    assert refused(session, good, "c001") == "tag"
    assert refused(session, Boxes.from_bytes(good, 3).to_bytes()[:-1]) == "malformed"
    assert session.server.receive(ME, good)


def test_a_vector_is_authentic_and_as_long_as_all(rehearse: type[Rehearsal]) -> None:
    session = at(rehearse, Stage.mask)
    good = answer(session)
    assert refused(session, flipped(good, -1)) == "tag"
    assert refused(session, flipped(good, PREFIX)) == "tag"  # the tail
    assert refused(session, flipped(good, PREFIX + 24)) == "tag"  # the tag
    assert refused(session, good, "c001") == "tag"
    for wrong in (good + bytes(4), good[:-4]):
        body = wrong[:8] + (len(wrong) - PREFIX).to_bytes(8, "little") + wrong[16:]
        assert refused(session, body) == "malformed"
    assert session.server.receive(ME, good)


def test_a_vector_that_was_masked_with_others_is_refused(rehearse: type[Rehearsal]) -> None:
    session = at(rehearse, Stage.mask)
    made = Masked.from_bytes(answer(session), session.encoding.vector_bytes, session.encoding.tail)
    link = session.server.__dict__["_intake"]._link(ME)
    for sharers, rule in (([1, 1, 1, 0], "tag"), ([1, 1, 1, 1], "")):
        claims = mask_claims(np.array(sharers, np.bool_), made.tail)
        body = replace(made, tag=link.tag(Stage.mask, made.vector, claims)).to_bytes()
        if rule:
            assert refused(session, body) == rule
        else:
            assert session.server.receive(ME, body)


def test_what_is_agreed_is_signed(rehearse: type[Rehearsal]) -> None:
    session = at(rehearse, Stage.agree)
    assert refused(session, Agreed(session.keys[ME].sign(b"other survivors")).to_bytes()) == "signature"
    assert refused(session, answer(session, "c001")) == "signature"


def test_shares_are_authentic_and_of_those_who_shared(rehearse: type[Rehearsal]) -> None:
    session = rehearse(5, lose={"c004": Stage.share}).until(Stage.unmask)
    good = answer(session)
    assert refused(session, flipped(good, PREFIX + 1)) == "tag"
    assert refused(session, flipped(good, -1)) == "tag"
    assert refused(session, good, "c001") == "tag"
    link = session.server.__dict__["_intake"]._link(ME)
    made = Opened.from_bytes(good, 5)
    more = Opened(np.ones(5, np.bool_), (*made.shares, bytes(32)), b"")
    body = replace(more, tag=link.tag(Stage.unmask, more.claims)).to_bytes()
    assert refused(session, body) == "owners"
    assert session.server.receive(ME, good)


@pytest.mark.parametrize("stage", list(Stage))
def test_bytes_that_are_no_answer(rehearse: type[Rehearsal], stage: Stage) -> None:
    session = at(rehearse, stage)
    good = answer(session)
    for body in (b"", b"SA\1\1", good[:-1], good + b"\0", session.server.outbox()["c001"]):
        assert refused(session, body) == "malformed"


# Turns and copies


@pytest.mark.parametrize("stage", list(Stage))
def test_a_copy_is_acknowledged_at_any_later_time(rehearse: type[Rehearsal], stage: Stage) -> None:
    session = at(rehearse, stage)
    body = answer(session)
    assert session.server.receive(ME, body)
    assert not session.server.receive(ME, body)
    for name in session.names[1:]:
        session.server.receive(name, answer(session, name))
    session.server.advance()
    if not session.server.done:
        assert not session.server.receive(ME, body)
    assert session.right(session.run())
    assert session.goes_on()


@pytest.mark.parametrize("stage", list(Stage)[:-1])
def test_who_is_late_is_refused(rehearse: type[Rehearsal], stage: Stage) -> None:
    session = rehearse(5).until(stage)
    late = answer(session)
    for name in session.names[1:]:
        session.server.receive(name, answer(session, name))
    session.server.advance()
    assert refused(session, late) == "stage"
    assert session.server.lost() == {ME: stage}
    assert (ME in session.server.outbox()) is False
    assert session.right(session.run())
    assert session.goes_on()


def test_who_was_lost_answers_no_later_stage(rehearse: type[Rehearsal]) -> None:
    session = rehearse(5, lose={ME: Stage.agree}).until(Stage.unmask)
    session.lose = {}
    assert refused(session, Agreed(b"x" * 64).to_bytes()) == "stage"
    assert refused(session, Opened(np.zeros(5, np.bool_), (), b"x" * 16).to_bytes()) == "stage"


def test_an_answer_to_a_stage_to_come_is_refused(rehearse: type[Rehearsal]) -> None:
    session = rehearse(4)
    assert refused(session, Agreed(b"x" * 64).to_bytes()) == "stage"


def conflicts(session: Rehearsal, first: bytes, second: bytes) -> None:
    """Of two different answers the first counts, and it is said who gave two."""
    assert session.server.receive(ME, first)
    with pytest.raises(PeerRefused) as caught:
        session.server.receive(ME, second)
    assert caught.value.rule == "conflict"
    assert not session.server.receive(ME, first)
    assert [str(made) for made in session.server.offences] == [
        f"{ME}: two different {session.server.stage} messages"
    ]


def test_two_adverts_of_one_client(rehearse: type[Rehearsal]) -> None:
    session = rehearse(4)
    first = answer(session)
    session.clients[ME] = replacement(session)
    second = forged(session, commitment=b"x" * 32)
    session.clients[ME] = replacement(session)
    conflicts(session, first, second)


def replacement(session: Rehearsal) -> Any:
    """The same client without its memory."""
    session.sessions.pop(ME)
    return session.make_client(ME)


def test_two_vectors_of_one_client(rehearse: type[Rehearsal]) -> None:
    session = at(rehearse, Stage.mask)
    twin = rehearse(4).until(Stage.mask)  # the same session: all that is drawn is drawn again
    twin.vectors[ME] += np.uint32(1)
    first, second = answer(session), answer(twin)
    conflicts(session, first, second)
    assert session.right(session.run())
    assert session.goes_on()


def test_two_answers_of_one_holder(rehearse: type[Rehearsal]) -> None:
    session = at(rehearse, Stage.unmask)
    first = answer(session)
    made = Opened.from_bytes(first, 4)
    less = Opened(made.owners & (np.arange(4) > 0), made.shares[1:], b"")
    link = session.server.__dict__["_intake"]._link(ME)
    conflicts(session, first, replace(less, tag=link.tag(Stage.unmask, less.claims)).to_bytes())


# Waiting, ending


def test_whom_it_waits_for(rehearse: type[Rehearsal]) -> None:
    session = rehearse(4)
    assert session.server.waiting() == set(session.names)
    session.server.receive(ME, answer(session))
    session.server.drop("c001")
    assert session.server.waiting() == {"c002", "c003"}
    for name in ("c002", "c003"):
        session.server.receive(name, answer(session, name))
    assert not session.server.waiting()
    session.server.advance()
    assert session.server.lost() == {"c001": Stage.advertise}
    assert session.server.u1 == (ME, "c002", "c003")
    assert session.server.waiting() == {ME, "c002", "c003"}


def test_who_was_dropped_may_still_answer(rehearse: type[Rehearsal]) -> None:
    session = rehearse(3)
    session.server.drop(ME)
    assert session.right(session.run())
    assert session.goes_on()


def test_the_members_of_each_stage(rehearse: type[Rehearsal]) -> None:
    lose = {"c001": Stage.advertise, "c002": Stage.share, "c003": Stage.mask, "c004": Stage.agree}
    session = rehearse(12, lose=lose)
    found = session.run()
    server, names = session.server, set(session.names)
    assert set(server.u1) == names - {"c001"}
    assert set(server.u2) == set(server.u1) - {"c002"}
    assert set(server.u3) == set(server.u2) - {"c003"}
    assert found.members == server.u3 == tuple(sorted(server.u3))
    assert server.parameters is not None
    assert server.parameters.clients == 11
    assert session.goes_on()


def test_the_end(rehearse: type[Rehearsal]) -> None:
    session = rehearse(3)
    with pytest.raises(ValueError, match="no result"):
        session.server.result()
    last = session.until(Stage.unmask).seen[Stage.agree, ME]
    session.run()
    assert session.server.done
    assert not session.server.outbox()
    assert not session.server.waiting()
    assert refused(session, last) == "stage"
    with pytest.raises(ValueError, match="over"):
        session.server.advance()
    assert session.goes_on()


def test_secrets_go_with_the_session(rehearse: type[Rehearsal]) -> None:
    ended = rehearse(3)
    ended.run()
    aborted = rehearse(3, lose={ME: Stage.share})
    with pytest.raises(SecAggAborted):
        aborted.run()
    for session in (ended, aborted):
        assert not {"_board", "_intake", "_recovery", "_total"} & session.server.__dict__.keys()
        assert refused(session, b"SA\1\2" + bytes(12)) == "stage"
        assert not session.server.outbox()
        assert session.goes_on()


def test_an_outbox_makes_bodies_when_asked(rehearse: type[Rehearsal]) -> None:
    outbox = rehearse(3).server.outbox()
    assert list(outbox) == ["c000", "c001", "c002"]
    assert len(outbox) == 3
    assert outbox[ME] == outbox["c001"]
    with pytest.raises(KeyError):
        outbox["stranger"]


def test_the_stages_of_a_server(rehearse: type[Rehearsal]) -> None:
    for policy, order in ((Policy(), NEXT), (HONEST, NEXT_UNAGREED)):
        session, seen = rehearse(3, policy=policy), []
        while not session.server.done:
            seen.append(session.server.stage)
            session.step()
        assert seen[1:] == [order[stage] for stage in seen[:-1]]
        assert seen[-1] is Stage.unmask
        assert session.goes_on()


def test_too_few_signatures_for_one_client_abort(rehearse: type[Rehearsal]) -> None:
    """On a sparse graph one client can be short of a quorum that the others have."""
    session = rehearse(30, explicit=(20, 14), policy=Policy(corrupt=0.0)).until(Stage.agree)
    near = session.server.__dict__["_board"].session.graph[0].tolist()
    session.lose = {session.names[number]: Stage.agree for number in near[:8]}
    with pytest.raises(SecAggAborted, match=r"at agree: fewer than t=14 holders are left for c000") as caught:
        session.step()
    assert not caught.value.retry
    assert session.goes_on()


def test_survivors_that_could_fall_apart_abort(
    rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As clients would refuse it; the figures are those of `Session.connected`."""
    monkeypatch.setattr(Session, "connected", lambda _, survivors: len(survivors) == survivors.sum())
    session = rehearse(4, lose={ME: Stage.mask})
    with pytest.raises(SecAggAborted, match="parts of the sum could show") as caught:
        session.run()
    assert caught.value.retry
    assert session.goes_on()


def test_connected_counts_the_lost(rehearse: type[Rehearsal]) -> None:
    session = rehearse(40, explicit=(8, 6), policy=Policy(corrupt=0.0, sigma=10, dropout=0.0)).until(
        Stage.mask
    )
    known = session.server.__dict__["_board"].session
    found = [known.connected(np.arange(40) < alive) for alive in range(1, 41)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (False, True)
    complete = rehearse(5).until(Stage.mask).server.__dict__["_board"].session
    assert complete.connected(np.arange(5) < 3)


# Arguments


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"clients": ["c000", "c000"]}, "2 clients, 1 different"),
        ({"clients": [f"c{i:03}" for i in range(9)]}, "9 clients"),
        ({"agreement": AgreementKey(b"x" * 32)}, "agreement key"),
        ({"trust": Trust.none()}, "identities are 'none' here"),
        ({"signer": SigningKey(b"x" * 32)}, "signs headers"),
        ({"signer": None}, "signs headers"),
    ],
)
def test_arguments_that_do_not_fit(rehearse: type[Rehearsal], change: dict[str, Any], why: str) -> None:
    session = rehearse(4)
    made: dict[str, Any] = {
        "header": session.header,
        "trust": session.trust,
        "clients": session.names,
        "signer": session.signer,
        "agreement": session.agreement,
    }
    with pytest.raises(ConfigError, match=why):
        SecAggServer(**{**made, **change})


def test_lying_server_takes_identities(rehearse: type[Rehearsal]) -> None:
    with pytest.raises(ConfigError, match="takes identities"):
        rehearse(4, identities="none")
