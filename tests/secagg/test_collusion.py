"""What docs/tutorial-private.md and docs/threat-model.md say that a lying server gets, alone or with clients.

The attack: tell some clients that the victim is in the sum, others that it was lost. The first give shares
of its self-mask's seed, the others of its masking key; t of each and its vector is bare.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fedkit.errors import ProtocolRefused
from fedkit.messages import ClientId
from fedkit.secagg.closing import Masked, Opened, Quorum, Survivors
from fedkit.secagg.messages import Advert, Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.primitives.keys import AgreementKey
from fedkit.secagg.primitives.masks import Lanes
from fedkit.secagg.primitives.shamir import rebuild
from fedkit.secagg.session import agree_text, lanes_of, mask_both, pair_mask, self_mask

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

A, B, C, D = (f"c{i:03}" for i in range(4))
Told = Mapping[ClientId, Collection[ClientId]]  # who was told that who survives


class Liar:
    """A server that has all masked vectors, and clients that hand it what they hold."""

    def __init__(self, rehearsal: Rehearsal, colluding: Collection[ClientId]) -> None:
        self.rehearsal, self.colluding = rehearsal, colluding
        rehearsal.until(Stage.agree if rehearsal.header.agrees else Stage.unmask)
        self.session = rehearsal.clients[A]._session
        self.seeds: dict[int, dict[int, bytes]] = {}  # owner, holder: a share of its self-mask's seed
        self.keys: dict[int, dict[int, bytes]] = {}  # owner, holder: a share of its masking key
        for name in colluding:
            vault = rehearsal.clients[name]._vault
            assert vault is not None
            for owner, pair in vault._held.items():
                self.keep(self.keys, owner, name, pair[:32])
                self.keep(self.seeds, owner, name, pair[32:])

    def keep(self, kept: dict[int, dict[int, bytes]], owner: int, holder: ClientId, share: bytes) -> None:
        kept.setdefault(owner, {})[self.session.number[holder] + 1] = share

    def tell(self, told: Told) -> None:
        """Ask honest clients to open these sums, each its own. ProtocolRefused comes through."""
        bodies = {name: Survivors(self.session.flags(list(alive))).to_bytes() for name, alive in told.items()}
        if self.rehearsal.header.agrees:
            signed = {name: self.rehearsal.answer(Stage.agree, name, body) for name, body in bodies.items()}
            assert set(signed) == set(told)
            bodies = {name: self.quorum(name, told) for name in told}
        for name, body in bodies.items():
            opened = Opened.from_bytes(
                self.rehearsal.answer(Stage.unmask, name, body), len(self.circle(name))
            )
            owners = self.circle(name)[opened.owners].tolist()
            for owner, share in zip(owners, opened.shares, strict=True):
                alive = self.session.clients[owner] in told[name]
                self.keep(self.seeds if alive else self.keys, owner, name, share)

    def quorum(self, name: ClientId, told: Told) -> bytes:
        """All signatures on what this client was told: of colluders, and of honest ones told the same."""
        session, sets = self.session, self.session.flags(list(told[name]))
        text = agree_text(session.context, np.ones_like(sets), sets)
        near = [session.clients[number] for number in session.graph[session.number[name]]]
        signers = [peer in self.colluding or told.get(peer) == told[name] for peer in near]
        keys = [self.rehearsal.keys[peer] for peer, signs in zip(near, signers, strict=True) if signs]
        return Quorum(np.array(signers), tuple(key.sign(text) for key in keys)).to_bytes()

    def circle(self, name: ClientId) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        return self.session.circle(self.session.number[name])

    def recover(self, name: ClientId) -> Lanes | None:
        """The vector of one client, or None: too few shares of one of its secrets."""
        session, t = self.session, self.session.parameters.threshold
        own = session.number[name]
        secrets = []
        for kept in (self.seeds, self.keys):
            shares = kept.get(own, {})
            if len(shares) < t:
                return None
            rows = np.frombuffer(b"".join(shares.values()), np.uint8).reshape(-1, 32)
            secrets.append(rebuild(list(shares), rows, t).tobytes())
        key, masks = AgreementKey(secrets[1]), [self_mask(session, secrets[0], own, sign=-1)]
        for peer in session.graph[own].tolist():
            advert = Advert.from_bytes(self.rehearsal.seen[Stage.advertise, session.clients[peer]])
            masks.append(pair_mask(session, key.agree(advert.mask), peer, own))  # what its peer adds
        encoding = session.header.encoding
        sent = Masked.from_bytes(self.rehearsal.seen[Stage.mask, name], encoding.vector_bytes, encoding.tail)
        found = lanes_of(sent.vector, encoding.width).copy()
        mask_both(session, found, np.zeros(encoding.tail, np.uint64), masks)
        return found


def bare(liar: Liar, name: ClientId) -> bool:
    """Whether the server has the vector of a client."""
    found = liar.recover(name)
    return found is not None and bool((found == liar.rehearsal.vectors[name]).all())


def test_two_of_four_and_the_server_have_the_other_two_if_three_are_enough(
    rehearse: type[Rehearsal],
) -> None:
    for session in rehearse(4).rounds():
        liar = Liar(session, colluding=(C, D))
        assert not bare(liar, A)
        liar.tell({A: (A, C, D), B: (B, C, D)})
        assert bare(liar, A)
        assert bare(liar, B)


def test_nothing_is_had_where_all_four_must_be_in_the_sum(rehearse: type[Rehearsal]) -> None:
    for session in rehearse(4, policy=Policy(smallest=4)).rounds():
        liar = Liar(session, colluding=(C, D))
        with pytest.raises(ProtocolRefused, match="3 survivors where 4 are the fewest") as refused:
            liar.tell({A: (A, C, D), B: (B, C, D)})
        assert refused.value.rule == "n_min"
    honest = Liar(session.next(), colluding=(C, D))
    honest.tell({A: (A, B, C, D), B: (A, B, C, D)})
    assert not bare(honest, A)
    assert not bare(honest, B)


def test_one_of_four_and_the_server_have_nobody(rehearse: type[Rehearsal]) -> None:
    for session in rehearse(4).rounds():
        liar = Liar(session, colluding=(D,))
        with pytest.raises(
            ProtocolRefused, match="2 holders signed these survivors; 3 are needed"
        ) as refused:
            liar.tell({A: (A, B, D), B: (B, C, D), C: (A, C, D)})
        assert refused.value.rule == "quorum"
    agreed = Liar(session.next(), colluding=(D,))
    agreed.tell({A: (A, B, D), B: (A, B, D)})  # C is declared lost: it is told nothing
    assert not bare(agreed, A)
    assert not bare(agreed, B)
    assert not bare(agreed, C)


def test_an_honest_server_is_believed_and_could_lie(rehearse: type[Rehearsal]) -> None:
    policy = Policy(mode=Mode.HONEST_SERVER)
    for session in rehearse(4, policy=policy, identities="none").rounds():
        liar = Liar(session, colluding=())
        assert liar.session.parameters.threshold == 2
        liar.tell({A: (A, B, C), B: (A, B, C), C: (B, C, D), D: (B, C, D)})
        assert bare(liar, A)
        assert not bare(liar, B)


def test_the_same_lies_do_not_move_clients_that_expect_them(rehearse: type[Rehearsal]) -> None:
    for session in rehearse(4).rounds():
        liar = Liar(session, colluding=())
        with pytest.raises(ProtocolRefused, match="holders signed") as refused:
            liar.tell({A: (A, B, C), B: (A, B, C), C: (B, C, D), D: (B, C, D)})
        assert refused.value.rule == "quorum"
        assert not bare(liar, A)
    assert session.goes_on()
