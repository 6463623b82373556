"""Devices: speed, crashes, stragglers; all fixed by the seed, errors name the key."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.config import Devices
from fedkit.errors import ConfigError
from fedkit_simulations.devices import SPEEDS, Fleet

NAMES = [f"c{i:03d}" for i in range(50)]


def test_training_takes_examples_over_speed() -> None:
    fleet = Fleet(Devices("custom", speed=20.0), NAMES, 0)
    assert fleet.train_seconds("c007", 100) == 5.0
    assert Fleet(Devices("pi"), NAMES, 0).speed("c000") == SPEEDS["pi"]
    assert Fleet(Devices("pi", speed=3.0), NAMES, 0).speed("c000") == 3.0


def test_the_spread_of_speeds_is_log_normal() -> None:
    names = [str(i) for i in range(20_000)]
    fleet = Fleet(Devices("custom", speed=2.0, spread=0.5), names, 3)
    logs = np.log([fleet.speed(name) / 2.0 for name in names])
    assert abs(logs.mean()) < 0.02
    assert abs(logs.std() - 0.5) < 0.02


def test_crashes_have_their_frequencies() -> None:
    fleet = Fleet(Devices(drop=0.3, drop_after=0.25), NAMES, 1)
    seen = Counter(fleet.crash(round, name) for round in range(100) for name in NAMES)
    total = 100 * len(NAMES)
    assert abs(seen["after"] / total - 0.075) < 0.02
    assert abs(seen["before"] / total - 0.225) < 0.03


def test_no_drop_no_crash_and_certain_drop_always() -> None:
    assert {Fleet(Devices(), NAMES, 1).crash(r, n) for r in range(5) for n in NAMES} == {None}
    certain = Fleet(Devices(drop=1.0, drop_after=1.0), NAMES, 1)
    assert {certain.crash(r, n) for r in range(5) for n in NAMES} == {"after"}


def test_a_crash_depends_on_seed_round_and_client_alone() -> None:
    config = Devices(drop=0.5)
    whole, part = Fleet(config, NAMES, 1), Fleet(config, NAMES[:3], 1)
    assert [whole.crash(r, "c001") for r in range(40)] == [part.crash(r, "c001") for r in range(40)]
    assert [whole.crash(r, "c001") for r in range(40)] != [whole.crash(r, "c002") for r in range(40)]


@settings(deadline=None)
@given(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.integers(1, 50), st.integers(1, 20), st.integers(0, 99))
def test_stragglers_are_exactly_so_many_and_do_whole_epochs(
    share: float, size: int, epochs: int, round: int
) -> None:
    fleet = Fleet(Devices(stragglers=share), NAMES, 5)
    work = fleet.work(round, NAMES[:size], epochs)
    assert list(work) == sorted(work)
    assert set(work) <= set(NAMES[:size])
    assert len(work) == math.floor(share * size + 0.5)
    done = np.array(list(work.values())) * epochs
    np.testing.assert_allclose(done, np.rint(done))
    assert ((done >= 1 - 1e-9) & (done <= epochs)).all()


def test_a_straggler_may_do_all_of_its_work() -> None:
    fleet = Fleet(Devices(stragglers=0.5), NAMES, 5)
    assert fleet.work(0, NAMES[:10], 1) == dict.fromkeys(fleet.work(0, NAMES[:10], 1), 1.0)
    assert len(fleet.work(0, NAMES[:10], 1)) == 5


def test_stragglers_are_uniform_over_epochs_and_clients() -> None:
    fleet = Fleet(Devices(stragglers=0.5), NAMES, 5)
    rounds = [fleet.work(round, NAMES[:10], 20) for round in range(400)]
    assert {len(some) for some in rounds} == {5}
    shares = Counter(round(20 * value) for some in rounds for value in some.values())
    assert sorted(shares) == list(range(1, 21))
    assert all(abs(times - 100) < 40 for times in shares.values())
    times = Counter(name for some in rounds for name in some)
    assert all(abs(times[name] - 200) < 60 for name in NAMES[:10])


def test_work_does_not_depend_on_the_order_of_the_cohort() -> None:
    fleet = Fleet(Devices(stragglers=0.5), NAMES, 5)
    assert fleet.work(3, NAMES[:9], 20) == fleet.work(3, NAMES[8::-1], 20)
    assert fleet.work(3, NAMES[:9], 20) != fleet.work(4, NAMES[:9], 20)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Devices("phon"), r"devices\.profile = 'phon': did you mean 'phone'"),  # type: ignore[arg-type]
        (Devices("custom"), r"devices\.speed is not set"),
        (Devices(speed=0.0), r"devices\.speed = 0\.0"),
        (Devices(spread=-1.0), r"devices\.spread = -1\.0"),
        (Devices(drop=1.5), r"devices\.drop = 1\.5"),
        (Devices(drop_after=-0.5), r"devices\.drop_after = -0\.5"),
        (Devices(stragglers=math.nan), r"devices\.stragglers = nan"),
        (Devices(available=2.0), r"devices\.available = 2\.0"),
        (Devices(on_seconds=0.0), r"devices\.on_seconds = 0\.0"),
        (Devices(off_seconds=math.inf), r"devices\.off_seconds = inf"),
        (Devices(availability="bernouli"), r"devices\.availability.*did you mean 'bernoulli'"),  # type: ignore[arg-type]
    ],
)
def test_bad_numbers_name_the_key(config: Devices, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Fleet(config, NAMES, 0)


@pytest.mark.parametrize(
    "bad",
    [{"speed": 1e-300}, {"speed": math.inf}, {"spread": 11.0}, {"on_seconds": 0.0}],
)
def test_numbers_that_no_clock_can_count_with_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"devices\.{next(iter(bad))} = .*: must be in \["):
        Fleet(Devices(**bad), ["a"], 0)  # type: ignore[arg-type]
