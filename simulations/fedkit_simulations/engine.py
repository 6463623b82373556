"""The simulated Federation: real training, virtual time.

Only time and links are simulated. When a reply arrives follows from the bytes of the task, the
device's speed and the bytes of the encoded update, so deadlines, over-selection and late policies
act as they do when deployed. A client is trained at the moment its reply is asked for: whoever
cannot count any more is never trained.
"""

from __future__ import annotations

import heapq
import json
import logging
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

from fedkit import wire
from fedkit.clientstore import MemoryStore
from fedkit.codecs.none import Plain
from fedkit.config import Devices, Links
from fedkit.downlink import Release
from fedkit.dressing import max_bytes, min_bytes
from fedkit.errors import ConfigError
from fedkit.federation import Arrival, Request, Standing, Traffic, Verdict
from fedkit.job import Job
from fedkit.messages import ClientId, EncodedUpdate, Key, Settings, Task
from fedkit.participant import Answer, Participant
from fedkit.tensors import State, Tensors
from fedkit.trainer import Workload
from fedkit_simulations.clock import VirtualClock
from fedkit_simulations.devices import Fleet
from fedkit_simulations.downloads import Downloads
from fedkit_simulations.flights import (
    Flight,
    pack_flights,
    pack_json,
    pack_pending,
    unpack_flights,
    unpack_pending,
)
from fedkit_simulations.links import make_links

REPLY_FRAME = 256
"""Bytes that the clock charges for a reply beside its payload. The real frame differs by the digits of
a loss; a constant lets the arrival of a fixed-size payload be known before its client is trained."""

MOST_EPOCHS = 2**30
"""Epochs of which stragglers do a whole number."""

LARGEST_BUDGET = 2.0**62
"""Bytes that no payload reaches, where a link is faster than any number of bytes can tell."""

GOODPUT_SHARE = 0.6
"""Share of what the link could carry until the deadline that a client counts on."""

log = logging.getLogger("fedkit")


