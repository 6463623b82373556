"""One client, alive and dead: a server that lists it as both rebuilds both its secrets and has its vector.

As in Flower 1.41 and 1.42, where one message can name a client in both lists. Here the attacker plays the
server honestly until all masked vectors are in. Then it tells some clients that the victim survives and
others that it was lost, opens the boxes of those who collude, and takes off every mask.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pytest

from fedkit.errors import ProtocolRefused
from fedkit.messages import ClientId
from fedkit.secagg.client import SecAggClient
from fedkit.secagg.closing import Agreed, Masked, Opened, Quorum, Survivors
from fedkit.secagg.frames import Flags
from fedkit.secagg.header import Header
from fedkit.secagg.identity import Floors
from fedkit.secagg.messages import Advert, Stage
from fedkit.secagg.parameters import Mode, Policy, by_hand
from fedkit.secagg.primitives.keys import AgreementKey
from fedkit.secagg.primitives.masks import Lanes
from fedkit.secagg.primitives.shamir import rebuild
from fedkit.secagg.recovery import remove_masks
from fedkit.secagg.session import Session, agree_text, lanes_of, mask_both, pair_mask, self_mask
from fedkit.secagg.vault import Vault

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

Off: TypeAlias = Callable[..., None]
Told: TypeAlias = Mapping[ClientId, Collection[ClientId]]
"""Whom each client is told to survive."""

VICTIM = "c000"
ALIVE, DEAD = True, False


class Attacker:
    """A server that kept everything that clients sent. colluding: clients that give it all they hold."""

    def __init__(self, session: Rehearsal, colluding: Collection[ClientId] = ()) -> None:
        self.session = session.until(Stage.agree if session.header.agrees else Stage.unmask)
        self.known = session.clients[VICTIM]._session
        self.names = self.known.clients
        self.signatures: dict[ClientId, dict[tuple[ClientId, ...], bytes]] = {}
        self.shares: dict[tuple[ClientId, bool], dict[int, bytes]] = {}  # owner, its status: share by x
        self.colluding = colluding
        for holder in colluding:
            for owner, pair in session.clients[holder]._held._held.items():
                self._keep(holder, owner, DEAD, pair[:32])
                self._keep(holder, owner, ALIVE, pair[32:])

    def _keep(self, holder: ClientId, owner: int, status: bool, share: bytes) -> None:
        x = self.known.number[holder] + 1
        self.shares.setdefault((self.names[owner], status), {})[x] = share

    def tell(self, told: Told) -> dict[ClientId, str]:
        """Ask all of these, each about its own survivors; the rules by which some refuse."""
        refused: dict[ClientId, str] = {}
        for step in (self._agree, self._unmask) if self.session.header.agrees else (self._unmask,):
            for name, alive in told.items():
                try:
                    if name not in refused:
                        step(name, tuple(sorted(alive)), told)
                except ProtocolRefused as error:
                    refused[name] = error.rule
        return refused

    def _agree(self, name: ClientId, alive: tuple[ClientId, ...], _: Told) -> None:
        body = Survivors(self.known.flags(alive)).to_bytes()
        signature = Agreed.from_bytes(self.session.answer(Stage.agree, name, body)).signature
        self.signatures.setdefault(name, {})[alive] = signature

    def _unmask(self, name: ClientId, alive: tuple[ClientId, ...], told: Told) -> None:
        body = Survivors(self.known.flags(alive)).to_bytes()
        if self.session.header.agrees:
            body = self._quorum(name, alive)
        circle = self.known.circle(self.known.number[name]).tolist()
        opened = Opened.from_bytes(self.session.answer(Stage.unmask, name, body), len(circle))
        owners = [owner for owner, given in zip(circle, opened.owners, strict=True) if given]
        for owner, share in zip(owners, opened.shares, strict=True):
            self._keep(name, owner, self.names[owner] in alive, share)

    def _quorum(self, name: ClientId, alive: tuple[ClientId, ...]) -> bytes:
        """All signatures of these survivors that there are; those who collude sign anything."""
        flags = self.known.flags(alive)
        text = agree_text(self.known.context, np.ones_like(flags), flags)
        signed = []
        for peer in (self.names[number] for number in self.known.graph[self.known.number[name]]):
            own = self.session.keys[peer].sign(text) if peer in self.colluding else None
            signed.append(own or self.signatures.get(peer, {}).get(alive))
        return Quorum(np.array([s is not None for s in signed]), tuple(s for s in signed if s)).to_bytes()

    def secret(self, owner: ClientId, status: bool) -> bytes | None:
        """One of a client's two secrets; None without t shares."""
        held, t = self.shares.get((owner, status), {}), self.known.parameters.threshold
        if len(held) < t:
            return None
        rows = np.frombuffer(b"".join(held.values()), np.uint8).reshape(-1, 32)
        return rebuild(list(held), rows, t).tobytes()

    def sent(self, name: ClientId) -> Lanes:
        encoding = self.session.encoding
        body = self.session.seen[Stage.mask, name]
        return lanes_of(Masked.from_bytes(body, encoding.vector_bytes, encoding.tail).vector, encoding.width)

    def bare(self) -> bool:
        """Whether the attacker has the victim's vector, exactly."""
        seed, key, own = self.secret(VICTIM, ALIVE), self.secret(VICTIM, DEAD), 0
        if seed is None or key is None:
            return False
        masks = [self_mask(self.known, seed, own, sign=-1)]
        for number in self.known.graph[own].tolist():
            advert = Advert.from_bytes(self.session.seen[Stage.advertise, self.names[number]])
            agreed = AgreementKey(key).agree(advert.mask)
            masks.append(pair_mask(self.known, agreed, number, own))  # what the other one added
        found = self.sent(VICTIM).copy()
        mask_both(self.known, found, np.zeros(self.session.encoding.tail, np.uint64), masks)
        return bool((found == self.session.vectors[VICTIM]).all())

    def part(self, members: Sequence[ClientId]) -> Lanes | None:
        """The sum of some clients, as if all others were lost; None if it cannot be had."""
        alive = self.known.flags(members)
        secrets = {n: self.secret(name, name in members) for n, name in enumerate(self.names)}
        if None in secrets.values():
            return None
        adverts = [Advert.from_bytes(self.session.seen[Stage.advertise, name]) for name in self.names]
        total: Lanes = np.zeros(self.session.encoding.words, f"u{self.session.encoding.width // 8}")
        for name in members:
            total += self.sent(name)
        tail = np.zeros(self.session.encoding.tail, np.uint64)
        remove_masks(self.known, adverts, alive, secrets, (total, tail), 1)  # type: ignore[arg-type]
        return total


