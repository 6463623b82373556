"""Strategy.correct on flat vectors, the same for numpy and torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from numpy.typing import NDArray

from fedkit.messages import Pass
from fedkit.tensors import Array, Flat, Layout, Tensors
from fedkit.trainer import Correct


@dataclass(frozen=True, slots=True)
class _Piece:
    """Views of neighbouring tensors that one call corrects."""

    grad: Array
    weight: Array
    anchor: Array
    extra: Mapping[str, Array]


class Correction:
    """Calls `correct` once per run of neighbouring tensors that the anchor names.

    grad and weight: the resident vectors of `layout`. convert: makes an array of their kind of a
    numpy vector. `correct` is elementwise, so a run of tensors is as good as each of them; tensors
    that the anchor does not name (personal ones) keep their gradient.
    """

    def __init__(
        self,
        correct: Correct,
        pass_: Pass,
        layout: Layout,
        grad: Array,
        weight: Array,
        convert: Callable[[NDArray[Any]], Array],
    ) -> None:
        self._correct = correct
        self._pieces = [
            _Piece(
                grad[start : start + run.size],
                weight[start : start + run.size],
                convert(_vector(run, pass_.anchor)),
                {name: convert(_vector(run, tensors)) for name, tensors in pass_.extra.items()},
            )
            for start, run in _runs(layout, pass_.anchor)
        ]

    def apply(self) -> None:
        """Replace the gradients in place."""
        for piece in self._pieces:
            corrected = self._correct(piece.grad, piece.weight, piece.anchor, piece.extra)
            if corrected is not piece.grad:
                piece.grad[...] = corrected


def _runs(layout: Layout, anchor: Tensors) -> Iterator[tuple[int, Layout]]:
    """Longest runs of neighbours of `layout` that `anchor` names, with the offset of each."""
    if all(name in anchor for name in layout.names):
        yield 0, layout
        return
    for named, group in groupby(range(len(layout.names)), lambda i: layout.names[i] in anchor):
        members = list(group)
        if named:
            part = slice(members[0], members[-1] + 1)
            yield (
                layout.offsets[members[0]],
                Layout(layout.names[part], layout.shapes[part], layout.dtypes[part]),
            )


def _vector(layout: Layout, tensors: Tensors) -> NDArray[Any]:
    if isinstance(tensors, Flat) and tensors.layout == layout:
        return tensors.vector
    return layout.flatten({name: tensors[name] for name in layout.names})
