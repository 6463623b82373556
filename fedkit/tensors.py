"""Named arrays, and the arithmetic of models.

`Tensors` is any mapping from name to array. `Flat` is the one that fedkit makes itself: a mapping
over one contiguous vector, so that summing, encoding and copying touch one array, not dozens.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import LayoutError

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
State: TypeAlias = Mapping[str, Tensors]
Memory: TypeAlias = State
Array: TypeAlias = Any
"""A numpy array, a torch tensor, or either with clients stacked along a first axis."""


@dataclass(frozen=True)
class Layout:
    """Ordered names with shapes and dtypes: what the parties agree on at join.

    All tensors of a layout that travels have one floating dtype (float32 or float64).
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @classmethod
    def of(cls, tensors: Tensors) -> Layout:
        """The layout of `tensors`, in their own order."""
        return cls(
            tuple(tensors),
            tuple(tuple(int(n) for n in a.shape) for a in tensors.values()),
            tuple(a.dtype.name for a in tensors.values()),
        )

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each tensor."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each tensor starts in the flat vector."""
        return tuple(int(o) for o in np.cumsum((0, *self.sizes))[:-1])

    @cached_property
    def size(self) -> int:
        """Total number of entries."""
        return sum(self.sizes)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The one dtype of the flat vector (float32 for an empty layout)."""
        kinds = sorted(set(self.dtypes))
        if len(kinds) > 1:
            first = self.names[self.dtypes.index(kinds[0])]
            raise LayoutError(first, f"mixed dtypes {', '.join(kinds)}: give all tensors one of them")
        return np.dtype(kinds[0] if kinds else "float32")

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the flat vector."""
        return self.size * self.dtype.itemsize

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over names, shapes and dtypes."""
        lines = zip(self.names, self.shapes, self.dtypes, strict=True)
        text = "\n".join(f"{name!r} {shape} {dtype}" for name, shape, dtype in lines)
        return hashlib.sha256(text.encode()).hexdigest()

    def flatten(self, tensors: Tensors) -> NDArray[Any]:
        """One vector of this layout; no copy when `tensors` is Flat of the same layout.

        Raises LayoutError, naming the tensor, on a missing or extra name, another shape, or a
        dtype that is not floating.
        """
        if isinstance(tensors, Flat) and (tensors.layout is self or tensors.layout == self):
            return tensors.vector
        self.check(tensors)
        vector = np.empty(self.size, self.dtype)
        if not self.names:
            return vector
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, and is told of as such
            for name, offset, size in zip(self.names, self.offsets, self.sizes, strict=True):
                vector[offset : offset + size] = tensors[name].reshape(-1)
        return vector

    def check(self, tensors: Tensors) -> None:
        """Raise LayoutError unless names, shapes and kinds of dtype are those of this layout."""
        if not isinstance(tensors, Mapping):
            raise LayoutError("", f"a {type(tensors).__name__} is no mapping from names to arrays")
        if tensors.keys() != set(self.names):
            missing = [n for n in self.names if n not in tensors]
            extra = sorted(set(tensors) - set(self.names))
            subject, reason = (missing[0], "is missing") if missing else (extra[0], "is not in the layout")
            raise LayoutError(subject, reason)
        for name, shape in zip(self.names, self.shapes, strict=True):
            array = tensors[name]
            if not isinstance(array, np.ndarray | np.generic):
                raise LayoutError(name, f"is a {type(array).__name__}, not a numpy array")
            if tuple(array.shape) != shape:
                raise LayoutError(name, f"has shape {tuple(array.shape)}, agreed was {shape}")
            if array.dtype.kind != "f":
                raise LayoutError(name, f"has dtype {array.dtype.name}, not a floating one")

    def view(self, vector: NDArray[Any]) -> Flat:
        """`vector` as Tensors, without a copy."""
        return Flat(self, vector)

    def locate(self, index: int) -> str:
        """The name of the tensor that holds entry `index` of the flat vector."""
        position = int(np.searchsorted(np.asarray(self.offsets), index, side="right")) - 1
        while self.sizes[position] == 0:
            position -= 1
        return self.names[position]


class Flat(Mapping[str, NDArray[Any]]):
    """Tensors that are views of one contiguous vector."""

    __slots__ = ("_views", "layout", "vector")

    def __init__(self, layout: Layout, vector: NDArray[Any]) -> None:
        if vector.shape != (layout.size,):
            raise LayoutError("vector", f"has shape {vector.shape}, the layout needs ({layout.size},)")
        if vector.dtype != layout.dtype:
            raise LayoutError("vector", f"has dtype {vector.dtype}, the layout needs {layout.dtype}")
        self.layout = layout
        self.vector = vector
        self._views: dict[str, NDArray[Any]] | None = None

    def _all(self) -> dict[str, NDArray[Any]]:
        if self._views is None:
            lay = self.layout
            parts = zip(lay.names, lay.shapes, lay.offsets, lay.sizes, strict=True)
            self._views = {n: self.vector[o : o + k].reshape(s) for n, s, o, k in parts}
        return self._views

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.names)

    def __len__(self) -> int:
        return len(self.layout.names)

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def __repr__(self) -> str:
        return f"Flat({self.layout.size} entries in {len(self)} tensors)"

    def __reduce__(self) -> tuple[type[Flat], tuple[Layout, NDArray[Any]]]:
        return Flat, (self.layout, self.vector)


def flat(tensors: Tensors) -> Flat:
    """`tensors` over one fresh vector (itself when it is Flat already)."""
    if isinstance(tensors, Flat):
        return tensors
    layout = Layout.of(tensors)
    return layout.view(layout.flatten(tensors))


def sealed(tensors: Tensors) -> Tensors:
    """The same values in arrays that refuse assignment: for whoever must not change them in place."""
    if isinstance(tensors, Flat):
        return Flat(tensors.layout, _locked(tensors.vector)) if tensors.vector.flags.writeable else tensors
    return {name: _locked(array) for name, array in tensors.items()}


def sealed_copy(tensors: Tensors, layout: Layout) -> Flat:
    """The same values in a vector of their own that refuses assignment; LayoutError as `flatten`."""
    vector = layout.flatten(tensors)
    vector = vector.copy() if isinstance(tensors, Flat) else vector
    vector.flags.writeable = False
    return layout.view(vector)


def pick(tensors: Tensors, layout: Layout) -> Flat:
    """The part of `tensors` in `layout`, in a vector of its own that refuses assignment."""
    return sealed_copy({name: tensors[name] for name in layout.names}, layout)


def _locked(array: NDArray[Any]) -> NDArray[Any]:
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def zeros(layout: Layout) -> Flat:
    """Zeros of `layout`."""
    return layout.view(np.zeros(layout.size, layout.dtype))


def zeros_like(tensors: Tensors) -> Tensors:
    """Zeros with the names, shapes and dtypes of `tensors`."""
    if isinstance(tensors, Flat):
        return zeros(tensors.layout)
    return {name: np.zeros_like(array) for name, array in tensors.items()}


def _elementwise(a: Tensors, b: Tensors, op: Callable[[Any, Any], Any]) -> Tensors:
    if isinstance(a, Flat) and isinstance(b, Flat) and a.layout == b.layout:
        return a.layout.view(op(a.vector, b.vector))
    if a.keys() != b.keys():
        odd = sorted(set(a) ^ set(b))[0]
        raise LayoutError(odd, "is in one operand only")
    return {name: np.asarray(op(array, b[name])) for name, array in a.items()}  # a 0-d result is a scalar


def add(a: Tensors, b: Tensors, scale: float = 1.0) -> Tensors:
    """a + scale * b, name by name; the dtype is that of `a`.

    >>> add({"w": np.ones(2)}, {"w": np.ones(2)}, scale=0.5)["w"]
    array([1.5, 1.5])
    """

    def plus(x: Array, y: Array) -> Array:
        return (x + (y if scale == 1.0 else scale * y)).astype(x.dtype, copy=False)

    return _elementwise(a, b, plus)


def subtract(a: Tensors, b: Tensors) -> Tensors:
    """a - b, name by name."""
    return _elementwise(a, b, lambda x, y: (x - y).astype(x.dtype, copy=False))


def scale(a: Tensors, factor: float) -> Tensors:
    """factor * a; the dtype is that of `a`."""
    if isinstance(a, Flat):
        return a.layout.view((a.vector * factor).astype(a.vector.dtype, copy=False))
    return {n: np.asarray(array * factor).astype(array.dtype, copy=False) for n, array in a.items()}


def norm(a: Tensors) -> float:
    """Euclidean norm over all entries, in float64."""
    arrays = [a.vector] if isinstance(a, Flat) else list(a.values())
    return math.sqrt(sum(float(np.square(x.astype(np.float64)).sum()) for x in arrays))


def digest(tensors: Tensors) -> str:
    """SHA-256 (hex) of names, shapes, dtypes and little-endian contents: equal only if bit-identical."""
    sha = hashlib.sha256(Layout.of(tensors).digest.encode())
    for array in tensors.values():
        sha.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return sha.hexdigest()
