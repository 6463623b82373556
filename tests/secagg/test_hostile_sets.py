"""A server that lies about who shared, survived and signed: refused by name, and what a lie is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pytest

from fedkit.errors import SecAggAborted
from fedkit.messages import ClientId
from fedkit.secagg import peer_rules
from fedkit.secagg import server as server_module
from fedkit.secagg.closing import Masked, Opened, Quorum, Survivors
from fedkit.secagg.frames import Flags
from fedkit.secagg.messages import Inbox, Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.primitives.masks import Lanes
from fedkit.secagg.recovery import remove_masks
from fedkit.secagg.server import SecAggServer
from fedkit.secagg.session import Session, lanes_of

if TYPE_CHECKING:
    from tests.secagg.conftest import Lie, Rehearsal

Off: TypeAlias = Callable[..., None]
Told: TypeAlias = Callable[[Session, int], Sequence[int]]
"""Who is in the set, for one client: in numbers."""

EIGHT = {"n": 10, "policy": Policy(smallest=8)}  # t = 7
NEAR = {"n": 12, "policy": Policy(corrupt=0.0), "explicit": (4, 3)}


def others(known: Session, own: int) -> list[int]:
    return [number for number in range(len(known.clients)) if number != own]


def seven(known: Session, own: int) -> list[int]:
    return [own, *others(known, own)[:6]]


def far(known: Session, own: int) -> list[int]:
    """The client and all but its neighbours."""
    return [number for number in range(len(known.clients)) if number not in known.graph[own]]


def half_gone(known: Session, own: int) -> list[int]:
    """All but two neighbours of the client and two others."""
    near = known.graph[own].tolist()
    gone = near[:2] + [number for number in others(known, own) if number not in near][:2]
    return [number for number in range(len(known.clients)) if number not in gone]


def flags_of(known: Session, own: int, told: Told) -> Flags:
    made = np.zeros(len(known.clients), np.bool_)
    made[list(told(known, own))] = True
    return made


def sharers(told: Told) -> Lie:
    """An inbox that says that these shared, with the boxes of those of them that are neighbours."""

    def lie(session: Rehearsal, name: ClientId, body: bytes) -> bytes:
        known = session.clients[name]._session
        made, near = flags_of(known, known.number[name], told), known.graph[known.number[name]]
        found = Inbox.from_bytes(body, len(known.clients), len(near)).boxes
        boxes = [box for box, shared in zip(found, made[near], strict=True) if shared]
        return Inbox(made, tuple(boxes)).to_bytes()

    return lie


def survivors(told: Told) -> Lie:
    def lie(session: Rehearsal, name: ClientId, _: bytes) -> bytes:
        known = session.clients[name]._session
        return Survivors(flags_of(known, known.number[name], told)).to_bytes()

    return lie


def unsigned(session: Rehearsal, name: ClientId, body: bytes) -> bytes:
    """All signatures but t - 2 were dropped: with the client's own, one is missing."""
    known = session.clients[name]._session.parameters
    found, kept = Quorum.from_bytes(body, known.neighbours), known.threshold - 2
    signers = found.signers & (np.cumsum(found.signers) <= kept)
    return Quorum(signers, found.signatures[:kept]).to_bytes()


LIES: Mapping[tuple[Stage, str], tuple[str, Mapping[str, object], Lie]] = {
    (Stage.mask, "self"): ("check_self", EIGHT, sharers(others)),
    (Stage.mask, "n_min"): ("check_enough", EIGHT, sharers(seven)),
    (Stage.mask, "holders"): ("check_holders", NEAR, sharers(far)),
    (Stage.agree, "self"): ("check_self", EIGHT, survivors(others)),
    (Stage.agree, "n_min"): ("check_enough", EIGHT, survivors(seven)),
    (Stage.agree, "connected"): ("check_connected", NEAR, survivors(half_gone)),
    (Stage.unmask, "quorum"): ("check_quorum", EIGHT, unsigned),
}


@pytest.mark.parametrize(("stage", "rule"), LIES)
def test_sets_that_lie(rehearse: type[Rehearsal], off: Off, stage: Stage, rule: str) -> None:
    check, setting, lie = LIES[stage, rule]
    assert rehearse(**setting).lying(stage, lie).refusals() == {rule}  # type: ignore[arg-type]
    off(check)
    assert rehearse(**setting).lying(stage, lie).answered(stage)  # type: ignore[arg-type]


def test_too_few_holders_survive(rehearse: type[Rehearsal], off: Off) -> None:
    """Who is left without neighbours is alone in its part of the graph. Two rules see that."""

    def session() -> Rehearsal:
        return rehearse(**NEAR).lying(Stage.agree, survivors(far))  # type: ignore[arg-type]

    assert session().refusals() == {"holders"}
    off("check_holders")
    assert session().refusals() == {"connected"}
    off("check_connected")
    assert session().answered(Stage.agree)


def test_a_survivor_that_never_shared(rehearse: type[Rehearsal], off: Off) -> None:
    """It would make a set look larger than the sum is."""
    lie = survivors(lambda known, own: range(len(known.clients)))

    def session() -> Rehearsal:
        return rehearse(6, lose={"c005": Stage.share}).lying(Stage.agree, lie)

    assert session().refusals() == {"survivors"}
    off("check_within")
    assert session().answered(Stage.agree)


