"""Links: transfer times, the TCP bound, the spread over clients, errors that name the key."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.config import Links
from fedkit.errors import ConfigError
from fedkit_simulations.links import PROFILES, make_links

NAMES = [f"c{i:03d}" for i in range(100)]
rates = st.floats(1.0, 1e9)


@given(rates, rates, st.floats(0, 10), st.floats(0, 0.99), st.integers(0, 10**9), st.integers(1, 10**9))
def test_more_bytes_take_longer_and_nothing_beats_the_line(
    up: float, down: float, latency: float, loss: float, nbytes: int, more: int
) -> None:
    link = make_links(Links("custom", up, down, latency, loss), ["a"], 0)["a"]
    assert latency <= link.up_seconds(nbytes) <= link.up_seconds(nbytes + more)
    assert link.up_seconds(nbytes) >= (latency + nbytes / up) * (1 - 1e-12)
    assert link.down_seconds(nbytes) >= (latency + nbytes / down) * (1 - 1e-12)


def test_time_is_latency_and_bytes_over_the_rate_that_gets_through() -> None:
    link = make_links(Links("custom", up=1000.0, down=4000.0, latency=0.5), ["a"], 0)["a"]
    assert (link.up_seconds(2000), link.down_seconds(2000)) == (2.5, 1.0)
    lossy = make_links(Links("custom", up=1000.0, down=4000.0, loss=0.5), ["a"], 0)["a"]
    assert (lossy.up_seconds(2000), lossy.down_seconds(2000)) == (4.0, 1.0)


def test_loss_bounds_the_rate_as_tcp_does() -> None:
    link = make_links(Links("custom", up=1e9, down=1e9, latency=0.05, loss=0.01), ["a"], 0)["a"]
    bound = 1460 / 0.1 * 1.22 / math.sqrt(0.01)
    assert link.up == link.down == pytest.approx(bound)


def test_profiles_are_ordered_by_speed_and_numbers_override_them() -> None:
    order = [make_links(Links(name), ["a"], 0)["a"].up_seconds(10**6) for name in PROFILES]  # type: ignore[arg-type]
    assert list(PROFILES) == ["fibre", "wifi", "4g", "3g", "lorawan"]
    assert order == sorted(order)
    link = make_links(Links("4g", up=5.0), ["a"], 0)["a"]
    assert (link.up, link.down) == (5.0, PROFILES["4g"].down)


def test_the_spread_is_log_normal_and_the_same_in_both_directions() -> None:
    links = make_links(Links("4g", spread=0.5), [f"{i}" for i in range(20_000)], 7)
    logs = np.log(links.up / PROFILES["4g"].up)
    assert abs(logs.mean()) < 0.02
    assert abs(logs.std() - 0.5) < 0.02
    np.testing.assert_allclose(links.up / PROFILES["4g"].up, links.down / PROFILES["4g"].down)


def test_the_seed_and_the_set_of_clients_fix_the_links() -> None:
    config = Links("wifi", spread=1.0)
    first, again, other = (
        make_links(config, names, seed) for names, seed in ((NAMES, 1), (NAMES[::-1], 1), (NAMES, 2))
    )
    assert dict(first) == dict(again)
    assert dict(first) != dict(other)
    assert list(first) == NAMES
    with pytest.raises(KeyError, match="nobody"):
        first["nobody"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"up": None}, r"links\.up is not set"),
        ({"down": None}, r"links\.down is not set"),
        ({"up": 0.0}, r"links\.up = 0\.0"),
        ({"down": -1.0}, r"links\.down = -1\.0"),
        ({"down": math.nan}, r"links\.down = nan"),
        ({"latency": -0.1}, r"links\.latency = -0\.1"),
        ({"loss": 1.0}, r"links\.loss = 1\.0"),
        ({"spread": -1.0}, r"links\.spread = -1\.0"),
        ({"profile": "4gg"}, r"links\.profile = '4gg': did you mean '4g'"),
    ],
)
def test_bad_numbers_name_the_key(change: dict[str, object], message: str) -> None:
    config = dataclasses.replace(Links("custom", up=1.0, down=1.0), **change)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        make_links(config, NAMES, 0)


@pytest.mark.parametrize(
    "bad", [{"up": 1e-300}, {"down": 1e300}, {"up": math.nan}, {"latency": math.inf}, {"spread": 11.0}]
)
def test_numbers_that_no_clock_can_count_with_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"links\.{next(iter(bad))} = .*: must be in \["):
        make_links(Links(**bad), ["a"], 0)  # type: ignore[arg-type]
