"""Who is asked in a round: decided from the seed, written down before the first task is sent."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from fedkit import fields
from fedkit.errors import CheckpointError, ConfigError, WireError, shown
from fedkit.federation import Plan, RoundPolicy
from fedkit.messages import ClientId, Key, Kind
from fedkit.seeds import derive, stream

_SIZE = "a count (a whole number) or a fraction in (0, 1)"
_LONGEST = 1e12
"""Seconds, 30,000 years: beyond, float64 cannot tell times on one clock apart."""


def check_policy(policy: RoundPolicy) -> RoundPolicy:
    """The policy with plain numbers; ConfigError, naming the key, unless it makes sense."""
    if not isinstance(policy, RoundPolicy):
        raise ConfigError(f"policy is {shown(policy)}: give a RoundPolicy(...)")
    values = {key: _plain(value) for key, value in vars(policy).items()}
    for key, must in {
        "cohort": f"None, {_SIZE}",
        "quorum": _SIZE,
        "over_select": "a finite number, at least 1",
        "deadline": "finite and positive seconds, at most 1e12",
        "late": "drop or carry",
        "carry_rounds": "a whole number, at least 1",
        "max_failures": "a whole number, at least 1",
    }.items():
        if not _fits(key, values[key]):
            raise ConfigError(f"rounds.{key} = {shown(values[key])}: must be {must}")
    made = dataclasses.replace(policy, **cast("Any", values))
    cohort, quorum = made.cohort, made.quorum
    if cohort is not None and cohort >= 1 and quorum > cohort:
        raise ConfigError(
            f"rounds.quorum = {quorum} is above rounds.cohort = {cohort}: no round could succeed"
        )
    return made


def _fits(key: str, value: object) -> bool:
    if key == "late":
        return value in ("drop", "carry")
    if key == "cohort" and value is None:
        return True
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    if key in ("cohort", "quorum"):  # 1.0 is neither: one client, or all of them?
        return value >= 1 if isinstance(value, int) else 0 < value < 1
    if key in ("carry_rounds", "max_failures"):
        return isinstance(value, int) and value >= 1
    return 0 < value <= _LONGEST if key == "deadline" else value >= 1


def _plain(value: object) -> object:
    """numpy's numbers as Python's."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value)


def make_plan(
    policy: RoundPolicy,
    reachable: Sequence[ClientId],
    busy: Mapping[Key, float],
    round: int,
    now: float,
    seed: int,
    kind: str = "train",
) -> Plan:
    """The plan of a round that starts now.

    busy: keys still out from earlier rounds; their clients are not asked again.
    """
    occupied = {key.client for key in busy}
    free = [client for client in reachable if client not in occupied]
    want = _count(policy.cohort, len(free)) if policy.cohort is not None else len(free)
    want = min(want, len(free))
    invited = _invited(policy, want, len(free))
    chosen = stream(seed, "cohort", kind, round).choice(len(free), invited)
    cohort = tuple(sorted(free[i] for i in chosen))
    quorum = max(1, _count(policy.quorum, want))
    seeds = {client: train_seed(seed, round, client) for client in cohort}
    return Plan(round, now, now + policy.deadline, cohort, want, quorum, seeds, dict(busy))


def most_counted(policy: RoundPolicy, registered: int) -> int:
    """The most fresh updates that a round can count when `registered` clients exist."""
    return min(registered, _count(policy.cohort, registered)) if policy.cohort is not None else registered


def most_invited(policy: RoundPolicy, registered: int) -> int:
    """The most clients that a round invites when `registered` exist."""
    return _invited(policy, most_counted(policy, registered), registered)


def train_seed(seed: int, round: int, client: ClientId) -> int:
    """The seed of one client's training in one round."""
    return derive(seed, "train", round, client)


def _invited(policy: RoundPolicy, want: int, of: int) -> int:
    # 1e-9: 10 x 1.3 is 13.000000000000002 in binary, and must not invite a 14th
    return min(math.ceil(want * policy.over_select - 1e-9), of)


def _count(value: int | float, of: int) -> int:
    """A count as it is; a fraction in (0, 1) of `of`, rounded up."""
    return int(value) if value >= 1 else math.ceil(value * of - 1e-9)


def plan_to_json(plan: Plan, job: str) -> dict[str, Any]:
    """Plain data; `job` guards against a plan of another run. Seeds are derived again."""
    carried = [[k.job, k.round, k.kind, k.stage, k.attempt, k.client, t] for k, t in plan.carried.items()]
    return {
        "job": job,
        "round": plan.round,
        "start": plan.start,
        "deadline": plan.deadline,
        "cohort": list(plan.cohort),
        "want": plan.want,
        "quorum": plan.quorum,
        "carried": carried,
    }


def plan_from_json(data: Mapping[str, Any], seed: int, registered: Collection[ClientId] | None) -> Plan:
    """The plan again; CheckpointError if it is not one, or names a client that is not registered. None:
    clients come and go, and one that was asked may be gone.
    """
    try:
        fields.exactly(data, "job", "round", "start", "deadline", "cohort", "want", "quorum", "carried")
        round = fields.integer(data["round"], "round")
        cohort = tuple(fields.text(c, "cohort") for c in fields.items(data["cohort"], "cohort"))
        if list(cohort) != sorted(set(cohort)):
            raise WireError("cohort is not sorted, or names a client twice")
        carried = dict(_carried(row) for row in fields.items(data["carried"], "carried"))
        named = {*cohort} | {key.client for key in carried}
        unknown = named - set(registered) if registered is not None else set()
        if unknown:
            raise WireError(f"client {min(unknown)!r} is not registered")
        return Plan(
            round,
            fields.number(data["start"], "start"),
            fields.number(data["deadline"], "deadline"),
            cohort,
            fields.integer(data["want"], "want", 0, len(cohort)),
            fields.integer(data["quorum"], "quorum", 1),
            {client: train_seed(seed, round, client) for client in cohort},
            carried,
        )
    except WireError as error:
        raise CheckpointError(f"plan.json is damaged: {error}") from error


def _carried(row: object) -> tuple[Key, float]:
    job, round, kind, stage, attempt, client, expires = fields.items(row, "carried", 7)
    key = Key(
        fields.text(job, "job of a carried key"),
        fields.integer(round, "round of a carried key"),
        cast("Kind", fields.text(kind, "kind of a carried key")),
        fields.text(stage, "stage of a carried key"),
        fields.integer(attempt, "attempt of a carried key"),
        fields.text(client, "client of a carried key"),
    )
    return key, fields.number(expires, "expiry of a carried key")
