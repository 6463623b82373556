"""What a device decides by itself: with whom it works, when, how much it sends, what it tells its owner."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fedkit.errors import ProtocolRefused
from fedkit.job import Job
from fedkit.messages import Failure, Task
from fedkit.participant import Participant
from fedkit.secagg.identity import Floors
from fedkit_clients.edge.audit import Audit
from fedkit_clients.edge.hours import rest
from fedkit_clients.edge.meter import Meter
from fedkit_clients.edge.modelout import ModelOut
from fedkit_clients.edge.policy import DevicePolicy

log = logging.getLogger("fedkit.edge")
NAP = 60.0
"""Seconds after which a device that rests looks at its clock again, which somebody may have set."""


@dataclass
class Device:
    """The owner's side of a client. workload: its name here, as a policy has it. local: its own clock."""

    policy: DevicePolicy = field(default_factory=DevicePolicy)
    workload: str = ""
    meter: Meter = field(default_factory=Meter)
    audit: Audit | None = None
    model_out: ModelOut | None = None
    local: Callable[[], time.struct_time] = time.localtime
    resting: bool = False
    asked_enough: bool = False

    def demand(self, job: Job, task: Task, name: str) -> None:
        """ProtocolRefused unless the device takes part in this job, and does as much as the task asks for.
        One that it lets through has begun, once: `name` is what the spool knows it by.
        """
        self._agree(job, task, name)
        self.meter.begin(name)

    def declines(self, job: Job, task: Task, name: str) -> bool:
        """Whether the device would not do this task now: its model need not come."""
        try:
            self._agree(job, task, name)
        except ProtocolRefused:
            return True
        return False

    def _agree(self, job: Job, task: Task, name: str) -> None:
        self.policy.demand(job, self.workload)
        if task.key.kind == "train":
            self.policy.allow(task.settings)
        if seconds := self.meter.full(name):
            most = self.meter.daily
            if not self.asked_enough:
                log.warning(
                    "max_tasks_per_day = %d is reached: the next task in %.0f min", most, seconds / 60
                )
            self.asked_enough = True
            raise ProtocolRefused("max_tasks_per_day", f"this device has begun {most} tasks in 24 hours")

    def over(self, name: str) -> None:
        """A task has its verdict."""
        self.meter.over(name)

    def told(self, failure: Failure) -> Failure:
        """A failure as others may know it."""
        return failure if self.policy.tells_why else replace(failure, exception="", subject="", detail="")

    def floors(self, job: Job) -> Floors:
        """What holds in secure sessions of the job."""
        return self.policy.floors(job)

    def rests(self, sleep: Callable[[float], None], owes: bool = False) -> bool:
        """Wait, for a while, if the device is neither to ask nor to train now; whether it is so.

        owes: the aggregator waits for what it has begun. Out of its hours it rests all the same.
        """
        seconds = self._out_of_hours() or (0.0 if owes else self._asked_enough())
        if seconds:
            sleep(min(seconds, NAP))
        return bool(seconds)

    def _out_of_hours(self) -> float:
        seconds = rest(self.policy.window, self.local())
        if seconds and not self.resting:
            log.info("resting: the hours of this device begin in %.0f min", seconds / 60)
        self.resting = bool(seconds)
        return seconds

    def _asked_enough(self) -> float:
        """Seconds for which it rests, once it has told the aggregator why: who is silent is not asked."""
        if not self.asked_enough:
            return 0.0
        seconds = self.meter.full()
        if not seconds:
            log.info("max_tasks_per_day: there is room for a task again, and this device goes on")
        self.asked_enough = bool(seconds)
        return seconds

    def room(self, seconds: float) -> int:
        """Bytes that an update may have to arrive within so many seconds; 0 if nothing is known."""
        return self.meter.room(seconds)

    def received(self, participant: Participant, task: Task) -> None:
        """A task has come, and its model with it."""
        if self.model_out is not None:
            model = participant.whole(task.key.client, task.model)
            self.model_out.write(task.key.job, task.version, model)
