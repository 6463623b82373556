"""When a device may work."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from fedkit_clients.edge.hours import DAY, rest

MINUTES = st.integers(0, DAY - 1)


def clock(minute: int, second: int = 0) -> time.struct_time:
    return time.struct_time((2026, 3, 1, minute // 60, minute % 60, second, 6, 60, 0))


@given(MINUTES, MINUTES, MINUTES, st.integers(0, 61))
def test_after_the_rest_the_window_is_open_and_before_it_it_is_not(
    begins: int, ends: int, now: int, second: int
) -> None:
    if begins == ends:
        ends = (ends + 1) % DAY
    seconds = rest((begins, ends), clock(now, second))
    inside = begins <= now < ends if begins < ends else now >= begins or now < ends
    assert (seconds == 0) == inside
    if seconds:
        assert 0 < seconds <= DAY * 60
        opened = (now * 60 + min(second, 59) + seconds) // 60 % DAY
        assert opened == begins


def test_without_a_window_it_is_always_open() -> None:
    assert rest(None, clock(0)) == 0.0
