"""What clients are: how fast they train, when they crash, how much they do, when they are there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np

from fedkit.config import Devices
from fedkit.errors import ConfigError, nearest
from fedkit.messages import ClientId
from fedkit.seeds import stream
from fedkit.tensors import State
from fedkit_simulations.availability import Always, Availability, Bernoulli, Markov

SPEEDS: Mapping[str, float] = {
    # One core of a 2020s x86 server on a convolutional network of 222 thousand parameters: measured,
    # 2,000 examples in 0.42 s. The others are that figure scaled by the usual ratio of single-core
    # throughput, orders of magnitude only: set `speed` to what your own model does on your device.
    "server": 5000.0,
    "laptop": 3000.0,
    "phone": 500.0,
    "pi": 100.0,
    "micro": 1.0,
}
"""Training examples per second of the named profiles."""

Crash = Literal["before", "after"] | None


class Fleet:
    """The devices of all clients. Every draw is named by round and client (or cohort) alone.

    Only availability "markov" has a state: `save` and `load` carry it through a checkpoint.
    """

    def __init__(self, config: Devices, clients: Sequence[ClientId], seed: int) -> None:
        """Raises ConfigError, naming the key of [devices]."""
        self._config = config
        self._seed = seed
        self._names = tuple(sorted(clients))
        factor = np.ones(len(self._names))
        if config.spread:
            _require_spread(config.spread)
            factor = np.exp(config.spread * stream(seed, "devices").normal(len(self._names)))
        self._speed = _speed(config) * factor
        _check(config)
        self._availability = _availability(config, self._names, seed)

    @cached_property
    def _position(self) -> dict[ClientId, int]:
        return {name: index for index, name in enumerate(self._names)}

    def speed(self, client: ClientId) -> float:
        """Training examples per second."""
        return float(self._speed[self._position[client]])

    def train_seconds(self, client: ClientId, examples_processed: float) -> float:
        """Seconds to train on so many examples (data set size times epochs)."""
        return examples_processed / self.speed(client)

    def crash(self, round: int, client: ClientId) -> Crash:
        """Whether the client crashes in this round, before or after training."""
        if self._config.drop == 0.0:
            return None
        drop, when = stream(self._seed, "crash", round, client).uniform(2)
        if drop >= self._config.drop:
            return None
        return "after" if when < self._config.drop_after else "before"

    def crash_stage(self, round: int, client: ClientId, stages: int) -> int | None:
        """At which of a secure session's stages the client crashes in this round; each is as likely."""
        if self.crash(round, client) is None:
            return None
        return int(stream(self._seed, "crash", "stage", round, client).integers(0, stages, 1)[0])

    def work(self, round: int, cohort: Sequence[ClientId], epochs: float) -> Mapping[ClientId, float]:
        """The stragglers of the cohort, and the share of its work that each will do, in (0, 1].

        Exactly stragglers * len(cohort) of them, to the nearest whole number; the share is uniform on
        {1..E}/E with E = epochs (Li et al. 2020, arXiv:1812.06127, section 5.2), so that a straggler
        may do all of its work: it is one all the same.
        """
        names = sorted(cohort)
        slow = _round_half_up(self._config.stragglers * len(names))
        if not slow:
            return {}
        draws = stream(self._seed, "stragglers", round)
        whole = max(1, math.ceil(epochs))
        chosen = draws.choice(len(names), slow).tolist()
        shares = draws.integers(1, whole + 1, slow).tolist()
        return {names[i]: share / whole for i, share in sorted(zip(chosen, shares, strict=True))}

    def available(self, now: float, round: int) -> list[ClientId]:
        """The clients that are there at `now` (seconds, never decreasing), sorted."""
        return self._availability.at(now, round)

    def save(self) -> State:
        """What `load` needs to continue."""
        return self._availability.save()

    def load(self, state: State) -> None:
        """Continue from `save`. Raises CheckpointError if it is of other clients."""
        self._availability.load(state)


def _round_half_up(value: float) -> int:
    return math.floor(value + 0.5)


def _speed(config: Devices) -> float:
    known = (*SPEEDS, "custom")
    if config.profile not in known:
        raise ConfigError(f"devices.profile = {config.profile!r}: {nearest(config.profile, known)}")
    speed = SPEEDS.get(config.profile) if config.speed is None else config.speed
    if speed is None:
        raise ConfigError("devices.speed is not set: profile = 'custom' needs examples per second")
    if not 1e-6 <= speed <= 1e15:
        raise ConfigError(f"devices.speed = {speed}: must be in [1e-6, 1e15] examples per second")
    return speed


def _require_spread(spread: float) -> None:
    if not 0 <= spread <= 10:
        raise ConfigError(f"devices.spread = {spread}: must be in [0, 10]")


def _check(config: Devices) -> None:
    for key in ("drop", "drop_after", "stragglers", "available"):
        share = getattr(config, key)
        if not 0 <= share <= 1:
            raise ConfigError(f"devices.{key} = {share}: must be between 0 and 1")
    for key in ("on_seconds", "off_seconds"):
        seconds = getattr(config, key)
        if not 1e-6 <= seconds <= 1e12:
            raise ConfigError(f"devices.{key} = {seconds}: must be in [1e-6, 1e12] seconds")


def _availability(config: Devices, names: tuple[ClientId, ...], seed: int) -> Availability:
    if config.availability == "always":
        return Always(names)
    if config.availability == "bernoulli":
        return Bernoulli(names, config.available, seed)
    if config.availability == "markov":
        return Markov(names, config.on_seconds, config.off_seconds, seed)
    known = ("always", "bernoulli", "markov")
    raise ConfigError(
        f"devices.availability = {config.availability!r}: {nearest(config.availability, known)}"
    )
