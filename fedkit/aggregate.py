"""The weighted sum of updates: exact, so that no order, grouping or worker count can change a bit.

Each weighted delta is rounded once to a fixed-point grid and added in int64. Integer addition is
associative and commutative, and the grid leaves head-room for n_max updates, so the sum never
wraps. Secure aggregation adds the same integers, so its result is the same to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import ConfigError, LayoutError, UpdateRefused, shown
from fedkit.messages import Metrics, Update
from fedkit.tensors import Flat, Layout, Tensors

_MAGIC = 1.5 * 2.0**52  # adding it leaves round-half-even(x) in the low mantissa bits
_MAGIC_BITS = np.float64(_MAGIC).view(np.int64)
_SMALLEST = 1e-30  # and 1 / it the largest: products stay far from the ends of float64
_BLOCK = 32768  # entries per pass: the float64 buffer stays in the second-level cache
METRIC_BITS = 20  # a secure lane has room for metrics up to 2^20 at full weight
METRIC_LIMIT = 2.0**100  # in the clear they are Python integers; this only bounds their size
TOO_MANY = "is one update more than the grid has room for"


@dataclass(frozen=True)
class Grid:
    """The fixed-point grid of a run: how an update becomes integers.

    max_weight (W) bounds a client's weight, max_delta (R) bounds |delta| per entry, n_max bounds
    the number of updates in one sum, carried ones included. limit = 2^min(50, 62 - ceil(log2 n_max));
    fraction = log2(limit) - ceil(log2(R max(W, 1))) bits after the point: extras count once whatever W
    is. Raises ConfigError, naming the key, on numbers that leave no grid.
    """

    max_weight: float = 2.0**10
    max_delta: float = 2.0**8
    n_max: int = 2**12

    def __post_init__(self) -> None:
        for key in ("max_weight", "max_delta"):
            bound = getattr(self, key)
            if not isinstance(bound, int | float | np.number) or not _SMALLEST <= bound <= 1 / _SMALLEST:
                raise ConfigError(f"aggregate.{key} = {shown(bound)}: must be in [{_SMALLEST:g}, 1e+30]")
        if not 1 <= self.n_max <= 2**50:
            raise ConfigError(f"the grid's n_max = {shown(self.n_max)}: must be in [1, 2^50]")
        if self.fraction < 8:
            raise ConfigError(
                f"aggregate.max_delta = {self.max_delta:g} with max_weight = {self.max_weight:g} leaves "
                f"{self.fraction} bits after the point in a sum of up to {self.n_max} updates, at least 8 "
                "are needed: set one of the two lower"
            )

    @cached_property
    def limit_bits(self) -> int:
        """log2 of the largest integer that one update may contribute to one entry."""
        return min(50, 62 - math.ceil(math.log2(self.n_max)))

    @cached_property
    def limit(self) -> int:
        """Largest integer that one update may contribute to one entry."""
        return 1 << self.limit_bits

    @cached_property
    def fraction(self) -> int:
        """Bits after the point of a weighted delta, and of an extra."""
        return self.limit_bits - math.ceil(math.log2(max(self.max_weight, 1.0) * self.max_delta))

    @cached_property
    def weight_fraction(self) -> int:
        """Bits after the point of a weight."""
        return self.limit_bits - math.ceil(math.log2(self.max_weight))

    @cached_property
    def metric_fraction(self) -> int:
        """Bits after the point of a weighted metric."""
        return self.weight_fraction - METRIC_BITS

    def weight(self, client: str, weight: float) -> tuple[float, int]:
        """The weight as float32 and on the grid; UpdateRefused if negative, not finite or above W."""
        if not math.isfinite(weight) or weight < 0:
            raise UpdateRefused(client, "weight", f"is {weight!r}: it must be finite and not negative")
        if weight > self.max_weight:
            reason = f"is {weight:g}, above the run's maximum {self.max_weight:g}: raise aggregate.max_weight"
            raise UpdateRefused(client, "weight", reason)
        rounded = float(np.float32(weight))
        return rounded, round(math.ldexp(rounded, self.weight_fraction))

    def check(self, client: str, layout: Layout, vector: NDArray[Any], bound: float) -> None:
        """UpdateRefused, naming the tensor, unless every entry is finite and within +-bound."""
        if not vector.size or (vector.max() <= bound and vector.min() >= -bound):
            return  # a NaN makes both comparisons false
        bad = ~(np.abs(vector) <= bound)
        index = int(np.argmax(bad))
        name, value = layout.locate(index), float(vector[index])
        if not math.isfinite(value):
            raise UpdateRefused(client, name, f"holds {value}")
        raise UpdateRefused(client, name, f"holds {value:g}, beyond the run's limit {bound:g}")

    def quantise(self, vector: NDArray[Any], weight: float, into: NDArray[np.int64]) -> None:
        """into += round(weight * vector * 2^fraction), round half to even.

        `weight` is a float32 value, so float32 entries multiply exactly in float64. `vector` must
        have passed `check`.
        """
        factor = math.ldexp(weight, self.fraction)
        buffer = np.empty(min(_BLOCK, vector.size), np.float64)
        for start in range(0, vector.size, _BLOCK):
            part = vector[start : start + _BLOCK]
            block = buffer[: part.size]
            block[:] = part  # to float64 first: numpy would multiply float32 by a float in float32
            block *= factor
            block += _MAGIC
            integers = block.view(np.int64)
            integers -= _MAGIC_BITS
            into[start : start + _BLOCK] += integers

    def metric(self, client: str, name: str, value: float, weight: float) -> int:
        """weight * value on the metric grid; UpdateRefused unless finite."""
        if not math.isfinite(value) or abs(value) > METRIC_LIMIT:
            reason = f"is {value!r}: a metric must be finite and within {METRIC_LIMIT:g}"
            raise UpdateRefused(client, name, reason)
        return round(math.ldexp(weight * float(value), self.metric_fraction))


class WeightedSum:
    """Sum of weight * delta over clients: a commutative monoid with `merge`, O(model) memory.

    A refused update leaves the sum as it was.
    """

    def __init__(self, layout: Layout, grid: Grid, extras: Layout | None = None) -> None:
        self.layout = layout
        self.grid = grid
        self.extras_layout = extras if extras is not None else Layout((), (), ())
        self.clients = 0
        self._total = np.zeros(layout.size, np.int64)
        self._extras = np.zeros(self.extras_layout.size, np.int64)
        self._weight = 0
        self._metrics: dict[str, tuple[int, int]] = {}  # name -> (weighted total, weight that reported)

    @classmethod
    def of(
        cls,
        layout: Layout,
        grid: Grid,
        total: NDArray[np.int64],
        weight: int,
        clients: int,
        extras: tuple[Layout, NDArray[np.int64]] | None = None,
        metrics: Mapping[str, tuple[int, int]] | None = None,
    ) -> WeightedSum:
        """A sum from its integers: total and extras on the grid, weight on the weight grid.

        metrics: name -> (total on the metric grid, weight of those who reported it).
        """
        made = cls(layout, grid, extras[0] if extras is not None else None)
        integers = extras[1] if extras is not None else made._extras
        parts = (("total", made.layout, total), ("extras", made.extras_layout, integers))
        for name, wanted, given in parts:
            if given.shape != (wanted.size,) or given.dtype != np.int64:
                raise LayoutError(name, f"is {given.dtype} {given.shape}, not int64 ({wanted.size},)")
        made._total, made._extras, made._weight, made.clients = total, integers, weight, clients
        made._metrics = dict(metrics or {})
        return made

    def add(self, client: str, update: Update) -> None:
        """Add one client's update; UpdateRefused names the client and what is wrong with it."""
        self._room(client, 1)
        weight, weight_int = self.grid.weight(client, update.weight)
        parts = [(self.layout, update.delta, weight, self._total)]
        if self.extras_layout.size or update.extras:  # most strategies have none
            parts.append((self.extras_layout, update.extras, 1.0, self._extras))
        vectors = [_flatten(client, layout, tensors) for layout, tensors, _, _ in parts]
        for (layout, _, _, _), vector in zip(parts, vectors, strict=True):
            self.grid.check(client, layout, vector, self.grid.max_delta)
        metrics = {n: self.grid.metric(client, n, v, weight) for n, v in update.metrics.items()}
        for (_, _, factor, total), vector in zip(parts, vectors, strict=True):
            self.grid.quantise(vector, factor, total)
        self._count(weight_int, metrics)

    def add_stacked(
        self,
        clients: Sequence[str],
        deltas: NDArray[Any],
        weights: Sequence[float],
        metrics: Sequence[Metrics] | None = None,
    ) -> None:
        """Add K updates from one [K, size] array; all are checked before the first is added."""
        if deltas.shape != (len(clients), self.layout.size) or len(weights) != len(clients):
            raise LayoutError(
                "deltas", f"have shape {deltas.shape}, not ({len(clients)}, {self.layout.size})"
            )
        self._room(clients[0] if clients else "", len(clients))
        pairs = [self.grid.weight(c, w) for c, w in zip(clients, weights, strict=True)]
        rows = []
        for k, client in enumerate(clients):
            self.grid.check(client, self.layout, deltas[k], self.grid.max_delta)
            named = metrics[k] if metrics is not None else {}
            rows.append({n: self.grid.metric(client, n, v, pairs[k][0]) for n, v in named.items()})
        for k, (weight, weight_int) in enumerate(pairs):
            self.grid.quantise(deltas[k], weight, self._total)
            self._count(weight_int, rows[k])

    def merge(self, other: WeightedSum) -> None:
        """Add another sum of the same layout and grid."""
        mine, theirs = (self.layout, self.extras_layout), (other.layout, other.extras_layout)
        if self.grid != other.grid or mine != theirs:
            raise LayoutError("sum", "has another layout or grid")
        self._room("", other.clients)
        self._total += other._total
        self._extras += other._extras
        self._weight += other._weight
        self.clients += other.clients
        for name, (total, weight) in other._metrics.items():
            have = self._metrics.get(name, (0, 0))
            self._metrics[name] = (have[0] + total, have[1] + weight)

    @property
    def total(self) -> NDArray[np.int64]:
        """The integers of the weighted deltas (a read-only view)."""
        view = self._total.view()
        view.flags.writeable = False
        return view

    def parts(self) -> tuple[NDArray[np.int64], NDArray[np.int64], int, Mapping[str, tuple[int, int]]]:
        """Total, extras, weight and metrics: the integers that `of` takes."""
        return self._total, self._extras, self._weight, self._metrics

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        return math.ldexp(self._weight, -self.grid.weight_fraction)

    @property
    def weight_integer(self) -> int:
        """Sum of the weights on the weight grid."""
        return self._weight

    def mean(self) -> Flat:
        """Weighted mean of the deltas, computed in float64, in the layout's dtype.

        Raises ZeroDivisionError when the weights sum to zero; a round without weight is failed.
        """
        if self._weight == 0:
            raise ZeroDivisionError("the weights of this sum are all zero")
        factor = math.ldexp(1.0, -self.grid.fraction) / self.weight
        return self.layout.view((self._total * factor).astype(self.layout.dtype, copy=False))

    @property
    def extras(self) -> Flat:
        """Unweighted sum of the extras."""
        vector = self._extras * math.ldexp(1.0, -self.grid.fraction)
        return self.extras_layout.view(vector.astype(self.extras_layout.dtype, copy=False))

    @property
    def metrics(self) -> Mapping[str, float]:
        """Weighted mean of each metric over the clients that reported it, by name."""
        shift = self.grid.weight_fraction - self.grid.metric_fraction
        return {
            name: math.ldexp(total / weight, shift)
            for name, (total, weight) in sorted(self._metrics.items())
            if weight
        }

    def _room(self, client: str, more: int) -> None:
        if self.clients + more > self.grid.n_max:
            raise UpdateRefused(client, "sum", f"{TOO_MANY} (n_max = {self.grid.n_max})")

    def _count(self, weight: int, metrics: Mapping[str, int]) -> None:
        self._weight += weight
        self.clients += 1
        for name, total in metrics.items():
            have = self._metrics.get(name, (0, 0))
            self._metrics[name] = (have[0] + total, have[1] + weight)


def _flatten(client: str, layout: Layout, tensors: Tensors) -> NDArray[Any]:
    try:
        return layout.flatten(tensors)
    except LayoutError as error:
        raise UpdateRefused(client, error.subject, error.reason) from error
