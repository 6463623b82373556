"""What both trainers refuse: unknown clients, no data, training that diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from fedkit.errors import ClientFailed, ConfigError, nearest
from fedkit.messages import ClientId
from fedkit.tensors import Flat


def find_client(clients: Mapping[ClientId, object], client: ClientId) -> ClientId:
    """`client`, or ConfigError if the workload does not know it."""
    if client not in clients:
        raise ConfigError(f"the workload has no client {client!r}; {nearest(client, clients)}")
    return client


def require_mapping(clients: object) -> None:
    """ConfigError unless it is a mapping from client to its data."""
    if not isinstance(clients, Mapping):
        raise ConfigError(f"clients is a {type(clients).__name__}: give a mapping from client name to (x, y)")


def require_examples(count: int, what: str) -> int:
    """`count`, or ClientFailed("no_data") when it is 0; `what` names the missing data."""
    if count == 0:
        raise ClientFailed("no_data", what, "are none: leave the client out of the population")
    return count


def require_pairs(count: int, batch: int) -> None:
    """ClientFailed("no_data") where BatchNorm1d would be given a batch of one example."""
    if count == 1:
        reason = "are one, and BatchNorm1d needs two in a batch: set population.min_examples to 2"
        raise ClientFailed("no_data", "examples", f"{reason}, or leave the client out")
    if batch == 1:
        raise ClientFailed(
            "no_data", "examples", "of a batch are one, BatchNorm1d needs two: raise train.batch"
        )


def require_finite(loss: float, delta: Flat) -> None:
    """ClientFailed("diverged"), naming "loss" or the tensor, unless all of it is finite."""
    if not math.isfinite(loss):
        raise ClientFailed("diverged", "loss", f"is {loss}: lower train.lr")
    finite = np.isfinite(delta.vector)
    if not finite.all():
        name = delta.layout.locate(int(np.argmin(finite)))
        raise ClientFailed("diverged", name, "is not finite after training: lower train.lr")
