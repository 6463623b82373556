"""Which tensors go through the stages and which are too small or too delicate for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np

from fedkit.codecs.spec import writable
from fedkit.codecs.stage import Vector
from fedkit.errors import ConfigError, shown
from fedkit.tensors import Layout

_MARKS = frozenset("|,:\"'")
"""What ends an option of a spec string, or quotes it."""


@dataclass(frozen=True)
class TensorRules:
    """The pseudo-stage `tensors`: how small and exempt tensors travel.

    Tensors of fewer than `below` entries, and those whose name matches a pattern of `exempt`
    (fnmatch patterns joined by +), are sent as `small`; all others form the vector for the stages.
    """

    id: ClassVar[str] = "tensors"
    version: ClassVar[int] = 1
    small: Literal["bfloat16", "float32"] = "bfloat16"
    below: int = 1024
    exempt: str = ""

    def __post_init__(self) -> None:
        if self.below < 0:
            raise ConfigError(f"codec stage 'tensors': below = {self.below} must be >= 0")
        held = _MARKS.intersection(self.exempt)
        if held or self.exempt != self.exempt.strip() or not writable(self.exempt):
            raise ConfigError(
                f"codec: exempt = {shown(self.exempt)} must be patterns of tensor names joined by '+', "
                "without spaces around, and without | , : \" and ' (a ? in a pattern matches any of them)"
            )

    @property
    def width(self) -> int:
        """Bytes of an entry of a small tensor."""
        return 2 if self.small == "bfloat16" else 4

    @property
    def spec(self) -> str:
        """All parameters."""
        return f"tensors/1:small={self.small},below={self.below},exempt={self.exempt}"

    @cached_property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of `exempt`."""
        return tuple(pattern for pattern in self.exempt.split("+") if pattern)

    def apart(self, name: str, size: int) -> bool:
        """Whether a tensor travels outside the stages."""
        return size < self.below or any(fnmatchcase(name, pattern) for pattern in self.patterns)


@dataclass(frozen=True)
class Split:
    """A layout in two: each part with the slices of the flat vector that it covers."""

    small: Layout
    large: Layout
    small_at: tuple[slice, ...]
    large_at: tuple[slice, ...]


@lru_cache(maxsize=64)
def split(rules: TensorRules, layout: Layout) -> Split:
    """The parts of `layout` under `rules`."""
    named = list(zip(layout.names, layout.sizes, strict=True))
    apart = [i for i, (name, size) in enumerate(named) if rules.apart(name, size)]
    chosen = set(apart)
    rest = [i for i in range(len(named)) if i not in chosen]
    return Split(_part(layout, apart), _part(layout, rest), _slices(layout, apart), _slices(layout, rest))


def _part(layout: Layout, chosen: Sequence[int]) -> Layout:
    return Layout(
        tuple(layout.names[i] for i in chosen),
        tuple(layout.shapes[i] for i in chosen),
        tuple(layout.dtypes[i] for i in chosen),
    )


def _slices(layout: Layout, chosen: Sequence[int]) -> tuple[slice, ...]:
    """The slices of the chosen tensors, neighbours joined."""
    ends = [(layout.offsets[i], layout.offsets[i] + layout.sizes[i]) for i in chosen if layout.sizes[i]]
    cuts = [k + 1 for k, (a, b) in enumerate(pairwise(ends)) if a[1] != b[0]]
    runs = [ends[a:b] for a, b in pairwise([0, *cuts, len(ends)])] if ends else []
    return tuple(slice(run[0][0], run[-1][1]) for run in runs)


def gather(vector: Vector, at: Sequence[slice]) -> Vector:
    """The entries at `at` as one vector; a view when they are one run."""
    if len(at) == 1:
        return vector[at[0]]
    return np.concatenate([vector[s] for s in at]) if at else vector[:0]


def scatter(values: Vector, at: Sequence[slice], out: Vector) -> None:
    """The inverse of `gather`, into `out`."""
    start = 0
    for s in at:
        stop = start + s.stop - s.start
        out[s] = values[start:stop]
        start = stop
