"""Where clients' examples come from: a mapping from client to (inputs, targets)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import DataError
from fedkit.messages import ClientId

Examples: TypeAlias = tuple[NDArray[Any], NDArray[Any]]
Clients: TypeAlias = Mapping[ClientId, Examples]

MOST_CLASSES = 10_000
"""Labels above are ids or amounts, which nobody counts by value."""


class ClientArrays(Mapping[ClientId, Examples]):
    """Clients as index sets into shared arrays x and y.

    Consecutive indices give views; others are gathered when asked for and not kept, so memory is
    that of the arrays and the indices. Raises DataError on an index outside the arrays.
    """

    def __init__(
        self, x: NDArray[Any], y: NDArray[Any], indices: Mapping[ClientId, NDArray[np.integer[Any]]]
    ) -> None:
        if len(x) != len(y):
            raise DataError(f"x has {len(x)} examples and y has {len(y)}: give one target per example")
        self.x = x
        self.y = y
        self._rows = {client: _rows(client, np.asarray(rows), len(x)) for client, rows in indices.items()}

    def __getitem__(self, client: ClientId) -> Examples:
        rows = self._rows[client]
        return self.x[rows], self.y[rows]

    def __iter__(self) -> Iterator[ClientId]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, client: object) -> bool:
        return client in self._rows

    def targets(self, client: ClientId) -> NDArray[Any]:
        """The client's part of y alone."""
        return self.y[self._rows[client]]

    def size(self, client: ClientId) -> int:
        """Number of the client's examples."""
        rows = self._rows[client]
        return rows.stop - rows.start if isinstance(rows, slice) else rows.size


def _rows(client: ClientId, rows: NDArray[np.integer[Any]], count: int) -> slice | NDArray[np.integer[Any]]:
    """The indices as a slice when they are consecutive."""
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise DataError(
            f"indices of client {client!r} must be a vector of integers, not {rows.dtype} {rows.shape}"
        )
    if not rows.size:
        return slice(0, 0)
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= count:
        raise DataError(
            f"indices of client {client!r} reach from {low} to {high}, the arrays hold {count} examples"
        )
    if high - low + 1 == rows.size and bool((np.diff(rows) == 1).all()):
        return slice(low, high + 1)
    return rows


def client_size(clients: Mapping[ClientId, Any], client: ClientId) -> int:
    """Number of the client's examples; of an (x, y) pair or a sized data set."""
    if isinstance(clients, ClientArrays):
        return clients.size(client)
    data = clients[client]
    return len(data[1]) if isinstance(data, tuple) else len(data)


def max_weight(*groups: Mapping[ClientId, Any]) -> float:
    """The smallest power of two that no client's number of examples exceeds: the grid's bound."""
    largest = max((client_size(group, client) for group in groups for client in group), default=1)
    return float(1 << max(0, largest - 1).bit_length())


def label_counts(clients: Mapping[ClientId, Any]) -> Mapping[ClientId, NDArray[np.int64]]:
    """Examples per class of every client, as vectors of one length.

    Empty unless labels are integers from 0 on, fewer than MOST_CLASSES of them.
    """
    labels: dict[ClientId, NDArray[Any]] = {}
    for client in clients:
        y = _targets(clients, client)
        if y is None or y.ndim != 1 or (y.size and not _are_classes(y)):
            return {}
        labels[client] = y
    classes = max((int(y.max()) + 1 for y in labels.values() if y.size), default=0)
    return {c: np.bincount(y.astype(np.int64), minlength=classes) for c, y in labels.items()}


def _are_classes(y: NDArray[Any]) -> bool:
    return y.dtype.kind in "iu" and bool(y.min() >= 0) and bool(y.max() < MOST_CLASSES)


def _targets(clients: Mapping[ClientId, Any], client: ClientId) -> NDArray[Any] | None:
    if isinstance(clients, ClientArrays):
        return clients.targets(client)
    data = clients[client]
    return np.asarray(data[1]) if isinstance(data, tuple) else None
