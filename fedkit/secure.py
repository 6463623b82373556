"""One round's replies summed in secret: ends in the same sum as `collect`, with a fate for everyone.

A session that aborts is followed by another one, among those who had kept up, only while no client can have
signed who survived: a second sum over others would differ from the first by somebody's update.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from fedkit.aggregate import WeightedSum
from fedkit.codecs import CodecContext
from fedkit.collect import Collected, Notify, told
from fedkit.cores import mask_threads
from fedkit.errors import SecAggAborted
from fedkit.federation import Federation, Plan, Verdict, Witness, server_trust, witness
from fedkit.history import Fate, Outcome, SecureRecord
from fedkit.job import Job
from fedkit.messages import ClientId, Failure, Key, Kind, Task
from fedkit.quarantine import Quarantine
from fedkit.secagg.header import SID_BYTES, Header
from fedkit.secagg.identity import RANDOM, AgreementKey, Trust, draw
from fedkit.secagg.messages import Stage
from fedkit.secagg.server import SecAggServer, SecureSum
from fedkit.secagg.settings import SecAgg
from fedkit.securesession import Session, deadlines
from fedkit.securesum import encoding_of, given_to_all, unpack

log = logging.getLogger("fedkit")

_VERDICTS: Mapping[Outcome, Verdict] = {
    Outcome.counted: Verdict.counted,
    Outcome.failed: Verdict.refused,
    Outcome.refused: Verdict.refused,
    Outcome.unwanted: Verdict.unwanted,
    Outcome.late: Verdict.late,
    Outcome.lost: Verdict.lost,
}


class SecureCollector:
    """Sums the updates of one round in secret. settings: those of the job. number: that of the next session
    of a round; none comes twice. quarantine: who is in no session; who contradicts itself joins it at once.
    """

    def __init__(
        self,
        federation: Federation,
        job: Job,
        settings: SecAgg,
        plan: Plan,
        ctx: CodecContext,
        zero: WeightedSum,
        notify: Notify,
        number: Callable[[Kind, int], int],
        quarantine: Quarantine,
    ) -> None:
        self._federation, self._job, self._settings = federation, job, settings
        self._plan, self._ctx, self._notify, self._number = plan, ctx, notify, number
        self._trust = server_trust(federation)
        self._sessions: list[Session] = []
        self._aborts: list[str] = []
        self._quarantine = quarantine
        self._members: frozenset[ClientId] = frozenset()
        self._client_seconds: float | None = None
        self._verified: bool | None = None
        self.result = Collected(zero)

    def run(self, tasks: Mapping[Key, Task]) -> Collected:
        """Open sessions until one brings a sum, or none may follow."""
        invited, least = self._free(sorted(key.client for key in tasks)), self._settings.policy.least
        few = ""
        for _ in range(1 + self._settings.retries if tasks else 0):
            if len(invited) < least:
                few = f"{len(invited)} clients can take part, a secure sum takes {least} or more"
                break
            again = self._attempt(invited, [task for key, task in tasks.items() if key.client in invited])
            if not again or self._federation.now() >= self._plan.deadline:
                break
            invited = self._free(self._sessions[-1].left)
        if tasks and not self._members:
            reasons = filter(None, (*self._aborts[-1:], few))
            what = "aborted" if self._aborts else "not begun"
            self.result.aborted = f"secure aggregation {what}: {'; '.join(reasons)}"
        self._tell_fates(tasks)
        self.result.secagg = self._record()
        return self.result

    def _attempt(self, invited: list[ClientId], tasks: list[Task]) -> bool:
        """One session; whether another may follow."""
        kind = tasks[0].key.kind
        attempt = self._number(kind, self._plan.round)
        session = self._open(attempt, invited, tasks[0])
        first = [] if self._sessions else [self._announced(task, session.header) for task in tasks]
        self._sessions.append(session)
        try:
            summed = session.run(first)
            seeds = [self._plan.seeds[client] for client in summed.members]
            total = unpack(self._job, kind, summed.vector, summed.tail, seeds, self._ctx)
        except SecAggAborted as error:
            log.warning("round %d, session %d: %s", self._plan.round + 1, attempt + 1, error)
            self._aborts.append(error.reason)
            self._seen(session)
            return error.retry
        self._members, self.result.total = frozenset(summed.members), total
        self.result.counted = len(summed.members)
        seen = self._seen(session)
        if self._settings.verify and seen is not None:
            self._verified = _equal(summed, seen)
        return False

    def _free(self, clients: Iterable[ClientId]) -> list[ClientId]:
        """Those who are not in quarantine: some of a plan can be, if we died after they were caught."""
        return [client for client in clients if client not in self._quarantine.clients]

    def _open(self, attempt: int, invited: list[ClientId], task: Task) -> Session:
        """A session with keys of its own. task: any of the round."""
        job, settings, key, trust = self._job, self._settings, task.key, self._trust
        random = trust.random(key.kind, key.round, attempt) if trust is not None else RANDOM
        believed = trust.trust if trust is not None else Trust.none()
        sid, agreement = draw(random, SID_BYTES), AgreementKey.new(random)
        header = Header(
            suite=settings.suite,
            sid=sid,
            job=job.id,
            round=key.round,
            kind=key.kind,
            attempt=attempt,
            model=given_to_all(task),
            encoding=encoding_of(job, key.kind, key.round, self._ctx.scale),
            policy=settings.policy,
            clients=len(invited),
            explicit=settings.explicit,
            deadlines=deadlines(self._federation.now(), self._plan.deadline),
            identities=believed.kind,
            server=agreement.public,
        )
        signer = trust.signer if trust is not None else None
        server = SecAggServer(
            header, believed, invited, signer=signer, agreement=agreement, threads=mask_threads()
        )
        quorum = self._plan.quorum if key.kind == "train" else 1  # as in the clear
        limits = (self._plan.want, quorum, job.cohort)
        return Session(self._federation, server, header, *limits, invited, self._quarantine.take)

    def _announced(self, task: Task, header: Header) -> Task:
        """The task as one of sessions: to be done when masked updates are due."""
        return replace(task, session=header.sid.hex(), deadline=header.deadlines[2])

    def _seen(self, session: Session) -> Witness | None:
        """What a simulation saw of the session; its clients' time is added up."""
        header = session.header
        seen = witness(self._federation, header.kind, header.round, header.attempt)
        if seen is not None:
            self._client_seconds = (self._client_seconds or 0.0) + seen.client_seconds
        return seen

    def _tell_fates(self, tasks: Iterable[Key]) -> None:
        ended = [(session, session.lost) for session in self._sessions]
        last = {client: end for end in ended for client in end[0].invited}
        for key in sorted(tasks):
            session, lost = last.get(key.client, (None, {}))
            failure = session.failures.get(key.client) if session is not None else None
            if failure is not None:
                self._log(key, failure)
                self.result.first_failure = self.result.first_failure or failure
            fate = self._fate(key.client, session, lost.get(key.client))
            self.result.fates[key.client] = fate
            self.result.verdicts[key] = _VERDICTS[fate.outcome]
            self._notify(key.client, fate, self.result.counted, failure)

    def _log(self, key: Key, failure: Failure) -> None:
        """The traceback of the first failure only: those of the others are much the same."""
        detail = f"\n{failure.detail}" if failure.detail and self.result.first_failure is None else ""
        log.warning("round %d: client %s failed: %s%s", key.round + 1, key.client, told(failure), detail)

    def _fate(self, client: ClientId, session: Session | None, stage: Stage | None) -> Fate:
        if client in self._members:
            return Fate(Outcome.counted, f"lost at {stage}, when its update was in the sum" if stage else "")
        if session is not None and client in session.failures:
            return Fate(Outcome.failed, told(session.failures[client]))
        if client in self._quarantine.clients:
            return Fate(Outcome.refused, f"it sent {self._quarantine.clients[client]}")
        if session is None:
            return Fate(Outcome.unwanted, "no session was opened")
        if stage is None:
            return Fate(Outcome.unwanted, "the session was aborted")
        if client in session.unwanted:
            return Fate(Outcome.unwanted, "enough others had sent their masked updates")
        if client in session.refused:
            return Fate(Outcome.refused, f"at {stage}: {session.refused[client]}")
        _, standing = session.missing.get(client, (stage, None))
        alive = standing is not None and standing.alive
        note = f": {standing.note}" if standing is not None and standing.note else ""
        outcome = Outcome.late if alive else Outcome.lost
        return Fate(outcome, f"at {stage}: no answer before the stage closed{note}")

    def _record(self) -> SecureRecord:
        settings, sessions = self._settings, self._sessions
        last = sessions[-1] if sessions else None
        found = last.server.parameters if last is not None else None
        reached = {"invited": len(last.invited)} if last is not None else {}
        lost: dict[str, list[ClientId]] = {}
        for session in sessions:
            for client, stage in sorted(session.lost.items()):
                if client not in session.unwanted:
                    lost.setdefault(stage.value, []).append(client)
        return SecureRecord(
            mode=settings.policy.mode.value,
            suite=settings.suite.name.lower(),
            identities=self._trust.trust.kind if self._trust is not None else "none",
            width=last.header.encoding.width if last is not None else settings.width,
            reached=reached | ({s.value: n for s, n in last.answered.items()} if last is not None else {}),
            neighbours=found.neighbours if found is not None else 0,
            threshold=found.threshold if found is not None else 0,
            colluding=found.colluding if found is not None else 0,
            attempts=len(sessions),
            aborts=tuple(self._aborts),
            lost={stage: tuple(lost[stage]) for stage in Stage if stage in lost},
            bytes_up=sum(session.up for session in sessions),
            bytes_down=sum(session.down for session in sessions),
            client_seconds=self._client_seconds,
            server_seconds=sum(session.seconds for session in sessions),
            verified=self._verified,
            offenders=tuple(sorted({str(made) for s in sessions for made in s.server.offences})),
            quarantined=dict(sorted(self._quarantine.clients.items())),
        )


def _equal(summed: SecureSum, seen: Witness) -> bool:
    """Whether the sum is that of the members' vectors before they were masked, lane by lane."""
    if not all(client in seen.packed for client in summed.members):
        return False
    vector, tail = np.zeros_like(summed.vector), np.zeros_like(summed.tail)
    for client in summed.members:
        vector += seen.packed[client][0]
        tail += seen.packed[client][1]
    return bool(np.array_equal(vector, summed.vector) and np.array_equal(tail, summed.tail))