def split(names: Sequence[ClientId], believing: int) -> Told:
    """The first ones, the victim among them, are told that all survive; the others: all but the victim."""
    return {name: names if place < believing else names[1:] for place, name in enumerate(names)}


def test_refused_and_the_next_round_goes_on(rehearse: type[Rehearsal]) -> None:
    """However the lie is split: t of ten sign one set at most, and the victim has that status alone."""
    for believing, session in enumerate(rehearse(10).rounds(9), start=1):
        attacker = Attacker(session)
        assert attacker.known.parameters.threshold == 7
        refused = attacker.tell(split(attacker.names, believing))
        many = max(believing, 10 - believing)
        assert set(refused.values()) == {"quorum"}
        assert len(refused) == (10 if many < 7 else 10 - many)
        assert not attacker.bare()
    assert session.goes_on()


# Without what refuses it


def weakened(monkeypatch: pytest.MonkeyPatch, off: Off, t: int) -> None:
    """Everybody takes this threshold, whatever the policy says of it."""
    policy = Policy(corrupt=0.0, mode=Mode.HONEST_SERVER)
    monkeypatch.setattr(Header, "parameters", lambda _, n: by_hand(n, (n - 1, t), policy))
    monkeypatch.setattr(Session, "connected", lambda *_: True)
    off("check_threshold")


@pytest.mark.parametrize("quorum", [True, False])
def test_it_works_where_half_of_the_shares_are_enough(
    rehearse: type[Rehearsal], off: Off, monkeypatch: pytest.MonkeyPatch, quorum: bool
) -> None:
    """With t = h / 2 each half is a quorum for its own lie, signed or not: a quorum rests on 2 t > h + c."""
    weakened(monkeypatch, off, 5)
    if not quorum:
        off("check_quorum")
    for session in rehearse(10).rounds():
        attacker = Attacker(session)
        assert attacker.tell(split(attacker.names, 5)) == {}
        assert attacker.bare()


def test_without_a_quorum_shares_still_do_not_suffice_for_both(rehearse: type[Rehearsal], off: Off) -> None:
    off("check_quorum")
    for believing, session in enumerate(rehearse(10).rounds(9), start=1):
        attacker = Attacker(session)
        assert attacker.tell(split(attacker.names, believing)) == {}
        assert not attacker.bare()


def fewer_than_anybody_was_told(names: Sequence[ClientId]) -> tuple[Told, Sequence[ClientId]]:
    """Everybody is told of seven survivors; of six of them b can be had, of the other four the key."""
    six, four = names[:6], names[6:]
    told = {name: {*six, four[place % 4]} for place, name in enumerate(six)}
    return {**told, **{name: {*six, name} for name in four}}, six


def test_without_a_quorum_a_sum_is_of_fewer_than_anybody_was_told(
    rehearse: type[Rehearsal], off: Off
) -> None:
    """What t alone does not stop: n_min = 7 was promised to all, and the server has a sum of six."""
    policy = Policy(smallest=7)
    told, six = fewer_than_anybody_was_told(rehearse(10).names)
    for attacker in map(Attacker, rehearse(10, policy=policy).rounds()):
        assert attacker.tell(told) == dict.fromkeys(attacker.names, "quorum")
        assert attacker.part(six) is None
    assert attacker.session.goes_on()
    off("check_quorum")
    for attacker in map(Attacker, rehearse(10, policy=policy).rounds()):
        assert attacker.tell(told) == {}
        found = attacker.part(six)
        assert found is not None
        assert (found == attacker.session.sums(six)[0]).all()


