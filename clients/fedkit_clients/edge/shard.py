"""Whose data a device has: those of its own name in the workload, of the only one, or of one it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedkit.errors import ConfigError, nearest
from fedkit.messages import ClientId, Metrics
from fedkit.tensors import Tensors
from fedkit.trainer import Trainer, Workload


def of_device(workload: Workload, client: ClientId, shard: ClientId = "") -> Workload:
    """The workload as this device has it. shard: the client of the workload whose data it has, if that is
    told. ConfigError: there is no such client.
    """
    known = workload.clients()
    chosen = shard or (known[0] if len(known) == 1 else client)
    if chosen not in known:
        raise ConfigError(
            f"the workload has no data of client {chosen!r}; {nearest(chosen, known)}: say with --shard "
            "whose data this device has"
        )
    return workload if chosen == client else Shard(workload, client, chosen)


class Shard:
    """A workload of which a device has the data of one client, under its own id."""

    def __init__(self, workload: Workload, client: ClientId, shard: ClientId) -> None:
        self._workload, self._client, self._shard = workload, client, shard

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_workload"], name)

    def init(self, seed: int) -> Tensors:
        """The initial model."""
        return self._workload.init(seed)

    def clients(self) -> Sequence[ClientId]:
        """The device."""
        return (self._client,)

    def trainer(self, client: ClientId) -> Trainer:
        """On the data of the shard. KeyError: another client than this device."""
        if client != self._client:
            raise KeyError(client)
        return self._workload.trainer(self._shard)

    def evaluate(self, model: Tensors) -> Metrics:
        """Metrics on the workload's own test data."""
        return self._workload.evaluate(model)
