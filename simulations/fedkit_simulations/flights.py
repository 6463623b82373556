"""Tasks on their way to clients and back, and how they are saved in a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from fedkit.federation import Request
from fedkit.messages import Key, Task
from fedkit.participant import Answer
from fedkit.tensors import Memory, State, Tensors


@dataclass(slots=True)
class Flight:
    """A request that has no verdict yet; times in virtual seconds.

    leaves: when its upload begins. at: the earliest time at which its reply can arrive; exact once
    the client is trained. crashed: it never arrives. answered: its reply has been delivered, or is brought
    by the sessions that the task announced. arrives: when the request is with the client. work: the share of
    a task of secure sessions that the client does; in other tasks it stands in the task.
    """

    request: Request
    leaves: float
    at: float
    crashed: bool = False
    answered: bool = False
    note: str = ""
    reply: Answer | None = field(default=None, repr=False)
    arrives: float = 0.0
    work: float = 1.0

    @property
    def task(self) -> Task:
        """The request, where it is known to be a task."""
        return cast("Task", self.request)


def pack_json(value: object) -> Tensors:
    """Plain data as a tensor, for a checkpoint."""
    return {"json": np.frombuffer(json.dumps(value).encode(), np.uint8)}


def unpack_json(tensors: Tensors) -> object:
    """What `pack_json` packed."""
    value: object = json.loads(tensors["json"].tobytes())
    return value


def pack_flights(flights: Iterable[Flight]) -> State:
    """The flights of tasks as tensors. Models are stored once per version; replies are trained again.

    A secure session does not outlive the process: its requests are left out.
    """
    state: dict[str, Tensors] = {}
    rows = []
    for flight in flights:
        task = flight.request
        if not isinstance(task, Task):
            continue
        state[f"model/{task.version}"] = task.model
        for group, tensors in task.context.items():
            state[f"context/{task.version}/{group}"] = tensors
        settings = {"settings": dict(task.settings), "context": list(task.context)}
        times = [task.seed, task.work, task.expires, task.session, task.deadline]
        rows.append(
            [
                pack_key(task.key),
                task.version,
                settings,
                times,
                [flight.leaves, flight.at, flight.crashed, flight.answered, flight.note],
            ]
        )
    return {**state, "flights": pack_json(rows)}


def unpack_flights(state: State) -> list[Flight]:
    """What `pack_flights` packed."""
    flights = []
    for key, version, about, times, journey in json.loads(state["flights"]["json"].tobytes()):
        context = {group: state[f"context/{version}/{group}"] for group in about["context"]}
        model = state[f"model/{version}"]
        task = Task(Key(*key), version, model, context, about["settings"], *times)
        flights.append(Flight(task, *journey))
    return flights


def pack_pending(pending: Mapping[Key, Mapping[str, Memory]]) -> State:
    """Client memory that waits for a verdict."""
    state: dict[str, Tensors] = {}
    rows = []
    for number, (key, streams) in enumerate(pending.items()):
        rows.append([pack_key(key), {stream: list(memory) for stream, memory in streams.items()}])
        for stream, memory in streams.items():
            state |= {f"{number}/{stream}/{group}": tensors for group, tensors in memory.items()}
    return {**state, "pending": pack_json(rows)}


def unpack_pending(state: State) -> dict[Key, dict[str, Memory]]:
    """What `pack_pending` packed."""
    pending: dict[Key, dict[str, Memory]] = {}
    for number, (key, streams) in enumerate(json.loads(state["pending"]["json"].tobytes())):
        pending[Key(*key)] = {
            stream: {group: state[f"{number}/{stream}/{group}"] for group in groups}
            for stream, groups in streams.items()
        }
    return pending


def pack_key(key: Key) -> list[str | int]:
    """The key's fields in order."""
    return [key.job, key.round, key.kind, key.stage, key.attempt, key.client]
