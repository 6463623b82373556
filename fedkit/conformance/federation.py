"""The laws of federations: the protocol of fedkit/federation.py, tried with real rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from fedkit.conformance.laws import demand, demand_state, restored, run_laws, same, snapshot
from fedkit.conformance.secure import secure_sums
from fedkit.downlink import Release
from fedkit.federation import Arrival, Federation, Verdict
from fedkit.job import Job
from fedkit.messages import EncodedUpdate, Failure, Key, Task
from fedkit.planning import train_seed
from fedkit.tensors import zeros

IDLE = 1.0


@dataclass(frozen=True)
class Case:
    """How to make a federation, and a job for it; each law starts afresh.

    patience: seconds, on the federation's clock, that a round may take. repeatable: two federations
    made alike give the same arrivals (simulation); else only what must hold in real time is tried.
    """

    make: Callable[[], Federation]
    job: Job
    patience: float
    repeatable: bool

    def opened(self) -> Federation:
        """A new federation that knows the job."""
        federation = self.make()
        federation.open(self.job)
        return federation

    def tasks(self, federation: Federation, round: int) -> list[Task]:
        """A train task for every client that can be reached, from a version that is published."""
        model = zeros(self.job.layout)
        federation.publish(Release(round + 1, model))
        state = self.job.strategy.init(model)
        settings = {**self.job.settings, **self.job.strategy.settings(state, round)}
        context, until = self.job.strategy.context(state), federation.now() + self.patience
        made = []
        for client in federation.clients():
            key = Key(self.job.id, round, "train", "", 0, client)
            seed = train_seed(self.job.model_seed, round, client)
            made.append(Task(key, round + 1, model, context, settings, seed, 1.0, until, "", until))
        return made

    def round(self, federation: Federation, round: int) -> list[Arrival]:
        """One round, received to its end and settled."""
        tasks = self.tasks(federation, round)
        federation.send(tasks)
        arrivals = list(federation.receive(federation.now() + self.patience))
        federation.settle(_verdicts(tasks, arrivals))
        return arrivals


Law: TypeAlias = Callable[[Case], None]


def check_federation(
    make: Callable[[], Federation], job: Job, *, patience: float = 1e6, repeatable: bool = True
) -> list[str]:
    """Names of the laws tried; ConformanceError on the first that the made federations break.

    make: returns a new federation that has not been opened. patience: seconds on its clock that a
    round may take. repeatable: False where time is real; arrival times are then not compared.
    """
    return run_laws(FEDERATION_LAWS, Case(make, job, patience, repeatable))


def _verdicts(tasks: Sequence[Task], arrivals: Sequence[Arrival]) -> dict[Key, Verdict]:
    verdicts = {task.key: Verdict.lost for task in tasks}
    for arrival in arrivals:
        failed = isinstance(arrival.reply, Failure)
        verdicts[arrival.key] = Verdict.refused if failed else Verdict.counted
    return verdicts


def _clients(case: Case) -> None:
    clients = list(case.opened().clients())
    demand(bool(clients), "no client can be reached, so nothing can be tried")
    demand(
        all(isinstance(client, str) and client for client in clients), "a client id is not a non-empty string"
    )
    demand(clients == sorted(set(clients)), "clients are not sorted, or one is named twice")


def _replies(case: Case) -> None:
    federation = case.opened()
    tasks = case.tasks(federation, 0)
    keys = {task.key for task in tasks}
    federation.send(tasks)
    for arrival in federation.receive(federation.now() + case.patience):
        demand(arrival.key in keys, f"a reply to {arrival.key}, which was not sent")
        demand(arrival.reply.key == arrival.key, f"the reply to {arrival.key} carries {arrival.reply.key}")


def _leaves_tasks(case: Case) -> None:
    federation = case.opened()
    tasks = case.tasks(federation, 0)
    given = snapshot([(dict(task.model), task.context, task.settings) for task in tasks])
    federation.send(tasks)
    list(federation.receive(federation.now() + case.patience))
    after = [(dict(task.model), task.context, task.settings) for task in tasks]
    demand(same(given, after), "a client changed the tensors or settings of its task, which others share")


def _idempotent_send(case: Case) -> None:
    federation = case.opened()
    tasks = case.tasks(federation, 0)
    federation.send(tasks)
    federation.send(tasks)
    seen: set[Key] = set()
    for arrival in federation.receive(federation.now() + case.patience):
        demand(arrival.key not in seen, f"sent twice, client {arrival.key.client!r} answered twice")
        seen.add(arrival.key)
    demand(bool(seen), "no client answered within the patience of this check")


def _in_time(case: Case) -> None:
    federation = case.opened()
    federation.send(case.tasks(federation, 0))
    start = last = federation.now()
    until = start + case.patience
    for arrival in federation.receive(until):
        demand(last <= arrival.at <= until, f"an arrival at {arrival.at}, after one at {last}, until {until}")
        demand(federation.now() >= arrival.at, f"an arrival at {arrival.at}, but it is {federation.now()}")
        last = arrival.at
    demand(federation.now() >= last, "the clock went backwards")


def _until(case: Case) -> None:
    federation = case.opened()
    federation.send(case.tasks(federation, 0))
    arrivals = list(federation.receive(federation.now()))
    for arrival in arrivals:
        demand(arrival.at <= federation.now(), "a reply that came after `until` was delivered")
    answered = {arrival.key for arrival in arrivals}
    standing = federation.outstanding()
    demand(not answered & standing.keys(), "a request with a reply is still outstanding")
    rest = list(federation.receive(federation.now() + case.patience))
    demand(not answered & {arrival.key for arrival in rest}, "a reply was delivered twice")


def _idle(case: Case) -> None:
    federation = case.opened()
    until = federation.now() + IDLE
    demand(not list(federation.receive(until)), "a reply came though nothing was sent")
    demand(federation.now() >= until, f"with nothing outstanding, time did not pass until {until}")


def _stops_early(case: Case) -> None:
    federation = case.opened()
    tasks = case.tasks(federation, 0)
    federation.send(tasks)
    until = federation.now() + case.patience
    first = list(islice(federation.receive(until, 1), 1))
    demand(bool(first), "no client answered within the patience of this check")
    if case.repeatable:
        at, now = first[0].at, federation.now()
        demand(now == at, f"stopped at the first arrival, at {at}, the clock stands at {now}")
    rest = list(federation.receive(until))
    keys = [arrival.key for arrival in [*first, *rest]]
    demand(len(keys) == len(set(keys)), "after an early stop a reply was delivered twice")
    if case.repeatable:
        whole = case.round(case.opened(), 0)
        demand({a.key for a in whole} == set(keys), "after an early stop replies are missing")


def _idempotent_settle(case: Case) -> None:
    federation = case.opened()
    tasks = case.tasks(federation, 0)
    federation.send(tasks)
    verdicts = _verdicts(tasks, list(federation.receive(federation.now() + case.patience)))
    federation.settle(verdicts)
    federation.settle(verdicts)
    demand(not verdicts.keys() & federation.outstanding().keys(), "a settled request is still outstanding")
    unknown = Key(case.job.id, 99, "train", "", 0, "nobody")
    federation.settle({unknown: Verdict.lost})
    again = case.round(federation, 1)
    if case.repeatable:
        twin = case.opened()
        case.round(twin, 0)
        demand(_seen(again) == _seen(case.round(twin, 1)), "settling twice changed the next round")


def _traffic(case: Case) -> None:
    federation = case.opened()
    before = federation.traffic()
    arrivals = case.round(federation, 0)
    after = federation.traffic()
    payload = sum(len(a.reply.payload) for a in arrivals if isinstance(a.reply, EncodedUpdate))
    demand(after.up - before.up >= payload, f"{payload} bytes of updates came, traffic counts {after.up}")
    demand(after.down > before.down, "tasks were sent, but traffic counts no bytes down")


def _continues(case: Case) -> None:
    if not case.repeatable:
        return
    first = case.opened()
    case.round(first, 0)
    state = first.save()
    demand_state(state, "the state of save")
    second = case.opened()
    second.load(restored(state))
    demand(second.now() == first.now(), f"loaded, the clock stands at {second.now()}, not {first.now()}")
    demand(second.traffic() == first.traffic(), "loaded, the traffic is another")
    demand(same(restored(state), restored(second.save())), "saving what was loaded gives another state")
    rounds = [(_seen(case.round(first, n)), _seen(case.round(second, n))) for n in (1, 2)]
    demand(all(one == other for one, other in rounds), "after load the rounds go on differently")


def _mid_flight(case: Case) -> None:
    if not case.repeatable:
        return
    first = case.opened()
    tasks = case.tasks(first, 0)
    first.send(tasks)
    until = first.now() + case.patience
    next(iter(first.receive(until)), None)
    second = case.opened()
    second.load(restored(first.save()))
    rest, other = list(first.receive(until)), list(second.receive(until))
    demand(_seen(rest) == _seen(other), "saved and loaded with tasks under way, other replies come")


def _seen(arrivals: Sequence[Arrival]) -> list[object]:
    return [(a.key, a.at, a.reply) for a in arrivals]


FEDERATION_LAWS: Mapping[str, Law] = {
    "clients are sorted": _clients,
    "replies answer what was sent": _replies,
    "tasks are left as they were": _leaves_tasks,
    "send is idempotent": _idempotent_send,
    "arrivals are ordered in time": _in_time,
    "receive ends at until": _until,
    "idle time passes": _idle,
    "an early stop loses nothing": _stops_early,
    "settle is idempotent": _idempotent_settle,
    "traffic is counted": _traffic,
    "a checkpoint continues alike": _continues,
    "a checkpoint within a round continues alike": _mid_flight,
    "a secure sum is the plain sum": secure_sums,
}
