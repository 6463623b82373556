"""Where data sets are found, and the checks that a file is what its workload expects."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import DataError, nearest
from fedkit.pluginfile import locate

ENVIRONMENT = "FEDKIT_DATA"
Shape: TypeAlias = tuple[int | str, ...]
"""Expected lengths; a letter stands for any length, the same one wherever it is used in the file."""


def find(name: str, data: str | None = None) -> Path:
    """The path of data file `name`.

    data: the file itself, or a directory that holds it; without it the directory named by the
    environment variable FEDKIT_DATA is searched. Raises DataError, saying where it looked.
    """
    if data:
        given = locate(data)
        path = given / name if given.is_dir() else given
        looked = f"data = {str(data)!r}"
    else:
        folder = os.environ.get(ENVIRONMENT, "")
        path = Path(folder).expanduser() / name
        looked = f"{ENVIRONMENT} = {folder!r}" if folder else f"no data given, {ENVIRONMENT} is not set"
        if not folder:
            raise _missing(name, looked)
    if not path.is_file():
        raise _missing(name, f"{looked}: no file {str(path)!r}")
    return path


def _missing(name: str, looked: str) -> DataError:
    return DataError(
        f"cannot find {name} ({looked}). Set {ENVIRONMENT} to the folder that holds it, or give the file "
        "or its folder: data=FILE on the command line, workload_options.data in a scenario; docs/data.md "
        "says how to make it"
    )


def load(
    name: str, data: str | None = None, expect: Mapping[str, Shape] | None = None
) -> dict[str, NDArray[Any]]:
    """The arrays of data file `name` (.npz), found as `find` says; those of `expect` if it is given.

    expect: key -> shape, for example {"x": ("n", 28, 28), "y": ("n",)}. Never unpickles. Raises
    DataError, naming the file and the key, on a missing key or another shape.
    """
    arrays = read_npz(find(name, data), None if expect is None else list(expect))
    if expect is not None:
        check(name, arrays, expect)
    return arrays


def read_npz(path: Path, keys: list[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file: those named by `keys`, else all. Raises DataError."""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds one bare array: save it with numpy.savez(path, x=..., y=...)")
            known = list(archive.files)
            return {key: _member(path, archive, key, known) for key in (known if keys is None else keys)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable .npz file: {error}") from error


def _member(path: Path, archive: Mapping[str, Any], key: str, known: list[str]) -> NDArray[Any]:
    if key not in known:
        raise DataError(f"{path} has no array {key!r}; {nearest(key, known)}")
    try:
        array: NDArray[Any] = archive[key]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: array {key!r} cannot be read without pickle or is damaged: {error}"
        ) from error
    return array


def check(name: str, arrays: Mapping[str, NDArray[Any]], expect: Mapping[str, Shape]) -> None:
    """Raise DataError unless every key of `expect` is there with its shape."""
    lengths: dict[str, tuple[int, str]] = {}
    for key, shape in expect.items():
        if key not in arrays:
            raise DataError(f"{name} has no array {key!r}; {nearest(key, arrays)}")
        actual = arrays[key].shape
        if len(actual) != len(shape):
            raise DataError(f"{name}: {key!r} has shape {actual}, expected {_show(shape)}")
        for length, wanted in zip(actual, shape, strict=True):
            known, source = (
                lengths.setdefault(wanted, (length, key)) if isinstance(wanted, str) else (wanted, "")
            )
            if length != known:
                why = f", {wanted} = {known} from {source!r}" if source else ""
                raise DataError(f"{name}: {key!r} has shape {actual}, expected {_show(shape)}{why}")


def _show(shape: Shape) -> str:
    return "(" + ", ".join(str(part) for part in shape) + ("," if len(shape) == 1 else "") + ")"


def checksum(path: Path) -> str:
    """SHA-256 (hex) of a file, to compare with docs/data.md."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