class Simulation:
    """One process, one virtual clock, all clients of `workload`.

    directory: where client memory is kept; None keeps it in RAM. The crash of a device costs it the
    task only: its committed memory stays, as on a real disk.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        seed: int = 0,
        links: Links | None = None,
        devices: Devices | None = None,
        directory: Path | str | None = None,
    ) -> None:
        self._workload = workload
        clients = sorted(workload.clients())
        if not clients:
            raise ConfigError("the workload has no clients: nothing can be simulated")
        self._links = make_links(links or Links(), clients, seed)
        self._new_fleet = partial(Fleet, devices or Devices(), clients, seed)
        self._fleet = self._new_fleet()
        self._directory = directory

    def open(self, job: Job) -> None:
        """Announce the job to all clients. Time begins anew: one simulation may serve several runs."""
        self._job = job
        self._fleet = self._new_fleet()
        self._clock = VirtualClock()
        self._up = self._down = self._asked = 0
        self._flights: dict[Key, Flight] = {}
        self._heap: list[tuple[float, ClientId, Key]] = []  # names compare faster than keys
        self._store = MemoryStore(directory=self._directory)
        self._participant = Participant(job, self._workload, self._store)
        self._min_payload, self._max_payload = min_bytes(job), max_bytes(job)
        self._downloads = Downloads(job.layout.nbytes, isinstance(job.codec_down, Plain))

    def publish(self, release: Release) -> None:
        """A new version of the model, and how many bytes lead to it."""
        self._downloads.publish(release)

    def clients(self) -> Sequence[ClientId]:
        """The clients that are on now."""
        self._asked += 1
        return self._fleet.available(self._clock.now, self._asked)

    def now(self) -> float:
        """Virtual seconds since the run began."""
        return self._clock.now

    def traffic(self) -> Traffic:
        """Bytes so far: of every task sent, and of every reply that arrived."""
        return Traffic(self._up, self._down)

    def send(self, requests: Iterable[Request]) -> None:
        """Start the tasks' journeys."""
        fresh = [one for one in requests if isinstance(one, Task) and one.key not in self._flights]
        works = self._works(fresh)
        for task in fresh:
            size = wire.size(task) - self._downloads.saved(task.key.client, task.version)
            self._down += size
            flight = self._depart(task, size, works.get(task.key.client))
            self._flights[task.key] = flight
            if not flight.crashed:
                heapq.heappush(self._heap, (flight.at, task.key.client, task.key))

    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        """Replies in the order of their virtual arrival; training happens here, on demand."""
        idle = not self._unanswered()
        while self._heap and self._heap[0][0] <= until:
            at, _, key = heapq.heappop(self._heap)
            flight = self._flights.get(key)
            if flight is None or flight.answered:
                continue  # settled meanwhile
            if flight.reply is None:
                flight.reply = self._participant.handle(flight.task, self._budget(flight))[0]
                size = len(flight.reply.payload) if isinstance(flight.reply, EncodedUpdate) else 0
                # a failure is shorter than any update, but what came before it has been told already
                flight.at = max(at, flight.leaves + self._up_seconds(key.client, size))
                if flight.at > at:  # the payload is longer than the shortest possible one
                    heapq.heappush(self._heap, (flight.at, key.client, key))
                    continue
            yield self._deliver(flight, flight.reply)
        if idle or self._unanswered():
            self._clock.advance_to(max(until, self._clock.now))

    def outstanding(self) -> Mapping[Key, Standing]:
        """Tasks without a reply; a crashed device is not alive."""
        return {
            key: Standing(not flight.crashed, flight.note or f"its reply would come at {flight.at:.1f} s")
            for key, flight in self._flights.items()
            if not flight.answered
        }

    def settle(self, verdicts: Mapping[Key, Verdict]) -> None:
        """Close the tasks; clients commit what they remember if they were counted."""
        for key, verdict in verdicts.items():
            self._flights.pop(key, None)
            self._participant.settle(key, verdict)

    def save(self) -> State:
        """Clock, counters, tasks under way, availability and memory of the clients."""
        about: dict[str, object] = {
            "now": self._clock.now,
            "up": self._up,
            "down": self._down,
            "asked": self._asked,
        }
        about["downloads"] = self._downloads.save()
        parts: dict[str, State] = {
            "fleet": self._fleet.save(),
            "store": self._store.save(),
            "pending": pack_pending(self._participant.pending()),
            "flights": pack_flights(self._flights.values()),
        }
        state: dict[str, Tensors] = {"engine": pack_json(about)}
        for name, part in parts.items():
            state |= {f"{name}:{group}": tensors for group, tensors in part.items()}
        return state

    def load(self, state: State) -> None:
        """Continue from `save`."""
        about = json.loads(state["engine"]["json"].tobytes())
        self._clock = VirtualClock(about["now"])
        self._up, self._down, self._asked = about["up"], about["down"], about["asked"]
        self._downloads.load(about["downloads"])
        self._fleet.load(_part(state, "fleet"))
        self._store.load(_part(state, "store"))
        self._participant.restore(unpack_pending(_part(state, "pending")))
        flights = unpack_flights(_part(state, "flights"))
        self._flights = {flight.task.key: flight for flight in flights}
        waiting = [flight for flight in flights if not (flight.crashed or flight.answered)]
        self._heap = [(flight.at, flight.task.key.client, flight.task.key) for flight in waiting]
        heapq.heapify(self._heap)

    def _budget(self, flight: Flight) -> int:
        """Bytes that the client may count on sending before the deadline."""
        link, left = self._links[flight.task.key.client], flight.task.deadline - flight.leaves
        share = GOODPUT_SHARE * (left - link.latency) * link.up
        return max(1, int(min(share, LARGEST_BUDGET)) - REPLY_FRAME)

    def _unanswered(self) -> bool:
        return any(not flight.answered for flight in self._flights.values())

    def _deliver(self, flight: Flight, reply: Answer) -> Arrival:
        self._clock.advance_to(max(flight.at, self._clock.now))
        self._up += wire.size(reply)
        flight.answered, flight.reply = True, None
        return Arrival(flight.task.key, flight.at, reply)

    def _works(self, tasks: Sequence[Task]) -> Mapping[ClientId, float]:
        """What share of its work each straggler of the cohort gets done."""
        cohort = [task.key.client for task in tasks if task.key.kind == "train"]
        if not cohort:
            return {}
        epochs = _amount(tasks[0].settings, "epochs", 1.0)
        return self._fleet.work(tasks[0].key.round, cohort, min(int(epochs), MOST_EPOCHS))

    def _depart(self, task: Task, size: int, work: float | None) -> Flight:
        """The journey of a task: what it does, how long that takes, whether it comes back.

        work: the share of a straggler; None for anyone else.
        """
        client, start = task.key.client, self._clock.now
        start += self._links[client].down_seconds(size)
        seconds = self._fleet.train_seconds(client, _examples(task, self._held(client)))
        if task.key.kind == "evaluate":
            return self._upload(task, start + seconds)
        crash = self._fleet.crash(task.key.round, client)
        if crash is not None:
            return Flight(task, start, start, crashed=True, note=f"crashed {crash} training")
        window = task.deadline - start
        if not self._job.strategy.accepts_partial_work:
            if work is not None:  # by the deadline it has done `work` of its task: the whole comes later
                leaves = start + max(seconds, window) / work
                return self._upload(task, leaves, f"a straggler, {work:.0%} of its work done by the deadline")
            return self._upload(task, start + seconds)
        work = 1.0 if work is None else work
        if seconds > 0:
            # a hair less than what fits, or rounding may make it late
            fits = (1 - 1e-9) * (window - self._up_seconds(client, self._max_payload)) / seconds
            work = min(work, fits) if fits > 0 else work
        if work < 1.0:
            task = replace(task, work=task.work * work)
        return self._upload(task, start + seconds * work)

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

    def _upload(self, task: Task, leaves: float, note: str = "") -> Flight:
        """The flight, with the earliest time at which its reply can be back."""
        payload = self._min_payload if task.key.kind == "train" else 0
        return Flight(task, leaves, leaves + self._up_seconds(task.key.client, payload), note=note)

    def _up_seconds(self, client: ClientId, payload: int) -> float:
        return self._links[client].up_seconds(REPLY_FRAME + payload)


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


def _part(state: State, name: str) -> State:
    prefix = f"{name}:"
    return {
        group.removeprefix(prefix): tensors for group, tensors in state.items() if group.startswith(prefix)
    }
