"""Wrong shares: the right ones are found, the sum is right or there is none, and nobody is named wrongly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fedkit.errors import SecAggAborted
from fedkit.messages import ClientId
from fedkit.secagg import vault
from fedkit.secagg.closing import Opened
from fedkit.secagg.header import Encoding
from fedkit.secagg.messages import BOX_BYTES, Advert, Boxes, Stage
from fedkit.secagg.parameters import Policy
from fedkit.secagg.primitives.field import GF65536
from fedkit.secagg.primitives.keys import AgreementKey
from fedkit.secagg.primitives.shamir import Shares, share
from fedkit.secagg.primitives.suite import Random
from fedkit.secagg.recovery import needed
from fedkit.secagg.session import Session
from fedkit.secagg.vault import Vault
from fedkit.seeds import stream

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

Deal = Callable[[Vault, Session, int, Sequence[Advert]], tuple[bytes, ...]]
DEAL: Deal = Vault.deal
WIDE = Policy(dropout=0.3)  # t = 7 of 10


def vault_of(session: Rehearsal, name: ClientId) -> dict[str, object]:
    made: dict[str, object] = session.clients[name].__dict__["_vault"].__dict__
    return made


def lying(
    session: Rehearsal,
    liars: Iterable[ClientId],
    owners: Iterable[ClientId] | None = None,
    errors: Mapping[ClientId, bytes] | None = None,
) -> Rehearsal:
    """These holders change the shares that they give of these owners (of all), and stand by them."""
    places = {session.names.index(owner) for owner in (session.names if owners is None else owners)}
    wrong = set(liars)

    def change(stage: Stage, client: ClientId, body: bytes) -> bytes:
        if stage is not Stage.unmask or client not in wrong:
            return body
        known = session.server.__dict__["_board"].session
        circle = known.circle(known.number[client])
        mark = bytes([1 << known.number[client] % 8, client.encode()[-1]])  # equal errors could cancel
        error = int.from_bytes(errors[client] if errors else mark, "little")
        made = Opened.from_bytes(body, len(circle))
        given = circle[made.owners]
        shares = tuple(
            (int.from_bytes(one, "little") ^ error).to_bytes(32, "little") if int(owner) in places else one
            for owner, one in zip(given, made.shares, strict=True)
        )
        link = session.server.__dict__["_intake"]._link(client)
        spoilt = replace(made, shares=shares)
        return replace(spoilt, tag=link.tag(Stage.unmask, spoilt.claims)).to_bytes()

    session.up = change
    return session


def told(session: Rehearsal) -> list[str]:
    return [str(made) for made in session.server.offences]


def forging(owner: int, holders: Sequence[int]) -> Deal:
    """This owner deals wrong shares to these holders, in boxes that open."""

    def deal(self: Vault, session: Session, own: int, adverts: Sequence[Advert]) -> tuple[bytes, ...]:
        if own != owner:
            return DEAL(self, session, own, adverts)

        def spoilt(secret: bytes, xs: Sequence[int], threshold: int, *, random: Random) -> Shares:
            rows = share(secret, xs, threshold, random=random)
            rows[list(holders)] ^= np.array(holders, np.uint8)[:, None] + 1  # equal errors could cancel
            return rows

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vault, "share", spoilt)
            return DEAL(self, session, own, adverts)

    return deal


@pytest.mark.parametrize(
    ("liars", "doubt"),
    [(["c000"], ""), (["c006"], ""), (["c002", "c005"], ", unless 3 others lied")],
)
def test_wrong_shares_are_worked_round_and_their_senders_named(
    rehearse: type[Rehearsal], liars: list[str], doubt: str
) -> None:
    session = lying(rehearse(10, policy=WIDE), liars)
    assert session.right(session.run())
    assert session.goes_on()
    assert told(session) == [f"{liar}: wrong shares{doubt}" for liar in liars]


def test_a_wrong_share_that_is_not_needed_is_not_looked_at(rehearse: type[Rehearsal]) -> None:
    session = lying(rehearse(10, policy=WIDE), ["c009"])
    assert session.right(session.run())
    assert session.goes_on()
    assert told(session) == []


def test_a_wrong_share_of_a_lost_client_is_noticed(rehearse: type[Rehearsal]) -> None:
    session = lying(rehearse(10, policy=WIDE, lose={"c004": Stage.mask}), ["c001"], ["c004"])
    assert session.right(session.run())
    assert session.goes_on()
    assert told(session) == ["c001 or c004: a wrong share, unless 3 others lied"]


def test_of_one_wrong_share_it_is_not_known_whose_lie_it_is(
    rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the holder lies or the owner dealt it so: it comes to the same."""
    session = lying(rehearse(10, policy=WIDE), ["c000"], ["c003"])
    assert session.right(session.run())
    assert session.goes_on()
    assert told(session) == ["c000 or c003: a wrong share"]
    monkeypatch.setattr(Vault, "deal", forging(3, [0]))
    session = rehearse(10, policy=WIDE)
    assert session.right(session.run())
    assert session.goes_on()
    assert told(session) == ["c000 or c003: a wrong share"]


