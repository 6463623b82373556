"""Who kills the parties of a deployment."""

from __future__ import annotations

import random
import signal
import time

from tests.faults.deployment import Deployment

_PATIENCE = 60.0
"""Seconds without traffic after which the next kill comes all the same."""


class Reaper:
    """Kills parties at instants that are drawn from `seed`, and starts them again.

    every: bytes that pass between two kills, on average, so that a slow machine gets as far as a fast one. A
    fifth of the kills come sooner: whoever was started is not up yet.
    """

    def __init__(self, deployment: Deployment, seed: int, every: float) -> None:
        self._all, self._every = deployment, every
        self._draws = random.Random(seed)
        self.kills: dict[str, int] = {party.name: 0 for party in deployment.parties}

    def reap(self) -> None:
        """One kill: wait for its instant, kill, let the process be dead for a while, start it."""
        draws, proxy = self._draws, self._all.proxy
        victim = self._all.server if draws.random() < 0.4 else draws.choice(list(self._all.clients.values()))
        due = proxy.passed + draws.uniform(0, 2 * self._every)
        end = time.monotonic() + (draws.uniform(0, 1) if draws.random() < 0.2 else _PATIENCE)
        while proxy.passed < due and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(draws.uniform(0, 0.05))
        if self._all.server.ended() is not None:
            return  # the run is over
        assert victim.ended() is None, f"{victim.name} ended by itself with {victim.ended()}"
        assert victim.kill() == -signal.SIGKILL
        self.kills[victim.name] += 1
        time.sleep(draws.uniform(0, 0.5))
        victim.start()
