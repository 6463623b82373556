"""From nothing to a trained model, as real processes over TLS: a CA, invites, joining, training, revoking."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest

from fedkit.launch import run_scenario
from fedkit.scenario import read
from tests.faults.commands import Commands

NAMES = ("c000", "c001", "c002")
SETTINGS = (
    *("population.clients=3", "rounds.cohort=3", "rounds.over_select=1", "rounds.quorum=3"),
    *("devices.drop=0", "rounds.count=1", "rounds.deadline=600", "train.epochs=1"),
    *("secagg.mode=lying_server", "secagg.width=64", "codec.up=none"),
)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_whole_journey(operate: Callable[..., Commands]) -> None:
    town = operate(Commands)
    address = town.address
    town.do("ca", "init")
    door = ("--operator", "127.0.0.1:0")
    serving = town.start(
        "serve.log", "serve", "digits", *SETTINGS, "--ca", "ca/ca.pem", "--address", address, *door
    )
    town.until(lambda: town.said("serve.log", "waiting for devices to enrol"), "serving")
    assert "devices to enrol: 0 of 3" in town.do("status")
    tokens = [town.do("invite", NAMES[0], "--address", address, "--server", "aggregator")]
    tokens += [town.do("invite", name) for name in NAMES[1:]]
    joining = [
        town.start(f"join-{name}.log", "join", token.strip(), "--dir", name)
        for name, token in zip(NAMES, tokens, strict=True)
    ]
    box = town.folder / "aggregator" / "journal" / "enrol"
    town.until(lambda: len(list((box / "requests").glob("*.json"))) == len(NAMES), "asking")
    assert town.do("ca", "approve").count("client ") == len(NAMES)
    town.until(lambda: all(one.poll() is not None for one in joining), "joining")
    assert [one.returncode for one in joining] == [0] * len(NAMES), town.logs()
    for name in NAMES:
        town.start(f"{name}.log", "client", "digits", *SETTINGS, "--dir", name)
    town.until(lambda: serving.poll() is not None, "training")
    assert serving.returncode == 0, town.logs()
    deployed = json.loads((town.folder / "aggregator" / "run" / "summary.json").read_text())
    simulated = run_scenario(read("digits", SETTINGS)).summary
    assert deployed["model_sha256"] == simulated["model_sha256"]
    town.do("revoke", NAMES[0], "--dir", "aggregator")
    again = town.start(
        "again.log", "serve", "digits", *SETTINGS, "rounds.count=2", "--address", address, *door
    )
    told = f"{NAMES[0]}.log"
    town.until(lambda: town.said(told, "403 revoked") or again.poll() is not None, "revoking")
    assert again.poll() is None, town.logs()
    assert not town.said(f"{NAMES[1]}.log", "403 revoked")
