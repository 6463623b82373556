"""Client memory: what was put is got, RAM stays bounded, and a killed process loses nothing committed."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.clientstore import MemoryStore
from fedkit.errors import CheckpointError
from fedkit.tensors import Memory, State

HOSTILE = [
    "",
    "..",
    "../../etc/passwd",
    "a/b",
    "a\0b",
    "\udcff",
    "C:\\x",
    "é" * 300,
    "a" * 5000,
    "a ",
    "A",
    "a",
]


def memory(value: float, size: int = 4) -> Memory:
    """Two groups, one with two tensors."""
    return {"control": {"w": np.full(size, value, np.float32), "b": np.zeros(1, np.float32)}, "empty": {}}


def value(held: Memory) -> float | None:
    """What `memory` was made of; None for an empty memory."""
    return float(held["control"]["w"][0]) if held else None


def through_checkpoint(state: State) -> State:
    """The state as a checkpoint gives it back: plain dicts of arrays, in another order."""
    return {
        group: {name: np.array(array) for name, array in reversed(list(tensors.items()))}
        for group, tensors in reversed(list(state.items()))
    }


@pytest.fixture(params=["ram", "disk", "disk without cache"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryStore:
    """Each kind of store."""
    if request.param == "ram":
        return MemoryStore()
    return MemoryStore(tmp_path / "memory", cache_bytes=0 if "without" in request.param else 1 << 20)


def test_get_is_empty_before_the_first_put(store: MemoryStore) -> None:
    assert store.get("a", "strategy") == {}


def test_streams_and_clients_are_kept_apart(store: MemoryStore) -> None:
    places = [(client, stream) for client in HOSTILE for stream in ("strategy", "personal", "a/b")]
    for number, place in enumerate(places):
        store.put(*place, memory(number))
    assert [value(store.get(*place)) for place in places] == list(range(len(places)))


def test_names_cannot_collide(store: MemoryStore) -> None:
    store.put("ab", "c", memory(1))
    store.put("a", "bc", memory(2))
    assert (value(store.get("ab", "c")), value(store.get("a", "bc"))) == (1, 2)


def test_nothing_leaves_the_directory(tmp_path: Path) -> None:
    inside = tmp_path / "deep" / "memory"
    store = MemoryStore(inside)
    for client in HOSTILE:
        store.put(client, "../strategy", memory(1))
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != inside] == []
    assert len(list(inside.iterdir())) == len(HOSTILE)


def test_put_keeps_a_copy_in_the_form_in_which_it_is_read_back(tmp_path: Path) -> None:
    source = np.ones(4, np.float32)
    kinds = set()
    for store in (MemoryStore(), MemoryStore(tmp_path / "a"), MemoryStore(tmp_path / "b", cache_bytes=0)):
        store.put("a", "strategy", {"control": {"z": source, "a": source}})
        source[:] = 5.0
        got = store.get("a", "strategy")["control"]
        assert got["z"].tolist() == [1.0] * 4
        kinds.add((type(got), tuple(got)))
        source[:] = 1.0
    assert len(kinds) == 1


def test_an_empty_memory_removes_the_entry(store: MemoryStore) -> None:
    store.put("a", "strategy", memory(1))
    store.put("a", "strategy", {})
    assert store.get("a", "strategy") == {}
    store.put("b", "strategy", {})
    store.load(through_checkpoint(store.save()))
    assert store.get("a", "strategy") == {}


def test_load_forgets_what_was_put_since(store: MemoryStore) -> None:
    store.put("a", "strategy", memory(1))
    state = through_checkpoint(store.save())
    store.put("a", "strategy", memory(2))
    store.put("b", "strategy", memory(3))
    store.load(state)
    assert value(store.get("a", "strategy")) == 1
    assert store.get("b", "strategy") == {}
    store.put("a", "strategy", memory(4))
    store.load(state)
    assert value(store.get("a", "strategy")) == 1


def test_load_of_nothing_is_a_fresh_start(store: MemoryStore) -> None:
    store.put("a", "strategy", memory(1))
    store.load({})
    assert store.get("a", "strategy") == {}


def test_the_other_kind_of_state_is_refused(tmp_path: Path) -> None:
    ram, disk = MemoryStore(), MemoryStore(tmp_path)
    ram.put("a", "s", memory(1))
    disk.put("a", "s", memory(1))
    for store, state in ((ram, disk.save()), (disk, ram.save()), (ram, {"x": {}})):
        with pytest.raises(CheckpointError, match="client memory"):
            store.load(state)


operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 4), st.integers(1, 99)),
        st.tuples(st.just("drop"), st.integers(0, 4), st.just(0)),
        st.tuples(st.sampled_from(["save", "crash"]), st.just(0), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(operations)
def test_any_history_ends_as_that_of_a_plain_dict(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = MemoryStore(folder, cache_bytes=60)
    state: State = {}
    model: dict[int, int] = {}
    saved: dict[int, int] = {}
    for what, client, number in history:
        if what == "put":
            store.put(str(client), "s", memory(number))
            model[client] = number
        elif what == "drop":
            store.put(str(client), "s", {})
            model.pop(client, None)
        elif what == "save":
            state, saved = through_checkpoint(store.save()), dict(model)
        else:
            store = MemoryStore(folder, cache_bytes=60)
            store.load(state)
            model = dict(saved)
        assert {c: value(store.get(str(c), "s")) for c in model} == model


def test_the_index_before_the_last_stays_valid_until_the_next_save(tmp_path: Path) -> None:
    """A process may die after `save` and before the checkpoint with that index is in place."""
    store = MemoryStore(tmp_path)
    store.put("a", "s", memory(1))
    first = store.save()
    store.put("a", "s", memory(2))
    store.save()
    store.put("a", "s", memory(3))
    again = MemoryStore(tmp_path)
    again.load(first)
    assert value(again.get("a", "s")) == 1


def test_files_do_not_pile_up(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    for round in range(20):
        for client in "abc":
            store.put(client, "s", memory(round))
            store.put(client, "s", memory(round + 0.5))
        store.save()
    assert len(list(tmp_path.iterdir())) <= 3 * 3


def test_load_removes_files_that_the_index_does_not_name_and_no_others(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    store.put("a", "s", memory(1))
    state = store.save()
    store.put("b", "s", memory(2))
    (tmp_path / ("0" * 40 + "-7.bin.part")).write_bytes(b"half a file")
    (tmp_path / "notes.txt").write_text("not ours")
    MemoryStore(tmp_path).load(state)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".bin", ".txt"]


def test_a_checkpoint_holds_an_index_not_the_contents(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path)
    for client in range(100):
        store.put(f"client-{client}", "s", memory(client, size=1000))
    size = sum(array.nbytes for tensors in store.save().values() for array in tensors.values())
    assert size < 100 * 50


def test_ram_is_bounded(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path, cache_bytes=10_000)
    for client in range(50):
        store.put(str(client), "s", memory(client, size=500))
        store.get(str(client // 2), "s")
        held = [array.nbytes for _, m in store._cache.items() for t in m.values() for array in t.values()]
        assert sum(held) <= 10_000
    assert [value(store.get(str(client), "s")) for client in range(50)] == list(range(50))


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path, cache_bytes=0)
    store.put("a", "s", memory(1))
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{path.name} is damaged"):
        store.get("a", "s")
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{path.name} cannot be read"):
        store.get("a", "s")


WRITER = """
import json, sys
from pathlib import Path
import numpy as np
from fedkit.clientstore import MemoryStore
folder = Path(sys.argv[1])
store = MemoryStore(folder / "memory", cache_bytes=2000)
index = folder / "index.json"
start = 0
if index.exists():
    held = json.loads(index.read_text())
    start = held["round"] + 1
    store.load({"index": {"json": np.frombuffer(held["json"].encode(), np.uint8)}})
