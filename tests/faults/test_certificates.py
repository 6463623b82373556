"""Two years of certificates in minutes, as real processes over TLS: they end, are renewed, change hands."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from fedkit import keyfile
from fedkit.aggregator.enrol import LOOK
from tests.faults.town import Town

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="signals")]
DAY = 86_400
NAMES = ("c000", "c001", "c002")
SETTINGS = (
    *("population.clients=3", "rounds.over_select=1", "devices.drop=0", "rounds.deadline=600"),
    *("rounds.max_failures=1000", "codec.up=none"),
)
SECURE = (
    *(*SETTINGS, "rounds.count=1", "rounds.cohort=3", "rounds.quorum=3", "train.epochs=1"),
    *("secagg.mode=lying_server", "secagg.width=64"),
)
ENDLESS = (*SETTINGS, "rounds.count=100000", "rounds.quorum=1")


@pytest.fixture
def town(operate: Callable[..., Town], monkeypatch: pytest.MonkeyPatch) -> Town:
    made = operate(Town)
    monkeypatch.chdir(made.folder)
    return made


def serve(town: Town, log: str, *words: str, **more: Any) -> Any:
    words = ("serve", *words, "--ca", "ca/ca.pem", "--address", town.address)
    made = town.start(log, *words, **more)
    town.until(lambda: town.said(log, "listening on"), "serving")
    return made


def counted(record: Any) -> set[str]:
    return {name for name, fate in record["fates"].items() if fate["outcome"] == "counted"}


def test_old_new_and_rekeyed_devices_share_a_secure_round_until_the_old_ca_ends(
    town: Town, clock: Any
) -> None:
    """c000 has a certificate of the old CA, c001 has changed its key since, the new CA has invited c002."""
    town.do("ca", "init")
    serving = serve(town, "serve.log", "digits", *SECURE)
    town.join("c000", "c001", days=800.0)
    town.do("ca", "rotate", "new", "--dir", "aggregator")
    before = keyfile.read_key(town.folder / "c001").public
    town.rotate("c001", ca="new", days=800.0)
    town.join("c002", ca="new", days=800.0)
    certificates = [town.certificate(name, ca) for name, ca in zip(NAMES, ("ca", "new", "new"), strict=True)]
    assert certificates[1].key != before
    for name in NAMES:
        town.start(f"{name}.log", "client", "digits", *SECURE, "--dir", name)
    town.until(lambda: bool(town.rounds()), "training")
    (record,) = town.rounds()
    assert record["ok"], record
    assert counted(record) == {*NAMES}
    assert town.count("c000.log", "a new CA takes over") == 1
    assert (town.folder / "c000" / "next-ca.json").exists()
    town.until(lambda: serving.poll() is not None, "the end")
    words = ("again.log", "digits", *SECURE, "rounds.count=200", "--patience", "5")  # for a quorum of all
    serve(town, *words, environment=clock(366 * DAY))
    town.until(lambda: town.said("c000.log", "403 expired.*CA that is not believed any more"), "refusing")
    few = "2 clients can take part, a secure sum takes 3"
    town.until(lambda: town.said("again.log", few), "a round of the others, too few for a sum")
    assert not any(town.said(f"{name}.log", "403") for name in NAMES[1:])


def test_a_short_certificate_is_renewed_while_it_runs_and_one_that_expired_is_replaced(town: Town) -> None:
    """The CA gives 40 seconds, then 10, then is away; the device joins again, and keeps what it has."""
    town.do("ca", "init")
    settings = (*ENDLESS, "rounds.cohort=1")
    serve(town, "serve.log", "digits", *settings, "--clients", "1")
    town.join("c000", days=40 / DAY)
    first = town.certificate("c000")
    client = town.start("c000.log", "client", "digits", *settings, "--dir", "c000")

    def renewed() -> bool:
        town.approve(days=10 / DAY)
        return town.said("c000.log", "the certificate is renewed")

    town.until(renewed, "renewing")
    second = town.certificate("c000")
    assert (second.key, second.serial != first.serial) == (first.key, True)
    assert second.begins - first.begins >= 19, "not before it is half over"
    assert town.rounds()
    town.until(lambda: town.said("c000.log", "403 expired"), "expiring")
    assert client.poll() is None, "it waits"
    client.send_signal(signal.SIGTERM)
    assert client.wait(60) == 0
    done = len(town.rounds())
    town.join("c000")
    assert town.certificate("c000").key == first.key
    town.start("again.log", "client", "digits", *settings, "--dir", "c000")
    town.until(lambda: len(town.rounds()) > done + 2, "going on")
    assert counted(town.rounds()[-1]) == {"c000"}


HELD = """
import time
from pathlib import Path
import numpy as np
from fedkit_clients.numpy_trainer import NumpyWorkload, Softmax


