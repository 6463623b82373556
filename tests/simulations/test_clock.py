"""The virtual clock goes forwards only."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit_simulations.clock import VirtualClock


@given(st.lists(st.floats(0, 1e9), min_size=1))
def test_it_stands_where_it_was_put(times: list[float]) -> None:
    clock = VirtualClock()
    for time in sorted(times):
        clock.advance_to(time)
        assert clock.now == time


@pytest.mark.parametrize("time", [4.9, -1.0, math.inf, math.nan])
def test_it_never_goes_back(time: float) -> None:
    clock = VirtualClock(5.0)
    with pytest.raises(ValueError, match=r"stands at 5\.0"):
        clock.advance_to(time)
    assert clock.now == 5.0


def test_it_starts_at_a_time() -> None:
    with pytest.raises(ValueError, match="cannot start at nan"):
        VirtualClock(math.nan)
