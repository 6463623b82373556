"""What a node keeps comes back as it was, and only what it wrote itself is read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import WireError
from fedkit.messages import Key, Task
from fedkit.secagg.identity import SigningKey
from fedkit.secureclient import Resting
from fedkit_clients.flower.node import Kept, answer
from fedkit_clients.flower.parcel import MAGIC, Row, pack
from fedkit_clients.flower.setup import Setup
from fedkit_clients.numpy_trainer import NumpyWorkload

KEY = Key("job", 3, "train", "", 0, "c1")
W = {"w": np.arange(3, dtype=np.float32)}


def full() -> Kept:
    """A node that keeps one of everything."""
    made = Kept(turn=4, job="job")
    made.store.put("c1", "strategy", {"control": W})
    made.pending[KEY] = {"residual": {"left": W}, "strategy": {"control": W}}
    made.resting = [Resting(Task(KEY, 2, W, {"context": W}, {}, 5, 1.0, 9.0, "secure"), 1, b"secret")]
    made.remembers("c1").sign("job", 3, "train", b"m" * 32)
    made.identities["c1"] = SigningKey(b"k" * 32)
    return made


def test_all_that_is_kept_comes_back() -> None:
    again = Kept.read(full().write())
    assert again.write() == full().write()
    assert (again.turn, again.job) == (4, "job")
    assert again.store.get("c1", "strategy")["control"]["w"].tolist() == [0, 1, 2]
    assert again.resting[0].machine == b"secret"
    assert again.remembers("c1").signed("job", 3, "train", b"x")
    assert again.identity("c1").key.public == SigningKey(b"k" * 32).public


def test_a_client_has_one_key_for_a_whole_run() -> None:
    kept = Kept()
    first = kept.identity("c0").key.public
    assert Kept.read(kept.write()).identity("c0").key.public == first


@pytest.mark.parametrize(
    "row",
    [
        Row("request", (), b""),
        Row("store", (1,), b""),
        Row("pending", (["job"], "s"), b""),
        Row("resting", (0, 10**6), b"FK"),
        Row("sessions", ("c1",), b"{}"),
        Row("kept", (1,)),
    ],
)
def test_what_no_node_wrote_is_refused(row: Row) -> None:
    rows = [row] if row.kind == "kept" else [Row("kept", (1, "job")), row]
    with pytest.raises(WireError):
        Kept.read(pack(rows))


@given(st.binary(max_size=60))
def test_bytes_from_elsewhere_do_no_more_than_be_refused(data: bytes) -> None:
    for start in (MAGIC, b"x"):
        with pytest.raises(WireError):
            Kept.read(start + data)


@pytest.mark.parametrize(
    "rows", [[], [Row("job", (), b"{}")], [Row("reply", (), b"")], [Row("request", (), b"FK")]]
)
def test_a_parcel_that_no_server_sends_is_refused(work: NumpyWorkload, rows: list[Row]) -> None:
    with pytest.raises(WireError):
        answer(pack(rows), b"", Setup(work, ("c0",), "off"))
