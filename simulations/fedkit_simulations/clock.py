"""The virtual clock of a simulation: an ordinary object that stands still until it is moved."""

from __future__ import annotations

import math


class VirtualClock:
    """Seconds since the run began. Only `advance_to` moves it, and never backwards."""

    def __init__(self, now: float = 0.0) -> None:
        if not math.isfinite(now):
            raise ValueError(f"a clock cannot start at {now}")
        self._now = float(now)

    @property
    def now(self) -> float:
        """Seconds."""
        return self._now

    def advance_to(self, time: float) -> None:
        """Let time pass until `time`. Raises ValueError if that is earlier than now, or not finite."""
        if not math.isfinite(time) or time < self._now:
            raise ValueError(f"the clock stands at {self._now}, it cannot go to {time}")
        self._now = float(time)