def test_boxes_of_nobody(rehearse: type[Rehearsal], off: Off) -> None:
    """One box too few. Without the rule the client trips over it, which is no refusal."""
    assert rehearse(5).lying(Stage.mask, fewer).refusals() == {"inbox"}
    off("check_inbox")
    with pytest.raises(ValueError, match="zip"):
        rehearse(5).lying(Stage.mask, fewer).run()


def fewer(session: Rehearsal, name: ClientId, body: bytes) -> bytes:
    known = session.clients[name]._session
    found = Inbox.from_bytes(body, len(known.clients), known.parameters.neighbours)
    return Inbox(found.sharers, found.boxes[:-1]).to_bytes()


# What a lie is worth


def test_a_sum_of_two(rehearse: type[Rehearsal], off: Off, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two clients in a sum, each gives the other away."""
    monkeypatch.setattr(SecAggServer, "_check_enough", lambda *_: None)
    lost = {"c002": Stage.mask}
    assert rehearse(3, lose=lost).refusals() == {"n_min"}
    off("check_enough")
    for session in rehearse(3, lose=lost).rounds():
        found = session.run()
        assert found.members == ("c000", "c001")
        assert (found.vector - session.vectors["c001"] == session.vectors["c000"]).all()


def test_a_client_that_is_told_that_it_is_lost(rehearse: type[Rehearsal], off: Off) -> None:
    """It would give away a share of its own masking key, though the server has its vector."""
    policy = Policy(mode=Mode.HONEST_SERVER)
    lie = survivors(others)
    assert rehearse(5, policy=policy).lying(Stage.unmask, lie).refusals() == {"self"}
    off("check_self")
    session = rehearse(5, policy=policy).until(Stage.unmask).lying(Stage.unmask, lie)
    held = session.clients["c001"]._held._held[1]
    opened = Opened.from_bytes(session.answer(Stage.unmask, "c001", lie(session, "c001", b"")), 5)
    assert opened.shares[1] == held[:32]


def test_half_are_told_that_somebody_did_not_share(
    rehearse: type[Rehearsal], off: Off, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who shared is in what survivors sign. Masked with different others, they do not cancel."""
    lie = sharers(lambda known, _: range(len(known.clients) - 1))

    def to_half(session: Rehearsal, name: ClientId, body: bytes) -> bytes:
        return lie(session, name, body) if name < "c005" else body

    def session() -> Rehearsal:
        return rehearse(10, lose={"c009": Stage.mask}).lying(Stage.mask, to_half)

    for name in ("check_tag", "check_agreed"):  # the server lies to others, not to itself
        monkeypatch.setattr(peer_rules, name, lambda *_: None)

    assert session().refusals() == {"quorum"}
    off("check_quorum")
    split = session()
    with pytest.raises(SecAggAborted, match="fewer than t=7 shares came of c009"):
        split.run()
    assert not split.refused


def test_a_graph_that_falls_apart(rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch) -> None:
    """On one cycle, two losses leave two parts: the server has the sum of each, though one is of few."""
    kept: list[tuple[object, ...]] = []

    def spying(*given: object) -> None:
        kept.append(given)
        remove_masks(*given)  # type: ignore[arg-type]

    settings = {"policy": Policy(corrupt=0.0), "explicit": (2, 2)}
    for session in rehearse(10, **settings).rounds():  # type: ignore[arg-type]
        cycle = around(session)
        session.lose = {cycle[0]: Stage.mask, cycle[3]: Stage.mask}
        with pytest.raises(SecAggAborted, match="parts of the sum could show"):
            session.run()
    monkeypatch.setattr(Session, "connected", lambda *_: True)
    monkeypatch.setattr(server_module, "remove_masks", spying)
    for session in rehearse(10, **settings).rounds():  # type: ignore[arg-type]
        cycle = around(session)
        session.lose = {cycle[0]: Stage.mask, cycle[3]: Stage.mask}
        assert session.right(session.run())
        known, roster, _, secrets = kept[-1][:4]
        part = cycle[1:3]
        assert (part_of(session, part, known, roster, secrets) == session.sums(part)[0]).all()  # type: ignore[arg-type]


def around(session: Rehearsal) -> list[ClientId]:
    """The clients in the order of their cycle."""
    known = replace(session, sessions={}, lose={}).until(Stage.mask).clients["c000"]._session
    order = [0, int(known.graph[0][0])]
    while len(order) < session.n:
        left = [int(n) for n in known.graph[order[-1]] if n not in order]
        order.append(left[0])
    return [known.clients[number] for number in order]


def part_of(
    session: Rehearsal,
    part: Sequence[ClientId],
    known: Session,
    roster: Sequence[object],
    secrets: dict[int, bytes],
) -> Lanes:
    """The sum of some survivors, from what the server has at the end of a session."""
    alive = known.flags(part)
    lost = {number for number in secrets if known.clients[number] in session.lose}
    used = {n: secret for n, secret in secrets.items() if alive[n] or n in lost}
    total: Lanes = np.zeros(session.encoding.words, np.uint32)
    for name in part:
        sent = Masked.from_bytes(
            session.seen[Stage.mask, name], session.encoding.vector_bytes, session.encoding.tail
        )
        total += lanes_of(sent.vector, 32)
    tail = np.zeros(session.encoding.tail, np.uint64)
    remove_masks(known, roster, alive, used, (total, tail), 1)  # type: ignore[arg-type]
    return total
