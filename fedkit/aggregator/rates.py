"""How often somebody may ask: a bucket of tokens for each, in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_MOST = 10_000


class Rates:
    """`burst` requests at once, then `a_second`; whoever has not asked for long is forgotten."""

    def __init__(self, a_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = a_second, burst, clock
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}

    def wait(self, who: str) -> float:
        """Take one token of `who`: 0; or the seconds until there is one."""
        with self._lock:
            now = self._clock()
            left, then = self._left.get(who, (self._burst, now))
            left = min(self._burst, left + (now - then) * self._rate)
            if left < 1:
                return (1 - left) / self._rate
            self._left.pop(who, None)  # the latest stand last
            self._left[who] = (left - 1, now)
            if len(self._left) > _MOST:
                del self._left[next(iter(self._left))]
            return 0.0
