"""A job that a client has joined, and all that it has of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TypeAlias

from fedkit import jobfile, packing, wire
from fedkit.errors import ClientFailed, ConfigError, ProtocolRefused, WireError, nearest
from fedkit.federation import Request, Verdict
from fedkit.job import Job
from fedkit.messages import ClientId, EncodedUpdate, Failure, Key, Task
from fedkit.participant import Answer, Participant
from fedkit.secagg.identity import Floors
from fedkit.secagg.messages import FromServer, Stage
from fedkit.secureclient import Credentials, task_key
from fedkit.tensors import Layout
from fedkit.trainer import Workload, frozen, travelling
from fedkit_clients.edge.answers import Unreachable
from fedkit_clients.edge.device import Device
from fedkit_clients.edge.models import Fetch, Models
from fedkit_clients.edge.offers import Blob
from fedkit_clients.edge.root import Root
from fedkit_clients.edge.spool import Spool
from fedkit_clients.edge.talk import Talk, lost

log = logging.getLogger("fedkit.edge")
Vouch: TypeAlias = Callable[[Floors], Credentials]


class Misfit(ConfigError):
    """This client cannot take part in a job. `subject`, a word, may leave the device, the text does not."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(reason)
        self.subject = subject


@dataclass
class Joined:
    """One job, and all that a client has of it.

    What it did is safe on the disk when a method returns; of secure sessions, what must be remembered is.
    """

    run: str
    job: Job
    spool: Spool
    participant: Participant
    models: Models
    fetch: Fetch
    talk: Talk
    device: Device
    ahead: float = 0.0
    """Of the clock of the run over time.monotonic."""
    refused: dict[Key, Answer] = field(default_factory=dict)
    """What was said to tasks of secure sessions that the client refused: their sessions hear the same."""

    @property
    def busy(self) -> bool:
        """Whether there is anything to do but to wait for news."""
        return self.spool.busy or self.talk.busy

    def secure(self) -> None:
        """Tasks that wait, and their models, are on the disk for good, and may be acknowledged."""
        if needed := self.spool.secure():
            self.models.secure(needed)

    def settle(self, key: Key, verdict: Verdict) -> None:
        """Act on a verdict."""
        if (name := self.spool.name(key)) is not None:
            self.device.over(name)
        self.participant.settle(key, verdict)
        self.spool.settle(key)
        self.talk.forget(key)
        self.refused.pop(key, None)

    def train(self) -> Task | None:
        """Do one task, if there is one; those of secure sessions are held for them."""
        while (found := self.spool.next_task()) and found[2].session:
            self.hold(*found)
        if found:
            name, model, task = found
            reply = self._reply(name, model, task) or lost(task.key)
            self._warn(reply)
            self._finish(name, task, reply)
        self.models.prune(self.spool.needed())
        return found[2] if found else None

    def hold(self, name: str, model: str, task: Task) -> None:
        """Take a task of secure sessions, unless the client refuses it."""
        refused = self._reply(name, model, task)
        if refused:
            self.refused[task.key] = refused
            self._finish(name, task, refused)
        elif self.spool.name(task.key) == name:
            self.spool.hold(name, self.participant.pending().get(task.key))

    def answer(self) -> None:
        """Answer what sessions ask; the client trains where one asks for its masked update."""
        for key in self.talk.answer(self._said):
            name, made = self.spool.name(task_key(key)), self.participant.pending().get(task_key(key))
            if key.stage == Stage.mask and made and name:
                self.spool.hold(name, made)

    def take_last(self, client: ClientId, version: int, blob: Blob) -> None:
        """Write the model of a run that is over, if the owner wants it: no task will bring it."""
        out = self.device.model_out
        if out is None or not out.wants(self.job.id, version):
            return
        try:
            if blob.bytes != self.job.layout.nbytes:
                raise WireError(f"it has {blob.bytes} bytes, the job's has {self.job.layout.nbytes}")
            model = packing.read([self.job.layout], self.fetch(blob))[0]
        except WireError as error:
            log.error("the last model is not written: %s", error)
            return
        out.write(self.job.id, version, self.participant.whole(client, model))
        if not out.wants(self.job.id, version):  # else it is on the disk, and need not be fetched again
            self.spool.drop_parts([blob])

    def _said(self, request: FromServer) -> Answer:
        if (said := self.refused.get(task_key(request.key))) is not None:
            return replace(said, key=request.key)
        return self._handled(request) or lost(request.key)

    def _reply(self, name: str, model: str, task: Task) -> Answer | None:
        """What the participant answers; nothing to a task that it holds for secure sessions."""
        try:
            self.device.demand(self.job, task, name)
            whole = replace(task, model=self.models.read(model))
            self.device.received(self.participant, whole)
        except WireError as error:
            self.spool.drop(name)
            raise Unreachable(f"{error}: the task is to come once more") from error
        except ProtocolRefused as error:
            return self._noted(Failure(task.key, "refused", type(error).__name__, error.rule, str(error)))
        return self._handled(whole, self.device.room(task.deadline - self.ahead - time.monotonic()))

    def _handled(self, request: Request, room: int = 0) -> Answer | None:
        replies = self.participant.handle(request, room)
        return self._noted(replies[0]) if replies else None

    def _noted(self, reply: Answer) -> Answer:
        """The reply; a failure is told to the device's own log in full, and to others as its owner wants."""
        if isinstance(reply, Failure):
            log.error("round %d failed (%s):\n%s", reply.key.round + 1, reply.code, reply.detail)
            return self.device.told(reply)
        return reply

    def _warn(self, reply: Answer) -> None:
        """Tell the owner why the aggregator, which says only that, is going to refuse an update."""
        most = self.job.grid.max_weight
        if isinstance(reply, EncodedUpdate) and reply.weight > most:
            log.error(
                "round %d: a weight of %g, above the job's maximum of %g: the aggregator refuses that, until "
                "its scenario has a larger aggregate.max_weight",
                *(reply.key.round + 1, reply.weight, most),
            )

    def _finish(self, name: str, task: Task, reply: Answer) -> None:
        self.spool.finish(name, wire.encode(reply), self.participant.pending().get(task.key, {}))
        log.info("round %d: %s done", task.key.round + 1, task.key.kind)


