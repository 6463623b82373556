"""Everything that the next round depends on, in one file that is replaced atomically.

Tensors are stored under numbers and an index in the metadata gives their real places, so that no
name a user may choose can collide or break the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import CheckpointError, WireError
from fedkit.history import SecureRecord, secure_record
from fedkit.messages import Key, Metrics
from fedkit.runfolder import load_tensors, save_tensors
from fedkit.tensors import State, Tensors

FORMAT = "fedkit-checkpoint/3"


@dataclass
class Checkpoint:
    """State after `rounds` rounds.

    open: keys that may still be carried, with their expiry. verdicts: those of the last round, to
    be settled again after a restart. initial_secagg: how `initial` was summed in secret. best: the best
    evaluation so far. scale: the public scale of the next
    round; scales: those of rounds that still have open keys. fingerprint: what must be as it was.
    """

    job: str
    rounds: int
    model: Tensors
    state: State
    federation: State
    downlink: State
    initial: Metrics = field(default_factory=dict)
    open: Mapping[Key, float] = field(default_factory=dict)
    verdicts: Mapping[Key, str] = field(default_factory=dict)
    best: tuple[str, float, int] | None = None
    wall_seconds: float = 0.0
    scale: float = 0.0
    scales: Mapping[int, float] = field(default_factory=dict)
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    initial_secagg: SecureRecord | None = None

    def save(self, path: Path) -> None:
        """Replace the file at `path`."""
        arrays: dict[str, NDArray[Any]] = {}
        index: list[tuple[str, str, str]] = []
        for place, array in self._places():
            arrays[str(len(index))] = array
            index.append(place)
        about = {
            "format": FORMAT,
            "job": self.job,
            "rounds": self.rounds,
            "initial": dict(self.initial),
            "open": [[_pack(key), expires] for key, expires in self.open.items()],
            "verdicts": [[_pack(key), verdict] for key, verdict in self.verdicts.items()],
            "best": self.best,
            "wall_seconds": self.wall_seconds,
            "scale": self.scale,
            "scales": list(self.scales.items()),
            "fingerprint": dict(self.fingerprint),
            "initial_secagg": asdict(self.initial_secagg) if self.initial_secagg is not None else None,
            "groups": {part: list(state) for part, state in self._states().items()},
            "index": index,
        }
        text = json.dumps(about)
        save_tensors(path, arrays, {"fedkit": text, "checksum": _checksum(text, arrays)})

    def _states(self) -> dict[str, State]:
        return {"state": self.state, "federation": self.federation, "downlink": self.downlink}

    def _places(self) -> Iterator[tuple[tuple[str, str, str], NDArray[Any]]]:
        for name, array in self.model.items():
            yield ("model", "", name), array
        for part, state in self._states().items():
            for group, tensors in state.items():
                for name, array in tensors.items():
                    yield (part, group, name), array

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """The checkpoint at `path`; CheckpointError if it is missing, damaged or of another format."""
        arrays, metadata = load_tensors(path)
        try:
            if metadata["checksum"] != _checksum(metadata["fedkit"], arrays):
                raise CheckpointError(f"{path} is damaged: its checksum does not match")
            about = json.loads(metadata["fedkit"])
            if about["format"] != FORMAT:
                raise CheckpointError(f"{path} has format {about['format']!r}, this fedkit reads {FORMAT!r}")
            model: dict[str, NDArray[Any]] = {}
            states: dict[str, dict[str, dict[str, NDArray[Any]]]] = {
                part: {group: {} for group in groups} for part, groups in about["groups"].items()
            }
            for number, (part, group, name) in enumerate(about["index"]):
                home = model if part == "model" else states[part][group]
                home[name] = arrays[str(number)]
            return cls(
                about["job"],
                about["rounds"],
                model,
                states["state"],
                states["federation"],
                states["downlink"],
                about["initial"],
                {Key(*key): expires for key, expires in about["open"]},
                {Key(*key): verdict for key, verdict in about["verdicts"]},
                tuple(about["best"]) if about["best"] else None,
                about["wall_seconds"],
                about["scale"],
                dict(about["scales"]),
                dict(about["fingerprint"]),
                secure_record(first, "initial_secagg") if (first := about["initial_secagg"]) else None,
            )
        except (KeyError, ValueError, TypeError, AttributeError, WireError) as error:
            raise CheckpointError(f"{path} is not a fedkit checkpoint: {error!r}") from error


def _checksum(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    state = hashlib.blake2b(text.encode(), digest_size=16)
    for _, array in sorted(arrays.items()):
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def _pack(key: Key) -> list[str | int]:
    return [key.job, key.round, key.kind, key.stage, key.attempt, key.client]
