"""A workload at the server of a deployment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedkit.messages import ClientId, Metrics
from fedkit.tensors import Tensors
from fedkit.trainer import Trainer, Workload


class Deployed:
    """A workload whose clients are the devices: the server's own copy may hold no data of theirs.

    room: places for devices, where they come one by one. enrolled_by: what stands for their names then,
    since a run that is continued has the same.
    """

    def __init__(
        self, workload: Workload, clients: Sequence[ClientId], room: int = 0, enrolled_by: str = ""
    ) -> None:
        free = [f"free place {number}" for number in range(len(clients), room)]
        self._workload, self._clients = workload, (*sorted(clients), *free)
        self.enrolled_by = enrolled_by

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_workload"], name)

    def init(self, seed: int) -> Tensors:
        """The initial model."""
        return self._workload.init(seed)

    def clients(self) -> Sequence[ClientId]:
        """The devices, and a name for each place that is free."""
        return self._clients

    def trainer(self, client: ClientId) -> Trainer:
        """Nobody trains on a server."""
        return self._workload.trainer(client)

    def evaluate(self, model: Tensors) -> Metrics:
        """Metrics on the server's own data."""
        return self._workload.evaluate(model)
