"""The client's half of a round: messages in, messages out; no I/O, no clock.

One Participant serves every client of its process: all of them in simulation, one on a device.
Whatever goes wrong inside a client becomes a Failure. What a client remembers is written to its
store only when its update was counted.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

from fedkit import feedback
from fedkit.clientstore import ClientStore
from fedkit.codecs.none import Plain
from fedkit.dressing import codec_context, dress, figures, undress
from fedkit.errors import CheckpointError, ClientFailed, LayoutError, ProtocolRefused, UpdateRefused
from fedkit.federation import Request, Verdict
from fedkit.job import Job
from fedkit.messages import SCALE, ClientId, EncodedUpdate, Failure, Key, Pass, Task, Trained, Update
from fedkit.secagg.messages import FromClient, FromServer
from fedkit.secureclient import Credentials, SecureClients
from fedkit.tensors import Memory, Tensors, add, sealed
from fedkit.trainer import Trainer, Workload, frozen, trained_part
from fedkit.usercode import NUMBERS, odd_state

Answer: TypeAlias = EncodedUpdate | Failure | FromClient
STRATEGY, PERSONAL = "strategy", "personal"
NEAR = 0.25
"""Share of the grid's limit from which on a client looks at what its codec makes of an update."""


class Participant:
    """Handles the tasks of one job for any client of `workload`."""

    def __init__(
        self, job: Job, workload: Workload, store: ClientStore, credentials: Credentials | None = None
    ) -> None:
        self._job = job
        self._workload = workload
        self._store = store
        self._pending: dict[Key, Mapping[str, Memory]] = {}
        whole = trained_part(workload.init(job.model_seed), frozen(workload))
        personal = {name: array for name, array in whole.items() if name not in job.layout.names}
        self._personal = sealed(personal)
        self.secure = SecureClients(job, credentials, self._update)

    def handle(self, request: Request, budget: int = 0, work: float = 1.0) -> Sequence[Answer]:
        """The replies to a request; an exception of the client's code becomes a Failure.

        A task of secure sessions has none: its sessions bring them. The task is handed on read-only: in
        simulation all clients share its tensors. budget: bytes that the client's link has room for until
        the deadline; 0 when unknown. work: the share of a task of secure sessions that the client can do, in
        (0, 1]; in others the task says it.
        """
        try:
            if isinstance(request, FromServer):
                return [self.secure.answer(request)]
            task = _sealed(request)
            if task.session:
                self.secure.hold(task, work)
                return []
            if self._job.secagg is not None:
                raise ProtocolRefused("session", "the job asks for secure sums, this task for a plain update")
            if task.key.kind == "evaluate":
                return [self._evaluate(task)]
            return [self._train(task, budget)]
        except ClientFailed as error:
            return [_failure(request.key, error, error.code, error.subject)]
        except ProtocolRefused as error:
            return [_failure(request.key, error, "refused", error.rule)]
        except CheckpointError as error:
            return [_failure(request.key, error, "memory")]
        except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001 - it may raise anything
            return [_failure(request.key, error, "exception")]

    def settle(self, key: Key, verdict: Verdict) -> None:
        """Commit what the client remembers of this exchange if it was counted, else forget it."""
        memories = self._pending.pop(key, {})
        self.secure.forget(key)
        if verdict is Verdict.counted:
            for stream, memory in memories.items():
                if stream != feedback.STREAM or key.round > self._residual_of(key.client):
                    self._store.put(key.client, stream, memory)

    def whole(self, client: ClientId, model: Tensors) -> Tensors:
        """All tensors of a model as this client has it: its own, and those that never change, beside it."""
        return {**self._workload.init(self._job.model_seed), **model, **self._newest(client)}

    def pending(self) -> Mapping[Key, Mapping[str, Memory]]:
        """Memory that waits for a verdict."""
        return self._pending

    def restore(self, pending: Mapping[Key, Mapping[str, Memory]]) -> None:
        """Continue with such memory."""
        self._pending = dict(pending)

    def _evaluate(self, task: Task) -> Answer:
        found = self._measured(task)
        return EncodedUpdate(task.key, "none", b"", *figures(found.weight, found.metrics), 1.0)

    def _measured(self, task: Task) -> Update:
        client = task.key.client
        model = {**task.model, **self._newest(client)} if self._personal else task.model
        metrics, examples = self._workload.trainer(client).evaluate(model)
        return Update({}, examples, metrics)

    def _train(self, task: Task, budget: int) -> Answer:
        if self._job.feedback and task.key.round <= self._residual_of(task.key.client):
            raise ClientFailed(
                "round",
                "residual",
                f"this client's update of round {task.key.round + 1} or of a later one was counted already",
            )
        update, memories = self._trained(task)
        try:
            reply, left = self._dress(task, update, budget)
        except LayoutError as error:
            raise ClientFailed("update", error.subject, error.reason) from error
        if left:
            memories = {**memories, feedback.STREAM: left}
        if memories:
            self._pending[task.key] = memories
        return reply

    def _update(self, task: Task) -> Update:
        """What a secure sum takes of the task, before it is packed."""
        if task.key.kind == "evaluate":
            return self._measured(task)
        update, memories = self._trained(task)
        if memories:
            self._pending[task.key] = memories
        return update

    def _trained(self, task: Task) -> tuple[Update, Mapping[str, Memory]]:
        """The update, and what the client is to remember if it is counted."""
        job, client = self._job, task.key.client
        strategy, trainer = job.strategy, self._workload.trainer(client)
        before = _unchangeable(self._store.get(client, STRATEGY))
        own = self._own(client)
        passes = strategy.begin(task, before)
        results, own = _run_passes(trainer, task, passes, own, job)
        update, after = strategy.finish(task, before, results)
        self._check(client, update.delta, update.extras)
        if why := odd_state(after, NUMBERS | {"float16", "float32", "float64"}):
            raise ClientFailed("memory", "strategy", f"finish returned memory that cannot be kept: {why}")
        memories = {STRATEGY: after} if after is not before else {}
        if own:
            memories = {**memories, PERSONAL: {"tensors": own}}
        return update, memories

    def _dress(self, task: Task, update: Update, budget: int) -> tuple[EncodedUpdate, Memory]:
        """The update dressed for travel and, with error feedback, what the codec left out of it."""
        job, key = self._job, task.key
        ctx = codec_context(job, key.round, task.seed, float(task.settings.get(SCALE, 0.0)), budget)
        if not job.feedback:
            reply = dress(job, key, update, ctx)
            if (
                not isinstance(job.codec_up, Plain)
                and feedback.largest(update.delta) > NEAR * job.grid.max_delta
            ):
                self._check_decoded(key.client, undress(job, reply, ctx).delta)
            return reply, {}
        memory = self._store.get(key.client, feedback.STREAM)
        wanted = feedback.compensated(update.delta, memory, key.round)
        sent = feedback.within(update.delta, wanted, job.grid.max_delta)
        reply = dress(job, key, replace(update, delta=sent), ctx)
        decoded = undress(job, reply, ctx).delta
        self._check_decoded(key.client, decoded)
        return reply, feedback.remainder(wanted, decoded, update.delta, key.round)

    def _check_decoded(self, client: ClientId, decoded: Tensors) -> None:
        """What the server will make of the reply is within the grid, too."""
        job = self._job
        try:
            job.grid.check(client, job.layout, job.layout.flatten(decoded), job.grid.max_delta)
        except UpdateRefused as error:
            reason = f"{error.reason}, as codec {job.codec_up.id!r} decodes it: raise aggregate.max_delta"
            raise ClientFailed("diverged", error.subject, reason) from error

    def _residual_of(self, client: ClientId) -> int:
        """The round whose residual the client has."""
        return feedback.committed(self._store.get(client, feedback.STREAM))

    def _own(self, client: ClientId) -> Tensors:
        """The client's personal tensors; the initial ones before its first counted update."""
        if not self._personal:
            return self._personal
        return sealed(self._store.get(client, PERSONAL).get("tensors", self._personal))

    def _newest(self, client: ClientId) -> Tensors:
        """The client's personal tensors, those that wait for a verdict first: whoever was not counted
        has been told so before an evaluation.
        """
        for key, memories in self._pending.items():
            if key.client == client and PERSONAL in memories:
                return sealed(memories[PERSONAL]["tensors"])
        return self._own(client)

    def _check(self, client: ClientId, delta: Tensors, extras: Tensors) -> None:
        grid = self._job.grid
        try:
            for layout, tensors in ((self._job.layout, delta), (self._job.extras, extras)):
                if layout.size or tensors:
                    grid.check(client, layout, layout.flatten(tensors), grid.max_delta)
        except UpdateRefused as error:
            raise ClientFailed("diverged", error.subject, error.reason) from error
        except LayoutError as error:
            raise ClientFailed("update", error.subject, error.reason) from error


