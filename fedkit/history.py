"""What happened, round by round: plain records that become JSON lines and back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fedkit import fields
from fedkit.errors import CheckpointError, WireError
from fedkit.messages import ClientId, Metrics


def strict_json(value: object, indent: int | None = None) -> str:
    """JSON that every reader takes: a number that is not finite becomes null."""
    separators = (",", ":") if indent is None else None
    return json.dumps(finite(value), separators=separators, indent=indent, allow_nan=False)


def finite(value: object) -> object:
    """Plain data with None for every float that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


class Outcome(StrEnum):
    """What became of an invited client; each has exactly one."""

    counted = "counted"  # its update is in the sum
    failed = "failed"  # it answered with a Failure
    refused = "refused"  # its update broke a rule
    unwanted = "unwanted"  # enough others had been counted
    late = "late"  # no reply before the round closed, but it was still at it
    lost = "lost"  # no reply before the round closed


MISSED = (Outcome.late, Outcome.lost, Outcome.failed, Outcome.refused)
"""Outcomes without a usable reply in time; what was late may still be carried into a later round."""


@dataclass(frozen=True)
class Fate:
    """An outcome and why."""

    outcome: Outcome
    why: str = ""


@dataclass(frozen=True)
class Carried:
    """A late reply that came in this round: from which round, and what became of it and why."""

    round: int
    outcome: Outcome
    why: str = ""


