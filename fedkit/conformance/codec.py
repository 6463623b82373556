"""The laws of codecs.

Vectors come in two layouts: a matrix and a vector, which a pipeline may set apart as small tensors, and
one tensor, whose LARGE and HUGE sizes reach every stage, in one chunk and in several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs import Codec
from fedkit.coding import TRAITS, most_bytes
from fedkit.conformance.codec_bytes import BYTE_LAWS
from fedkit.conformance.codec_case import HUGE, LARGE, Case
from fedkit.conformance.codec_claims import CLAIM_LAWS
from fedkit.conformance.laws import Broken, demand, run_laws, same
from fedkit.errors import LayoutError
from fedkit.tensors import Flat, Tensors, sealed_copy

SIZES = (0, 1, 2, 1000, 4095, 4096, LARGE)

Law: TypeAlias = Callable[[Case], None]


def check_codec(codec: Codec, *, seed: int = 0) -> list[str]:
    """Names of the laws tried; ConformanceError on the first that `codec` breaks."""
    return run_laws(CODEC_LAWS, Case(codec, seed))


def _identity(case: Case) -> None:
    codec = case.codec
    demand(isinstance(codec.id, str) and codec.id.isascii() and bool(codec.id), "`id` is not an ASCII name")
    demand(type(codec.version) is int and codec.version >= 1, "`version` is not an integer >= 1")
    for name in TRAITS[:-1]:
        demand(isinstance(getattr(codec, name), bool), f"`{name}` is neither True nor False")
    demand(
        isinstance(codec.spec, str) and codec.spec == codec.spec, "`spec` is not the same string each time"
    )


def _there(case: Case) -> None:
    for dtype in ("float32", "float64"):
        for delta in (*(case.delta(size, dtype) for size in SIZES), *map(case.single, (LARGE, HUGE))):
            what = f"{delta.layout.size} entries of {delta.layout.dtype}"
            _demand_fits(case.there_and_back(delta), delta, what)


def _lengths(case: Case) -> None:
    """What a server may have to keep for a payload, and what a link is chosen by, are worth something."""
    for layout in (case.delta(0).layout, case.delta(1000).layout, case.single(HUGE).layout):
        high, size = case.codec.max_len(layout), case.codec.size_estimate(layout)
        most, what = most_bytes(layout), f"for a delta of {layout.nbytes} bytes"
        demand(type(high) is int and high <= most, f"max_len is {high} {what}, more than {most}")
        finite = math.isfinite(size) and 0 <= size <= most
        demand(finite, f"size_estimate is {size} {what}")


def _edges(case: Case) -> None:
    for size in (1, 1000, LARGE):
        for name, vector in _edge_vectors(size):
            for layout in (case.delta(size).layout, case.single(size).layout):
                delta = sealed_copy(layout.view(vector), layout)
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
    """All deltas of the kit refuse assignment, so whoever writes into one raises."""
    for delta in (case.delta(1000), case.single(LARGE), case.single(HUGE)):
        context, codec = case.context(), case.codec
        payload = codec.encode(delta, delta.layout, context)
        codec.encode(case.single(LARGE, "heavy"), case.single(LARGE).layout, case.context(1))
        again = codec.encode(delta, delta.layout, context)
        demand(payload == again, "the same delta and seed give other bytes the second time")
        first = {n: np.array(a) for n, a in codec.decode(payload, delta.layout, context).items()}
        second = codec.decode(payload, delta.layout, context)
        demand(same(first, dict(second)), "the same payload decodes to another delta the second time")
        other = codec.decode(payload, delta.layout, case.context(budget=12_345))
        demand(same(first, dict(other)), "`decode` looks at the budget, which is the client's own")


def _not_finite(case: Case) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        for size in (1000, 3 * LARGE + 2):
            for index, name in ((0, "matrix"), (size - 1, "vector")):
                vector = case.delta(size).vector.copy()
                vector[index] = bad
                layout = case.delta(size).layout
                try:
                    case.codec.encode(layout.view(vector), layout, case.context())
                except LayoutError as error:
                    demand(
                        error.subject == name, f"{bad} in tensor {name!r}: the error names {error.subject!r}"
                    )
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


CODEC_LAWS: Mapping[str, Law] = {
    "has an id and a version": _identity,
    "decodes to the layout, within the declared lengths": _there,
    "declares lengths that are worth something": _lengths,
    "survives edge values": _edges,
    "is deterministic and leaves the delta alone": _deterministic,
    "refuses values that are not finite, naming the tensor": _not_finite,
    "refuses another layout": _misfit,
    **BYTE_LAWS,
    **CLAIM_LAWS,
}
