"""The secrets of a client in one session, and all that is done with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import CryptoError, WireError
from fedkit.secagg.closing import Opened
from fedkit.secagg.frames import Flags
from fedkit.secagg.messages import Advert
from fedkit.secagg.primitives.boxes import Sealer, open_box
from fedkit.secagg.primitives.digests import commit
from fedkit.secagg.primitives.keys import AgreementKey, box_key
from fedkit.secagg.primitives.masks import Lanes
from fedkit.secagg.primitives.shamir import share
from fedkit.secagg.primitives.suite import SECRET_BYTES, Random, draw
from fedkit.secagg.resting import Resting
from fedkit.secagg.session import Link, Session, box_text, mask_both, pair_mask, self_mask


class Contents(TypedDict):
    """What is in a vault, as `Resting` has it."""

    mask: bytes
    box: bytes
    own: bytes
    inbox: Mapping[int, bytes]
    held: Mapping[int, bytes]


class Vault:
    """Two agreement keys, the secret b of the self-mask, and shares of the neighbours' secrets.

    Drop the vault and they are gone, as far as Python lets go of memory.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._mask = AgreementKey.new(random)
        self._box = AgreementKey.new(random)
        self._own = draw(random, SECRET_BYTES)
        self._inbox: dict[int, bytes] = {}  # keys of the boxes that neighbours will send
        self._held: dict[int, bytes] = {}  # a share of each secret of each owner

    def rest(self) -> Contents:
        """All secrets that are there still."""
        mask, box, own = b"", b"", b""
        if hasattr(self, "_own"):  # until the vector was masked
            mask, box, own = self._mask.secret, self._box.secret, self._own
        return Contents(mask=mask, box=box, own=own, inbox=dict(self._inbox), held=dict(self._held))

    @classmethod
    def wake(cls, random: Random, found: Resting) -> Vault:
        """The vault of a machine at rest. WireError: a secret that is none."""
        made = cls(random)
        made._inbox, made._held = dict(found.inbox), dict(found.held)
        if not found.own:
            del made._mask, made._box, made._own
            return made
        try:
            made._mask, made._box = AgreementKey(found.mask), AgreementKey(found.box)
        except CryptoError as error:
            raise WireError(str(error)) from None
        made._own = found.own
        return made

    @property
    def publics(self) -> tuple[bytes, bytes]:
        """The public keys: for masks, for boxes."""
        return self._mask.public, self._box.public

    def commitment(self, sid: bytes) -> bytes:
        """What fixes b without telling it."""
        return commit(sid, self._own)

    def link(self, session: Session, own: int) -> Link:
        """What authenticates this client to the server."""
        return Link.between(session, session.clients[own], self._box, session.header.server)

    def deal(self, session: Session, own: int, adverts: Sequence[Advert]) -> tuple[bytes, ...]:
        """A box for each neighbour, in order, with a share of both secrets.

        CryptoError: a neighbour's key of low order.
        """
        circle, suite, me = session.circle(own), session.header.suite, session.clients[own]
        both = self._mask.secret + self._own
        rows = share(both, (circle + 1).tolist(), session.parameters.threshold, random=self._random)
        self._held[own] = rows[circle == own].tobytes()
        boxes = []
        for peer, row, advert in zip(session.graph[own].tolist(), rows[circle != own], adverts, strict=True):
            agreed, context = self._box.agree(advert.box), session.context
            self._inbox[peer] = box_key(context, agreed, advert.client, me)
            sealer = Sealer(suite, box_key(context, agreed, me, advert.client))
            boxes.append(sealer.seal(row.tobytes(), box_text(context, me, advert.client)))
        return tuple(boxes)

    def open(self, session: Session, own: int, senders: Sequence[int], boxes: Sequence[bytes]) -> None:
        """Take the shares out of the boxes of these neighbours.

        A box that does not open holds no share, and nothing else follows: a client that treated its sender
        as lost could be told apart by the server.
        """
        me = session.clients[own]
        for sender, box in zip(senders, boxes, strict=True):
            text = box_text(session.context, session.clients[sender], me)
            try:
                self._held[sender] = open_box(session.header.suite, self._inbox[sender], box, text)
            except CryptoError:
                continue
        self._inbox.clear()

    def add_masks(
        self,
        session: Session,
        own: int,
        peers: Sequence[tuple[int, bytes]],
        vector: Lanes,
        tail: NDArray[np.uint64],
        threads: int,
    ) -> None:
        """Mask in place: with b, and with each of these peers (their number, their public mask key).

        The keys that made the masks are dropped: only shares of them remain. CryptoError: low order.
        """
        masks = [self_mask(session, self._own, own)]
        masks += [pair_mask(session, self._mask.agree(public), own, peer) for peer, public in peers]
        mask_both(session, vector, tail, masks, threads)
        del self._mask, self._box, self._own

    def give(self, circle: Sequence[int], sharers: Flags, survivors: Flags) -> Opened:
        """Of each owner one share: of b where it survived, of its mask key where it was lost. Never both."""
        owners = np.zeros(len(circle), np.bool_)
        shares: list[bytes] = []
        for place, owner in enumerate(circle):
            pair = self._held.pop(owner, None)
            if pair is not None and sharers[owner]:
                owners[place] = True
                shares.append(pair[SECRET_BYTES:] if survivors[owner] else pair[:SECRET_BYTES])
        return Opened(owners, tuple(shares), b"")
