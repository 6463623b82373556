"""Who is asked in a round: decided from the seed, written down before the first task is sent."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from fedkit.errors import CheckpointError, ConfigError
from fedkit.federation import Plan, RoundPolicy
from fedkit.messages import ClientId, Key
from fedkit.seeds import derive, stream


def check_policy(policy: RoundPolicy) -> None:
    """ConfigError, naming the key, unless the policy makes sense."""
    cohort, quorum = policy.cohort, policy.quorum
    _demand(cohort is None or _is_size(cohort), "cohort", cohort, _SIZE)
    _demand(_is_size(quorum), "quorum", quorum, _SIZE)
    _demand(policy.over_select >= 1, "over_select", policy.over_select, "at least 1")
    _demand(
        policy.deadline > 0 and math.isfinite(policy.deadline),
        "deadline",
        policy.deadline,
        "finite and positive",
    )
    _demand(policy.late in ("drop", "carry"), "late", policy.late, "drop or carry")
    _demand(policy.carry_rounds >= 1, "carry_rounds", policy.carry_rounds, "at least 1")
    _demand(policy.max_failures >= 1, "max_failures", policy.max_failures, "at least 1")
    if cohort is not None and cohort >= 1 and quorum > cohort:
        raise ConfigError(
            f"rounds.quorum = {quorum} is above rounds.cohort = {cohort}: no round could succeed"
        )


_SIZE = "a count (a whole number) or a fraction in (0, 1)"


def _is_size(value: int | float) -> bool:
    """1.0 is neither: one client, or all of them?"""
    return value >= 1 if isinstance(value, numbers.Integral) else 0 < value < 1


def _demand(holds: bool, key: str, value: object, must: str) -> None:
    if not holds:
        raise ConfigError(f"rounds.{key} = {value!r}: must be {must}")


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
    # 1e-9: 10 x 1.3 is 13.000000000000002 in binary, and must not invite a 14th
    invited = min(math.ceil(want * policy.over_select - 1e-9), len(free))
    chosen = stream(seed, "cohort", kind, round).choice(len(free), invited)
    cohort = tuple(sorted(free[i] for i in chosen))
    quorum = max(1, _count(policy.quorum, want))
    seeds = {client: train_seed(seed, round, client) for client in cohort}
    return Plan(round, now, now + policy.deadline, cohort, want, quorum, seeds, dict(busy))


def most_counted(policy: RoundPolicy, registered: int) -> int:
    """The most fresh updates that a round can count when `registered` clients exist."""
    return min(registered, _count(policy.cohort, registered)) if policy.cohort is not None else registered


def train_seed(seed: int, round: int, client: ClientId) -> int:
    """The seed of one client's training in one round."""
    return derive(seed, "train", round, client)


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


def plan_from_json(data: Mapping[str, Any], seed: int) -> Plan:
    """The plan again; CheckpointError if it is not one."""
    try:
        return Plan(
            data["round"],
            data["start"],
            data["deadline"],
            tuple(data["cohort"]),
            data["want"],
            data["quorum"],
            {client: train_seed(seed, data["round"], client) for client in data["cohort"]},
            {Key(*row[:6]): row[6] for row in data["carried"]},
        )
    except (KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"plan.json is damaged: {error!r}") from error