def begin(
    run: str,
    data: bytes,
    client: ClientId,
    workload: Workload,
    root: Root,
    vouch: Vouch | None,
    device: Device,
    fetching: Callable[[Spool], Fetch],
) -> Joined:
    """Take part in a run of the job in `data`, going on where the spool of `root` is.

    vouch: who the client is in secure sessions. fetching: how blobs come. WireError: the job is not
    understood; ConfigError: this client cannot take part.
    """
    try:
        job = jobfile.decode(data)
    except ClientFailed as error:
        told = f"this client cannot take part: {error}; install what it names"
        raise Misfit(error.subject, told) from error
    _demand_fit(job, workload, client, vouch)
    spool = root.begin(run, job.id, data)
    credentials = vouch(device.floors(job)) if vouch is not None else None
    fetch = fetching(spool)
    models = Models(spool.folder / "models", job, workload, fetch)
    spool.drop_without(models.holds)
    participant = Participant(job, workload, spool.store, credentials)
    participant.restore(spool.pending())
    joined = Joined(run, job, spool, participant, models, fetch, Talk(job.id, client), device)
    for held in spool.held():
        joined.hold(*held)
    log.info("joined job %s as %s", job.id, client)
    return joined


def _demand_fit(job: Job, workload: Workload, client: ClientId, vouch: Vouch | None) -> None:
    """ConfigError unless this client can do the tasks of the job."""
    if job.secagg is not None and vouch is None:
        raise Misfit(
            "secagg",
            "the job asks for secure sums, and this client does not know whom to believe in them: give it "
            "the roster of the federation, or let it join with a certificate",
        )
    known = workload.clients()
    if client not in known:
        raise Misfit("data", f"the workload has no data of client {client!r}; {nearest(client, known)}")
    layout = travelling(workload.init(job.model_seed), frozen(workload), job.strategy.shared)
    if layout != job.layout:
        raise Misfit(
            "model",
            f"the job is for a model of other tensors than the workload's ({_apart(job.layout, layout)}): "
            "give the workload of the aggregator, with the same options",
        )


def _apart(theirs: Layout, ours: Layout) -> str:
    """The first tensor in which two layouts differ."""
    rows = [list(zip(of.names, of.shapes, of.dtypes, strict=True)) for of in (theirs, ours)]
    there, here = next((a, b) for a, b in zip_longest(*rows) if a != b)
    return f"{_shown(there)} there, {_shown(here)} here"


def _shown(tensor: tuple[str, tuple[int, ...], str] | None) -> str:
    return f"{tensor[0]!r} {list(tensor[1])} {tensor[2]}" if tensor else "no more"
