"""Two years of certificates in minutes, as real processes over TLS: they end, are renewed, change hands."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fedkit import keyfile
from tests.faults.town import Town
from tests.ports import reserved

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
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack, reserved() as port:
        yield Town(tmp_path, stack, f"127.0.0.1:{port}")


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
    words = ("again.log", "digits", *SECURE, "rounds.count=2")
    serve(town, *words, environment=clock(366 * DAY))
    town.until(lambda: town.said("c000.log", "403 expired.*CA that is not believed any more"), "refusing")
    town.until(lambda: town.said("again.log", "waiting for clients: 2 of 3"), "serving the others")
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
