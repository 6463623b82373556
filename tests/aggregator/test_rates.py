"""A bucket for each: a burst, then so many a second."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedkit.aggregator import rates
from fedkit.aggregator.rates import Rates


@given(steps=st.lists(st.floats(0.0, 3.0), max_size=60))
def test_nobody_gets_more_than_the_burst_and_the_rate(steps: list[float]) -> None:
    now = [0.0]
    bucket, taken = Rates(2.0, 5.0, lambda: now[0]), 0
    for step in steps:
        now[0] += step
        wait = bucket.wait("alice")
        taken += wait == 0
        assert 0 <= wait <= 0.5
        assert taken <= 5 + 2 * now[0] + 1e-6


def test_each_has_its_own_and_after_the_wait_there_is_one() -> None:
    now = [0.0]
    bucket = Rates(1.0, 2.0, lambda: now[0])
    assert [bucket.wait("alice") for _ in range(3)] == [0, 0, 1.0]
    assert bucket.wait("bob") == 0
    now[0] = 1.0
    assert [bucket.wait("alice") for _ in range(2)] == [0, 1.0]


def test_it_does_not_grow_for_ever(monkeypatch: object) -> None:
    bucket = Rates(1.0, 2.0)
    for number in range(rates._MOST + 50):
        bucket.wait(str(number))
    assert len(bucket._left) == rates._MOST
