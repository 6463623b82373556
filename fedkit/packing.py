"""Named tensors as a table (JSON: names, dtypes, shapes) and a body (their bytes, end to end).

Used inside frames (docs/wire.md) and for what clients remember. The order of tensors is kept. What
is read back never depends on how it was held before: tensors of one floating dtype become Flat.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit import fields
from fedkit.errors import WireError
from fedkit.tensors import Flat, Layout, State, Tensors

Groups: TypeAlias = tuple[tuple[str, Layout], ...]

TABLE_LIMIT = 1 << 20
RANK_LIMIT = 32
_LENGTH = 8
_DTYPES = frozenset(
    (
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
    )
)
_json = json.JSONEncoder(separators=(",", ":")).encode


def layout_of(tensors: Tensors) -> Layout:
    """Layout.of, at no cost for Flat."""
    return tensors.layout if isinstance(tensors, Flat) else Layout.of(tensors)


@lru_cache(maxsize=64)
def nbytes(layout: Layout) -> int:
    """Bytes of the tensors of `layout`, whose dtypes may differ."""
    return sum(n * np.dtype(dtype).itemsize for n, dtype in zip(layout.sizes, layout.dtypes, strict=True))


@lru_cache(maxsize=64)
def table(groups: Groups) -> bytes:
    """The table of named groups of tensors; WireError if it could not be read back."""
    content = [[name, rows(layout)] for name, layout in groups]
    data = _json(content).encode("ascii")
    if len(data) > TABLE_LIMIT:
        raise WireError(f"the table of tensors needs {len(data)} bytes, the limit is {TABLE_LIMIT}")
    parse_table(data)
    return data


def parse_table(data: bytes) -> Groups:
    """The groups of a table; WireError on anything that `table` cannot have made."""
    groups = [fields.items(group, "group", 2) for group in fields.items(fields.parse(data, "table"), "table")]
    return tuple((fields.text(name, "group name"), parse_rows(given)) for name, given in groups)


def rows(layout: Layout) -> list[tuple[str, str, tuple[int, ...]]]:
    """[name, dtype, shape] of each tensor, in order."""
    return list(zip(layout.names, layout.dtypes, layout.shapes, strict=True))


def parse_rows(value: object) -> Layout:
    """The layout in the rows [name, dtype, shape] of a table; WireError if they are none."""
    given = [fields.items(row, "tensor", 3) for row in fields.items(value, "tensors")]
    names = tuple(fields.text(name, "tensor name") for name, _, _ in given)
    dtypes = tuple(fields.text(dtype, "dtype") for _, dtype, _ in given)
    if len(set(names)) != len(names):
        raise WireError("a tensor name is repeated")
    if unknown := set(dtypes) - _DTYPES:
        raise WireError(f"unknown dtype {sorted(unknown)[0]!r}")
    return Layout(names, tuple(_shape(shape) for _, _, shape in given), dtypes)


def _shape(value: object) -> tuple[int, ...]:
    shape = fields.items(value, "shape")
    if len(shape) > RANK_LIMIT:
        raise WireError(f"a tensor has {len(shape)} dimensions, the limit is {RANK_LIMIT}")
    sizes = tuple(fields.integer(n, "dimension") for n in shape)
    if math.prod(n or 1 for n in sizes) > fields.INTEGER_LIMIT:
        raise WireError(f"shape {sizes} is absurd")
    return sizes


def raw(tensors: Tensors) -> list[bytes]:
    """The contents, little-endian, in C order."""
    arrays: Iterable[NDArray[Any]] = [tensors.vector] if isinstance(tensors, Flat) else tensors.values()
    return [array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes() for array in arrays]


def read(layouts: Sequence[Layout], body: bytes | memoryview) -> list[Tensors]:
    """Fresh tensors of these layouts; WireError unless the body holds exactly them."""
    lengths = [nbytes(layout) for layout in layouts]
    if sum(lengths) != len(body):
        raise WireError(f"the table needs {sum(lengths)} bytes of tensors, the body has {len(body)}")
    made, start = [], 0
    for layout, length in zip(layouts, lengths, strict=True):
        made.append(_tensors(layout, body[start : start + length]))
        start += length
    return made


def _tensors(layout: Layout, body: bytes | memoryview) -> Tensors:
    if _flat(layout):
        return layout.view(_array(body, layout.dtype))
    made, start = {}, 0
    for name, shape, dtype in zip(layout.names, layout.shapes, map(np.dtype, layout.dtypes), strict=True):
        end = start + math.prod(shape) * dtype.itemsize
        made[name] = _array(body[start:end], dtype).reshape(shape)
        start = end
    return made


def _flat(layout: Layout) -> bool:
    kinds = set(layout.dtypes)
    return len(kinds) == 1 and kinds <= {"float16", "float32", "float64"}


def _array(body: bytes | memoryview, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.frombuffer(body, dtype.newbyteorder("<")).astype(dtype)  # a copy: aligned and writable


def copy(tensors: Tensors) -> Tensors:
    """A copy exactly as `read` would make it."""
    layout = layout_of(tensors)
    if not _flat(layout):
        return {name: np.array(array, order="C") for name, array in tensors.items()}
    vector = layout.flatten(tensors)
    return layout.view(vector.copy() if isinstance(tensors, Flat) else vector)


def pack(state: State) -> bytes:
    """A state as bytes: length of the table (8 bytes, little-endian), table, body."""
    named = sorted(state.items())
    head = table(tuple((name, layout_of(tensors)) for name, tensors in named))
    body = [part for _, tensors in named for part in raw(tensors)]
    return b"".join([len(head).to_bytes(_LENGTH, "little"), head, *body])


def unpack(data: bytes) -> State:
    """The state that `pack` wrote; WireError if it is not one."""
    start = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    if start > len(data) or start > _LENGTH + TABLE_LIMIT:
        raise WireError("the table is longer than the data or than its limit")
    groups = parse_table(data[_LENGTH:start])
    names = [name for name, _ in groups]
    if names != sorted(set(names)):
        raise WireError("groups are not sorted, or repeat a name")
    return dict(zip(names, read([layout for _, layout in groups], memoryview(data)[start:]), strict=True))
