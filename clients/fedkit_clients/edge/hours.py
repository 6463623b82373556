"""When a device works: a window of its own day, in local time."""

from __future__ import annotations

import time

DAY = 24 * 60


def rest(window: tuple[int, int] | None, at: time.struct_time) -> float:
    """Seconds until the window opens, 0 inside it. window: minutes of the day, from and to; None: always.

    >>> rest((22 * 60, 6 * 60), time.strptime("2026-01-31 21:59:30", "%Y-%m-%d %H:%M:%S"))
    30.0
    """
    if window is None:
        return 0.0
    begins, ends = window
    minute = 60 * at.tm_hour + at.tm_min
    if (minute - begins) % DAY < (ends - begins) % DAY:
        return 0.0
    return float(60 * ((begins - minute) % DAY) - min(at.tm_sec, 59))
