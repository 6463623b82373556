"""One secure session over a federation: its stages in turn, each until its deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain

from fedkit import wire
from fedkit.errors import PeerRefused, SecAggAborted
from fedkit.federation import Arrival, Federation, Standing, Verdict
from fedkit.messages import ClientId, Failure, Key, Task
from fedkit.secagg.evidence import Answers
from fedkit.secagg.header import Header
from fedkit.secagg.messages import FromClient, FromServer, Stage
from fedkit.secagg.server import SecAggServer, SecureSum

SHARES = (0.1, 0.2, 0.8, 0.9, 1.0)
"""Of a session's time, when each stage has to be over: training is done by the third."""


def deadlines(start: float, end: float) -> tuple[float, ...]:
    """When each stage of a session from `start` to `end` closes, on the federation's clock."""
    return (*(start + share * (end - start) for share in SHARES[:-1]), end)


@dataclass
class Session:
    """A session and what became of those who were invited.

    want: clients in the sum that are enough; quorum: fewer are too few; most: for how many the encoding has
    room. conflict: told at once when a client contradicts itself. Afterwards: failures and refused, by
    client; missing: who had not answered when which stage closed, and how they stood; answered: clients per
    stage; full: there were enough masked updates; bytes and CPU seconds of the protocol.
    """

    federation: Federation
    server: SecAggServer
    header: Header
    want: int
    quorum: int
    most: int
    invited: Sequence[ClientId]
    conflict: Callable[[Answers], None]
    failures: dict[ClientId, Failure] = field(default_factory=dict)
    refused: dict[ClientId, str] = field(default_factory=dict)
    missing: dict[ClientId, tuple[Stage, Standing | None]] = field(default_factory=dict)
    answered: dict[Stage, int] = field(default_factory=dict)
    _waiting: set[ClientId] = field(default_factory=set)
    full: bool = False
    up: int = 0
    down: int = 0
    seconds: float = 0.0

    def run(self, tasks: Iterable[Task] = ()) -> SecureSum:
        """The sum; tasks are sent with the first messages. SecAggAborted if there is none."""
        first = list(tasks)
        for stage, closes in zip(Stage, self.header.deadlines, strict=True):
            if self.server.stage is not stage:
                continue  # nothing is agreed upon with an honest server
            self._stage(stage, closes, first)
            first = []
            self._advance(stage)
        return self.server.result()

    @property
    def lost(self) -> dict[ClientId, Stage]:
        """At which stage each of those who are gone was lost."""
        failed = {client: Stage(one.key.stage or Stage.advertise) for client, one in self.failures.items()}
        silent = {client: stage for client, (stage, _) in self.missing.items()}
        return {**self.server.lost(), **silent, **failed}

    @cached_property
    def unwanted(self) -> frozenset[ClientId]:
        """Who was still at work when there were enough masked updates; to be asked when all is over."""
        found = self.missing.items() if self.full else ()
        return frozenset(c for c, (at, how) in found if at is Stage.mask and how is not None and how.alive)

    @property
    def left(self) -> tuple[ClientId, ...]:
        """Who has kept up so far."""
        gone = self.lost
        return tuple(client for client in self.invited if client not in gone)

    def _stage(self, stage: Stage, closes: float, tasks: Sequence[Task]) -> None:
        outbox = self.server.outbox()
        asked, self._waiting = {self._key(stage, client) for client in outbox}, set(outbox)
        enough = self._enough(len(asked)) if stage is Stage.mask else len(asked)
        self.answered[stage] = 0
        self.federation.send(chain(tasks, self._requests(stage, outbox)))
        for arrival in self.federation.receive(closes):
            self._take(arrival, asked)
            if not self._waiting or self.answered[stage] >= enough:
                break
        self._close(stage, asked)

    def _requests(self, stage: Stage, outbox: Mapping[ClientId, bytes]) -> Iterator[FromServer]:
        """One at a time: all of them together can be large."""
        for client in outbox:
            began = time.thread_time()
            request = FromServer(self._key(stage, client), outbox[client])
            self.seconds += time.thread_time() - began
            self.down += wire.size(request)
            yield request

    def _take(self, arrival: Arrival, asked: set[Key]) -> None:
        key, reply = arrival.key, arrival.reply
        waits = key.client in self._waiting
        if isinstance(reply, Failure) and (self._task_of(key) or (waits and key in asked)):
            self.failures.setdefault(key.client, replace(reply, key=key))
            if waits:
                self._waiting.remove(key.client)
                self.server.drop(key.client)
        elif isinstance(reply, FromClient) and key in asked:
            self._judge(key, reply)
        elif key in asked:
            self.refused[key.client] = f"answered {key.stage} with a {type(reply).__name__}"

    def _judge(self, key: Key, reply: FromClient) -> None:
        began, size = time.thread_time(), wire.size(reply)
        try:
            fresh = self.server.receive(key.client, reply.body)
        except PeerRefused as error:
            self.refused[key.client] = str(error)
            if error.rule == "conflict":
                self.conflict(self.server.answers)
            return
        finally:
            self.seconds += time.thread_time() - began
        if fresh:
            self._waiting.discard(key.client)
            self.answered[Stage(key.stage)] += 1
            self.up += size - (self.header.encoding.vector_bytes if key.stage == Stage.mask else 0)

    def _close(self, stage: Stage, asked: set[Key]) -> None:
        """Note how the missing stand, and let the federation forget the stage."""
        missing = self._waiting
        standing = self.federation.outstanding() if missing else {}
        for client in missing:
            self.missing[client] = (stage, standing.get(self._key(stage, client)))
        self.federation.settle(
            {key: Verdict.lost if key.client in missing else Verdict.counted for key in sorted(asked)}
        )

    def _advance(self, stage: Stage) -> None:
        """Close the stage. Below the quorum nobody is asked to open a sum that would be thrown away."""
        counted = self.answered[stage]
        if stage is Stage.mask:
            self.full = counted >= self.want
            if counted < self.quorum:
                raise SecAggAborted(
                    f"{counted} masked updates came, the quorum is {self.quorum}", retry=False
                )
        began = time.process_time()  # masks may be removed by several threads
        try:
            self.server.advance()
        finally:
            self.seconds += time.process_time() - began

    def _enough(self, asked: int) -> int:
        """Masked vectors after which the others are not waited for: those wanted, if they can be unmasked."""
        chosen = self.server.parameters
        needed = chosen.threshold if chosen is not None and chosen.complete else 0
        return min(asked, self.most, max(self.want, needed))

    def _key(self, stage: Stage, client: ClientId) -> Key:
        header = self.header
        return Key(header.job, header.round, header.kind, stage.value, header.attempt, client)

    def _task_of(self, key: Key) -> bool:
        """Whether it is that of a task of this round: one of another says nothing about this session."""
        header = self.header
        return key.client in self.invited and key == Key(
            header.job, header.round, header.kind, "", 0, key.client
        )
