"""Whole sessions: exact sums whoever is lost, and what nobody learns."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedkit.errors import SecAggAborted
from fedkit.secagg.client import MemorySessions
from fedkit.secagg.closing import Masked, Opened
from fedkit.secagg.header import Encoding
from fedkit.secagg.messages import Advert, Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.primitives.masks import Lanes
from fedkit.secagg.primitives.suite import Suite
from fedkit.secagg.server import SecAggServer
from fedkit.secagg.session import Session, mask_both, pair_mask, self_mask
from fedkit.secagg.vault import Vault

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

HONEST = Policy(mode=Mode.HONEST_SERVER)


@pytest.mark.parametrize(
    ("n", "policy"),
    [*((n, Policy()) for n in (3, 5, 10, 40, 100)), *((n, HONEST) for n in (3, 5, 10, 40))],
)
def test_the_sum_is_exact(rehearse: type[Rehearsal], n: int, policy: Policy) -> None:
    session = rehearse(n, policy=policy)
    found = session.run()
    assert found.members == tuple(session.names)
    assert session.right(found)
    assert not session.refused
    assert not session.server.lost()


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_every_width_and_suite(rehearse: type[Rehearsal], width: int, suite: Suite) -> None:
    session = rehearse(4, encoding=Encoding(37, width, 5, "x"), suite=suite)
    assert session.right(session.run())


def test_a_vector_of_nothing_but_a_tail(rehearse: type[Rehearsal]) -> None:
    session = rehearse(3, encoding=Encoding(0, 64, 4, "metrics"), kind="evaluate")
    assert session.right(session.run())


@pytest.mark.parametrize("identities", ["ca", "none"])
def test_other_identities(rehearse: type[Rehearsal], identities: str) -> None:
    policy = HONEST if identities == "none" else Policy()
    session = rehearse(4, identities=identities, policy=policy)  # type: ignore[arg-type]
    assert session.right(session.run())


def test_a_sparse_graph(rehearse: type[Rehearsal]) -> None:
    lose = {"c003": Stage.share, "c010": Stage.mask, "c077": Stage.agree, "c139": Stage.unmask}
    session = rehearse(140, lose=lose)
    found = session.run()
    assert session.server.parameters is not None
    assert not session.server.parameters.complete
    assert session.right(found)
    assert set(session.names) - set(found.members) == {"c003", "c010"}
    assert session.server.lost() == lose


def test_two_clients_are_refused(rehearse: type[Rehearsal]) -> None:
    with pytest.raises(SecAggAborted, match="2 clients advertised; 3 are the fewest") as caught:
        rehearse(2).run()
    assert caught.value.retry


def before(lose: dict[str, Stage], stages: set[Stage]) -> set[str]:
    return {name for name, stage in lose.items() if stage in stages}


EARLY = {Stage.advertise, Stage.share, Stage.mask}
STAGES: dict[str, list[Stage]] = {
    "lying": list(Stage),
    "honest": [stage for stage in Stage if stage is not Stage.agree],
}


def check(session: Rehearsal, lose: dict[str, Stage]) -> None:
    """The session ends with the exact sum of all but those lost before their vector came."""
    found = session.run()
    assert set(found.members) == set(session.names) - before(lose, EARLY)
    assert session.right(found)
    assert not session.refused
    assert session.server.lost() == lose


@pytest.mark.parametrize("mode", sorted(STAGES))
@pytest.mark.parametrize("n", [4, 5])
def test_any_one_can_be_lost_at_any_stage(rehearse: type[Rehearsal], n: int, mode: str) -> None:
    policy = HONEST if mode == "honest" else Policy()
    for stage in STAGES[mode]:
        for name in rehearse(n, policy=policy).names:
            check(rehearse(n, policy=policy, lose={name: stage}), {name: stage})


@pytest.mark.parametrize("mode", sorted(STAGES))
def test_any_two_can_be_lost_at_any_stage(rehearse: type[Rehearsal], mode: str) -> None:
    """Of six clients four are enough."""
    policy = HONEST if mode == "honest" else Policy()
    names = rehearse(6, policy=policy).names
    for stage in STAGES[mode]:
        for pair in combinations(names, 2):
            lose = dict.fromkeys(pair, stage)
            check(rehearse(6, policy=policy, lose=lose), lose)


@pytest.mark.parametrize("mode", sorted(STAGES))
def test_two_can_be_lost_at_two_stages(rehearse: type[Rehearsal], mode: str) -> None:
    policy = HONEST if mode == "honest" else Policy()
    for first, second in product(STAGES[mode], repeat=2):
        lose = {"c001": first, "c004": second}
        check(rehearse(6, policy=policy, lose=lose), lose)


def lose_some(count: int, stage: Stage) -> dict[str, Stage]:
    return {f"c{i:03}": stage for i in range(count)}


@pytest.mark.parametrize("stage", [Stage.share, Stage.mask, Stage.agree, Stage.unmask])
def test_t_answers_are_enough_and_one_less_is_not(rehearse: type[Rehearsal], stage: Stage) -> None:
    """Of ten clients t = 7. Those lost before they advertise change n, and so t."""
    policy = Policy(dropout=0.3)
    enough = rehearse(10, policy=policy, lose=lose_some(4, Stage.advertise))
    assert enough.right(enough.run())
    enough = rehearse(10, policy=policy, lose=lose_some(3, stage))
    assert enough.right(enough.run())
    assert enough.server.parameters is not None
    assert enough.server.parameters.threshold == 7
    short = rehearse(10, policy=policy, lose=lose_some(4, stage))
    with pytest.raises(SecAggAborted, match="fewer than t=7") as caught:
        short.run()
    assert caught.value.retry == (stage in (Stage.share, Stage.mask))
    with pytest.raises(ValueError, match="no result"):
        short.server.result()


@pytest.mark.parametrize("stage", [Stage.advertise, Stage.share, Stage.mask])
def test_fewer_than_n_min_abort(rehearse: type[Rehearsal], stage: Stage) -> None:
    policy = Policy(smallest=6)
    with pytest.raises(SecAggAborted, match=r"5 clients .* 6 are the fewest") as caught:
        rehearse(7, policy=policy, lose=lose_some(2, stage)).run()
    assert caught.value.retry


def test_a_retry_after_an_early_abort_sums(rehearse: type[Rehearsal]) -> None:
    first = rehearse(5, lose=lose_some(2, Stage.mask))
    with pytest.raises(SecAggAborted) as caught:
        first.run()
    assert caught.value.retry
    second = rehearse(5, attempt=1, sessions=first.sessions)
    assert second.header.sid != first.header.sid
    assert second.right(second.run())


def test_no_second_sum_of_a_round(rehearse: type[Rehearsal]) -> None:
    """Two sums with other survivors differ by somebody's vector: nobody is in the second one."""
    first = rehearse(6)
    first.run()
    second = rehearse(6, attempt=1, sessions=first.sessions, lose={"c003": Stage.mask})
    with pytest.raises(SecAggAborted, match="0 clients advertised"):
        second.run()
    assert {error.rule for error in second.refused.values()} == {"second sum"}
    evaluation = rehearse(6, kind="evaluate", seed=1, sessions=first.sessions)
    assert evaluation.right(evaluation.run())


