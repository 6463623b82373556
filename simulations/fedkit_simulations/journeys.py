"""The journeys of requests: how long they take on links and devices, and which never come back."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from fedkit import wire
from fedkit.dressing import max_bytes, min_bytes
from fedkit.job import Job
from fedkit.messages import SCALE, ClientId, EncodedUpdate, Settings, Task
from fedkit.participant import Answer
from fedkit.secagg.closing import Masked
from fedkit.secagg.messages import FromClient, FromServer, Stage
from fedkit.securesum import encoding_of
from fedkit.trainer import Workload
from fedkit_simulations.devices import Fleet
from fedkit_simulations.flights import Flight
from fedkit_simulations.links import Link

REPLY_FRAME = 256
"""Bytes that the clock charges for a reply beside its payload. The real frame differs by the digits of
a loss; a constant lets the arrival of a fixed-size payload be known before its client is trained."""

MOST_EPOCHS = 2**30
"""Epochs of which stragglers do a whole number."""

LARGEST_BUDGET = 2.0**62
"""Bytes that no payload reaches, where a link is faster than any number of bytes can tell."""

GOODPUT_SHARE = 0.6
"""Share of what the link could carry until the deadline that a client counts on."""

_ORDER = tuple(Stage)

log = logging.getLogger("fedkit")


class Journeys:
    """The flights of one job's requests."""

    def __init__(self, job: Job, workload: Workload, fleet: Fleet, links: Mapping[ClientId, Link]) -> None:
        self._job, self._workload, self._fleet, self._links = job, workload, fleet, links
        self._min_payload, self._max_payload = min_bytes(job), max_bytes(job)

    def works(self, tasks: Sequence[Task]) -> Mapping[ClientId, float]:
        """What share of its work each straggler of the cohort gets done."""
        cohort = [task.key.client for task in tasks if task.key.kind == "train"]
        if not cohort:
            return {}
        epochs = _amount(tasks[0].settings, "epochs", 1.0)
        return self._fleet.work(tasks[0].key.round, cohort, min(int(epochs), MOST_EPOCHS))

    def task(self, task: Task, there: float, work: float | None) -> Flight:
        """The journey of a task: what it does, how long that takes, whether it comes back.

        there: when the client has it. work: the share of a straggler; None for anyone else.
        """
        if task.session:  # a crash then comes at one of the stages
            flight = self._train(task, there, work, self._masked_bytes(task))
            flight.arrives = there
            return flight
        crash = self._fleet.crash(task.key.round, task.key.client) if task.key.kind == "train" else None
        if crash is not None:
            return Flight(task, there, there, crashed=True, note=f"crashed {crash} training")
        return self._train(task, there, work, self._max_payload)

    def ask(self, request: FromServer, there: float, home: Flight | None) -> Flight:
        """The journey of a request of a secure session. home: that of the task which announced it.

        Keys and shares are answered at once, the masked update when training is done. A device that
        crashes at a stage answers nothing from then on, in later sessions of the round too.
        """
        stage = Stage(request.key.stage)
        if home is None:
            return Flight(request, there, there)
        home.crashed = home.crashed or self._crashes(request, stage)
        if home.crashed:
            return Flight(request, there, there, crashed=True, note="its device has crashed")
        masked = stage is Stage.mask
        leaves = max(there, home.leaves if masked else home.arrives)
        frame = wire.size(FromClient(request.key, b"")) + (self._masked_bytes(home.task) if masked else 0)
        at = leaves + self._links[request.key.client].up_seconds(frame)
        return Flight(request, leaves, at, note=home.note if masked else "")

    def budget(self, flight: Flight) -> int:
        """Bytes that the client may count on sending before the deadline; 0 where it has no choice."""
        if not isinstance(flight.request, Task):
            return 0
        link, left = self._links[flight.task.key.client], flight.task.deadline - flight.leaves
        share = GOODPUT_SHARE * (left - link.latency) * link.up
        return max(1, int(min(share, LARGEST_BUDGET)) - REPLY_FRAME)

    def up_seconds(self, reply: Answer) -> float:
        """How long a reply is on its way up."""
        if isinstance(reply, FromClient):
            return self._links[reply.key.client].up_seconds(wire.size(reply))
        payload = len(reply.payload) if isinstance(reply, EncodedUpdate) else 0
        return self._up_seconds(reply.key.client, payload)

    def _train(self, task: Task, start: float, work: float | None, most: int) -> Flight:
        """From the moment the task is there. most: bytes of the longest payload."""
        client = task.key.client
        seconds = self._fleet.train_seconds(client, _examples(task, self._held(client)))
        if task.key.kind == "evaluate":
            return self._upload(task, start + seconds)
        window = task.deadline - start
        if not self._job.strategy.accepts_partial_work:
            if work is not None:  # by the deadline it has done `work` of its task: the whole comes later
                leaves = start + max(seconds, window) / work
                return self._upload(task, leaves, f"a straggler, {work:.0%} of its work done by the deadline")
            return self._upload(task, start + seconds)
        work = 1.0 if work is None else work
        if seconds > 0:
            # a hair less than what fits, or rounding may make it late
            fits = (1 - 1e-9) * (window - self._up_seconds(client, most)) / seconds
            work = min(work, fits) if fits > 0 else work
        if work < 1.0 and not task.session:
            task = replace(task, work=task.work * work)
        return self._upload(task, start + seconds * work, work=work)

    def _held(self, client: ClientId) -> int:
        """How many examples the client holds; 0 if its data cannot be read, which its reply will tell."""
        try:
            held: object = self._workload.trainer(client).examples
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a client's code may raise anything
            log.debug("client %s cannot say how many examples it holds: %r", client, error)
            return 0
        return (
            int(cast("float", held))
            if isinstance(held, numbers.Real) and 0 <= cast("float", held) < 2**53
            else 0
        )

    def _upload(self, task: Task, leaves: float, note: str = "", work: float = 1.0) -> Flight:
        """The flight, with the earliest time at which its reply can be back."""
        payload = self._min_payload if task.key.kind == "train" else 0
        return Flight(task, leaves, leaves + self._up_seconds(task.key.client, payload), note=note, work=work)

    def _up_seconds(self, client: ClientId, payload: int) -> float:
        return self._links[client].up_seconds(REPLY_FRAME + payload)

    def _masked_bytes(self, task: Task) -> int:
        """Bytes of the message that holds the masked update: exact, or all would wait for each other's."""
        encoding = encoding_of(self._job, task.key.kind, task.key.round, float(task.settings.get(SCALE, 0.0)))
        return Masked.size(encoding.vector_bytes, encoding.tail)

    def _crashes(self, request: FromServer, stage: Stage) -> bool:
        if request.key.kind == "evaluate":
            return False
        at = self._fleet.crash_stage(request.key.round, request.key.client, len(_ORDER))
        return at is not None and _ORDER.index(stage) >= at


def _examples(task: Task, held: int) -> float:
    """How many examples the task goes through at a client that holds `held`, by the settings of [train]."""
    if task.key.kind == "evaluate":
        return held
    settings = task.settings
    if steps := _amount(settings, "steps", 0.0):
        return steps * (min(_amount(settings, "batch", 32.0), held) or held) * task.work
    return _amount(settings, "epochs", 1.0) * held * task.work


def _amount(settings: Settings, key: str, default: float) -> float:
    """A number of [train], or `default` where a workload of its own kind means something else by it."""
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    return float(value) if 0 <= value <= 1e18 else default
