"""Devices whose clocks are wrong by a day: in Python, in TLS, everywhere."""

from __future__ import annotations

from typing import Any

import pytest

DAY = 86_400


@pytest.mark.slow
@pytest.mark.parametrize("tls", [True, False], ids=["tls", "http"])
def test_clocks_that_are_wrong_by_a_day_cost_time_only(deploy: Any, clock: Any, tls: bool) -> None:
    clocks = {"c000": clock(-DAY), "c001": clock(DAY)}
    deployment = deploy({"rounds": 4}, tls=tls, environments=clocks)
    deployment.finish()
    deployment.check()
    days = [deployment.clients[name].logs()[-1][:10] for name in ("c000", "c002", "c001")]
    assert days == sorted(set(days)), days