def test_rounds_follow_each_other(rehearse: type[Rehearsal]) -> None:
    sessions: dict[str, MemorySessions] = {}
    for number in (1, 2, 3):
        session = rehearse(5, round=number, seed=number, sessions=sessions, lose={"c001": Stage.mask})
        assert session.right(session.run())


# What is learnt

LANES = Encoding(1 << 14, 32, 2, "x")


def masked(session: Rehearsal, name: str) -> Lanes:
    body = session.seen[Stage.mask, name]
    made = Masked.from_bytes(body, session.encoding.vector_bytes, session.encoding.tail)
    return np.frombuffer(made.vector, f"<u{session.encoding.width // 8}")


def zeroed(session: Rehearsal) -> Rehearsal:
    for vector in session.vectors.values():
        vector[:] = 0
    return session


def uniform(lanes: Lanes) -> bool:
    """Chi-square of the bytes, with 255 degrees of freedom: within 6 standard deviations."""
    data = lanes.view(np.uint8)
    counts = np.bincount(data, minlength=256)
    statistic = float(((counts - data.size / 256) ** 2).sum() / (data.size / 256))
    return bool(abs(statistic - 255) < 6 * np.sqrt(2 * 255))


def correlation(a: Lanes, b: Lanes) -> float:
    return float(np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1])


@pytest.mark.parametrize("suite", Suite)
def test_a_masked_vector_of_zeros_is_uniform(rehearse: type[Rehearsal], suite: Suite) -> None:
    session = zeroed(rehearse(3, encoding=LANES, suite=suite))
    session.run()
    assert all(uniform(masked(session, name)) for name in session.names)
    assert not uniform(session.vectors["c000"])


def test_masks_of_two_sessions_are_uncorrelated(rehearse: type[Rehearsal]) -> None:
    """Though every client draws the same secrets again: the header alone makes other masks."""
    first = zeroed(rehearse(3, encoding=LANES))
    second = zeroed(rehearse(3, encoding=LANES))
    second.header = replace(second.header, sid=b"another".ljust(32))
    second.server = server_of(second)
    for session in (first, second):
        session.run()
    vectors = [masked(session, name) for session in (first, second) for name in session.names]
    for a, b in combinations(vectors, 2):
        assert abs(correlation(a, b)) < 6 / np.sqrt(LANES.words)


