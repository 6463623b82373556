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
    assert status._client(_row(certificate=ends, revoked=revoked), "ago")["certificate"] == shown


def test_where_nobody_serves_the_time_is_that_of_the_stop() -> None:
    row = _row(seen=3.0, certificate=time.time() + DAY)
    assert status._client(row, "before it stopped")["last heard"] == "3 s before it stopped"


def _row(**changes: Any) -> dict[str, Any]:
    return {
        **{"client": "ann", "seen": None, "protocol": 1, "certificate": None, "revoked": False, "tasks": []},
        **changes,
    }
