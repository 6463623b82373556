"""The simulated Federation: real training, virtual time.

Only time and links are simulated. When a reply arrives follows from the bytes of the task, the
device's speed and the bytes of the encoded update, so deadlines, over-selection and late policies
act as they do when deployed. A client is trained at the moment its reply is asked for: whoever
cannot count any more is never trained.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from fedkit import wire
from fedkit.clientstore import MemoryStore
from fedkit.codecs.none import Plain
from fedkit.config import Devices, Links
from fedkit.downlink import Release, relative
from fedkit.errors import ConfigError
from fedkit.federation import Arrival, Request, ServerTrust, Standing, Traffic, Verdict, Witness
from fedkit.job import Job
from fedkit.messages import ClientId, Key, Kind, Task
from fedkit.participant import Answer, Participant
from fedkit.secureclient import task_key
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
from fedkit_simulations.identities import Identities
from fedkit_simulations.journeys import Journeys
from fedkit_simulations.links import make_links


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
        self._identities = Identities(clients, seed)
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
        self._participant = Participant(job, self._workload, self._store, self._identities.credentials(job))
        self._journeys = Journeys(job, self._workload, self._fleet, self._links)
        told = partial(relative, job.codec_down, job.layout)
        self._downloads = Downloads(job.layout.nbytes, isinstance(job.codec_down, Plain), told)

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

    def trust(self) -> ServerTrust:
        """The identities that the simulation has made."""
        return self._identities.trust()

    def witness(self, kind: Kind, round: int, attempt: int) -> Witness:
        """What was seen of a secure session."""
        return self._participant.secure.witness(kind, round, attempt)

    def send(self, requests: Iterable[Request]) -> None:
        """Start the requests' journeys."""
        fresh = [request for request in requests if request.key not in self._flights]
        works = self._journeys.works([request for request in fresh if isinstance(request, Task)])
        for request in fresh:
            key, size = request.key, wire.size(request)
            if isinstance(request, Task):
                size -= self._downloads.saved(key.client, request.version)
                there = self._clock.now + self._links[key.client].down_seconds(size)
                flight = self._journeys.task(request, there, works.get(key.client))
                if request.session:
                    self._announce(flight)
            else:
                there = self._clock.now + self._links[key.client].down_seconds(size)
                flight = self._journeys.ask(request, there, self._flights.get(task_key(key)))
            self._down += size
            self._flights[key] = flight
            if not (flight.crashed or flight.answered):
                heapq.heappush(self._heap, (flight.at, key.client, key))

    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        """Replies in the order of their virtual arrival; training happens here, on demand."""
        idle = not self._unanswered()
        while self._heap and self._heap[0][0] <= until:
            at, _, key = heapq.heappop(self._heap)
            flight = self._flights.get(key)
            if flight is None or flight.answered:
                continue  # settled meanwhile
            if flight.reply is None:
                flight.reply = self._participant.handle(flight.request, self._journeys.budget(flight))[0]
                # a failure is shorter than any update, but what came before it has been told already
                flight.at = max(at, flight.leaves + self._journeys.up_seconds(flight.reply))
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
        parts: dict[str, State] = {
            "fleet": self._fleet.save(),
            "store": self._store.save(),
            "downloads": self._downloads.save(),
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
        self._downloads.load(_part(state, "downloads"))
        self._fleet.load(_part(state, "fleet"))
        self._store.load(_part(state, "store"))
        self._participant.restore(unpack_pending(_part(state, "pending")))
        flights = unpack_flights(_part(state, "flights"))
        self._flights = {flight.task.key: flight for flight in flights}
        waiting = [flight for flight in flights if not (flight.crashed or flight.answered)]
        self._heap = [(flight.at, flight.task.key.client, flight.task.key) for flight in waiting]
        heapq.heapify(self._heap)

    def _announce(self, flight: Flight) -> None:
        """A task of secure sessions has no reply of its own, unless the client refuses it at once."""
        told = self._participant.handle(flight.task, work=flight.work)
        if told:
            flight.reply, flight.at = told[0], flight.arrives + self._journeys.up_seconds(told[0])
        flight.answered = not told

    def _unanswered(self) -> bool:
        return any(not flight.answered for flight in self._flights.values())

    def _deliver(self, flight: Flight, reply: Answer) -> Arrival:
        self._clock.advance_to(max(flight.at, self._clock.now))
        self._up += wire.size(reply)
        flight.answered, flight.reply = True, None
        return Arrival(flight.request.key, flight.at, reply)


def _part(state: State, name: str) -> State:
    prefix = f"{name}:"
    return {
        group.removeprefix(prefix): tensors for group, tensors in state.items() if group.startswith(prefix)
    }
