"""Whole sessions: exact sums whoever is lost, and what nobody learns."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fedkit.errors import SecAggAborted
from fedkit.secagg.client import MemorySessions
from fedkit.secagg.closing import Masked, Opened
from fedkit.secagg.header import Encoding
from fedkit.secagg.messages import Advert, Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.primitives import masks
from fedkit.secagg.primitives.masks import Lanes
from fedkit.secagg.primitives.suite import Suite
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
    for session in rehearse(n, policy=policy).rounds():
        found = session.run()
        assert found.members == tuple(session.names)
        assert session.right(found)
        assert not session.refused
        assert not session.server.lost()


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_every_width_and_suite(rehearse: type[Rehearsal], width: int, suite: Suite) -> None:
    for session in rehearse(4, encoding=Encoding(37, width, 5, "x"), suite=suite).rounds():
        assert session.right(session.run())


@pytest.mark.parametrize("suite", Suite)
def test_threads_make_no_difference(
    rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch, suite: Suite
) -> None:
    """Of server or clients: the vectors that are sent are the same, and so is the sum."""
    monkeypatch.setattr(masks, "CHUNK", 64)  # of which these vectors have three
    sent = []
    for threads in (1, 2, 3):
        session = rehearse(4, encoding=Encoding(48, 32, 5, "x"), suite=suite, threads=threads)
        assert session.right(session.run())
        sent.append([session.seen[Stage.mask, name] for name in session.names])
    assert len(list(masks._cuts(4 * 48, 3))) == 3
    assert sent[0] == sent[1] == sent[2]
    assert session.goes_on()


def test_a_vector_of_nothing_but_a_tail(rehearse: type[Rehearsal]) -> None:
    for session in rehearse(3, encoding=Encoding(0, 64, 4, "metrics"), kind="evaluate").rounds():
        assert session.right(session.run())


@pytest.mark.parametrize("identities", ["ca", "none"])
def test_other_identities(rehearse: type[Rehearsal], identities: str) -> None:
    policy = HONEST if identities == "none" else Policy()
    for session in rehearse(4, identities=identities, policy=policy).rounds():  # type: ignore[arg-type]
        assert session.right(session.run())


def test_a_sparse_graph(rehearse: type[Rehearsal]) -> None:
    lose = {"c003": Stage.share, "c010": Stage.mask, "c077": Stage.agree, "c139": Stage.unmask}
    for session in rehearse(140, lose=lose).rounds():
        found = session.run()
        assert session.server.parameters is not None
        assert not session.server.parameters.complete
        assert session.right(found)
        assert set(session.names) - set(found.members) == {"c003", "c010"}
        assert session.server.lost() == lose


def test_two_clients_are_refused(rehearse: type[Rehearsal]) -> None:
    for session in rehearse(2).rounds():
        with pytest.raises(SecAggAborted, match="2 clients advertised; 3 are the fewest") as caught:
            session.run()
        assert caught.value.retry


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
    for session in rehearse(3, encoding=LANES, suite=suite).rounds():
        zeroed(session).run()
        assert all(uniform(masked(session, name)) for name in session.names)
        assert not uniform(session.vectors["c000"])


def test_masks_of_two_sessions_are_uncorrelated(rehearse: type[Rehearsal]) -> None:
    """Though every client draws the same secrets in the next one: the header alone makes other masks."""
    first = rehearse(3, encoding=LANES)
    draws, vectors, keys = first.stream, [], []
    for session in first.rounds(3):
        zeroed(session).stream = draws if session.round < 3 else session.stream  # type: ignore[method-assign]
        session.clients = {name: session.make_client(name) for name in session.names}
        session.run()
        vectors += [masked(session, name) for name in session.names]
        keys.append(Advert.from_bytes(session.seen[Stage.advertise, "c000"]).mask)
    assert keys[0] == keys[1] != keys[2]
    for a, b in combinations(vectors, 2):
        assert abs(correlation(a, b)) < 6 / np.sqrt(LANES.words)


def test_those_who_collude_with_the_server_learn_the_sum_of_the_others(rehearse: type[Rehearsal]) -> None:
    """All but two give the server all their secrets: what is left of the two is uniform but for its sum."""
    for session in rehearse(5, encoding=LANES).rounds():
        for name in ("c000", "c001"):
            session.vectors[name][:] = 7
        session.run()
        left = left_of_two(session)
        assert ((left["c000"] + left["c001"]) == 14).all()
        assert uniform(left["c000"])
        assert uniform(left["c001"])


def left_of_two(session: Rehearsal) -> dict[str, Lanes]:
    """The masked vectors of the first two, without every mask that the others or the server know."""
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
    return left


def known_session(session: Rehearsal) -> Session:
    adverts = [Advert.from_bytes(session.seen[Stage.advertise, name]) for name in session.names]
    parameters = session.header.parameters(session.n)
    return Session(session.header, tuple(session.names), tuple(a.digest for a in adverts), parameters)


def test_a_box_that_does_not_open_holds_no_share_and_changes_nothing(rehearse: type[Rehearsal]) -> None:
    def spoil(stage: Stage, client: str, body: bytes) -> bytes:
        return (
            body[:-5] + bytes([body[-5] ^ 1]) + body[-4:] if (stage, client) == (Stage.mask, "c002") else body
        )

    short = rehearse(5, down=spoil, lose={"c004": Stage.mask})
    with pytest.raises(SecAggAborted, match=r"fewer than t=4 shares came of c004"):
        short.run()  # the spoilt box was c004's, and four others held the rest
    session = replace(short.next(), lose={})
    found = session.run()
    assert session.right(found)
    assert len(found.members) == 5


# What is kept, and shown


def test_the_server_keeps_one_vector(rehearse: type[Rehearsal]) -> None:
    encoding = Encoding(1 << 18, 32, 1, "")  # a megabyte
    for session in rehearse(8, encoding=encoding).rounds():
        assert max(held_for_each(session.until(Stage.mask))) < encoding.vector_bytes / 20


def held_for_each(session: Rehearsal) -> list[int]:
    """Bytes that the server holds on to for each vector."""
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
    return held


def test_no_secret_is_in_what_gets_printed(rehearse: type[Rehearsal]) -> None:
    session = rehearse(4).until(Stage.mask)
    link = session.clients["c000"].__dict__["_link"]
    assert repr(link.agreed) not in repr(link)
    assert link.client in repr(link)
    session.until(Stage.unmask).step()
    opened = Opened.from_bytes(session.seen[Stage.unmask, "c000"], 4)
    assert len(opened.shares) == 4
    assert not any(repr(share) in repr(opened) for share in opened.shares)
    assert session.goes_on()
