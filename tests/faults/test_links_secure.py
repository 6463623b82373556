"""Secure sessions between real processes: bad links cost time only, kill -9 costs sessions, not the run."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

SECURE = {"clients": 5, "codecs": ("none", "none", "off"), "secure": True}


@pytest.mark.slow
def test_over_a_bad_link_the_sum_is_that_of_the_simulation(deploy: Any) -> None:
    faults = {"cut": 40_000, "reset": 0.5, "delay": 0.002, "gateway": 0.05}
    deployment = deploy({"rounds": 2, **SECURE}, faults, seed=4)
    deployment.finish()
    deployment.check()
    assert deployment.proxy.met["cut"] + deployment.proxy.met["reset"] > 0


@pytest.mark.prove
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a matter of POSIX")
def test_killed_at_random_instants_every_round_has_an_outcome(deploy: Any, reaper: Any) -> None:
    deployment = deploy({"rounds": 4, "quorum": 3, **SECURE}, seed=5)
    death = reaper(deployment, seed=5, every=25_000)
    for _ in range(4):
        death.reap()
    deployment.finish()
    lines = (deployment.folder / "server" / "run" / "rounds.jsonl").read_text().splitlines()
    rounds = [json.loads(line) for line in lines]
    assert len(rounds) == 4
    for record in rounds:
        counted = sum(fate["outcome"] == "counted" for fate in record["fates"].values())
        assert counted >= 3 if record["ok"] else record["reason"]
    assert any(record["ok"] for record in rounds)