def _run_passes(
    trainer: Trainer, task: Task, passes: Sequence[Pass], own: Tensors, job: Job
) -> tuple[list[Trained], Tensors]:
    """All passes in turn; personal tensors go in and come out beside those that travel."""
    correct = job.strategy.correct if job.strategy.corrects else None
    results = []
    for step in passes:
        whole = replace(step, start={**step.start, **own}) if own else step
        trained = trainer.train(whole, task, correct)
        if own:
            own = add(own, {name: trained.delta[name] for name in own})
            trained = replace(trained, delta={name: trained.delta[name] for name in job.layout.names})
        results.append(trained)
    return results, own


def _sealed(task: Task) -> Task:
    """The task with nothing in it that a client could change for others."""
    settings = MappingProxyType(dict(task.settings))
    return Task(
        task.key,
        task.version,
        sealed(task.model),
        _unchangeable(task.context),
        settings,
        task.seed,
        task.work,
        task.expires,
        task.session,
        task.deadline,
    )


def _unchangeable(state: Memory) -> Memory:
    return {group: sealed(tensors) for group, tensors in state.items()}


def _failure(key: Key, error: BaseException, code: str, subject: str = "") -> Failure:
    return Failure(key, code, type(error).__name__, subject, "".join(traceback.format_exception(error)))
