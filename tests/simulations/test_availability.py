"""Availability: shares, exact transitions, the same answers after a checkpoint."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.config import Devices
from fedkit.errors import CheckpointError
from fedkit_simulations.devices import Fleet

NAMES = [f"c{i:03d}" for i in range(50)]


def test_always_is_everybody_sorted() -> None:
    fleet = Fleet(Devices(), NAMES[::-1], 0)
    assert fleet.available(5.0, 1) == NAMES
    assert fleet.save() == {}


def test_bernoulli_is_drawn_anew_each_round() -> None:
    config = Devices(availability="bernoulli", available=0.6)
    fleet = Fleet(config, NAMES, 0)
    rounds = [fleet.available(0.0, round) for round in range(100)]
    assert abs(np.mean([len(there) for there in rounds]) / len(NAMES) - 0.6) < 0.03
    assert fleet.available(9.0, 7) == rounds[7] == Fleet(config, NAMES, 0).available(1.0, 7) != rounds[8]
    assert all(there == sorted(there) for there in rounds)


def markov(on: float, off: float, clients: int = 50, seed: int = 0) -> Fleet:
    config = Devices(availability="markov", on_seconds=on, off_seconds=off)
    return Fleet(config, [f"c{i:05d}" for i in range(clients)], seed)


@pytest.mark.parametrize("time", [0.0, 0.3, 5.0, 1e6])
def test_markov_stays_at_its_stationary_share(time: float) -> None:
    there = markov(30.0, 10.0, clients=20_000).available(time, 0)
    assert abs(len(there) / 20_000 - 0.75) < 0.02


def test_markov_transitions_are_exact_whatever_the_steps() -> None:
    fleet = markov(2.0, 3.0, clients=40_000)
    before = set(fleet.available(0.0, 0))
    for step in range(1, 11):
        fleet.available(step / 10, 0)
    stayed = before & set(fleet.available(1.0, 0))
    expected = 0.4 + 0.6 * math.exp(-(1 / 2 + 1 / 3) * 1.0)
    assert abs(len(stayed) / len(before) - expected) < 0.02


def test_markov_answers_the_same_at_the_same_time_and_never_goes_back() -> None:
    fleet = markov(10.0, 10.0)
    assert fleet.available(7.0, 0) == fleet.available(7.0, 1)
    with pytest.raises(ValueError, match=r"cannot go back to 6\.0"):
        fleet.available(6.0, 1)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 50), min_size=2, max_size=8), st.integers(0, 9))
def test_markov_continues_from_a_checkpoint(times: list[float], seed: int) -> None:
    times, cut = sorted(times), len(times) // 2
    whole, first = markov(10.0, 5.0, seed=seed), markov(10.0, 5.0, seed=seed)
    expected = [whole.available(time, 0) for time in times]
    begun = [first.available(time, 0) for time in times[:cut]]
    second = markov(10.0, 5.0, seed=seed)
    second.load(first.save())
    assert begun + [second.available(time, 0) for time in times[cut:]] == expected


def test_a_checkpoint_of_other_clients_is_refused() -> None:
    with pytest.raises(CheckpointError, match="50 clients is needed, found that of 3 clients"):
        markov(1.0, 1.0).load(markov(1.0, 1.0, clients=3).save())
    with pytest.raises(CheckpointError, match="found none"):
        markov(1.0, 1.0).load({})
