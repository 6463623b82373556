"""A user's own examples, read from .npz or CSV into one shape, whatever the file looked like."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import DataError, nearest
from fedkit.pluginfile import locate
from fedkit_simulations.workloads.data import read_npz
from fedkit_simulations.workloads.features import one_hot

MISSING = frozenset({"", "?", "na", "n/a", "nan", "null"})
MOST_LEVELS = 100


@dataclass(frozen=True)
class Table:
    """Examples: x (examples, features) numbers, y (examples,) labels of any kind, client ids or None.

    test: examples that belong to the server alone, as (x, y), or None.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    client: NDArray[Any] | None = None
    test: tuple[NDArray[Any], NDArray[Any]] | None = None


def read_table(path: str, x: str, y: str, client: str) -> Table:
    """The examples of an .npz or .csv file; the arguments name its arrays or columns.

    An empty `client` takes "client" if there is one. Raises DataError: what, in which line or array.
    """
    whole, file = locate(path), Path(path).expanduser()
    if not whole.is_file():
        raise DataError(f"path = {path!r}: no such file (looked for {str(whole)!r})")
    if file.suffix.lower() == ".npz":
        return _from_npz(file, x, y, client)
    if file.suffix.lower() == ".csv":
        return _from_csv(file, x, y, client)
    raise DataError(f"path = {path!r}: a file must end in .npz or .csv to be read")


def _from_npz(file: Path, x: str, y: str, client: str) -> Table:
    arrays = read_npz(file)
    for key, name in (("x", x), ("y", y), ("client", client)):
        if name and name not in arrays:
            raise DataError(f"{file} has no array {name!r} ({key} = {name!r}); {nearest(name, arrays)}")
    owner = arrays.get(client or "client")
    if owner is not None and owner.shape != (len(arrays[x]),):
        raise DataError(f"{file}: {client or 'client'!r} has shape {owner.shape}, x {arrays[x].shape}")
    features, labels = _examples(file, arrays, x, y)
    x_test, y_test = f"{x}_test", f"{y}_test"
    if (x_test in arrays) != (y_test in arrays):
        here, gone = (x_test, y_test) if x_test in arrays else (y_test, x_test)
        raise DataError(f"{file} has {here!r} but no {gone!r}: give both, or neither")
    if x_test not in arrays:
        return Table(features, labels, owner)
    test = _examples(file, arrays, x_test, y_test)
    if test[0].shape[1] != features.shape[1]:
        raise DataError(f"{file}: {x_test!r} has {test[0].shape[1]} features, {x!r} has {features.shape[1]}")
    return Table(features, labels, owner, test)


def _examples(
    file: Path, arrays: dict[str, NDArray[Any]], x: str, y: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Inputs, one row each, and labels."""
    inputs, labels = arrays[x], arrays[y]
    if inputs.dtype.kind not in "fiub" or inputs.ndim < 2 or not len(inputs):
        raise DataError(f"{file}: {x!r} is {inputs.dtype} {inputs.shape}; it must be numbers (examples, ...)")
    if labels.shape != (len(inputs),):
        raise DataError(f"{file}: {y!r} has shape {labels.shape}, expected ({len(inputs)},) as {x!r}")
    rows = inputs.reshape(len(inputs), -1)
    if rows.dtype.kind == "f" and not _fits(rows).all():
        row, column = np.argwhere(~_fits(rows))[0].tolist()
        why = _misfit(float(rows[row, column]))
        raise DataError(f"{file}: {x!r} row {row}, column {column} {why}")
    return rows, labels


def _fits(numbers: NDArray[Any]) -> NDArray[np.bool_]:
    """Which numbers float32 holds; those that are missing or infinite are not among them."""
    return np.asarray(np.abs(numbers) <= np.finfo(np.float32).max)


def _misfit(number: float) -> str:
    if not np.isfinite(number):
        return "is missing or infinite; fill it in"
    return f"is {number:g}, beyond float32 (3.4e38): use another unit"


def _from_csv(file: Path, x: str, y: str, client: str) -> Table:
    header, columns, lines = _read_csv(file)
    owner = client or ("client" if "client" in header else "")
    wanted = [name.strip() for name in x.split(",")] if x != "x" or "x" in header else []
    for key, name in (("y", y), ("client", owner), *(("x", name) for name in wanted)):
        if name and name not in header:
            raise DataError(f"{file} has no column {name!r} ({key} = {name!r}); {nearest(name, header)}")
    features = wanted or [name for name in header if name not in (y, owner)]
    if not features:
        raise DataError(f"{file} has no feature columns beside {y!r} and {owner!r}")
    parts = [_feature(file, name, columns[header.index(name)], lines) for name in features]
    names = _text(file, owner, columns[header.index(owner)], lines) if owner else None
    return Table(np.hstack(parts), _text(file, y, columns[header.index(y)], lines), names)


def _read_csv(file: Path) -> tuple[list[str], list[tuple[str, ...]], list[int]]:
    """The header, the columns, and the line in which each row ends."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [(row, reader.line_num) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is not comma-separated UTF-8 text: {error}") from error
    if len(header) < 2 or not rows:
        raise DataError(f"{file} needs a header of comma-separated names and at least one row below it")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{file}: column {twice[0]!r} is in the header twice")
    for row, line in rows:
        if len(row) != len(header):
            raise DataError(f"{file}, line {line}: {len(row)} values, the header has {len(header)}")
    columns = list(zip(*([value.strip() for value in row] for row, _ in rows), strict=True))
    return header, columns, [line for _, line in rows]


def _text(file: Path, name: str, column: Sequence[str], lines: Sequence[int]) -> NDArray[np.str_]:
    """The column as it stands; DataError on the first missing value."""
    for value, line in zip(column, lines, strict=True):
        if value.lower() in MISSING:
            raise DataError(
                f"{file}, line {line}, column {name!r}: missing value ({value!r}); "
                "fill it in or leave the row out"
            )
    return np.array(column)


def _feature(file: Path, name: str, column: Sequence[str], lines: Sequence[int]) -> NDArray[np.float32]:
    """(examples, 1) numbers, or (examples, levels) codes of a column that holds texts."""
    text = _text(file, name, column, lines)
    try:
        numbers = text.astype(np.float64)
    except ValueError:
        levels, codes = np.unique(text, return_inverse=True)
        if len(levels) > MOST_LEVELS:
            raise DataError(
                f"{file}, column {name!r} holds {len(levels)} different texts (such as {text[0]!r}): "
                "is it an id? Leave it out by naming the features: x = 'a,b,c'"
            ) from None
        return one_hot(codes, len(levels))
    if not _fits(numbers).all():
        first = int(np.argmin(_fits(numbers)))
        why = _misfit(float(numbers[first])) if np.isfinite(numbers[first]) else "not a finite number"
        raise DataError(f"{file}, line {lines[first]}, column {name!r}: {why}")
    return numbers.astype(np.float32)[:, None]
