"""A secure sum between its session and the checkpoint: written down, so that no crash can cost it.

What the session's clients have sent is gone by then, and they help to open no other sum of the round. A sum
is no secret to the server. Only where the federation outlives the process: a simulation begins again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from fedkit import fields, packing
from fedkit.aggregate import WeightedSum
from fedkit.collect import Collected, Notify
from fedkit.errors import LayoutError, WireError
from fedkit.federation import Federation, Plan, Verdict
from fedkit.history import Fate, Outcome, secure_record, strict_json
from fedkit.job import Job
from fedkit.messages import Key, Kind, Task

log = logging.getLogger("fedkit")


class Keeper(Protocol):
    """Where the last sum of each kind is kept."""

    def keep(self, kind: Kind, data: bytes) -> None:
        """Write it, durably."""
        ...

    def kept(self, kind: Kind) -> bytes | None:
        """What was written last, unless a checkpoint has come after it."""
        ...


def once(
    run: Callable[[Mapping[Key, Task]], Collected],
    keeper: Keeper,
    federation: Federation,
    about: tuple[Job, Plan, WeightedSum, Notify],
    tasks: Mapping[Key, Task],
) -> Collected:
    """What `run` collects for these tasks, or has collected in a process that died afterwards.

    about: job, plan, an empty sum, whom to tell of fates.
    """
    if not (tasks and getattr(federation, "durable", False)):
        return run(tasks)
    job, plan, zero, notify = about
    kind = next(iter(tasks)).kind
    found = _read(keeper.kept(kind), _name(job, plan, kind), tasks, zero)
    if found is None:
        found = run(tasks)
        if found.total.clients:
            keeper.keep(kind, _write(found, _name(job, plan, kind)))
        return found
    log.info("round %d: its secure sum was made before the restart", plan.round + 1)
    for client, fate in sorted(found.fates.items()):
        notify(client, fate, found.counted, None)
    return found


def _name(job: Job, plan: Plan, kind: Kind) -> str:
    return f"{job.id} {plan.round} {kind}"


def _write(got: Collected, name: str) -> bytes:
    total, extras, weight, metrics = got.total.parts()
    about = {
        "name": name,
        "clients": got.total.clients,
        "counted": got.counted,
        "weight": weight,
        "metrics": metrics,
        "fates": {client: [fate.outcome, fate.why] for client, fate in got.fates.items()},
        "verdicts": {key.client: verdict for key, verdict in got.verdicts.items()},
        "record": dataclasses.asdict(got.secagg) if got.secagg is not None else None,
    }
    told = np.frombuffer(strict_json(about).encode(), np.uint8)
    return packing.pack({"about": {"json": told}, "sum": {"extras": extras, "total": total}})


def _read(data: bytes | None, name: str, tasks: Mapping[Key, Task], zero: WeightedSum) -> Collected | None:
    """What `_write` wrote of just this round; None if there is no such thing."""
    if data is None:
        return None
    try:
        state = packing.unpack(data)
        about = fields.mapping(json.loads(state["about"]["json"].tobytes()), "sum")
        if about["name"] != name:
            return None
        total = _total(about, state["sum"], zero)
        return _collected(about, tasks, total)
    except (WireError, LayoutError, KeyError, ValueError) as error:
        log.warning("a secure sum that was written down is damaged, and the round begins again: %s", error)
        return None


def _total(about: fields.Fields, vectors: Mapping[str, np.ndarray], zero: WeightedSum) -> WeightedSum:
    pairs = {n: fields.items(p, n, 2) for n, p in fields.mapping(about["metrics"], "metrics").items()}
    return WeightedSum.of(
        zero.layout,
        zero.grid,
        vectors["total"].astype(np.int64),
        _integer(about["weight"]),
        fields.integer(about["clients"], "clients"),
        (zero.extras_layout, vectors["extras"].astype(np.int64)),
        {name: (_integer(one), _integer(other)) for name, (one, other) in pairs.items()},
    )


def _collected(about: fields.Fields, tasks: Mapping[Key, Task], total: WeightedSum) -> Collected:
    fates = {
        client: fields.items(f, "fate", 2) for client, f in fields.mapping(about["fates"], "fates").items()
    }
    verdicts = fields.mapping(about["verdicts"], "verdicts")
    made = Collected(total, counted=fields.integer(about["counted"], "counted"))
    made.fates = {client: Fate(Outcome(str(word)), str(why)) for client, (word, why) in fates.items()}
    made.verdicts = {key: Verdict(str(verdicts[key.client])) for key in tasks}
    made.secagg = secure_record(about["record"], "record") if about["record"] is not None else None
    return made


def _integer(value: object) -> int:
    """A whole number of any sign and size."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise WireError("not a whole number")
    return value
