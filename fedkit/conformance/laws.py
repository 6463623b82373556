"""How laws are run, and what they have in common."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from fedkit import packing
from fedkit.errors import ConformanceError
from fedkit.tensors import Layout, State, Tensors

Subject = TypeVar("Subject")


class Broken(Exception):
    """A law does not hold; the text says where."""


def demand(holds: bool, reason: str) -> None:
    """Raise Broken(reason) unless the law holds."""
    if not holds:
        raise Broken(reason)


def run_laws(laws: Mapping[str, Callable[[Subject], None]], subject: Subject) -> list[str]:
    """Try all laws in turn; the names of those tried. ConformanceError on the first broken one."""
    for name, law in laws.items():
        try:
            law(subject)
        except Broken as error:
            raise ConformanceError(name, str(error)) from error
        except (Exception, SystemExit) as error:  # a plugin's code may raise anything
            raise ConformanceError(name, f"raised {type(error).__name__}: {error}") from error
    return list(laws)


def demand_tensors(value: object, what: str) -> None:
    """The value is a mapping from names to numeric arrays."""
    demand(
        isinstance(value, Mapping), f"{what} is {type(value).__name__}, not a mapping from names to arrays"
    )
    assert isinstance(value, Mapping)
    for name, array in value.items():
        demand(isinstance(name, str), f"{what} has the name {name!r}: names are strings")
        kind = type(array).__name__
        hint = " (arithmetic on arrays without dimensions gives scalars: use np.asarray)"
        scalar = hint if isinstance(array, np.generic) else ""
        demand(isinstance(array, np.ndarray), f"{what}: {name!r} is {kind}, not a numpy array{scalar}")
        demand(array.dtype.kind in "fiu", f"{what}: {name!r} has dtype {array.dtype.name}, not a numeric one")


def demand_state(state: object, what: str) -> None:
    """The value is a State whose every entry is finite."""
    demand(isinstance(state, Mapping), f"{what} is {type(state).__name__}, not a mapping")
    assert isinstance(state, Mapping)
    for name, tensors in state.items():
        demand(isinstance(name, str), f"{what} has the name {name!r}: names are strings")
        demand_tensors(tensors, f"{what}[{name!r}]")
        demand_finite(tensors, f"{what}[{name!r}]")


def demand_finite(tensors: Tensors, what: str) -> None:
    """Every entry is finite."""
    for name, array in tensors.items():
        demand(bool(np.isfinite(array).all()), f"{what}: tensor {name!r} is not finite")


def same(a: object, b: object) -> bool:
    """Bit for bit, through mappings and sequences; the order of names does not count."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def restored(state: State) -> State:
    """The state after a checkpoint: written to bytes and read back."""
    return packing.unpack(packing.pack(state))


def snapshot(value: Subject) -> Subject:
    """A deep copy, to see later whether something was changed in place."""
    return copy.deepcopy(value)


def demand_layout(tensors: Tensors, layout: Layout, what: str) -> None:
    got = {n: (a.shape, a.dtype.name) for n, a in tensors.items()}
    for name, shape, dtype in zip(layout.names, layout.shapes, layout.dtypes, strict=True):
        demand(name in got, f"{what} lacks tensor {name!r}")
        demand(got[name] == (shape, dtype), f"{what}: tensor {name!r} is {got[name]}, not {(shape, dtype)}")
    demand(len(got) == len(layout.names), f"{what} has more tensors than were given")