def test_two_wrong_shares_of_one_owner(rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of ten may lie, so it could be two holders."""
    monkeypatch.setattr(Vault, "deal", forging(3, [1, 5]))
    session = rehearse(10, policy=WIDE)
    assert session.right(session.run())
    assert session.goes_on()
    doubt = ", unless 3 others lied"
    pairs = ("c001 or c003", "c003 or c005")
    assert told(session) == [f"{pair}: a wrong share{doubt}" for pair in pairs]


def test_liars_whose_errors_cancel_frame_nobody(rehearse: type[Rehearsal]) -> None:
    """Three of ten can bend a polynomial through four true shares, and the secret stays what it is.

    The three that do not fit then are honest.
    """
    session = rehearse(10, policy=WIDE)
    true = np.arange(2, 6)  # x of c001 to c004; the seven shares are tried before others without c000
    errors = {
        name: GF65536.exp(GF65536.log(np.append(true ^ x, x)).sum() % GF65536.order).tobytes()
        for x, name in ((1, "c000"), (9, "c008"), (10, "c009"))
    }
    lying(session, errors, ["c004"], errors)
    assert session.right(session.run())
    assert session.goes_on()
    assert told(session) == []


def test_liars_who_bend_all_shares_are_not_ruled_out(rehearse: type[Rehearsal]) -> None:
    """Three of ten, as many as the session stands, make the shares of two honest holders look wrong."""
    session = rehearse(10, policy=WIDE)
    true = np.arange(6, 11)  # x of c005 to c009: with the three liars' the seven and one that fit
    errors = {
        session.names[x - 1]: GF65536.exp(GF65536.log(np.append(true ^ x, x)).sum() % GF65536.order).tobytes()
        for x in (1, 2, 3)
    }
    lying(session, errors, session.names[3:], errors)
    assert session.right(session.run())
    assert session.goes_on()
    assert told(session) == [f"{name}: wrong shares, unless 3 others lied" for name in ("c003", "c004")]


def test_on_a_sparse_graph(rehearse: type[Rehearsal]) -> None:
    session = lying(
        rehearse(40, explicit=(16, 12), policy=Policy(corrupt=0.0), lose={"c020": Stage.mask}), ["c007"]
    )
    assert session.right(session.run())
    assert session.goes_on()
    assert told(session) == ["c007: wrong shares, unless 5 others lied"]


@pytest.mark.parametrize(
    ("clients", "liars", "bending"), [(10, 3, 0), (12, 4, 0), (20, 3, 5), (40, 6, 9), (100, 16, 19)]
)
def test_so_many_liars_cannot_stop_a_session(
    rehearse: type[Rehearsal], clients: int, liars: int, bending: int
) -> None:
    """Half of the shares that are not needed, among a dozen clients all of them: whoever the liars are.

    bending: how many others could have made it look so; 0: too few to name anybody.
    """
    session = rehearse(clients, encoding=Encoding(4, 32, 2, "test"))
    names = stream(0, "liars", clients).choice(clients, liars)
    lying(session, [session.names[at] for at in names])
    assert session.right(session.run())
    doubt = f"wrong shares, unless {bending} others lied"
    assert told(session) == [f"{session.names[at]}: {doubt}" for at in sorted(names) if bending]
    assert session.goes_on()


def test_exactly_t_shares_leave_no_choice(rehearse: type[Rehearsal]) -> None:
    """And tell nothing of who lies: it was an honest owner that was named."""
    lose: dict[ClientId, Stage] = {f"c00{at}": Stage.unmask for at in (7, 8, 9)}
    session = lying(rehearse(10, policy=WIDE, lose=lose), ["c001"])
    with pytest.raises(SecAggAborted, match="too few right shares") as caught:
        session.run()
    assert not caught.value.retry
    assert told(session) == []
    assert session.goes_on()


def test_more_liars_than_can_be_worked_round(rehearse: type[Rehearsal]) -> None:
    session = lying(rehearse(10, policy=WIDE), ["c000", "c001", "c002", "c003"])
    with pytest.raises(SecAggAborted, match="too few right shares"):
        session.run()
    assert told(session) == []
    assert session.goes_on()


def test_boxes_that_do_not_open_are_told_of_their_sender(rehearse: type[Rehearsal]) -> None:
    """One client ends a session so; it is named, as far as its holders are believed."""

    def closed(stage: Stage, client: ClientId, body: bytes) -> bytes:
        if (stage, client) != (Stage.share, "c002"):
            return body
        made = replace(Boxes.from_bytes(body, 9), boxes=(bytes(BOX_BYTES),) * 9)
        link = session.server.__dict__["_intake"]._link(client)
        return replace(made, tag=link.tag(Stage.share, made.claims)).to_bytes()

    for lose in ({}, {"c009": Stage.unmask}):
        session = rehearse(10, policy=WIDE, lose=lose, up=closed)
        with pytest.raises(SecAggAborted, match=r"fewer than t=7 shares came of c002$"):
            session.run()
        without = 9 - len(lose)
        doubt = "unless they keep it back or the network spoilt it"
        assert told(session) == [f"c002: no share of it with {without} of its holders, {doubt}"]
        assert session.goes_on()


def test_holders_that_are_lost_are_nobodys_offence(rehearse: type[Rehearsal]) -> None:
    lose: dict[ClientId, Stage] = dict.fromkeys(("c006", "c007", "c008", "c009"), Stage.unmask)
    session = rehearse(10, policy=WIDE, lose=lose)
    with pytest.raises(SecAggAborted, match="fewer than t=7 shares came of c000"):
        session.run()
    assert told(session) == []
    assert session.goes_on()


FALSE = "c002: shares of another secret than it published, unless 2 of its holders lied"


def test_an_owner_whose_secret_is_not_what_it_committed_to(rehearse: type[Rehearsal]) -> None:
    session = rehearse(5).until(Stage.share)
    vault_of(session, "c002")["_own"] = b"x" * 32
    with pytest.raises(SecAggAborted, match=FALSE) as caught:
        session.run()
    assert told(session) == [FALSE]
    assert not caught.value.retry
    assert session.goes_on()


def test_an_owner_whose_key_is_not_the_one_it_advertised(rehearse: type[Rehearsal]) -> None:
    """A survivor's key is never rebuilt; its wrong masks are found by the tail."""
    session = rehearse(6, lose={"c002": Stage.mask}).until(Stage.share)
    vault_of(session, "c002")["_mask"] = AgreementKey(b"x" * 32)
    with pytest.raises(SecAggAborted, match=FALSE):
        session.run()
    session = rehearse(5).until(Stage.share)
    vault_of(session, "c002")["_mask"] = AgreementKey(b"x" * 32)
    with pytest.raises(SecAggAborted, match="somebody masked wrongly") as caught:
        session.run()
    assert not caught.value.retry
    assert session.goes_on()


def test_a_client_that_counts_twice_is_found_by_the_tail(rehearse: type[Rehearsal]) -> None:
    session = rehearse(5)
    session.tails["c001"][0] = 2
    with pytest.raises(SecAggAborted, match="counts 6 clients, not 5"):
        session.run()
    assert session.goes_on()


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
