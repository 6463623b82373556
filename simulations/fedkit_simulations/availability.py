"""When clients are there: always, by chance at each round, or on and off for random times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import CheckpointError
from fedkit.messages import ClientId
from fedkit.seeds import stream
from fedkit.tensors import State


class Availability(Protocol):
    """Which clients are there, at times that never decrease."""

    def at(self, now: float, round: int) -> list[ClientId]:
        """The clients that are there at `now` in this round, sorted."""
        ...

    def save(self) -> State:
        """What `load` needs to continue."""
        ...

    def load(self, state: State) -> None:
        """Continue from `save`."""
        ...


class Always:
    """Every client, at any time."""

    def __init__(self, names: Sequence[ClientId]) -> None:
        self._names = names

    def at(self, now: float, round: int) -> list[ClientId]:
        """All clients."""
        return list(self._names)

    def save(self) -> State:
        """Nothing."""
        return {}

    def load(self, state: State) -> None:
        """Nothing to do."""


class Bernoulli(Always):
    """Each client with one probability at each round; the same answer throughout the round."""

    def __init__(self, names: Sequence[ClientId], probability: float, seed: int) -> None:
        super().__init__(names)
        self._probability = probability
        self._seed = seed

    def at(self, now: float, round: int) -> list[ClientId]:
        """The clients drawn for this round."""
        there = stream(self._seed, "available", round).uniform(len(self._names)) < self._probability
        return _chosen(self._names, there)


class Markov:
    """Each client is on and off for exponential times, from the stationary distribution on.

    The state moves from one query to the next by the exact transition probability of the two-state
    chain: P(on after t) = p + (was_on - p) exp(-(1/on + 1/off) t), with p = on / (on + off).
    """

    def __init__(self, names: Sequence[ClientId], on_seconds: float, off_seconds: float, seed: int) -> None:
        self._names = names
        self._share = on_seconds / (on_seconds + off_seconds)
        self._rate = 1.0 / on_seconds + 1.0 / off_seconds
        self._seed = seed
        self._time = 0.0
        self._queries = 0
        self._on: NDArray[np.bool_] = self._draw(np.full(len(names), self._share))

    def _draw(self, probability: NDArray[np.float64]) -> NDArray[np.bool_]:
        draws = stream(self._seed, "markov", self._queries).uniform(len(self._names))
        self._queries += 1
        return np.asarray(draws < probability)

    def at(self, now: float, round: int) -> list[ClientId]:
        """The clients that are on at `now`; ValueError if that is before the last query."""
        if now < self._time:
            raise ValueError(f"availability was asked for {self._time} already, it cannot go back to {now}")
        if now > self._time:
            keep = np.exp(-self._rate * (now - self._time))
            self._on = self._draw(self._share + (self._on - self._share) * keep)
            self._time = now
        return _chosen(self._names, self._on)

    def save(self) -> State:
        """on: (clients,) 0 or 1. time: seconds of the last query. queries: how many draws so far."""
        return {
            "availability": {
                "on": self._on.astype(np.uint8),
                "time": np.array([self._time]),
                "queries": np.array([self._queries], np.int64),
            }
        }

    def load(self, state: State) -> None:
        """Continue from `save`. Raises CheckpointError if it is missing or of other clients."""
        saved = state.get("availability")
        if saved is None or saved["on"].shape != self._on.shape:
            have = "none" if saved is None else f"that of {len(saved['on'])} clients"
            raise CheckpointError(f"the availability of {len(self._names)} clients is needed, found {have}")
        self._on = saved["on"].astype(np.bool_)
        self._time = float(saved["time"][0])
        self._queries = int(saved["queries"][0])


def _chosen(names: Sequence[ClientId], there: NDArray[np.bool_]) -> list[ClientId]:
    return [names[index] for index in np.flatnonzero(there).tolist()]
