"""The folder that a run leaves: what was asked, what happened, what came out.

    scenario.toml        the resolved scenario            environment.json  versions and the command
    population.json      label counts per client          plan.json         the round under way
    rounds.jsonl         one RoundRecord a line           summary.json      the figures
    checkpoint.safetensors                                clients/          memory of the clients
    best.safetensors, last.safetensors                    report.html

Every file but rounds.jsonl is replaced whole by an atomic rename; a lock keeps two processes apart.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import CheckpointError, ConfigError
from fedkit.history import RoundRecord, strict_json
from fedkit.tensors import Tensors

CHECKPOINT = "checkpoint.safetensors"


class RunFolder:
    """Opens `path` for writing; ConfigError if it holds something else, or another process has it."""

    def __init__(self, path: Path | str, resume: bool) -> None:
        self.path = Path(path)
        if resume and not self.path.is_dir():
            raise CheckpointError(f"{self.path}: there is no run to resume")
        if not resume and self.path.exists() and any(self.path.iterdir()):
            raise ConfigError(
                f"{self.path} is not empty: give another folder, or resume it (--resume, resume=True)"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.path / "lock")

    def close(self) -> None:
        """Let go of the lock."""
        self._lock.close()

    def write_text(self, name: str, text: str) -> None:
        """Replace a file atomically and durably."""
        replace_file(self.path / name, text.encode())

    def write_json(self, name: str, value: object) -> None:
        """Replace a JSON file atomically and durably."""
        self.write_text(name, strict_json(value, indent=1) + "\n")

    def read_json(self, name: str) -> Any:
        """The contents of a JSON file, None if there is none; CheckpointError if it is damaged."""
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise CheckpointError(f"{self.path / name} is damaged: {error}") from error

    def write_model(self, name: str, model: Tensors) -> None:
        """Write tensors as safetensors."""
        from safetensors.numpy import save

        arrays = {key: np.asarray(array, order="C") for key, array in model.items()}
        replace_file(self.path / name, save(arrays))

    def append_round(self, record: RoundRecord) -> None:
        """Add one line to rounds.jsonl and flush it to disk."""
        with (self.path / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(record.to_json() + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_rounds(self, count: int) -> list[RoundRecord]:
        """The first `count` rounds; what lies beyond them is cut off the file."""
        path = self.path / "rounds.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        if len(lines) < count:
            raise CheckpointError(f"{path} has {len(lines)} rounds, the checkpoint counts {count}")
        try:
            kept = [line.decode() for line in lines[:count]]
            records = [RoundRecord.from_json(line) for line in kept]
        except (UnicodeDecodeError, CheckpointError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
        if len(lines) > count:
            self.write_text("rounds.jsonl", "".join(line + "\n" for line in kept))
        return records


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to disk, and rename it over `path`."""
    beside = path.with_name(path.name + ".tmp")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    _sync_directory(path.parent)


def save_tensors(path: Path, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, str]) -> None:
    """Write arrays and text to one safetensors file, atomically and durably."""
    from safetensors.numpy import save

    packed = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    replace_file(path, save(packed, metadata=dict(about)))


def load_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """What `save_tensors` wrote; CheckpointError if the file is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return arrays, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _sync_directory(path: Path) -> None:
    if os.name == "nt":
        return  # Windows flushes directory entries itself and cannot open them
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lock(path: Path) -> IO[bytes]:
    """An exclusive lock that the system drops when the process dies."""
    file = path.open("ab")
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ConfigError(f"{path.parent} is in use by another process") from error
    return file
