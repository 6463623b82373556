"""What others give away before or beside the sum: keys before training, seeds to be guessed, weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkit.errors import ProtocolRefused
from fedkit.messages import ClientId
from fedkit.secagg import server
from fedkit.secagg import session as session_module
from fedkit.secagg.closing import Masked, Opened, Survivors
from fedkit.secagg.header import Encoding
from fedkit.secagg.messages import Advert, Stage
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.primitives.keys import AgreementKey, mask_key
from fedkit.secagg.primitives.masks import Mask, add_masks
from fedkit.secagg.primitives.shamir import rebuild
from fedkit.secagg.session import lanes_of, pair_mask, self_mask
from fedkit.secagg.vault import Vault

if TYPE_CHECKING:
    from tests.secagg.conftest import Rehearsal

Off: TypeAlias = Callable[..., None]

VICTIM = "c000"
BITS = 8  # of a folded seed: as easily tried as 16 or 28, and faster


# Keys before training (OpenFL rebuilds every key at the aggregator then)


def key_of_victim(session: Rehearsal) -> bytes:
    """Ask all others for shares of the victim's masking key when nobody has sent a vector."""
    outbox = session.server.outbox()
    shares: dict[int, bytes] = {}
    for number, name in enumerate(session.names[1:], start=1):
        client = session.clients[name]
        client.accept(outbox[name])
        lost = Survivors(client._session.flags(session.names[1:])).to_bytes()
        shares[number + 1] = Opened.from_bytes(client.unmask(lost), session.n).shares[0]
    rows = np.frombuffer(b"".join(shares.values()), np.uint8).reshape(-1, 32)
    return rebuild(list(shares), rows, session.clients[VICTIM]._session.parameters.threshold).tobytes()


def test_no_key_is_given_away_before_training(rehearse: type[Rehearsal], off: Off) -> None:
    for session in rehearse(5, policy=Policy(mode=Mode.HONEST_SERVER)).rounds():
        session.until(Stage.mask)
        with pytest.raises(ProtocolRefused) as caught:
            key_of_victim(session)
        assert caught.value.rule == "stage"
    off("check_turn")
    for session in rehearse(5, policy=Policy(mode=Mode.HONEST_SERVER)).rounds():
        advert = Advert.from_bytes(session.until(Stage.mask).seen[Stage.advertise, VICTIM])
        assert AgreementKey(key_of_victim(session)).public == advert.mask


# Seeds that can be guessed (Flower, Flamingo's prototype, OpenFL, FedML, FederatedScope)


def folded(context: bytes, agreed: bytes, a: str, b: str, length: int) -> bytes:
    """A key of few bits."""
    return spread(mask_key(context, agreed, a, b, length)[0], length)


def spread(seed: int, length: int) -> bytes:
    return bytes([seed]) + bytes(length - 1)


def guessed(session: Rehearsal) -> NDArray[np.uint64] | None:
    """The victim's tail, by the server and one of three clients: its only other mask is tried out.

    Lane 0 of a tail is 1, which tells the right seed.
    """
    session.run()
    known, own, helper, other = session.clients[VICTIM]._session, 0, 2, 1
    vault, advert = Vault(session.stream("client", "c002").bytes), advert_of(session, VICTIM)
    seed = Vault(session.stream("client", VICTIM).bytes)._own  # given away with the sum, as it has to be
    encoding = session.encoding
    sent = Masked.from_bytes(session.seen[Stage.mask, VICTIM], encoding.vector_bytes, encoding.tail)
    tail = lanes_of(sent.tail, 64).astype(np.uint64)
    colluding = pair_mask(known, vault._mask.agree(advert.mask), helper, own)
    add_masks((tail,), [self_mask(known, seed, own, sign=-1), colluding], session.suite)
    for value in range(1 << BITS):
        tried = tail.copy()
        sign = -1 if own < other else 1
        add_masks((tried,), [Mask(spread(value, session.suite.mask_bytes), sign)], session.suite)
        if tried[0] == 1:
            return tried
    return None


def advert_of(session: Rehearsal, name: ClientId) -> Advert:
    return Advert.from_bytes(session.seen[Stage.advertise, name])


def test_a_mask_is_not_to_be_guessed(rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch) -> None:
    for session in rehearse(3).rounds():
        assert guessed(session) is None
    monkeypatch.setattr(session_module, "mask_key", folded)
    for session in rehearse(3).rounds():
        found = guessed(session)
        assert found is not None
        assert (found == session.tails[VICTIM]).all()


# Weights and metrics in clear beside the masks (Flower, FATE, FedML)


def in_clear(session: Rehearsal) -> bool:
    """Whether what a client sends has its tail in it."""
    session.run()
    return session.tails[VICTIM][1:].tobytes() in session.seen[Stage.mask, VICTIM]


def test_weights_are_masked(rehearse: type[Rehearsal], monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, encoding in (("train", Encoding(40, 32, 3, "")), ("evaluate", Encoding(0, 64, 3, ""))):
        for session in rehearse(3, kind=kind, encoding=encoding).rounds():  # type: ignore[arg-type]
            assert not in_clear(session)
    monkeypatch.setattr(Vault, "add_masks", lambda *_: None)
    monkeypatch.setattr(server, "remove_masks", lambda *_: None)
    assert in_clear(rehearse(3))
