"""The folder that a run leaves: what was asked, what happened, what came out.

    scenario.toml        the resolved scenario            environment.json  versions and the command
    population.json      label counts per client          plan.json         the round under way
    rounds.jsonl         one RoundRecord a line           summary.json      the figures
    sessions.json        numbers of the last secure sessions
    sum-KIND.bin         the last secure sum, until the checkpoint after it
    quarantined.json     who contradicted itself in a secure session and is in no other one, and why
    evidence-*.json      proof of that
    checkpoint.safetensors                                clients/          memory of the clients
    best.safetensors, last.safetensors                    report.html

Every file but rounds.jsonl is replaced whole by an atomic rename; a lock keeps two processes apart.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import CheckpointError, ConfigError, RunFailed
from fedkit.history import RoundRecord, strict_json
from fedkit.tensors import Tensors

CHECKPOINT = "checkpoint.safetensors"
ROUNDS = "rounds.jsonl"
_BEFORE_ALL = ("lock", "scenario.toml.tmp", "environment.json.tmp")


class RunFolder:
    """Opens `path` for writing; ConfigError if it holds something else, or another process has it."""

    def __init__(self, path: Path | str, resume: bool) -> None:
        self.path = Path(path)
        if resume and not self.path.is_dir():
            raise CheckpointError(f"{self.path}: there is no run to resume")
        if not resume and _holds_something(self.path):
            raise ConfigError(
                f"{self.path} is not empty: give another folder, or resume it (--resume, resume=True)"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock_file(self.path / "lock")
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be a run folder: {error.strerror or error}") from error

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
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.path / name} is damaged: {error}") from error

    def write_model(self, name: str, model: Tensors) -> None:
        """Write tensors as safetensors."""
        from safetensors.numpy import save

        arrays = {key: np.asarray(array, order="C") for key, array in model.items()}
        replace_file(self.path / name, save(arrays))

    def append_round(self, record: RoundRecord) -> None:
        """Add one line to rounds.jsonl and flush it to disk."""
        with _written(self.path / ROUNDS), (self.path / ROUNDS).open("a", encoding="utf-8") as file:
            file.write(record.to_json() + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_rounds(self, count: int) -> list[RoundRecord]:
        """The first `count` rounds; what lies beyond them is cut off the file."""
        path = self.path / ROUNDS
        lines = self._lines()
        if len(lines) < count:
            raise CheckpointError(f"{path} has {len(lines)} rounds, the checkpoint counts {count}")
        try:
            kept = [line.decode() for line in lines[:count]]
            records = [RoundRecord.from_json(line) for line in kept]
        except (UnicodeDecodeError, CheckpointError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error
        for number, record in enumerate(records):
            if record.round != number:
                raise CheckpointError(f"{path} is damaged: line {number + 1} is of round {record.round}")
        if len(lines) > count:
            self.write_text(ROUNDS, "".join(line + "\n" for line in kept))
        return records

    def has_rounds(self) -> bool:
        """Whether any round was recorded, by a line that is whole or torn."""
        return bool(self._lines())

    def _lines(self) -> list[bytes]:
        path = self.path / ROUNDS
        try:
            return path.read_bytes().splitlines() if path.exists() else []
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to disk, and rename it over `path`."""
    beside = path.with_name(path.name + ".tmp")
    with _written(path):
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync(path.parent)


def place_file(path: Path, data: bytes) -> None:
    """`replace_file` for what need not outlive a power cut: whole for all who look, not flushed."""
    beside = path.with_name(path.name + ".tmp")
    with _written(path):
        beside.write_bytes(data)
        beside.replace(path)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Around writing `path`: RunFailed, naming it, where the disk is full or does not allow it."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise RunFailed(f"{path} cannot be written ({why}): mend that, then resume the run") from error


def _holds_something(path: Path) -> bool:
    """Whether a run has begun here, or the folder is not ours: a lock alone is of a run that was killed."""
    try:
        return path.exists() and any(one.name not in _BEFORE_ALL for one in path.iterdir())
    except OSError as error:
        raise ConfigError(f"{path} cannot be a run folder: {error.strerror or error}") from error


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


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows flushes directory entries itself and cannot open them
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock_file(path: Path) -> IO[bytes]:
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
