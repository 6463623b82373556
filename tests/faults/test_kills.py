"""kill -9 of the server and of clients at seeded random instants: the simulation's model, nothing lost."""

from __future__ import annotations

import os
from typing import Any

import pytest

KILLS = 12


@pytest.mark.slow
def test_killed_at_random_instants(deploy: Any, reaper: Any) -> None:
    deployment = deploy({"rounds": 20}, seed=1)
    death = reaper(deployment, seed=1, every=10_000)
    for _ in range(KILLS):
        death.reap()
    deployment.finish()
    assert sum(death.kills.values()) == KILLS
    assert death.kills["server"] >= 3
    deployment.check()


pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a matter of POSIX")
