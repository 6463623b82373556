"""Bad links of every kind between real processes: the simulation's model, bit for bit, and nothing lost."""

from __future__ import annotations

from typing import Any

import pytest

BIG = {"rounds": 2, "clients": 2, "hidden": 256, "codecs": ("none", "none", "off")}
"""Models and updates of 77 kB."""
PLAIN = ("twice", "gateway")
"""Of these the proxy needs to see requests."""
LINKS = {
    "cut": ({"cut": 30_000}, ("cut",)),
    "reset": ({"cut": 30_000, "reset": 1.0}, ("reset",)),
    "truncated": ({"cut": 30_000, "truncate": 1.0}, ("truncate",)),
    "late": ({"delay": 0.02}, ("delay",)),
    "slow": ({"drip": 150_000}, ("drip",)),
    "twice": ({"twice": 0.25}, ("twice",)),
    "gateway": ({"gateway": 0.2}, ("gateway",)),
    "everything": (
        {"cut": 60_000, "reset": 0.3, "truncate": 0.3, "delay": 0.005, "twice": 0.02, "gateway": 0.1},
        ("cut|reset|truncate", "delay"),
    ),
}


ALONE = [pytest.param(link, marks=pytest.mark.prove) for link in LINKS if link not in ("everything", "slow")]


@pytest.mark.slow
@pytest.mark.parametrize("link", ["everything", "slow", *ALONE])
def test_a_bad_link_costs_time_only(deploy: Any, link: str) -> None:
    faults, expected = LINKS[link]
    deployment = deploy(BIG, faults, seed=2, tls=link not in PLAIN)
    deployment.finish()
    deployment.check()
    met = deployment.proxy.met
    assert all(any(met[name] for name in names.split("|")) for names in expected), met


@pytest.mark.slow
def test_an_outage_costs_time_only(deploy: Any) -> None:
    deployment = deploy({"rounds": 10})
    for rounds in (2, 5):
        deployment.until(lambda rounds=rounds: deployment.rounds_done() >= rounds)
        deployment.proxy.darken()
        passed, done = deployment.proxy.passed, deployment.rounds_done()
        with pytest.raises(AssertionError, match="too long"):
            deployment.until(lambda done=done: deployment.rounds_done() > done + 1, 3)
        assert deployment.proxy.passed == passed
        deployment.proxy.lighten()
    deployment.finish()
    deployment.check()
