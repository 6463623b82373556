"""Federations of tests: without a network, by a clock of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from fedkit.clientstore import MemoryStore
from fedkit.downlink import Release
from fedkit.federation import Arrival, Request, Standing, Traffic, Verdict
from fedkit.job import Job
from fedkit.messages import ClientId, Key, Task
from fedkit.participant import Participant
from fedkit.tensors import State
from fedkit.trainer import Workload


class Bare:
    """What all of them share: they publish nothing, and have nothing to keep."""

    clock: float = 0.0

    def open(self, job: Job) -> None:
        self.job = job

    def publish(self, release: Release) -> None:
        """Everybody is told at once."""

    def now(self) -> float:
        return self.clock

    def traffic(self) -> Traffic:
        return Traffic()

    def save(self) -> State:
        return {}

    def load(self, state: State) -> None:
        """Nothing to load."""


class Replay(Bare):
    """Clients of a workload, in the clear; a task is answered when it is `due` in the round begun last."""

    def __init__(
        self, workload: Workload, names: Sequence[ClientId], due: Callable[[int, Key], bool]
    ) -> None:
        self._workload, self._names, self._due = workload, names, due

    def open(self, job: Job) -> None:
        self._participant, self._tasks = Participant(job, self._workload, MemoryStore()), dict[Key, Task]()

    def clients(self) -> Sequence[ClientId]:
        return self._names

    def send(self, requests: Iterable[Request]) -> None:
        self._tasks |= {one.key: one for one in requests if isinstance(one, Task)}
        self._round = max(key.round for key in self._tasks)

    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        for key in sorted(self._tasks):
            if self._due(self._round, key):
                (reply,) = self._participant.handle(self._tasks.pop(key))
                yield Arrival(key, self.clock, reply)

    def outstanding(self) -> Mapping[Key, Standing]:
        return {key: Standing(True, "") for key in self._tasks}

    def settle(self, verdicts: Mapping[Key, Verdict]) -> None:
        for key, verdict in verdicts.items():
            self._tasks.pop(key, None)
            self._participant.settle(key, verdict)
