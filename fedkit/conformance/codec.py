"""The laws of codecs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs import Codec, CodecContext
from fedkit.conformance.laws import Broken, demand, run_laws, same, snapshot
from fedkit.errors import LayoutError, WireError
from fedkit.seeds import derive, stream
from fedkit.tensors import Flat, Layout, Tensors

SIZES = (0, 1, 2, 1000, 4095, 4096, 4097)
SEEDS = 256
BIAS_BOUND = 9.0
"""Bound on |mean - x|^2 over its expectation, which is 1 when unbiased; one degree of freedom: 3 sigma."""


@dataclass(frozen=True)
class Case:
    """A codec and a seed."""

    codec: Codec
    seed: int

    def context(self, number: int = 0) -> CodecContext:
        """The context of one encoding."""
        seed = derive(self.seed, "codec", number)
        return CodecContext(seed=seed, shared_seed=derive(self.seed, "shared", number))

    def delta(self, size: int, dtype: str = "float32") -> Flat:
        """Normal values in a matrix and a vector; `size` entries in all."""
        rows = size // 3
        layout = Layout(("matrix", "vector"), ((3, rows), (size - 3 * rows,)), (dtype, dtype))
        return layout.view(stream(self.seed, "delta", size).normal(size).astype(dtype))

    def there_and_back(self, delta: Flat, number: int = 0) -> Tensors:
        """decode(encode(delta)), its length checked on the way."""
        payload = self.codec.encode(delta, delta.layout, self.context(number))
        low, high = self.codec.min_len(delta.layout), self.codec.max_len(delta.layout)
        demand(isinstance(payload, bytes), f"the payload is {type(payload).__name__}, not bytes")
        size = delta.layout.size
        demand(
            low <= len(payload) <= high, f"{len(payload)} bytes for {size} entries, not in [{low}, {high}]"
        )
        if self.codec.fixed_size:
            demand(low == high, f"fixed_size is True, but lengths for {size} entries are in [{low}, {high}]")
        return self.codec.decode(payload, delta.layout, self.context(number))


Law: TypeAlias = Callable[[Case], None]


def check_codec(codec: Codec, *, seed: int = 0) -> list[str]:
    """Names of the laws tried; ConformanceError on the first that `codec` breaks."""
    return run_laws(CODEC_LAWS, Case(codec, seed))


def _identity(case: Case) -> None:
    codec = case.codec
    demand(isinstance(codec.id, str) and codec.id.isascii() and bool(codec.id), "`id` is not an ASCII name")
    demand(type(codec.version) is int and codec.version >= 1, "`version` is not an integer >= 1")
    demand(isinstance(codec.unbiased, bool), "`unbiased` is not declared")


def _there(case: Case) -> None:
    for dtype in ("float32", "float64"):
        for size in SIZES:
            delta = case.delta(size, dtype)
            _demand_fits(case.there_and_back(delta), delta, f"{size} entries of {dtype}")


def _edges(case: Case) -> None:
    for size in (1, 1000, 4097):
        for name, vector in _edge_vectors(size):
            delta = case.delta(size).layout.view(vector)
            _demand_fits(case.there_and_back(delta), delta, f"{name} ({size} entries)")


def _edge_vectors(size: int) -> Iterator[tuple[str, NDArray[Any]]]:
    one_hot = np.zeros(size, np.float32)
    one_hot[-1] = 1.0
    yield "zeros", np.zeros(size, np.float32)
    yield "one-hot", one_hot
    yield "subnormal values", np.full(size, 1e-40, np.float32)
    yield "values of 1e30", np.where(np.arange(size) % 2, 1e30, -1e30).astype(np.float32)


def _demand_fits(made: Tensors, delta: Flat, what: str) -> None:
    try:
        vector = delta.layout.flatten(made)
    except LayoutError as error:
        raise Broken(f"{what}: {error}") from error
    dtypes = {array.dtype.name for array in made.values()}
    demand(dtypes == set(delta.layout.dtypes), f"{what}: decoded to {', '.join(sorted(dtypes))}")
    demand(bool(np.isfinite(vector).all()), f"{what}: decoded to values that are not finite")


def _deterministic(case: Case) -> None:
    delta = case.delta(1000)
    given = snapshot(delta.vector)
    context = case.context()
    payload = case.codec.encode(delta, delta.layout, context)
    again = case.codec.encode(delta, delta.layout, context)
    demand(payload == again, "the same delta and seed give other bytes the second time")
    first = {n: a.copy() for n, a in case.codec.decode(payload, delta.layout, context).items()}
    second = case.codec.decode(payload, delta.layout, context)
    demand(same(first, dict(second)), "the same payload decodes to another delta the second time")
    demand(same(given, delta.vector), "`encode` changed the delta")


def _other_lengths(case: Case) -> None:
    for size in (1, 1000):
        delta = case.delta(size)
        payload = case.codec.encode(delta, delta.layout, case.context())
        cuts = sorted({0, 1, len(payload) // 2, len(payload) - 1} - {len(payload)})
        for bad in [payload[:cut] for cut in cuts] + [payload + b"\0", payload + payload]:
            if _decodes(case, bad, delta.layout):
                raise Broken(f"a payload of {len(payload)} bytes still decodes when it has {len(bad)}")


def _garbage(case: Case) -> None:
    layout = case.delta(1000).layout
    payload = case.codec.encode(case.delta(1000), layout, case.context())
    for number in range(64):
        noise = stream(case.seed, "garbage", number)
        flipped = bytearray(payload)
        for place in noise.integers(0, len(payload), 1 + number // 8):
            flipped[place] ^= 1 << (number % 8)
        _decodes(case, noise.bytes(len(payload)), layout)
        _decodes(case, bytes(flipped), layout)
    _decodes(case, b"\xff" * len(payload), layout)


def _decodes(case: Case, payload: bytes, layout: Layout) -> bool:
    """Whether it decodes; any other error than WireError, and values not finite, break the law."""
    try:
        made = case.codec.decode(payload, layout, case.context())
    except WireError:
        return False
    except Exception as error:
        raise Broken(f"bad bytes raise {type(error).__name__} ({error}), not WireError") from error
    demand(bool(np.isfinite(layout.flatten(made)).all()), "bad bytes decode to values that are not finite")
    return True


def _not_finite(case: Case) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        for index, name in ((0, "matrix"), (999, "vector")):
            delta = case.delta(1000)
            delta.vector[index] = bad
            try:
                case.codec.encode(delta, delta.layout, case.context())
            except LayoutError as error:
                demand(error.subject == name, f"{bad} in tensor {name!r}: the error names {error.subject!r}")
            else:
                raise Broken(f"`encode` takes a delta that holds {bad}: it must raise LayoutError")


def _misfit(case: Case) -> None:
    layout = case.delta(1000).layout
    for wrong in ({"matrix": np.zeros((3, 333), np.float32)}, dict(case.delta(999))):
        try:
            case.codec.encode(wrong, layout, case.context())
        except LayoutError:
            continue
        raise Broken("`encode` takes a delta that does not have the layout: it must raise LayoutError")


def _unbiased(case: Case) -> None:
    """|mean - x|^2 has expectation variance / n when unbiased; the variance is estimated too."""
    if not case.codec.unbiased:
        return
    for size in (1000, 4097):
        delta = case.delta(size)
        layout, true = delta.layout, delta.vector.astype(np.float64)
        total, squares = np.zeros(size), 0.0
        for number in range(SEEDS):
            error = layout.flatten(case.there_and_back(delta, number)).astype(np.float64) - true
            total += error
            squares += float(error @ error)
        bias = float(np.square(total / SEEDS).sum())
        variance = max(0.0, squares / SEEDS - bias) * SEEDS / (SEEDS - 1)
        rounding = (1e-6 * float(np.linalg.norm(true))) ** 2
        what = f"over {SEEDS} seeds the mean of {size} entries is off by {bias**0.5:.3g}"
        bound = BIAS_BOUND * variance / SEEDS + rounding
        demand(bias <= bound, f"{what}, more than chance allows ({bound**0.5:.3g})")


CODEC_LAWS: Mapping[str, Law] = {
    "has an id and a version": _identity,
    "decodes to the layout, within the declared lengths": _there,
    "survives edge values": _edges,
    "is deterministic and leaves the delta alone": _deterministic,
    "refuses payloads of another length": _other_lengths,
    "refuses garbage with WireError only": _garbage,
    "refuses values that are not finite, naming the tensor": _not_finite,
    "refuses another layout": _misfit,
    "is unbiased if it says so": _unbiased,
}
