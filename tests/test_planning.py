"""Policies that cannot work, and who is asked in a round."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import CheckpointError, ConfigError
from fedkit.federation import Plan, RoundPolicy
from fedkit.messages import Key
from fedkit.planning import check_policy, make_plan, plan_from_json, plan_to_json, train_seed

NAMES = [f"c{i:02d}" for i in range(40)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cohort", 0),
        ("cohort", -3),
        ("cohort", 0.0),
        ("cohort", 1.0),  # one client, or all of them?
        ("cohort", 2.5),
        ("cohort", math.nan),
        ("quorum", 0),
        ("quorum", 1.0),
        ("quorum", -0.5),
        ("over_select", 0.9),
        ("over_select", math.nan),
        ("deadline", 0.0),
        ("deadline", math.inf),
        ("deadline", math.nan),
        ("late", "keep"),
        ("carry_rounds", 0),
        ("max_failures", 0),
    ],
)
def test_a_policy_that_cannot_work_is_an_error_that_names_its_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"rounds\.{key} = "):
        check_policy(RoundPolicy(**{key: value}))


def test_a_quorum_above_the_cohort_could_never_be_met() -> None:
    with pytest.raises(ConfigError, match=r"rounds\.quorum = 6 is above rounds\.cohort = 5"):
        check_policy(RoundPolicy(cohort=5, quorum=6))
    check_policy(RoundPolicy(cohort=5, quorum=5))
    check_policy(RoundPolicy(cohort=0.5, quorum=0.2))


@given(
    reachable=st.sets(st.sampled_from(NAMES)).map(sorted),
    busy=st.sets(st.sampled_from(NAMES)),
    cohort=st.one_of(st.none(), st.integers(1, 50), st.floats(0.01, 0.99)),
    over=st.floats(1.0, 3.0),
    quorum=st.one_of(st.integers(1, 5), st.floats(0.01, 0.99)),
)
def test_a_plan_invites_free_clients_only_and_as_many_as_the_policy_says(
    reachable: list[str], busy: set[str], cohort: int | float | None, over: float, quorum: int | float
) -> None:
    out = {Key("job", 1, "train", "", 0, client): 99.0 for client in sorted(busy)}
    policy = RoundPolicy(cohort=cohort, over_select=over, quorum=quorum, deadline=7.0)
    plan = make_plan(policy, reachable, out, 4, 10.0, 0)
    free = set(reachable) - busy
    assert set(plan.cohort) <= free
    assert list(plan.cohort) == sorted(set(plan.cohort))
    assert plan.want <= len(plan.cohort) <= len(free)
    if cohort is None:
        assert plan.cohort == tuple(sorted(free))
    elif isinstance(cohort, int):
        assert plan.want == min(cohort, len(free))
    else:
        assert plan.want == math.ceil(cohort * len(free) - 1e-9)
    assert len(plan.cohort) == min(len(free), math.ceil(plan.want * over - 1e-9))
    assert plan.quorum >= 1
    assert (plan.start, plan.deadline, dict(plan.carried)) == (10.0, 17.0, out)
    assert dict(plan.seeds) == {c: train_seed(0, 4, c) for c in plan.cohort}


def test_ten_times_one_point_three_invites_thirteen() -> None:
    plan = make_plan(RoundPolicy(cohort=10, over_select=1.3), NAMES, {}, 0, 0.0, 0)
    assert (len(plan.cohort), plan.want) == (13, 10)


def test_a_fraction_for_the_quorum_is_one_of_the_cohort() -> None:
    plan = make_plan(RoundPolicy(cohort=10, over_select=2.0, quorum=0.55), NAMES, {}, 0, 0.0, 0)
    assert plan.quorum == 6


def test_cohorts_depend_on_seed_round_and_kind_alone() -> None:
    policy = RoundPolicy(cohort=10)
    plan = make_plan(policy, NAMES, {}, 3, 0.0, 1)
    assert make_plan(policy, NAMES, {}, 3, 55.5, 1).cohort == plan.cohort
    others = [
        make_plan(policy, NAMES, {}, 4, 0.0, 1),
        make_plan(policy, NAMES, {}, 3, 0.0, 2),
        make_plan(policy, NAMES, {}, 3, 0.0, 1, "evaluate"),
    ]
    assert all(other.cohort != plan.cohort for other in others)


def test_every_client_is_drawn_about_equally_often() -> None:
    drawn = [c for r in range(400) for c in make_plan(RoundPolicy(cohort=10), NAMES, {}, r, 0.0, 0).cohort]
    counts = [drawn.count(name) for name in NAMES]
    assert sum(counts) == 4000
    assert all(60 < count < 140 for count in counts)  # 100 expected, standard deviation 8.7


def example() -> Plan:
    busy = {Key("job", 2, "train", "", 0, "c01"): 0.1 + 0.2}
    return make_plan(RoundPolicy(cohort=5, over_select=1.4), NAMES, busy, 3, 1 / 3, 8)


def test_a_plan_comes_back_from_json() -> None:
    plan = example()
    assert plan_from_json(plan_to_json(plan, "job"), 8, NAMES) == plan


@pytest.mark.parametrize("key", ["round", "start", "deadline", "cohort", "want", "quorum", "carried"])
def test_a_plan_that_lacks_a_key_is_damaged(key: str) -> None:
    data = plan_to_json(example(), "job")
    del data[key]
    with pytest.raises(CheckpointError, match=r"plan\.json is damaged"):
        plan_from_json(data, 8, NAMES)


@pytest.mark.parametrize("carried", [[["job", 2]], [3], 7])
def test_carried_keys_that_are_none_are_damage(carried: object) -> None:
    with pytest.raises(CheckpointError, match=r"plan\.json is damaged"):
        plan_from_json({**plan_to_json(example(), "job"), "carried": carried}, 8, NAMES)
