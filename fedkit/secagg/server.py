"""The server of a secure session: a machine without clock or I/O.

`outbox` has the messages of the present stage, `receive` takes answers, `advance` closes the stage: those
who have not answered are lost. Masked vectors are added as they come and never kept; what the server holds
grows with the vector once, and with clients and neighbours by bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import ConfigError, PeerRefused, SecAggAborted, many
from fedkit.messages import ClientId
from fedkit.secagg.blame import Offence
from fedkit.secagg.closing import Agreed, Masked, Opened
from fedkit.secagg.evidence import Answers
from fedkit.secagg.frames import Flags
from fedkit.secagg.header import Header
from fedkit.secagg.identity import AgreementKey, SigningKey, Trust
from fedkit.secagg.intake import Answer, Intake, stage_of
from fedkit.secagg.messages import BOX_BYTES, Advert, Boxes, Opening, Roster, Stage
from fedkit.secagg.outgoing import Board, Outbox
from fedkit.secagg.parameters import Parameters
from fedkit.secagg.primitives.masks import Lanes
from fedkit.secagg.recovery import Recovery, miscounted, needed, remove_masks
from fedkit.secagg.session import Session, header_text, lanes_of

NEXT: Final[Mapping[Stage, Stage]] = {
    Stage.advertise: Stage.share,
    Stage.share: Stage.mask,
    Stage.mask: Stage.agree,
    Stage.agree: Stage.unmask,
}
NEXT_UNAGREED: Final[Mapping[Stage, Stage]] = {**NEXT, Stage.mask: Stage.unmask}
"""With an honest server."""

RETRY: Final = frozenset({Stage.advertise, Stage.share, Stage.mask})
"""While these are being closed, nobody has been told who survives: another session is safe."""


@dataclass(frozen=True)
class SecureSum:
    """The sum over `members`, sorted: lanes modulo 2^width, and the tail modulo 2^64."""

    vector: Lanes
    tail: NDArray[np.uint64]
    members: tuple[ClientId, ...]


class SecAggServer:
    """One session.

    clients: whom it is for. signer: the aggregator's identity key, None without identities. agreement: a
    fresh key, its public part in the header. threads: how many remove masks. ConfigError: these do not fit.
    """

    def __init__(
        self,
        header: Header,
        trust: Trust,
        clients: Sequence[ClientId],
        *,
        signer: SigningKey | None,
        agreement: AgreementKey,
        threads: int = 1,
    ) -> None:
        _check_arguments(header, trust, clients, signer, agreement)
        self.header, self._threads = header, threads
        self.stage, self.done = Stage.advertise, False
        self.u1: tuple[ClientId, ...] = ()
        self.u2: tuple[ClientId, ...] = ()
        self.u3: tuple[ClientId, ...] = ()
        self.parameters: Parameters | None = None
        self._wrong: tuple[Offence, ...] = ()
        self._order = NEXT if header.agrees else NEXT_UNAGREED
        data = header.to_bytes()
        opening = Opening(data, signer.sign(header_text(data)) if signer else b"").to_bytes()
        self._board = Board(header, opening)
        self._intake, self.answers = Intake(self._board, trust, agreement), Answers(trust)
        self._asked = frozenset(clients)
        self._dropped: set[ClientId] = set()
        self._lost: dict[ClientId, Stage] = {}
        self._over = False
        # known once the roster is
        self._total: tuple[Lanes, NDArray[np.uint64]]
        self._recovery: Recovery
        self._sum: SecureSum | None = None

    def outbox(self) -> Mapping[ClientId, bytes]:
        """The messages of the present stage, for those who are asked."""
        if self._over:
            return {}
        return Outbox(self._board, self.stage, self._asked)

    def waiting(self) -> frozenset[ClientId]:
        """Who is asked, has not answered, and has not been dropped."""
        return frozenset() if self._over else self._asked - self.answers.of(self.stage) - self._dropped

    def lost(self) -> Mapping[ClientId, Stage]:
        """Every client that is gone, and the stage that it did not answer."""
        return dict(self._lost)

    def drop(self, client: ClientId) -> None:
        """It has failed: the present stage does not wait for it."""
        self._dropped.add(client)

    def receive(self, client: ClientId, body: bytes) -> bool:
        """Take an answer: True; False if it is a copy of one that was taken.

        PeerRefused: anything else; the session is as it was. Of two different answers the first counts, and
        the client is among `answers.caught`.
        """
        stage = stage_of(client, body)
        known = client in self.answers.of(stage)
        if self._over or not (known or (stage is self.stage and client in self._asked)):
            raise PeerRefused(client, "stage", f"its {stage} message is not asked for (any more)")
        answer, said = self._intake.read(stage, client, body)
        if not known:
            self._take(client, answer)
            self.answers.take(stage, client, said)
            return True
        if self.answers.repeats(stage, self._board.adverts[client], said):
            return False
        raise PeerRefused(client, "conflict", f"it sent two different {stage} messages; the first one counts")

    def advance(self) -> None:
        """Close the stage. SecAggAborted: the session cannot go on, and its secrets are gone."""
        if self._over:
            raise ValueError("this session is over")
        answered = self.answers.of(self.stage)
        for client in self._asked - answered:
            self._lost[client] = self.stage
        self._dropped.clear()
        _CLOSE[self.stage](self, tuple(sorted(answered)))

    @property
    def offences(self) -> tuple[Offence, ...]:
        """What is known of clients that broke the protocol: answers that conflict, wrong shares."""
        return self.answers.offences + self._wrong

    def result(self) -> SecureSum:
        """The sum, once `done`."""
        if self._sum is None:
            raise ValueError("this session has no result")
        return self._sum

    def _take(self, client: ClientId, answer: Answer) -> None:
        match answer:
            case Advert():
                self._intake.advertised(answer)
            case Boxes():
                rows = np.frombuffer(answer.claims, np.uint8).reshape(-1, BOX_BYTES)
                self._board.boxes[self._session.number[client]] = rows
            case Masked():
                vector, tail = self._total
                np.add(
                    vector, lanes_of(answer.vector, self.header.encoding.width), out=vector, casting="equiv"
                )
                np.add(tail, lanes_of(answer.tail, 64), out=tail, casting="equiv")
            case Agreed():
                self._board.signatures[client] = answer.signature
            case Opened():
                self._recovery.take(self._session.number[client], answer)

    # Closing a stage

    def _close_advertise(self, answered: tuple[ClientId, ...]) -> None:
        self.u1 = answered
        self._check_enough(answered, "advertised")
        try:
            self.parameters = self.header.parameters(len(answered))
        except ConfigError as error:
            self._abort(str(error))
        digests = tuple(self._board.adverts[client].digest for client in answered)
        self._board.session = Session(self.header, answered, digests, self.parameters)
        try:
            _ = self._board.session.graph
        except ConfigError as error:
            self._abort(str(error))
        self._board.head = Roster.head(answered, digests)
        self._board.boxes = np.zeros((len(answered), self.parameters.neighbours, BOX_BYTES), np.uint8)
        self._next(answered)

    def _close_share(self, answered: tuple[ClientId, ...]) -> None:
        self.u2 = answered
        self._check_enough(answered, "shared")
        sharers = self._board.sharers = self._session.flags(answered)
        self._check_holders(np.flatnonzero(sharers).tolist(), sharers)
        encoding = self.header.encoding
        vector: Lanes = np.zeros(encoding.words, f"u{encoding.width // 8}")
        self._total = vector, np.zeros(encoding.tail, np.uint64)
        self._next(answered)

    def _close_mask(self, answered: tuple[ClientId, ...]) -> None:
        self.u3 = answered
        del self._board.boxes
        self._check_enough(answered, "sent a vector")
        session, sharers = self._session, self._board.sharers
        survivors = self._board.survivors = session.flags(answered)
        self._check_holders(needed(session, sharers, survivors), survivors)
        if not session.connected(survivors):
            self._abort(f"{len(answered)} of {len(self.u1)} clients are left: parts of the sum could show")
        self._recovery = Recovery(session, self._board.roster, sharers, survivors)
        self._next(answered)

    def _close_agree(self, answered: tuple[ClientId, ...]) -> None:
        # those who would find no quorum are those whose own secrets nobody could rebuild
        self._check_holders(self._recovery.owners, self._session.flags(answered))
        self._next(answered)

    def _close_unmask(self, answered: tuple[ClientId, ...]) -> None:
        if short := self._recovery.short():
            self._wrong = self._recovery.offences
            self._abort(f"fewer than t={self._threshold} shares came of {self._names(short)}")
        secrets = self._recovery.secrets()
        self._wrong = self._recovery.offences
        if isinstance(secrets, str):
            self._abort(secrets)
        board = self._board
        remove_masks(board.session, board.roster, board.survivors, secrets, self._total, self._threads)
        if why := miscounted(self._total[1], len(self.u3)):
            self._abort(why)
        self._sum = SecureSum(*self._total, self.u3)
        self._end()
        self.done = True

    @property
    def _session(self) -> Session:
        return self._board.session

    @property
    def _threshold(self) -> int:
        return self._session.parameters.threshold

    def _next(self, asked: Iterable[ClientId]) -> None:
        self.stage, self._asked = self._order[self.stage], frozenset(asked)

    def _check_enough(self, clients: Sequence[ClientId], did: str) -> None:
        if len(clients) < (least := self.header.policy.least):
            self._abort(f"{many(len(clients), 'client')} {did}; {least} are the fewest")

    def _check_holders(self, owners: Sequence[int], alive: Flags) -> None:
        """Of each of these clients t holders are alive: else its secrets are lost."""
        counts = np.count_nonzero(alive[self._session.circles[owners]], axis=1)
        if short := [owner for owner, count in zip(owners, counts, strict=True) if count < self._threshold]:
            self._abort(f"fewer than t={self._threshold} holders are left for {self._names(short)}")

    def _names(self, numbers: Sequence[int]) -> str:
        shown = ", ".join(self._session.clients[number] for number in numbers[:3])
        return shown + (f" and {len(numbers) - 3} others" if len(numbers) > 3 else "")

    def _abort(self, reason: str) -> NoReturn:
        retry = self.stage in RETRY
        self._end()
        raise SecAggAborted(f"at {self.stage}: {reason}", retry)

    def _end(self) -> None:
        """Drop what could open anything."""
        self._over = True
        for name in ("_board", "_intake", "_recovery", "_total"):
            self.__dict__.pop(name, None)


_CLOSE: Final[Mapping[Stage, Callable[[SecAggServer, tuple[ClientId, ...]], None]]] = {
    Stage.advertise: SecAggServer._close_advertise,
    Stage.share: SecAggServer._close_share,
    Stage.mask: SecAggServer._close_mask,
    Stage.agree: SecAggServer._close_agree,
    Stage.unmask: SecAggServer._close_unmask,
}


def _check_arguments(
    header: Header,
    trust: Trust,
    clients: Sequence[ClientId],
    signer: SigningKey | None,
    agreement: AgreementKey,
) -> None:
    if len(set(clients)) < len(clients) or len(clients) > header.clients:
        raise ConfigError(
            f"{len(clients)} clients, {len(set(clients))} different; {header.clients} in the header"
        )
    if agreement.public != header.server:
        raise ConfigError("the agreement key of the server is not the one in the header")
    if trust.kind != header.identities:
        raise ConfigError(f"identities are {trust.kind!r} here and {header.identities!r} in the header")
    if trust.server != (signer.public if signer else b""):
        raise ConfigError("the key that signs headers is not the server's key that clients trust")
    if trust.kind == "none" and header.agrees:
        raise ConfigError(
            f"{header.policy.mode} takes identities: a roster or a CA; without them, honest_server"
        )
