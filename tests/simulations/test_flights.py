"""Tasks under way and memory that waits, as tensors and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedkit.checkpoint import Checkpoint
from fedkit.messages import Key, Settings, Task
from fedkit.tensors import Memory, State, Tensors
from fedkit_simulations.flights import (
    Flight,
    pack_flights,
    pack_json,
    pack_key,
    pack_pending,
    unpack_flights,
    unpack_json,
    unpack_pending,
)

KEY = Key("job", 3, "train", "", 0, "ann/ü: ")
MODEL: Tensors = {"a/b": np.arange(4, dtype=np.float32), "": np.float64(2) * np.ones((2, 1))}


def stored(state: State, tmp_path: Path) -> State:
    """The state after a checkpoint has held it."""
    Checkpoint("job", 0, {}, {}, state, {}).save(tmp_path / "c")
    return Checkpoint.load(tmp_path / "c").federation


def same(a: Tensors, b: Tensors) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)


def flight(client: str, version: int, model: Tensors, **changes: object) -> Flight:
    context = {"control": {"w": np.full(2, version, np.float32)}, "empty": {}}
    settings: Settings = {"lr": 0.1, "epochs": 3, "name": "x", "on": True}
    task = Task(
        replace(KEY, client=client), version, model, context, settings, 2**64 - 1, 0.3, 1 / 3, "s", 0.1 + 0.2
    )
    return Flight(task, 0.7, 1e-9, **changes)  # type: ignore[arg-type]


def test_flights_come_back(tmp_path: Path) -> None:
    other: Tensors = {"a/b": np.full(4, 9, np.float32), "": np.ones((2, 1))}
    sent = [
        flight("ann", 1, MODEL),
        flight("bob/:", 1, MODEL, crashed=True, note="crashed before training"),
        flight("cay", 2, other, answered=True),
    ]
    packed = stored(pack_flights(sent), tmp_path)
    back = unpack_flights(packed)
    assert len(back) == 3
    for got, want in zip(back, sent, strict=True):
        assert same(got.task.model, want.task.model)
        assert list(got.task.context) == ["control", "empty"]
        assert same(got.task.context["control"], want.task.context["control"])
        assert replace(got.task, model={}, context={}) == replace(want.task, model={}, context={})
        fields = ("leaves", "at", "crashed", "answered", "note", "reply")
        assert [getattr(got, f) for f in fields] == [getattr(want, f) for f in fields]


def test_a_model_is_stored_once_however_many_have_it() -> None:
    packed = pack_flights([flight(f"c{i}", 1, MODEL) for i in range(50)])
    assert sum(group.startswith("model/") for group in packed) == 1


def test_no_flights_come_back_as_none(tmp_path: Path) -> None:
    assert unpack_flights(stored(pack_flights([]), tmp_path)) == []


def test_waiting_memory_comes_back(tmp_path: Path) -> None:
    pending: Mapping[Key, Mapping[str, Memory]] = {
        KEY: {"strategy": {"control": {"w": np.ones(2)}, "empty": {}}, "personal": {"tensors": MODEL}},
        replace(KEY, client="bob", round=4): {"strategy": {}},
    }
    back = unpack_pending(stored(pack_pending(pending), tmp_path))
    assert list(back) == list(pending)
    for key, streams in pending.items():
        assert list(back[key]) == list(streams)
        for stream, memory in streams.items():
            assert list(back[key][stream]) == list(memory)
            assert all(same(back[key][stream][group], tensors) for group, tensors in memory.items())


def test_plain_data_come_back() -> None:
    value = {"now": 0.1 + 0.2, "up": 2**60, "names": ["ü", ""], "none": None}
    assert unpack_json(pack_json(value)) == value


def test_a_key_is_all_its_fields() -> None:
    assert Key(*pack_key(KEY)) == KEY  # type: ignore[arg-type]
