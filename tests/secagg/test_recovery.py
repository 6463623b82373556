"""Wrong shares: other ones are tried, the sum is right or there is none, and somebody is named."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fedkit.errors import SecAggAborted
from fedkit.messages import ClientId
from fedkit.secagg.closing import Opened
from fedkit.secagg.messages import Stage
from fedkit.secagg.parameters import Policy
from fedkit.secagg.primitives.keys import AgreementKey
from fedkit.secagg.recovery import needed

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

WIDE = Policy(dropout=0.3)  # t = 7 of 10


def vault_of(session: Rehearsal, name: ClientId) -> dict[str, object]:
    made: dict[str, object] = session.clients[name].__dict__["_vault"].__dict__
    return made


def lying(
    session: Rehearsal, liars: Iterable[ClientId], owners: Iterable[ClientId] | None = None
) -> Rehearsal:
    """These holders change the shares that they give of these owners (of all), and stand by them."""
    places = {session.names.index(owner) for owner in (session.names if owners is None else owners)}
    wrong = set(liars)

    def change(stage: Stage, client: ClientId, body: bytes) -> bytes:
        if stage is not Stage.unmask or client not in wrong:
            return body
        known = session.server.__dict__["_board"].session
        circle = known.circle(known.number[client])
        mark = 1 << known.number[client] % 8  # equal errors could cancel
        made = Opened.from_bytes(body, len(circle))
        given = circle[made.owners]
        shares = tuple(
            bytes([share[0] ^ mark]) + share[1:] if int(owner) in places else share
            for owner, share in zip(given, made.shares, strict=True)
        )
        link = session.server.__dict__["_intake"]._link(client)
        spoilt = replace(made, shares=shares)
        return replace(spoilt, tag=link.tag(Stage.unmask, spoilt.claims)).to_bytes()

    session.up = change
    return session


@pytest.mark.parametrize("liars", [["c000"], ["c006"], ["c002", "c005"], ["c000", "c001", "c009"]])
def test_wrong_shares_are_worked_round_and_their_senders_named(
    rehearse: type[Rehearsal], liars: list[str]
) -> None:
    session = lying(rehearse(10, policy=WIDE), liars)
    assert session.right(session.run())
    assert session.server.offenders == tuple(liars)


def test_a_wrong_share_that_is_not_needed_is_not_looked_at(rehearse: type[Rehearsal]) -> None:
    session = lying(rehearse(10, policy=WIDE), ["c009"])
    assert session.right(session.run())
    assert session.server.offenders == ()


def test_a_wrong_share_of_a_lost_client_is_noticed(rehearse: type[Rehearsal]) -> None:
    session = lying(rehearse(10, policy=WIDE, lose={"c004": Stage.mask}), ["c001"], ["c004"])
    assert session.right(session.run())
    assert session.server.offenders == ("c001",)


def test_wrong_shares_of_one_owner_alone(rehearse: type[Rehearsal]) -> None:
    session = lying(rehearse(10, policy=WIDE), ["c000"], ["c003"])
    assert session.right(session.run())
    assert session.server.offenders == ("c000",)


def test_an_owner_that_dealt_badly_is_named_rather_than_its_holders(rehearse: type[Rehearsal]) -> None:
    session = lying(rehearse(10, policy=WIDE), ["c001", "c005"], ["c003"])
    assert session.right(session.run())
    assert session.server.offenders == ("c003",)


def test_on_a_sparse_graph(rehearse: type[Rehearsal]) -> None:
    session = lying(
        rehearse(40, explicit=(16, 12), policy=Policy(corrupt=0.0), lose={"c020": Stage.mask}), ["c007"]
    )
    assert session.right(session.run())
    assert session.server.offenders == ("c007",)


def test_exactly_t_shares_leave_no_choice(rehearse: type[Rehearsal]) -> None:
    lose = dict.fromkeys(("c007", "c008", "c009"), Stage.unmask)
    session = lying(rehearse(10, policy=WIDE, lose=lose), ["c001"])
    with pytest.raises(SecAggAborted, match="too few right shares") as caught:
        session.run()
    assert not caught.value.retry


def test_more_liars_than_can_be_worked_round(rehearse: type[Rehearsal]) -> None:
    session = lying(rehearse(10, policy=WIDE), ["c000", "c001", "c002", "c003"])
    with pytest.raises(SecAggAborted, match="too few right shares"):
        session.run()


def test_an_owner_whose_secret_is_not_what_it_committed_to(rehearse: type[Rehearsal]) -> None:
    session = rehearse(5).until(Stage.share)
    vault_of(session, "c002")["_own"] = b"x" * 32
    with pytest.raises(SecAggAborted, match="c002 is to blame") as caught:
        session.run()
    assert session.server.offenders == ("c002",)
    assert not caught.value.retry


def test_an_owner_whose_key_is_not_the_one_it_advertised(rehearse: type[Rehearsal]) -> None:
    """A survivor's key is never rebuilt; its wrong masks are found by the tail."""
    session = rehearse(5, lose={"c002": Stage.mask}).until(Stage.share)
    vault_of(session, "c002")["_mask"] = AgreementKey(b"x" * 32)
    with pytest.raises(SecAggAborted, match="c002 is to blame"):
        session.run()
    session = rehearse(5).until(Stage.share)
    vault_of(session, "c002")["_mask"] = AgreementKey(b"x" * 32)
    with pytest.raises(SecAggAborted, match="somebody masked wrongly") as caught:
        session.run()
    assert not caught.value.retry


def test_a_client_that_counts_twice_is_found_by_the_tail(rehearse: type[Rehearsal]) -> None:
    session = rehearse(5)
    session.tails["c001"][0] = 2
    with pytest.raises(SecAggAborted, match="counts 6 clients, not 5"):
        session.run()


def test_nothing_is_recovered_of_who_masked_with_no_survivor(rehearse: type[Rehearsal]) -> None:
    session = rehearse(30, explicit=(4, 3), policy=Policy(corrupt=0.0, sigma=1, dropout=0.0)).until(
        Stage.mask
    )
    known = session.server.__dict__["_board"].session
    sharers, survivors = np.ones(30, np.bool_), np.ones(30, np.bool_)
    survivors[known.circle(7)] = False
    owners = needed(known, sharers, survivors)
    assert 7 not in owners
    assert set(owners) >= set(np.flatnonzero(survivors).tolist())
    near = [number for number in known.circle(7).tolist() if number != 7]
    assert all((number in owners) == survivors[known.graph[number]].any() for number in near)
