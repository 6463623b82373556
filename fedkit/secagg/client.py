"""A client of a secure session: a machine without clock or I/O.

Each call takes the body of one message of the server and gives the body of the answer. Each is made once,
in the order of NEXT. Whatever the server does wrong raises ProtocolRefused; the machine is dead then, and
its secrets are gone, as they are after the last answer. Only what cannot be read changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import CryptoError, ProtocolRefused, WireError
from fedkit.secagg import rules
from fedkit.secagg.closing import Agreed, Masked, Quorum, Survivors
from fedkit.secagg.frames import Flags, packed, unpacked
from fedkit.secagg.header import Encoding, Header
from fedkit.secagg.identity import Floors, Identity, Trust
from fedkit.secagg.memory import MemorySessions, Sessions
from fedkit.secagg.messages import Advert, Boxes, Inbox, Opening, Roster, Stage
from fedkit.secagg.primitives.masks import Lanes
from fedkit.secagg.primitives.suite import RANDOM, Random
from fedkit.secagg.resting import Resting
from fedkit.secagg.rules import Expected
from fedkit.secagg.session import Link, Session, advert_text, agree_text, bytes_of, mask_claims, mask_text
from fedkit.secagg.vault import Vault

__all__ = ["Expected", "MemorySessions", "SecAggClient", "Sessions"]


class Step(StrEnum):
    """What a client does, each once."""

    advertise = "advertise"
    share = "share"
    accept = "accept"
    mask = "mask"
    agree = "agree"
    unmask = "unmask"


NEXT: Final[Mapping[Step, Step | None]] = {
    Step.advertise: Step.share,
    Step.share: Step.accept,
    Step.accept: Step.mask,
    Step.mask: Step.agree,
    Step.agree: Step.unmask,
    Step.unmask: None,
}
NEXT_UNAGREED: Final[Mapping[Step, Step | None]] = {**NEXT, Step.mask: Step.unmask}
"""With an honest server."""

STAGE: Final[Mapping[Step, Stage]] = {
    **{step: Stage(step.value) for step in Step if step is not Step.accept},
    Step.accept: Stage.mask,
}


class SecAggClient:
    """One client in one session.

    sessions outlives this machine: it is how the client knows that a session or a sum is a second one.
    threads: how many add masks.
    """

    def __init__(
        self,
        identity: Identity,
        trust: Trust,
        floors: Floors,
        sessions: Sessions,
        *,
        random: Random = RANDOM,
        threads: int = 1,
    ) -> None:
        self._identity, self._trust, self._floors, self._sessions = identity, trust, floors, sessions
        self._random, self._threads = random, threads
        self._next: Step | None = Step.advertise
        self._order = NEXT
        self._vault: Vault | None = None
        self._link: Link | None = None
        self.done = False
        # set in the step that learns them
        self._header: Header
        self._advert: Advert
        self._session: Session
        self._number: int
        self._adverts: tuple[Advert, ...]  # of the neighbours
        self._sharers: Flags
        self._survivors: Flags

    @property
    def stage(self) -> Stage | None:
        """The stage whose message comes next; None when the session is over for this client."""
        return STAGE[self._next] if self._next else None

    def rest(self) -> bytes:
        """What `wake` continues from, secrets and all; empty when the session is over for this client.

        ValueError: the session has not begun, or its vector is due.
        """
        if self._next is None:
            return b""
        if self._next in (Step.advertise, Step.mask):
            raise ValueError(f"a machine does not rest before {self._next}")
        made = Resting(self._next, self._header.to_bytes(), self._advert.to_bytes(), **self._held.rest())
        if self._next is not Step.share:
            roster = Roster(self._session.clients, self._session.digests, self._adverts)
            made = replace(made, roster=roster.to_bytes(), link=self._mac.agreed)
        if self._next in (Step.agree, Step.unmask):
            made = replace(made, sharers=packed(self._sharers))
        if self._next is Step.unmask and self._header.agrees:
            made = replace(made, survivors=packed(self._survivors))
        return made.to_bytes()

    def wake(self, data: bytes) -> None:
        """Continue from `rest`, in a machine that was just made. WireError: it is none, or is damaged."""
        found = Resting.from_bytes(data)
        header = self._header = Header.from_bytes(found.header)
        self._advert = Advert.from_bytes(found.advert)
        self._vault = Vault.wake(self._random, found)
        self._order = NEXT if header.agrees else NEXT_UNAGREED
        self._next = Step(found.next)
        if self._next is Step.share:
            return
        roster = Roster.from_bytes(found.roster, header.clients)
        parameters = rules.parameters_of(header, len(roster.clients))
        session = self._session = Session(header, roster.clients, roster.digests, parameters)
        self._number, self._adverts = session.number[self._advert.client], roster.adverts
        self._link = Link(header.suite, session.context, self._advert.client, found.link)
        if self._next in (Step.agree, Step.unmask):
            self._sharers = unpacked(found.sharers, len(session.clients))
        if self._next is Step.unmask and header.agrees:
            self._survivors = unpacked(found.survivors, len(session.clients))

    def advertise(self, body: bytes, expected: Expected) -> bytes:
        """Opening in, Advert out: the session is one that this client wants to be in."""
        with self._answering(Step.advertise):
            opening = Opening.from_bytes(body)
            rules.check_server(self._trust, opening)
            header = self._header = Header.from_bytes(opening.header)
            rules.check_expected(header, expected)
            rules.check_identities(header, self._trust, self._floors)
            rules.check_floors(header, self._floors)
            rules.check_unsigned(header, self._sessions)
            rules.check_sid(header, self._sessions)
            self._order = NEXT if header.agrees else NEXT_UNAGREED
            self._advert = self._make_advert(header)
            return self._advert.to_bytes()

    def share(self, body: bytes) -> bytes:
        """Roster in, Boxes out: the others are who they should be, and hold shares of this one's secrets."""
        with self._answering(Step.share):
            roster = Roster.from_bytes(body, self._header.clients)
            self._session = self._checked_session(roster)
            self._number = self._session.number[self._advert.client]
            self._check_adverts(roster.adverts)
            self._adverts = roster.adverts
            self._link = self._held.link(self._session, self._number)
            boxes = Boxes(self._held.deal(self._session, self._number, roster.adverts), b"")
            return replace(boxes, tag=self._link.tag(Stage.share, boxes.claims)).to_bytes()

    def accept(self, body: bytes) -> None:
        """Inbox in: enough others have shared for this client's vector to go on. Nothing goes out yet."""
        with self._answering(Step.accept):
            session, own = self._session, self._number
            inbox = Inbox.from_bytes(body, len(session.clients), session.parameters.neighbours)
            rules.check_self(inbox.sharers, own, "sharers")
            rules.check_enough(inbox.sharers, self._header, self._floors, "sharers")
            rules.check_holders(session, own, inbox.sharers, "sharers")
            rules.check_inbox(session, own, inbox)
            self._sharers = inbox.sharers
            self._held.open(session, own, [number for number, _ in self._peers()], inbox.boxes)

    def mask(self, vector: Lanes, tail: NDArray[np.uint64]) -> bytes:
        """Masked out. vector, tail: as the session's encoding says; both are overwritten.

        ValueError: they are not; the session is over for this client then, too.
        """
        with self._answering(Step.mask):
            _check_vector(self._header.encoding, vector, tail)
            self._held.add_masks(self._session, self._number, self._peers(), vector, tail, self._threads)
            claims = mask_claims(self._sharers, bytes_of(tail))
            tag = self._mac.tag(Stage.mask, bytes_of(vector), claims)
            signature = self._identity.key.sign(mask_text(self._session.context, claims, tag))
            return Masked(bytes_of(tail), tag, signature, bytes_of(vector)).to_bytes()

    def agree(self, body: bytes) -> bytes:
        """Survivors in, Agreed out. From here on this client is in no other session of the round."""
        with self._answering(Step.agree):
            self._survive(body)
            text = agree_text(self._session.context, self._sharers, self._survivors)
            return Agreed(self._identity.key.sign(text)).to_bytes()

    def unmask(self, body: bytes) -> bytes:
        """Quorum in (with an honest server: Survivors), Opened out. All secrets are gone then."""
        with self._answering(Step.unmask):
            session, own = self._session, self._number
            if self._header.agrees:
                quorum = Quorum.from_bytes(body, session.parameters.neighbours)
                keys = [advert.public for advert in self._adverts]
                rules.check_quorum(session, own, (self._sharers, self._survivors), quorum, keys)
            else:
                self._survive(body)
            opened = self._held.give(session.circle(own).tolist(), self._sharers, self._survivors)
            return replace(opened, tag=self._mac.tag(Stage.unmask, opened.claims)).to_bytes()

    def _make_advert(self, header: Header) -> Advert:
        self._vault = Vault(self._random)
        (mask, box), me = self._vault.publics, self._identity
        commitment = self._vault.commitment(header.sid)
        advert = Advert(me.client, mask, box, commitment, me.key.public, me.voucher, b"")
        return replace(advert, signature=me.key.sign(advert_text(header.digest, advert)))

    def _checked_session(self, roster: Roster) -> Session:
        header, clients = self._header, roster.clients
        rules.check_clients(len(clients), header, self._floors)
        rules.check_order(clients)
        rules.check_own(roster, self._advert)
        rules.check_known(clients, self._trust)
        parameters = rules.parameters_of(header, len(clients))
        rules.check_threshold(parameters, self._floors)
        return Session(header, clients, roster.digests, parameters)

    def _check_adverts(self, adverts: Sequence[Advert]) -> None:
        rules.check_graph(self._session, self._number, adverts)
        for advert in adverts:
            rules.check_root(self._session, advert)
            rules.check_certificate(advert, self._trust)
            rules.check_advert_signature(advert, self._header)
        rules.check_keys([self._advert, *adverts], self._header)

    def _peers(self) -> list[tuple[int, bytes]]:
        """The neighbours that shared: whom this client masks with."""
        numbers = self._session.graph[self._number].tolist()
        both = zip(numbers, self._adverts, strict=True)
        return [(number, advert.mask) for number, advert in both if self._sharers[number]]

    def _survive(self, body: bytes) -> None:
        """Take the survivors, whose sum this client will help to open: once in a round."""
        session, own, header = self._session, self._number, self._header
        survivors = Survivors.from_bytes(body, len(session.clients)).members
        rules.check_within(survivors, self._sharers)
        rules.check_self(survivors, own, "survivors")
        rules.check_enough(survivors, header, self._floors, "survivors")
        rules.check_holders(session, own, survivors, "survivors")
        rules.check_connected(session, survivors)
        rules.check_unsigned(header, self._sessions)  # another session may have come further in between
        self._sessions.sign(header.job, header.round, header.kind, header.model)
        self._survivors = survivors

    @property
    def _held(self) -> Vault:
        if self._vault is None:
            raise ValueError("the secrets of this session are gone")
        return self._vault

    @property
    def _mac(self) -> Link:
        if self._link is None:
            raise ValueError("the secrets of this session are gone")
        return self._link

    @contextmanager
    def _answering(self, step: Step) -> Iterator[None]:
        """One step: in its turn, once; the end of the session if anything but its form is wrong."""
        try:
            rules.check_turn(step, self._next)
            yield
        except WireError as error:  # in reading the body, before anything was done: anybody can send garbage
            raise ProtocolRefused("malformed", str(error)) from error
        except BaseException as error:
            self._erase()
            if isinstance(error, CryptoError):
                raise ProtocolRefused("low order", str(error)) from error
            raise
        self._next = self._order[step]
        if self._next is None:
            self._erase()
            self.done = True

    def _erase(self) -> None:
        """Drop all references to secrets: more, Python cannot."""
        self._next = self._vault = self._link = None


def _check_vector(encoding: Encoding, vector: Lanes, tail: NDArray[np.uint64]) -> None:
    wanted = ((encoding.words,), np.dtype(f"u{encoding.width // 8}"), (encoding.tail,), np.dtype(np.uint64))
    if (vector.shape, vector.dtype, tail.shape, tail.dtype) != wanted:
        raise ValueError(
            f"the session sums {encoding.words} lanes of {encoding.width} bits and {encoding.tail} of 64; "
            f"here {vector.shape} {vector.dtype} and {tail.shape} {tail.dtype}"
        )
