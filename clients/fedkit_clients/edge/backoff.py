"""How long to wait before trying again: exponential, with full jitter, never for ever."""

from __future__ import annotations

from fedkit.messages import ClientId
from fedkit.seeds import stream

BASE = 0.5
"""Seconds: the first wait is drawn below."""
CAP = 300.0
"""Seconds: no wait is drawn above."""
LONGEST = 3600.0
"""Seconds: no server is believed that it needs longer."""


class Backoff:
    """Waits of one client; another client draws others, so that a fleet does not come back at once.

    A wait is uniform in [0, min(cap, base 2^n)) after n failures in a row (full jitter: Brooker 2015).
    """

    def __init__(self, client: ClientId, base: float = BASE, cap: float = CAP) -> None:
        self._draws = stream(0, "backoff", client)
        self._base, self._cap = base, cap
        self.failures = 0

    def wait(self, asked: float = 0.0) -> float:
        """Seconds until the next attempt, counting one failure more; asked: what the server wants."""
        ceiling = min(self._cap, self._base * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return min(max(asked, 0.0), LONGEST) + self._draws.random() * ceiling

    def reset(self) -> None:
        """After a success."""
        self.failures = 0
