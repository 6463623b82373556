"""What `fedkit status` says of a client's certificate, and since when it was not heard."""

from __future__ import annotations

import time
from typing import Any

import pytest

from fedkit.cli import status

DAY = 86400.0


@pytest.mark.parametrize(
    ("ends", "revoked", "shown"),
    [
        (1.0e10, False, "until 2286-11-20"),
        (1.0e9, False, "expired 2001-09-09"),
        (1.0e10, True, "revoked"),
        (None, False, ""),
    ],
)
def test_a_certificate_that_is_not_good_says_why(ends: float | None, revoked: bool, shown: str) -> None:
    assert status._client(_row(certificate=ends, revoked=revoked), "ago", {})["certificate"] == shown


def test_where_nobody_serves_the_time_is_that_of_the_stop() -> None:
    row = _row(seen=3.0, certificate=time.time() + DAY)
    assert status._client(row, "before it stopped", {})["last heard"] == "3 s before it stopped"


def test_places_and_who_waits_for_one_are_told() -> None:
    waiting = [f"c{number:03}" for number in range(12)]
    told = dict(status._lines(_told({"room": 40, "taken": 40, "free": 0, "waiting": waiting})))
    assert told["places"] == "40 of 40 taken, 0 free"
    assert told["without a place"].startswith("c000, c001,")
    assert told["without a place"].endswith("c009, ...: revoke a device that is gone, or serve with more")
    told = dict(status._lines(_told({"room": 40, "taken": 3, "free": 37, "waiting": []})))
    assert told["places"] == "3 of 40 taken, 37 free"
    assert "without a place" not in told
    assert "places" not in dict(status._lines(_told(None)))


def test_for_whom_the_run_waits_is_told() -> None:
    told = _told(None)
    assert "waiting for" not in dict(status._lines(told))
    told["run"]["waiting"] = "clients: 1 of 2 can be reached"
    assert dict(status._lines(told))["waiting for"] == "clients: 1 of 2 can be reached"


def _told(places: dict[str, Any] | None) -> dict[str, Any]:
    run = {"ended": "", "waiting": "", "done": 0, "failed": 0, "rounds": 0, "now": None, "last": None}
    return {
        **{"running": False, "job": "", "pause": 0.0, "tasks": {}, "enrolments": [], "places": places},
        "run": {**run, "metrics": {}, "outcomes": {}},
        "disk": {"journal": 0, "blobs": 0, "uploads": 0, "free": 0},
        "traffic": {"up": 0, "down": 0},
    }


def _row(**changes: Any) -> dict[str, Any]:
    return {
        **{"client": "ann", "seen": None, "protocol": 1, "certificate": None, "revoked": False, "tasks": []},
        **changes,
    }
