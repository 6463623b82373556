"""What is this machine, and what is not."""

from __future__ import annotations

import pytest

from fedkit.errors import ConfigError
from fedkit.loopback import demand_loopback, is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org", ""])
def test_plain_http_is_for_this_machine_only(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match=r"for this machine only, not for .*: leave it out"):
        demand_loopback(host, "leave it out")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)
    demand_loopback(host, "leave it out")
