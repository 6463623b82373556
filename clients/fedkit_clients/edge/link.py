"""Sockets to an aggregator: pinned, kept alive, by way of a proxy if the owner has named one."""

from __future__ import annotations

import socket

import httpx

from fedkit.errors import ConfigError, shown
from fedkit.loopback import demand_loopback
from fedkit_clients.edge.tls import pinned

_PROBES = (("TCP_KEEPIDLE", 50), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 3))
ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in _PROBES if hasattr(socket, name)),
)
"""Options of a socket: a peer, or a translator of addresses on the way, that has gone is found out."""


def address_of(text: str, *schemes: str) -> httpx.URL:
    """The address of an aggregator, by one of these schemes. ConfigError: it is none."""
    try:
        url = httpx.URL(text)
        url.host.encode("idna")  # what the resolver does, and there raises
    except (httpx.InvalidURL, TypeError, UnicodeError) as error:
        raise ConfigError(f"{shown(text)} is no address: {error}") from error
    if url.scheme not in schemes or not url.host or url.userinfo or url.raw_path not in (b"", b"/"):
        raise ConfigError(f"{shown(text)} is no address: write https://HOST:PORT")
    return url


def over_network(url: httpx.URL, server: bytes, proxy: str) -> httpx.HTTPTransport:
    """Requests over sockets, by way of a proxy if one is named. ConfigError: no address, or not safe."""
    if url.scheme == "http":
        demand_loopback(url.host, "write https://")
    try:
        return httpx.HTTPTransport(
            verify=pinned(server), proxy=proxy or None, socket_options=ALIVE, trust_env=False
        )
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(f"proxy: {shown(proxy)}: {error}; write http://HOST:PORT") from error
