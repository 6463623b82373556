"""A machine that rests between messages goes on as if it had not, and only from what it wrote itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import WireError
from fedkit.secagg.client import MemorySessions
from fedkit.secagg.frames import packed, unpacked
from fedkit.secagg.messages import Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.resting import MAGIC, Resting

Rehearsal = Any
"""From conftest.py."""
ME = "c001"
POLICIES = [Policy(), Policy(mode=Mode.HONEST_SERVER)]


def resting(session: Rehearsal) -> Rehearsal:
    """Every client is a new process at every message."""
    answer = session.answer

    def afresh(stage: Stage, name: str, body: bytes) -> bytes:
        made: bytes = answer(stage, name, body)
        kept, session.clients[name] = session.clients[name].rest(), session.make_client(name)
        if kept:
            session.clients[name].wake(kept)
        return made

    session.answer = afresh
    return session


@pytest.mark.parametrize("policy", POLICIES)
def test_sums_of_clients_that_rest_are_right(rehearse: type[Rehearsal], policy: Policy) -> None:
    for session in map(resting, rehearse(5, policy=policy).rounds()):
        found = session.run()
        assert len(found.members) == 5
        assert not session.refused
        assert session.right(found)


def test_lost_clients_are_made_up_for(rehearse: type[Rehearsal]) -> None:
    sessions = rehearse(5, policy=Policy(mode=Mode.HONEST_SERVER), lose={"c004": Stage.mask}).rounds()
    for session in map(resting, sessions):
        found = session.run()
        assert len(found.members) == 4
        assert session.right(found)


@pytest.mark.parametrize("stage", [Stage.share, Stage.mask, Stage.agree, Stage.unmask])
def test_nothing_is_added_and_nothing_forgotten(rehearse: type[Rehearsal], stage: Stage) -> None:
    client = rehearse(5).until(stage).clients[ME]
    made = rehearse(5).make_client(ME)
    made.wake(client.rest())
    assert made.stage is stage
    assert made.rest() == client.rest()


def test_when_all_is_over_no_secret_is_left_to_rest(rehearse: type[Rehearsal]) -> None:
    session = rehearse(5)
    session.run()
    assert session.clients[ME].rest() == b""
    assert session.goes_on()


def test_after_the_vector_was_masked_the_keys_do_not_rest(rehearse: type[Rehearsal]) -> None:
    found = Resting.from_bytes(rehearse(5).until(Stage.unmask).clients[ME].rest())
    assert (found.mask, found.box, found.own, dict(found.inbox)) == (b"", b"", b"", {})


def test_a_machine_that_has_not_begun_does_not_rest(rehearse: type[Rehearsal]) -> None:
    with pytest.raises(ValueError, match="does not rest before advertise"):
        rehearse(5).clients[ME].rest()


def test_the_secrets_are_not_shown(rehearse: type[Rehearsal]) -> None:
    found = Resting.from_bytes(rehearse(5).until(Stage.share).clients[ME].rest())
    assert found.own
    assert found.own.hex() not in repr(found)
    assert repr(found.own) not in repr(found)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (MAGIC, b"SA\x00\x01"),
        (b'"next": "share"', b'"next": "mask"'),
        (b'"next": "share"', b'"next": 3'),
        (b'"own": "', b'"own": "x'),
        (b'"held": {', b'"held": {"-1": "", '),
        (b'"held"', b'"hold"'),
        (b'"own"', b'"own": "", "more"'),
    ],
)
def test_anything_else_is_refused(rehearse: type[Rehearsal], old: bytes, new: bytes) -> None:
    session = rehearse(5).until(Stage.share)
    data = session.clients[ME].rest()
    assert old in data
    with pytest.raises(WireError):
        session.make_client(ME).wake(data.replace(old, new, 1))


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        Resting.from_bytes(MAGIC + data)


@given(st.lists(st.booleans(), max_size=40))
def test_sets_come_back(given: list[bool]) -> None:
    flags = np.array(given, np.bool_)
    assert unpacked(packed(flags), len(flags)).tolist() == given


def test_sessions_are_remembered() -> None:
    memory, other = MemorySessions(), MemorySessions()
    memory.seen(b"a" * 32)
    memory.sign("job", 3, "evaluate", b"m" * 32)
    memory.joined("job", 3, "train")
    other.load(memory.save())
    assert other.save() == memory.save()
    assert other.seen(b"a" * 32)
    assert other.signed("job", 3, "evaluate", b"n" * 32)
    assert other.signed("job", 9, "evaluate", b"m" * 32)
    assert other.joined("job", 3, "train") == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"joined": [], "last": [["j", "x", 1]], "measured": [], "seen": []}',
        b'{"joined": [], "last": [], "measured": [], "seen": ["zz"]}',
    ],
)
def test_memory_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        MemorySessions().load(data)