print("ready", flush=True)
for round in range(start, 10**9):
    for client in range(round % 7, 40, 3):
        store.put(str(client), "s", {"g": {"w": np.full(50, round, np.float32)}})
    state = store.save()
    part = folder / "index.part"
    part.write_text(json.dumps({"round": round, "json": state["index"]["json"].tobytes().decode()}))
    part.replace(index)
"""


def saved(index: Path) -> int:
    """The last round of a writer; -1 before the first."""
    return int(json.loads(index.read_text())["round"]) if index.exists() else -1


def test_kill_at_any_instant_loses_nothing_committed(tmp_path: Path) -> None:
    random, round = Random(0), -1
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while saved(tmp_path / "index.json") <= round:
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(random.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        held = json.loads((tmp_path / "index.json").read_text())
        round = held["round"]
        store = MemoryStore(tmp_path / "memory")
        store.load({"index": {"json": np.frombuffer(held["json"].encode(), np.uint8)}})
        for client in range(40):
            last = [r for r in range(round + 1) if client in range(r % 7, 40, 3)][-1:]
            got = store.get(str(client), "s")
            assert [float(got["g"]["w"][-1])] == last if last else got == {}
    assert round >= 4


def test_the_folder_is_made_when_there_is_something_to_remember(tmp_path: Path) -> None:
    store = MemoryStore(tmp_path / "clients")
    store.load({})
    saved = store.save()
    assert not (tmp_path / "clients").exists()
    store.put("a", "strategy", {"control": {"w": np.ones(2)}})
    assert list((tmp_path / "clients").iterdir())
    store.load(saved)
    assert not list((tmp_path / "clients").iterdir())


@pytest.mark.parametrize("damage", [b"", b"\0" * 60, None])
def test_a_damaged_memory_is_told_once_where_there_is_a_place_for_it(
    tmp_path: Path, damage: bytes | None
) -> None:
    store = MemoryStore(tmp_path / "memory", 0, tmp_path / "aside")
    store.put("ann", "strategy", {"c": {"w": np.ones(2, np.float32)}})
    store.save()
    (path,) = (tmp_path / "memory").iterdir()
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(CheckpointError, match="goes on without it"):
        store.get("ann", "strategy")
    assert store.get("ann", "strategy") == {}
    assert (tmp_path / "aside" / path.name).exists() is (damage is not None)
    store.put("ann", "strategy", {"c": {"w": np.zeros(2, np.float32)}})
    again = MemoryStore(tmp_path / "memory", 0, tmp_path / "aside")
    again.load(store.save())
    assert again.get("ann", "strategy")["c"]["w"].tolist() == [0.0, 0.0]


def test_too_many_open_files_are_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(tmp_path / "memory", 0, tmp_path / "aside")
    store.put("ann", "strategy", {"c": {"w": np.ones(2, np.float32)}})

    def refuse(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", refuse)
        with pytest.raises(CheckpointError, match="too many open files"):
            store.get("ann", "strategy")
    assert store.get("ann", "strategy")["c"]["w"].tolist() == [1.0, 1.0]
