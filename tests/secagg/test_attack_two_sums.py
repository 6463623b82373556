"""Two sums of one round, the second without the victim: their difference is the victim's vector.

Local training is deterministic, so a second session brings the same vectors again. A server can abort any
session and open another, under any name; who has accepted the survivors of one opens no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from fedkit.errors import ProtocolRefused, SecAggAborted
from fedkit.messages import ClientId
from fedkit.secagg.messages import Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.server import SecAggServer

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

Off: TypeAlias = Callable[..., None]

VICTIM = "c003"
WITHOUT = {VICTIM: Stage.mask}


def second(first: Rehearsal, **change: Any) -> Rehearsal:
    """Another session for the same clients and the same vectors, without the victim."""
    return replace(first, lose=WITHOUT, sessions=first.sessions, **{"attempt": 1, **change})


def difference(first: Rehearsal, again: Rehearsal) -> bool:
    """Whether two sums give the victim's vector away."""
    found, other = first.server.result(), again.run()
    assert set(found.members) - set(other.members) == {VICTIM}
    return bool((found.vector - other.vector == first.vectors[VICTIM]).all())


@pytest.mark.parametrize("mode", Mode)
def test_a_second_sum_of_a_round(rehearse: type[Rehearsal], off: Off, mode: Mode) -> None:
    for number in (1, 2):
        first = rehearse(6, policy=Policy(mode=mode), round=number)
        first.run()
        again = second(first)
        with pytest.raises(SecAggAborted):
            again.run()
        assert {name: e.rule for name, e in again.refused.items()} == dict.fromkeys(again.names, "second sum")
    off("check_unsigned")
    assert difference(first, second(first))


@pytest.mark.parametrize("change", [{"round": 0}, {"round": 2, "kind": "evaluate"}], ids=repr)
def test_a_sum_of_an_older_round_or_of_a_model_that_was_measured(
    rehearse: type[Rehearsal], off: Off, change: dict[str, Any]
) -> None:
    """Under the number of another round, truly: the server says it to all, and gives the same model."""
    first = rehearse(6, round=1, **{name: change[name] for name in change if name == "kind"})
    first.run()
    again = second(first, **change)
    with pytest.raises(SecAggAborted):
        again.run()
    assert {name: e.rule for name, e in again.refused.items()} == dict.fromkeys(again.names, "second sum")
    off("check_unsigned")
    assert difference(first, second(first, **change))


def told_another(first: Rehearsal, change: dict[str, Any]) -> Rehearsal:
    """The header has another name for the round; clients know better."""
    again = second(first)
    truth = again.expected()
    again.expected = lambda: truth  # type: ignore[method-assign]
    again.header = replace(again.header, sid=b"s" * 32, **change)
    again.server = SecAggServer(
        again.header, again.trust, again.names, signer=again.signer, agreement=again.agreement
    )
    return again


@pytest.mark.parametrize("change", [{"round": 2}, {"kind": "evaluate"}, {"job": "another"}], ids=repr)
def test_the_same_round_under_another_name(
    rehearse: type[Rehearsal], off: Off, change: dict[str, Any]
) -> None:
    """What is remembered is what the header says, so it has to be true."""
    first = rehearse(6)
    first.run()
    assert set_of(told_another(first, change)) == {*change}
    off("check_expected")
    assert difference(first, told_another(first, change))


def set_of(again: Rehearsal) -> set[str]:
    """The rules by which everybody but the victim refuses, which is lost later."""
    with pytest.raises(SecAggAborted):
        again.run()
    assert set(again.refused) == set(again.names)
    return {error.rule for error in again.refused.values()}


def test_two_sessions_side_by_side(rehearse: type[Rehearsal], off: Off) -> None:
    """Both are joined before either is opened; survivors are accepted in one of them only."""

    def both() -> tuple[Rehearsal, Rehearsal]:
        first = rehearse(6)
        again = second(first)
        for session in (first, again):
            session.until(Stage.agree)
        return first, again

    first, again = both()
    first.run()
    outbox = again.server.outbox()
    assert set(outbox) == set(again.names) - {VICTIM}
    for name in outbox:
        with pytest.raises(ProtocolRefused) as caught:
            again.answer(Stage.agree, name, outbox[name])
        assert caught.value.rule == "second sum"
    off("check_unsigned")
    first, again = both()
    first.run()
    assert difference(first, again)


def test_an_abort_after_the_survivors_are_signed_is_no_way_round(rehearse: type[Rehearsal], off: Off) -> None:
    """The server pretends that nobody agreed. It may not retry; one that does finds nobody."""
    first = rehearse(6).until(Stage.agree)
    everything = first.server.outbox()
    for name in first.names:
        first.answer(Stage.agree, name, everything[name])
    with pytest.raises(SecAggAborted) as caught:
        first.server.advance()
    assert not caught.value.retry
    assert set_of(second(first)) == {"second sum"}
    off("check_unsigned")
    again = second(first)
    assert again.right(again.run())


def test_one_that_was_left_out_of_a_sum_may_be_in_the_next(rehearse: type[Rehearsal]) -> None:
    """It has signed nothing. Its vector then is in one sum, as those of the others are."""
    lost: dict[ClientId, Stage] = dict.fromkeys(("c003", "c004", "c005", "c006"), Stage.mask)
    first = rehearse(14, policy=Policy(dropout=0.3), lose=lost)
    again = replace(first, lose={}, sessions=first.sessions, attempt=1)
    assert first.right(first.run())
    found = again.run()
    assert again.right(found)
    assert found.members == tuple(lost)