def server_of(session: Rehearsal) -> SecAggServer:
    return SecAggServer(
        session.header,
        session.trust,
        session.names,
        signer=session.signer,
        agreement=session.agreement,
    )


def test_those_who_collude_with_the_server_learn_the_sum_of_the_others(rehearse: type[Rehearsal]) -> None:
    """All but two give the server all their secrets: what is left of the two is uniform but for its sum."""
    session = rehearse(5, encoding=LANES)
    for name in ("c000", "c001"):
        session.vectors[name][:] = 7
    session.run()
    known = known_session(session)
    left = {name: masked(session, name).copy() for name in ("c000", "c001")}
    for own, name in enumerate(("c000", "c001")):
        secrets = Vault(session.stream("client", name).bytes)
        masks = [self_mask(known, secrets._own, own, -1)]  # the server was told this b
        for peer in (2, 3, 4):
            other = Vault(session.stream("client", session.names[peer]).bytes)
            agreed = other._mask.agree(secrets.publics[0])
            masks.append(pair_mask(known, agreed, peer, own))  # what the peer adds cancels
        mask_both(known, left[name], np.zeros(session.encoding.tail, np.uint64), masks)
    assert ((left["c000"] + left["c001"]) == 14).all()
    assert uniform(left["c000"])
    assert uniform(left["c001"])


def known_session(session: Rehearsal) -> Session:
    adverts = [Advert.from_bytes(session.seen[Stage.advertise, name]) for name in session.names]
    parameters = session.header.parameters(session.n)
    return Session(session.header, tuple(session.names), tuple(a.digest for a in adverts), parameters)


def test_a_box_that_does_not_open_holds_no_share_and_changes_nothing(rehearse: type[Rehearsal]) -> None:
    def spoil(stage: Stage, client: str, body: bytes) -> bytes:
        return (
            body[:-5] + bytes([body[-5] ^ 1]) + body[-4:] if (stage, client) == (Stage.mask, "c002") else body
        )

    session = rehearse(5, down=spoil, lose={"c004": Stage.mask})
    with pytest.raises(SecAggAborted, match=r"fewer than t=4 shares came of c004"):
        session.run()  # the spoilt box was c004's, and four others held the rest
    session = rehearse(5, down=spoil)
    found = session.run()
    assert session.right(found)
    assert len(found.members) == 5


# Any order, any copies, any losses


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_order_copies_and_losses(data: st.DataObject, rehearse: type[Rehearsal]) -> None:
    n = 6
    names = [f"c{i:03}" for i in range(n)]
    losers = data.draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
    lose = {name: data.draw(st.sampled_from(list(Stage))) for name in losers}
    session = rehearse(n, lose=lose, encoding=Encoding(5, 32, 2, ""))
    session.order = lambda clients: data.draw(st.permutations(list(clients)))
    sent: list[tuple[str, bytes]] = []

    def copies(stage: Stage, client: str, body: bytes) -> bytes:
        sent.append((client, body))
        for again in data.draw(st.lists(st.sampled_from(sent), max_size=3)):
            if again != (client, body):
                assert session.deliver(*again) is False
        return body

    session.up = copies
    try:
        found = session.run()
    except SecAggAborted:
        assert len(losers) > 2
    else:
        assert session.right(found)
        assert set(found.members) == set(names) - before(lose, EARLY)
    assert not session.server.offences
    assert not session.refused


def test_the_server_keeps_one_vector(rehearse: type[Rehearsal]) -> None:
    encoding = Encoding(1 << 18, 32, 1, "")  # a megabyte
    session = rehearse(8, encoding=encoding).until(Stage.mask)
    outbox = session.server.outbox()
    held = []
    tracemalloc.start()
    try:
        for name in session.names:
            answer = session.answer(Stage.mask, name, outbox[name])
            session.vectors[name] = session.vectors[name][:0]
            before = tracemalloc.get_traced_memory()[0]
            session.server.receive(name, answer)
            held.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert max(held) < encoding.vector_bytes / 20


def test_no_secret_is_in_what_gets_printed(rehearse: type[Rehearsal]) -> None:
    session = rehearse(4).until(Stage.mask)
    link = session.clients["c000"].__dict__["_link"]
    assert repr(link.agreed) not in repr(link)
    assert link.client in repr(link)
    session.until(Stage.unmask).step()
    opened = Opened.from_bytes(session.seen[Stage.unmask, "c000"], 4)
    assert len(opened.shares) == 4
    assert not any(repr(share) in repr(opened) for share in opened.shares)