def test_it_works_on_clients_that_believe_in_an_honest_server(rehearse: type[Rehearsal], off: Off) -> None:
    """t = c + 1, and nothing is agreed: so clients that insist on more refuse the header."""
    policy = Policy(mode=Mode.HONEST_SERVER)
    for believing in map(Attacker, rehearse(10, policy=policy).rounds()):
        assert believing.known.parameters.threshold == 4
        assert believing.tell(split(believing.names, 5)) == {}
        assert believing.bare()
    for check, rule in (("check_floors", "mode"), ("check_threshold", "threshold")):
        assert rehearse(10, policy=policy, floors=Floors()).refusals() == {rule}
        off(check)
    for tricked in map(Attacker, rehearse(10, policy=policy, floors=Floors()).rounds()):
        assert tricked.tell(split(tricked.names, 5)) == {}
        assert tricked.bare()


def with_one_colluder(session: Rehearsal) -> tuple[Attacker, dict[ClientId, str]]:
    """The last of eleven colludes: five honest ones are told this, five that."""
    attacker = Attacker(session, colluding=("c010",))
    honest = split(attacker.names, 5).items()
    return attacker, attacker.tell({name: alive for name, alive in honest if name != "c010"})


def test_a_policy_that_allows_for_more_losses_is_a_way_to_lower_t(
    rehearse: type[Rehearsal], off: Off
) -> None:
    """The header allows for 46 % of losses where the client would for 10 %: t = 6 of 11 instead of 8."""
    many = Policy(dropout=0.46)
    assert rehearse(11, policy=many, floors=Floors()).refusals() == {"threshold"}
    for attacker, refused in map(with_one_colluder, rehearse(11).rounds()):
        assert set(refused.values()) == {"quorum"}
        assert not attacker.bare()
    off("check_threshold")
    for attacker, refused in map(with_one_colluder, rehearse(11, policy=many, floors=Floors()).rounds()):
        assert refused == {}
        assert attacker.bare()


# One client asked for both


def remembering(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that keeps its secrets when all is over."""
    monkeypatch.setattr(SecAggClient, "_erase", lambda own: None)
    true = Vault.give

    def give(own: Vault, circle: Sequence[int], *sets: Flags) -> Opened:
        kept = dict(own._held)
        opened = true(own, circle, *sets)
        own._held.update(kept)
        return opened

    monkeypatch.setattr(Vault, "give", give)


@pytest.mark.parametrize("mode", Mode)
def test_asked_twice_with_the_other_status(
    rehearse: type[Rehearsal], off: Off, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """A step is made once; a sum of a round, too; then secrets are erased; and shares are given away."""
    names = tuple(rehearse(10).names)
    for attacker in map(Attacker, rehearse(10, policy=Policy(mode=mode)).rounds()):
        assert attacker.tell(dict.fromkeys(names, names)) == {}
        assert attacker.tell(dict.fromkeys(names[1:], names[1:])) == dict.fromkeys(names[1:], "stage")
        assert not attacker.bare()
    assert attacker.session.goes_on()

    off("check_turn", "check_unsigned")
    attacker = Attacker(rehearse(10, policy=Policy(mode=mode)))
    assert attacker.tell(dict.fromkeys(names, names)) == {}
    with pytest.raises(ValueError, match="secrets of this session are gone"):
        attacker.tell(dict.fromkeys(names[1:], names[1:]))

    remembering(monkeypatch)
    for attacker in map(Attacker, rehearse(10, policy=Policy(mode=mode)).rounds()):
        for alive in (names, names[1:]):
            assert attacker.tell(dict.fromkeys(alive, alive)) == {}
        assert attacker.bare()


def test_survivors_that_are_signed_once(rehearse: type[Rehearsal], off: Off) -> None:
    """Who signs two sets is a quorum for both."""
    names = tuple(rehearse(10).names)
    told = dict.fromkeys(names[1:], names[1:])

    def signed_twice(session: Rehearsal) -> Attacker:
        attacker = Attacker(session)
        for name in names[1:]:
            attacker._agree(name, names, told)
            attacker._agree(name, names[1:], told)
        return attacker

    for rule in ("stage", "second sum"):
        for session in rehearse(10).rounds():
            with pytest.raises(ProtocolRefused) as caught:
                signed_twice(session)
            assert caught.value.rule == rule
        assert session.goes_on()
        off("check_turn")
    off("check_unsigned")
    for session in rehearse(10).rounds():
        signatures = signed_twice(session).signatures
        assert [len(signatures[name]) for name in names[1:]] == [2] * 9