class Held(NumpyWorkload):
    def trainer(self, client):
        while client == "c001" and Path("hold").exists():
            time.sleep(0.05)
        return super().trainer(client)


def make():
    x = np.arange(80, dtype=np.float32).reshape(20, 4) / 80
    y = np.arange(20) % 2
    return Held(Softmax(4, 2), {"c000": (x, y), "c001": (x, y)}, test=(x, y))
"""
"""A workload whose client c001 trains no further while there is a file `hold`."""


def test_a_device_is_revoked_in_the_middle_of_a_round(town: Town) -> None:
    """It has the task; what it sends then is refused, it keeps that, and the other one goes on."""
    (town.folder / "held.py").write_text(HELD)
    (town.folder / "s.toml").write_text('workload = "held.py:make"\n')
    settings = ("s.toml", "rounds.count=100000", "rounds.cohort=2", "rounds.quorum=1", "rounds.deadline=10")
    town.do("ca", "init")
    serve(town, "serve.log", *settings, "rounds.max_failures=1000", "--wait-for", "1")
    town.join("c000", "c001")
    clients = [town.start(f"{name}.log", "client", *settings, "--dir", name) for name in ("c000", "c001")]
    town.until(lambda: any(counted(record) == {"c000", "c001"} for record in town.rounds()), "training")
    (town.folder / "hold").touch()
    town.until(lambda: bool(town.training("c001")), "holding it while it trains")
    time.sleep(0.5)  # if it had trained before, it is done by now
    town.until(lambda: bool(town.training("c001")), "holding it while it trains")
    (number,) = town.training("c001")
    assert "1 certificate revoked" in town.do("revoke", "c001", "--dir", "aggregator")
    time.sleep(1.5 * LOOK)  # the aggregator looks for news of the CA when it is asked, if not just before
    (town.folder / "hold").unlink()
    town.until(lambda: town.said("c001.log", "403 revoked"), "refusing")
    town.until(lambda: bool(list((town.folder / "c001").glob("*/finished/*"))), "keeping what is finished")
    town.until(lambda: len(town.rounds()) > number + 3, "going on")
    middle: Any = town.rounds()[number]
    assert middle["fates"]["c001"]["outcome"] in ("late", "lost")
    assert all(counted(record) == {"c000"} for record in town.rounds()[number:])
    assert [client.poll() for client in clients] == [None, None]


def test_the_place_of_a_revoked_device_goes_to_the_one_that_waits(town: Town) -> None:
    """The revoked one is in the plan of a round in which the aggregator is killed."""
    (town.folder / "held.py").write_text(HELD)
    (town.folder / "s.toml").write_text('workload = "held.py:make"\n')
    settings = ("s.toml", "rounds.count=100000", "rounds.cohort=2", "rounds.quorum=1", "rounds.deadline=10")
    words = (*settings, "rounds.max_failures=1000", "--wait-for", "1")
    town.do("ca", "init")
    serving = serve(town, "serve.log", *words)
    town.join("c000", "c001")
    town.join("c002")
    for name in ("c000", "c001"):
        town.start(f"{name}.log", "client", *settings, "--dir", name)
    town.until(lambda: any(counted(record) == {"c000", "c001"} for record in town.rounds()), "training")
    town.start("c002.log", "client", *settings, "--dir", "c002", "--shard", "c000")
    town.until(lambda: town.said("c002.log", "403 full"), "refusing")
    assert town.said("serve.log", "no place for client 'c002', all 2 are taken")
    told = town.do("status")
    assert re.search("places +2 of 2 taken, 0 free", told), told
    assert re.search("without a place +c002: revoke", told), told
    (town.folder / "hold").touch()
    town.until(lambda: bool(town.training("c001")), "holding it while it trains")
    time.sleep(0.5)
    town.until(lambda: bool(town.training("c001")), "holding it while it trains")
    serving.kill()
    serving.wait()
    (number,) = town.training("c001")
    town.do("revoke", "c001", "--dir", "aggregator")
    serve(town, "again.log", *words)
    town.until(lambda: any(counted(record) == {"c000", "c002"} for record in town.rounds()), "its place")
    assert all("c001" not in counted(record) for record in town.rounds()[number:])
    assert town.said("again.log", "client 'c001' was revoked")
