"""Addresses of this machine, the only ones for which plain HTTP will do."""

from __future__ import annotations

import ipaddress

from fedkit.errors import ConfigError


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def demand_loopback(host: str, instead: str) -> None:
    """ConfigError unless `host` is this machine: nothing leaves it without TLS. instead: what to do."""
    if not is_loopback(host):
        raise ConfigError(f"plain HTTP is for this machine only, not for {host}: {instead}")
