"""Clients that are lost, one or two at any stages: the exact sum of the others, or an abort that says why.

Rounds follow each other with what clients remember, so that each loss comes after others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import combinations, permutations, product
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedkit.errors import SecAggAborted
from fedkit.messages import ClientId
from fedkit.secagg.header import Encoding
from fedkit.secagg.messages import Stage
from fedkit.secagg.parameters import Mode, Policy

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

HONEST = Policy(mode=Mode.HONEST_SERVER)
MODES = {"lying": Policy(), "honest": HONEST}
STAGES: dict[str, list[Stage]] = {
    "lying": list(Stage),
    "honest": [stage for stage in Stage if stage is not Stage.agree],
}
EARLY = {Stage.advertise, Stage.share, Stage.mask}
SMALL = Encoding(5, 32, 2, "")


def without(names: Iterable[ClientId], lose: Mapping[ClientId, Stage]) -> set[ClientId]:
    """Those whose vector is in the sum."""
    return {name for name in names if lose.get(name) not in EARLY}


def check(session: Rehearsal) -> None:
    """The session ends with the exact sum of all but those lost before their vector came."""
    found = session.run()
    assert set(found.members) == without(session.names, session.lose)
    assert session.right(found)
    assert not session.refused
    assert session.server.lost() == session.lose


def check_all(first: Rehearsal, losses: Iterable[Mapping[ClientId, Stage]]) -> None:
    """Each of these losses, in a round of its own."""
    session = first
    for lose in losses:
        session = replace(session.next(), lose=lose)
        check(session)
    assert session.round > 2


def sparse(rehearse: type[Rehearsal], mode: str) -> Rehearsal:
    """Ten clients with four neighbours each, of whom two can be lost. Each session has a graph of its own."""
    policy = replace(MODES[mode], corrupt=0.0)
    return rehearse(10, policy=policy, explicit=(4, 3), encoding=SMALL)


@pytest.mark.parametrize("mode", STAGES)
@pytest.mark.parametrize("n", [4, 5])
def test_any_one_can_be_lost_at_any_stage(rehearse: type[Rehearsal], n: int, mode: str) -> None:
    session = rehearse(n, policy=MODES[mode])
    check_all(session, ({name: stage} for stage, name in product(STAGES[mode], session.names)))


@pytest.mark.parametrize("mode", STAGES)
def test_any_one_can_be_lost_at_any_stage_of_a_sparse_graph(rehearse: type[Rehearsal], mode: str) -> None:
    session = sparse(rehearse, mode)
    check_all(session, ({name: stage} for stage, name in product(STAGES[mode], session.names)))


@pytest.mark.parametrize("mode", STAGES)
def test_any_two_can_be_lost_at_any_stage(rehearse: type[Rehearsal], mode: str) -> None:
    """Of six clients, where four are enough."""
    session = rehearse(6, policy=MODES[mode], encoding=SMALL)
    both = product(STAGES[mode], combinations(session.names, 2))
    check_all(session, (dict.fromkeys(pair, stage) for stage, pair in both))


PAIRS = (("c000", "c005"), ("c001", "c004"), ("c003", "c002"))


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("mode", STAGES)
def test_two_can_be_lost_at_any_two_stages(
    rehearse: type[Rehearsal], mode: str, pair: tuple[str, str]
) -> None:
    session = rehearse(6, policy=MODES[mode], encoding=SMALL)
    check_all(session, (dict(zip(pair, stages, strict=True)) for stages in permutations(STAGES[mode], 2)))


@pytest.mark.parametrize("near", [True, False], ids=["neighbours", "strangers"])
@pytest.mark.parametrize("mode", STAGES)
def test_two_can_be_lost_at_any_two_stages_of_a_sparse_graph(
    rehearse: type[Rehearsal], mode: str, near: bool
) -> None:
    session = sparse(rehearse, mode)
    for stages in product(STAGES[mode], repeat=2):
        session = session.next()
        pair = pair_of(session, near)
        session = replace(session, lose=dict(zip(pair, stages, strict=True)))
        check(session)
        if Stage.advertise not in stages:
            assert are_neighbours(session, pair) == near
    assert session.round > 2


@pytest.mark.prove
@pytest.mark.parametrize("graph", ["complete", "sparse"])
@pytest.mark.parametrize("mode", STAGES)
def test_every_two_can_be_lost_at_any_two_stages(rehearse: type[Rehearsal], mode: str, graph: str) -> None:
    """All 15 pairs of six clients and all 45 of ten."""
    six = rehearse(6, policy=MODES[mode], encoding=SMALL)
    session = six if graph == "complete" else sparse(rehearse, mode)
    both = product(combinations(session.names, 2), product(STAGES[mode], repeat=2))
    check_all(session, (dict(zip(pair, stages, strict=True)) for pair, stages in both))


def pair_of(session: Rehearsal, near: bool) -> tuple[ClientId, ClientId]:
    """The first two clients that are neighbours, or are not, if all advertise."""
    twin = replace(session, sessions={}, lose={}).until(Stage.mask)
    return next(pair for pair in combinations(session.names, 2) if are_neighbours(twin, pair) == near)


def are_neighbours(session: Rehearsal, pair: tuple[ClientId, ClientId]) -> bool:
    known = next(client._session for client in session.clients.values() if "_session" in client.__dict__)
    one, other = (known.number[name] for name in pair)
    return other in known.graph[one].tolist()


def lose_some(count: int, stage: Stage) -> dict[str, Stage]:
    return {f"c{i:03}": stage for i in range(count)}


@pytest.mark.parametrize("stage", [Stage.share, Stage.mask, Stage.agree, Stage.unmask])
def test_t_answers_are_enough_and_one_less_is_not(rehearse: type[Rehearsal], stage: Stage) -> None:
    """Of ten clients t = 7. Those lost before they advertise change n, and so t."""
    policy = Policy(dropout=0.3)
    fewer = rehearse(10, policy=policy, lose=lose_some(4, Stage.advertise))
    assert fewer.right(fewer.run())
    enough = replace(fewer.next(), lose=lose_some(3, stage))
    assert enough.right(enough.run())
    assert enough.server.parameters is not None
    assert enough.server.parameters.threshold == 7
    short = replace(enough.next(), lose=lose_some(4, stage))
    with pytest.raises(SecAggAborted, match="fewer than t=7") as caught:
        short.run()
    assert caught.value.retry == (stage in (Stage.share, Stage.mask))
    with pytest.raises(ValueError, match="no result"):
        short.server.result()
    assert short.goes_on()


@pytest.mark.parametrize("stage", [Stage.advertise, Stage.share, Stage.mask])
def test_fewer_than_n_min_abort(rehearse: type[Rehearsal], stage: Stage) -> None:
    session = rehearse(7, policy=Policy(smallest=6), lose=lose_some(2, stage))
    with pytest.raises(SecAggAborted, match=r"5 clients .* 6 are the fewest") as caught:
        session.run()
    assert caught.value.retry
    assert session.goes_on()


def test_a_retry_after_an_early_abort_sums(rehearse: type[Rehearsal]) -> None:
    for first in rehearse(5, lose=lose_some(2, Stage.mask)).rounds():
        with pytest.raises(SecAggAborted) as caught:
            first.run()
        assert caught.value.retry
        second = replace(first, attempt=1, sessions=first.sessions, lose={})
        assert second.header.sid != first.header.sid
        assert second.right(second.run())


def test_no_second_sum_of_a_round(rehearse: type[Rehearsal]) -> None:
    """Two sums with other survivors differ by somebody's vector: nobody is in the second one."""
    for first in rehearse(6).rounds():
        first.run()
        second = replace(first, attempt=1, sessions=first.sessions, lose={"c003": Stage.mask})
        with pytest.raises(SecAggAborted, match="0 clients advertised"):
            second.run()
        assert {error.rule for error in second.refused.values()} == {"second sum"}
        evaluation = replace(first, kind="evaluate", seed=1, sessions=first.sessions)
        assert evaluation.right(evaluation.run())


# Any order, any copies, any losses


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_order_copies_and_losses(data: st.DataObject, rehearse: type[Rehearsal]) -> None:
    for number, session in enumerate(rehearse(6, encoding=SMALL).rounds()):
        losers = data.draw(st.lists(st.sampled_from(session.names), max_size=3, unique=True))
        session.lose = {name: data.draw(st.sampled_from(list(Stage))) for name in losers}
        shuffle(session, data)
        try:
            found = session.run()
        except SecAggAborted:
            assert len(losers) > 2
        else:
            assert session.right(found)
            assert set(found.members) == without(session.names, session.lose)
        assert session.round == number + 1
        assert not session.server.offences
        assert not session.refused


def shuffle(session: Rehearsal, data: st.DataObject) -> None:
    """Clients answer in any order, and some of what was sent in this session comes again."""
    sent: list[tuple[ClientId, bytes]] = []

    def copies(_: Stage, client: ClientId, body: bytes) -> bytes:
        sent.append((client, body))
        for again in data.draw(st.lists(st.sampled_from(sent), max_size=3)):
            if again != (client, body):
                assert session.deliver(*again) is False
        return body

    session.order = lambda clients: data.draw(st.permutations(list(clients)))
    session.up = copies
