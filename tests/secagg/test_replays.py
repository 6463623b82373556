"""What the server said in one session, said again in another: refused, or worth nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fedkit.errors import ProtocolRefused
from fedkit.messages import ClientId
from fedkit.secagg import rules
from fedkit.secagg.messages import Stage

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

VICTIM = "c001"


def recorded(session: Rehearsal) -> dict[tuple[Stage, ClientId], bytes]:
    """All that the server says in a session that ends well."""
    said: dict[tuple[Stage, ClientId], bytes] = {}

    def note(stage: Stage, client: ClientId, body: bytes) -> bytes:
        said[stage, client] = body
        return body

    session.down = note
    assert session.right(session.run())
    return said


def again(first: Rehearsal, stages: tuple[Stage, ...]) -> Rehearsal:
    """The next session of the same clients, in which the victim is told what it was told before."""
    before = recorded(first)

    def old(stage: Stage, client: ClientId, body: bytes) -> bytes:
        return before[stage, client] if client == VICTIM and stage in stages else body

    return replace(first, sessions=first.sessions, down=old, round=2)


REFUSED = {
    (Stage.advertise,): "round",
    (Stage.share,): "own advert",
    (Stage.share, Stage.mask): "own advert",
    (Stage.unmask,): "quorum",
    (Stage.agree, Stage.unmask): "quorum",
}


@pytest.mark.parametrize("stages", REFUSED)
def test_what_is_bound_to_its_session(rehearse: type[Rehearsal], stages: tuple[Stage, ...]) -> None:
    """The others have their sum; the victim is in it if its vector came."""
    session = again(rehearse(6), stages)
    found = session.run()
    assert {name: error.rule for name, error in session.refused.items()} == {VICTIM: REFUSED[stages]}
    assert session.right(found)
    assert (VICTIM in found.members) == (Stage.unmask in stages)


@pytest.mark.parametrize("stages", [(Stage.mask,), (Stage.agree,), (Stage.mask, Stage.agree)])
def test_what_says_nothing_but_who_is_there(rehearse: type[Rehearsal], stages: tuple[Stage, ...]) -> None:
    """Sets are the same in both; boxes of another session do not open, so their shares are missing."""
    session = again(rehearse(6), stages)
    found = session.run()
    assert not session.refused
    assert session.right(found)
    assert len(found.members) == 6


def test_an_opening_of_the_same_round(rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch) -> None:
    """By its attempt, by the sum that was opened, and by its sid: each is enough."""
    first = rehearse(6)
    before = recorded(first)[Stage.advertise, VICTIM]
    session = replace(first, sessions=first.sessions, attempt=1)

    def refusal() -> str:
        with pytest.raises(ProtocolRefused) as caught:
            session.make_client(VICTIM).advertise(before, session.expected())
        return caught.value.rule

    found = [refusal()]
    for name in ("check_expected", "check_unsigned"):
        monkeypatch.setattr(rules, name, lambda *_: None)
        found.append(refusal())
    assert found == ["attempt", "second sum", "sid"]


def test_two_sessions_of_one_client_at_once_have_nothing_in_common(rehearse: type[Rehearsal]) -> None:
    """Every message of either, told in the other: nothing is answered that opens a sum."""
    one = rehearse(6).until(Stage.unmask)
    two = replace(one, sessions={}, round=2).until(Stage.unmask)
    for mine, other in ((one, two), (two, one)):
        with pytest.raises(ProtocolRefused) as caught:
            mine.answer(Stage.unmask, VICTIM, other.server.outbox()[VICTIM])
        assert caught.value.rule == "quorum"
        with pytest.raises(ProtocolRefused) as dead:
            mine.answer(Stage.unmask, VICTIM, mine.server.outbox()[VICTIM])
        assert dead.value.rule == "stage"
