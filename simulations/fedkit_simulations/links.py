"""What connects clients: how long so many bytes take, up and down.

A transfer of n bytes takes latency + n / rate, where rate = (1 - loss) times the line's, and with
loss at most what TCP can sustain: MSS / RTT * 1.22 / sqrt(loss) (Mathis, Semke, Mahdavi, Ott 1997,
"The Macroscopic Behavior of the TCP Congestion Avoidance Algorithm", with RTT = 2 latency).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedkit.config import Links
from fedkit.errors import ConfigError, nearest
from fedkit.messages import ClientId
from fedkit.seeds import stream

MSS = 1460
MATHIS = 1.22


@dataclass(frozen=True)
class LinkProfile:
    """up, down: bytes per second. latency: seconds one way. loss: share of packets, in [0, 1)."""

    up: float
    down: float
    latency: float
    loss: float = 0.0


PROFILES: Mapping[str, LinkProfile] = {
    # 100 Mbit/s each way; round trip 4 ms as in WebPageTest's FIOS profile.
    "fibre": LinkProfile(up=12.5e6, down=12.5e6, latency=0.002),
    # A home network behind a broadband line: 48 Mbit/s down, 24 up, the round trip of a cable modem
    # (28 ms, WebPageTest's Cable profile).
    "wifi": LinkProfile(up=3.0e6, down=6.0e6, latency=0.014),
    # WebPageTest's LTE profile: 12 Mbit/s each way, round trip 70 ms.
    "4g": LinkProfile(up=1.5e6, down=1.5e6, latency=0.035),
    # WebPageTest's 3G Fast profile: 1.6 Mbit/s down, 768 kbit/s up, round trip 150 ms.
    "3g": LinkProfile(up=96e3, down=200e3, latency=0.075),
    # EU868 at DR5 (SF7, 125 kHz: 5470 bit/s, LoRaWAN Regional Parameters RP002) under the duty cycles
    # of ETSI EN 300 220: 1 % for devices, 10 % for the gateway; 1 s to the first receive window.
    "lorawan": LinkProfile(up=6.8, down=68.0, latency=1.0, loss=0.05),
}
"""The named profiles. Rates of the IP links are those a TCP transfer sees, hence without loss."""


@dataclass(frozen=True, slots=True)
class Link:
    """One client's connection. up, down: bytes per second that get through. latency: seconds."""

    up: float
    down: float
    latency: float

    def up_seconds(self, nbytes: int) -> float:
        """Seconds until the server has all of `nbytes` sent by the client."""
        return self.latency + nbytes / self.up

    def down_seconds(self, nbytes: int) -> float:
        """Seconds until the client has all of `nbytes` sent by the server."""
        return self.latency + nbytes / self.down


class ClientLinks(Mapping[ClientId, Link]):
    """The links of all clients, as arrays; a Link is made when it is asked for.

    names: sorted. up, down: (clients,) bytes per second that get through.
    """

    def __init__(self, profile: LinkProfile, names: Sequence[ClientId], factor: NDArray[np.float64]) -> None:
        self.profile = profile
        self.names = tuple(names)
        self.up = effective_rate(profile.up * factor, profile)
        self.down = effective_rate(profile.down * factor, profile)

    @cached_property
    def _position(self) -> dict[ClientId, int]:
        return {name: index for index, name in enumerate(self.names)}

    def __getitem__(self, client: ClientId) -> Link:
        index = self._position[client]
        return Link(float(self.up[index]), float(self.down[index]), self.profile.latency)

    def __iter__(self) -> Iterator[ClientId]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def effective_rate(rate: NDArray[np.float64], profile: LinkProfile) -> NDArray[np.float64]:
    """Bytes per second that get through a line of `rate` with the latency and loss of `profile`."""
    if profile.loss == 0.0:
        return rate
    rate = rate * (1.0 - profile.loss)
    if profile.latency == 0.0:
        return rate
    return np.minimum(rate, MSS / (2.0 * profile.latency) * MATHIS / math.sqrt(profile.loss))


def make_links(config: Links, clients: Sequence[ClientId], seed: int) -> ClientLinks:
    """The link of each client: the profile's, both rates times a log-normal factor of median 1.

    The factors are drawn in the order of sorted names. Raises ConfigError, naming the key of [links].
    """
    profile = link_profile(config)
    names = sorted(clients)
    factor = np.ones(len(names))
    if config.spread:
        factor = np.exp(config.spread * stream(seed, "links").normal(len(names)))
    return ClientLinks(profile, names, factor)


def link_profile(config: Links) -> LinkProfile:
    """The profile that `config` names, with the numbers that it overrides. Raises ConfigError."""
    given = {f.name: getattr(config, f.name) for f in fields(LinkProfile)}
    given = {key: value for key, value in given.items() if value is not None}
    if config.profile == "custom":
        missing = [key for key in ("up", "down") if key not in given]
        if missing:
            raise ConfigError(f"links.{missing[0]} is not set: profile = 'custom' needs up and down")
        profile = LinkProfile(**{"latency": 0.0, **given})
    elif config.profile in PROFILES:
        profile = replace(PROFILES[config.profile], **given)
    else:
        raise ConfigError(
            f"links.profile = {config.profile!r}: {nearest(config.profile, (*PROFILES, 'custom'))}"
        )
    _check(profile, config.spread)
    return profile


def _check(profile: LinkProfile, spread: float) -> None:
    for key in ("up", "down"):
        rate = getattr(profile, key)
        if not 1e-6 <= rate <= 1e15:
            raise ConfigError(f"links.{key} = {rate}: must be in [1e-6, 1e15] bytes per second")
    if not 0 <= profile.latency <= 1e12:
        raise ConfigError(f"links.latency = {profile.latency}: must be in [0, 1e12] seconds")
    if not 0 <= profile.loss < 1:
        raise ConfigError(f"links.loss = {profile.loss}: must be at least 0 and below 1")
    if not 0 <= spread <= 10:
        raise ConfigError(f"links.spread = {spread}: must be in [0, 10]")