@dataclass(frozen=True)
class SecureRecord:
    """How the update of a round was summed without anybody seeing its parts.

    identities: who vouches for the clients' keys: "roster", "ca" or "none". width: bits of a lane. reached:
    of the last session, how many clients were asked and how many answered each stage; neighbours (k),
    threshold (t) and colluding (c, corrupt neighbours that a client's secrecy stands) of its graph, 0 where
    it did not come so far. attempts: sessions; aborts: why some of them ended. lost: by stage, of all
    sessions. bytes: of the protocol beside tasks and vectors. seconds: of CPU, here; client_seconds, over
    all clients, is known in simulation only. verified: whether the sum equals that of the plain vectors;
    None where nobody looked. offenders: who broke the protocol and how, "a or b: ..." where it is one of two.
    quarantined: who has said two different things so far, and is in no secure session again; and why.
    """

    mode: str
    suite: str
    identities: str
    width: int
    reached: Mapping[str, int]
    neighbours: int
    threshold: int
    colluding: int
    attempts: int
    aborts: tuple[str, ...]
    lost: Mapping[str, tuple[ClientId, ...]]
    bytes_up: int
    bytes_down: int
    client_seconds: float | None = field(compare=False)
    server_seconds: float = field(compare=False)
    verified: bool | None
    offenders: tuple[str, ...]
    quarantined: Mapping[ClientId, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundRecord:
    """One round. ok is False when the model was left unchanged; `reason` says why. fatal: why the run
    cannot go on after it.

    fates: every invited client. carried: replies to earlier rounds that were resolved in this one.
    train: weighted mean of the clients' metrics. metrics: evaluation after the round, if there was
    one. Bytes are those of this round; bytes_up_float32 is what the counted updates would have
    taken as float32, bytes_down_float32 a whole float32 model for each invited client. virtual_*:
    seconds on the federation's clock. wall_seconds: on ours. secagg: of the updates, secagg_evaluate: of
    the clients' metrics after the round; None without secure aggregation, or without such a sum.
    rungs: with `adaptive`, how many counted updates came by each codec of the ladder.
    """

    round: int
    ok: bool
    reason: str
    fates: Mapping[ClientId, Fate]
    carried: Mapping[ClientId, Carried]
    weight: float
    train: Metrics
    metrics: Metrics
    bytes_up: int
    bytes_down: int
    bytes_up_float32: int
    virtual_start: float
    virtual_end: float
    wall_seconds: float
    bytes_down_float32: int = 0
    fatal: str = ""
    secagg: SecureRecord | None = None
    rungs: Mapping[str, int] = field(default_factory=dict)
    secagg_evaluate: SecureRecord | None = None

    @property
    def secure(self) -> tuple[SecureRecord, ...]:
        """What was summed in secret: updates, then metrics."""
        return tuple(one for one in (self.secagg, self.secagg_evaluate) if one is not None)

    def count(self, outcome: Outcome) -> int:
        """How many invited clients had this outcome."""
        return Counter(fate.outcome for fate in self.fates.values())[outcome]

    @property
    def carried_in(self) -> int:
        """How many late replies of earlier rounds were counted in this one."""
        return sum(late.outcome is Outcome.counted for late in self.carried.values())

    @property
    def missing(self) -> int:
        """Clients that were missed, less those carried in: over a run the sum is what never counted."""
        return sum(self.count(outcome) for outcome in MISSED) - self.carried_in

    def to_json(self) -> str:
        """One line of rounds.jsonl."""
        return strict_json(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> RoundRecord:
        """The record of one line; CheckpointError, naming the field, if it is not one."""
        try:
            given = {
                "bytes_down_float32": 0,
                "fatal": "",
                "secagg": None,
                "rungs": {},
                "secagg_evaluate": None,
                **fields.mapping(json.loads(line), "record"),
            }
            fields.exactly(given, *(one.name for one in dataclasses.fields(cls)))
            return cls(**{name: _field(name, value) for name, value in given.items()})
        except (ValueError, OverflowError, WireError, RecursionError) as error:
            raise CheckpointError(f"not a round record: {line[:80]!r} ({error})") from error


def _field(name: str, value: object) -> Any:
    """One field of a record with its type proven; WireError names it."""
    if name in ("reason", "fatal"):
        return _text(value, name)
    if name == "ok":
        if not isinstance(value, bool):
            raise WireError("ok is neither true nor false")
        return value
    if name in ("secagg", "secagg_evaluate"):
        return None if value is None else secure_record(value, name)
    if name == "rungs":
        return {rung: fields.integer(n, name) for rung, n in fields.mapping(value, name).items()}
    if name in ("fates", "carried"):
        told = fields.mapping(value, name).items()
        return {client: _fate(fields.mapping(one, name), name) for client, one in told}
    if name in ("train", "metrics"):
        given = fields.mapping(value, name).items()
        return {key: math.nan if one is None else _number(one, f"{key!r} of {name}") for key, one in given}
    if name == "round" or name.startswith("bytes_"):
        if type(value) is not int:
            raise WireError(f"{name} is not an integer")
        return value
    return _number(value, name)


def _fate(told: fields.Fields, name: str) -> Fate | Carried:
    """An entry of `fates`, or of `carried`."""
    word, why = _text(told.get("outcome"), f"outcome in {name}"), _text(told.get("why"), f"why in {name}")
    if word not in Outcome.__members__:
        raise WireError(f"outcome in {name} is {word!r}")
    if name == "fates":
        return Fate(Outcome(word), why)
    return Carried(fields.integer(told.get("round"), f"round in {name}"), Outcome(word), why)


def secure_record(value: object, name: str) -> SecureRecord:
    """The record that was written as a mapping; WireError names the field that is wrong."""
    told = fields.mapping(value, name)
    fields.exactly(told, *(one.name for one in dataclasses.fields(SecureRecord)))
    verified, seconds = told["verified"], told["client_seconds"]
    if not (verified is None or isinstance(verified, bool)):
        raise WireError("verified in secagg is neither true, false nor null")
    reached, lost = fields.mapping(told["reached"], "reached"), fields.mapping(told["lost"], "lost")
    gone = fields.mapping(told["quarantined"], "quarantined")
    return SecureRecord(
        mode=_text(told["mode"], "mode"),
        suite=_text(told["suite"], "suite"),
        identities=_text(told["identities"], "identities"),
        width=fields.integer(told["width"], "width"),
        reached={stage: fields.integer(n, "reached") for stage, n in reached.items()},
        neighbours=fields.integer(told["neighbours"], "neighbours"),
        threshold=fields.integer(told["threshold"], "threshold"),
        colluding=fields.integer(told["colluding"], "colluding"),
        attempts=fields.integer(told["attempts"], "attempts"),
        aborts=_texts(told["aborts"], "aborts"),
        lost={stage: _texts(clients, "lost") for stage, clients in lost.items()},
        bytes_up=fields.integer(told["bytes_up"], "bytes_up"),
        bytes_down=fields.integer(told["bytes_down"], "bytes_down"),
        client_seconds=None if seconds is None else _number(seconds, "client_seconds"),
        server_seconds=_number(told["server_seconds"], "server_seconds"),
        verified=verified,
        offenders=_texts(told["offenders"], "offenders"),
        quarantined={client: _text(why, "quarantined") for client, why in gone.items()},
    )


def _texts(value: object, name: str) -> tuple[str, ...]:
    return tuple(_text(one, name) for one in fields.items(value, name))


def _number(value: object, name: str) -> float:
    """Any number: NaN and Infinity are no JSON, but other writers write them."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WireError(f"{name} is not a number")
    return float(value)


def _text(value: object, name: str) -> str:
    """Any string: what an exception says need not be text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise WireError(f"{name} is not a string")
    return value


@dataclass
class History:
    """All rounds so far, and the evaluation before the first (`initial`); initial_secagg: how that was summed
    in secret, None where it was not.
    """

    initial: Metrics = field(default_factory=dict)
    rounds: list[RoundRecord] = field(default_factory=list)
    initial_secagg: SecureRecord | None = None

    @property
    def secure(self) -> tuple[SecureRecord, ...]:
        """All that was summed in secret, in order."""
        first = (self.initial_secagg,) if self.initial_secagg is not None else ()
        return (*first, *(secure for record in self.rounds for secure in record.secure))

    def series(self, metric: str) -> list[tuple[int, float]]:
        """(rounds done, value) of an evaluation metric; the initial one counts as 0 rounds."""
        points = [(0, self.initial[metric])] if metric in self.initial else []
        return points + [(r.round + 1, r.metrics[metric]) for r in self.rounds if metric in r.metrics]

    @property
    def failures_in_a_row(self) -> int:
        """Failed rounds since the last good one."""
        count = 0
        for record in reversed(self.rounds):
            if record.ok:
                break
            count += 1
        return count
