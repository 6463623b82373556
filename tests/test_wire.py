"""Frames: what goes in comes out, the size is known beforehand, and bad bytes raise WireError only."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit import wire
from fedkit.errors import WireError
from fedkit.messages import EncodedUpdate, Failure, Key, Kind, Task
from fedkit.secagg.messages import FromClient, FromServer, Stage
from fedkit.tensors import Flat, Layout, Tensors, zeros

VECTORS = Path(__file__).parent / "vectors"
KEY = Key("0123456789abcdef", 3, "train", "", 0, "writer-7")
SESSION = Key("0123456789abcdef", 3, "train", "mask", 1, "writer-7")
LAYOUT = Layout(("weight", "bias"), ((2, 3), (2,)), ("float32", "float32"))
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)
kinds: st.SearchStrategy[Kind] = st.sampled_from(["train", "evaluate"])
keys = st.builds(Key, names, st.integers(0, 2**53), kinds, names, st.integers(0, 9), names)
share = st.floats(0.0, 1.0, exclude_min=True)


@st.composite
def tensors(draw: st.DrawFn) -> Tensors:
    """Tensors of one or several dtypes, Flat or not."""
    dtypes = draw(st.sampled_from([["float32"], ["float64"], ["float32", "int64", "uint8"]]))
    made: dict[str, Any] = {}
    for name in draw(st.lists(names, max_size=4, unique=True)):
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
        values = np.arange(math.prod(shape)).reshape(shape) + draw(st.integers(0, 9))
        made[name] = np.asarray(values.astype(draw(st.sampled_from(dtypes))))
    if len(dtypes) == 1 and draw(st.booleans()):
        layout = Layout.of(made)
        return layout.view(layout.flatten(made))
    return made


updates = st.builds(
    EncodedUpdate,
    keys,
    names,
    st.binary(max_size=60),
    finite,
    st.dictionaries(names, finite, max_size=4),
    share,
)
failures = st.builds(Failure, keys, names, names, names, st.just(""))
tasks = st.builds(
    Task,
    key=keys,
    version=st.integers(0, 2**53),
    model=tensors(),
    context=st.dictionaries(names, tensors(), max_size=2),
    settings=st.dictionaries(
        names, st.one_of(finite, st.integers(-(2**53), 2**53), names, st.booleans()), max_size=4
    ),
    seed=st.integers(0, 2**64 - 1),
    work=share,
    expires=finite,
    session=names,
    deadline=finite,
)
stages = st.sampled_from([stage.value for stage in Stage])
session_keys = st.builds(Key, names, st.integers(0, 2**53), kinds, stages, st.integers(0, 9), names)
bodies = st.binary(max_size=60)
from_server, from_client = (
    st.builds(FromServer, session_keys, bodies),
    st.builds(FromClient, session_keys, bodies),
)
messages = st.one_of(updates, failures, tasks, from_server, from_client)


def plain(message: wire.Message) -> list[object]:
    """Fields as comparable values; types of settings and of arrays count."""

    def simple(value: object) -> object:
        if isinstance(value, np.ndarray):
            return (value.dtype.name, value.shape, value.tobytes())
        if hasattr(value, "items"):
            return sorted((name, simple(v)) for name, v in value.items())
        return value if isinstance(value, Key) else (type(value).__name__ == "bool", value)

    return [simple(getattr(message, field.name)) for field in dataclasses.fields(message)]


def task(**changes: Any) -> Task:
    """A task with a small model."""
    model = LAYOUT.view(np.arange(8, dtype=np.float32))
    made = Task(KEY, 1, model, {}, {"lr": 0.1, "epochs": 1}, 12345, 1.0, 60.0, "", 50.0)
    return dataclasses.replace(made, **changes)


def update(**changes: Any) -> EncodedUpdate:
    """An update with two metrics."""
    made = EncodedUpdate(KEY, "none", b"payload", 17.0, {"loss": 0.5, "accuracy": 0.25}, 1.0)
    return dataclasses.replace(made, **changes)


def framed(kind: int, header: bytes, table: bytes = b"", body: bytes = b"") -> bytes:
    """A frame whose lengths and checksum are right, whatever it holds."""
    frame = (
        struct.pack("<2sBBIIQ", b"FK", 1, kind, len(header), len(table), len(body)) + header + table + body
    )
    return frame + hashlib.blake2b(frame, digest_size=16).digest()


@given(messages)
def test_decode_gives_back_what_was_encoded(message: wire.Message) -> None:
    assert plain(wire.decode(wire.encode(message))) == plain(message)


@given(messages)
def test_size_is_the_length_of_the_frame(message: wire.Message) -> None:
    frame = wire.encode(message)
    assert wire.size(message) == len(frame) == wire.frame_length(frame[: wire.PREFIX])


def test_size_does_not_read_the_tensors() -> None:
    class Untouched(Flat):
        __slots__ = ()

        def __getitem__(self, name: str) -> Any:
            raise AssertionError(f"{name} was read")

    whole = task()
    assert wire.size(task(model=Untouched(LAYOUT, zeros(LAYOUT).vector))) == len(wire.encode(whole))


@given(st.one_of(tasks, updates), st.randoms(use_true_random=False))
def test_the_same_message_gives_the_same_bytes_in_any_order_of_names(
    message: wire.Message, random: Any
) -> None:
    twin: wire.Message = message
    if isinstance(message, Task):
        twin = dataclasses.replace(message, settings=shuffled(message.settings, random))
        twin = dataclasses.replace(twin, context=shuffled(message.context, random))
    elif isinstance(message, EncodedUpdate):
        twin = dataclasses.replace(message, metrics=shuffled(message.metrics, random))
    assert wire.encode(twin) == wire.encode(message)


def shuffled(mapping: Any, random: Any) -> dict[str, Any]:
    """The same mapping in another order."""
    pairs = list(mapping.items())
    random.shuffle(pairs)
    return dict(pairs)


def test_tensors_keep_their_order() -> None:
    model = {"z": np.ones(2, np.float32), "a": np.zeros(1, np.float32)}
    made = wire.decode(wire.encode(task(model=model)))
    assert isinstance(made, Task)
    assert list(made.model) == ["z", "a"]


def test_decoded_tensors_do_not_lean_on_the_frame() -> None:
    frame = bytearray(wire.encode(task()))
    made = wire.decode(bytes(frame))
    assert isinstance(made, Task)
    weight = made.model["weight"]
    assert weight.flags.aligned
    weight += 1.0  # writable
    assert weight[0, 0] == 1.0


def test_the_detail_of_a_failure_never_travels() -> None:
    secret = "Traceback: patient 4711 has value 13"
    frame = wire.encode(Failure(KEY, "exception", "ValueError", "weight", secret))
    made = wire.decode(frame)
    assert isinstance(made, Failure)
    assert made.detail == ""
    assert b"4711" not in frame
    assert wire.size(Failure(KEY, "exception", "ValueError", "weight", secret)) == len(frame)


def test_the_agreed_layout_is_demanded() -> None:
    frame = wire.encode(task())
    assert wire.decode(frame, layout=LAYOUT)
    for other in (
        Layout(("bias", "weight"), ((2,), (2, 3)), ("float32", "float32")),
        Layout(("weight", "bias"), ((3, 2), (2,)), ("float32", "float32")),
        Layout(("weight", "bias"), ((2, 3), (2,)), ("float64", "float64")),
    ):
        with pytest.raises(WireError, match="layout agreed at join"):
            wire.decode(frame, layout=other)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (update(metrics={"loss": math.nan}), "cannot travel"),
        (update(weight=math.inf), "cannot travel"),
        (update(metrics={"loss": np.float32(1)}), "cannot travel"),
        (update(work=0.0), "work"),
        (update(work=1.5), "work"),
        (update(codec="\ud800"), "surrogate"),
        (task(seed=2**64), "seed"),
        (task(seed=-1), "seed"),
        (task(settings={"n": 2**60}), "integer"),
        (task(expires=math.inf), "cannot travel"),
        (task(settings={"text": "x" * 20_000}), "header needs"),
        (task(model={"flag": np.zeros(2, bool)}), "unknown dtype 'bool'"),
        (task(model={"a" * 2_000_000: np.zeros(1)}), "table of tensors needs"),
    ],
)
def test_what_cannot_be_read_is_not_written(message: wire.Message, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        wire.encode(message)


def test_lengths_are_checked_before_anything_is_read() -> None:
    huge = struct.pack("<2sBBIIQ", b"FK", 1, 2, 10, 0, 2**60)
    with pytest.raises(WireError, match="over the limit"):
        wire.frame_length(huge)
    for header, table, what in ((2**14 + 1, 0, "header"), (10, 2**20 + 1, "table")):
        with pytest.raises(WireError, match=f"{what} of"):
            wire.frame_length(struct.pack("<2sBBIIQ", b"FK", 1, 2, header, table, 0))
    with pytest.raises(WireError, match="body of 7 bytes is over the limit of 6"):
        wire.decode(wire.encode(update()), body_limit=6)


def test_another_version_is_an_error_that_names_both() -> None:
    frame = bytearray(wire.encode(update()))
    frame[2] = 9
    with pytest.raises(WireError, match="version 9, this side speaks version 1"):
        wire.decode(bytes(frame))


@given(messages, st.data())
def test_a_truncated_frame_is_refused(message: wire.Message, data: st.DataObject) -> None:
    frame = wire.encode(message)
    with pytest.raises(WireError):
        wire.decode(frame[: data.draw(st.integers(0, len(frame) - 1))])
    with pytest.raises(WireError):
        wire.decode(frame + b"\0")


@given(messages, st.data())
def test_a_flipped_bit_is_refused(message: wire.Message, data: st.DataObject) -> None:
    frame = bytearray(wire.encode(message))
    place = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[place // 8] ^= 1 << (place % 8)
    with pytest.raises(WireError):
        wire.decode(bytes(frame))


@given(st.integers(0, 7), st.binary(max_size=80), st.binary(max_size=20), st.binary(max_size=20))
def test_garbage_with_a_right_checksum_is_refused(
    kind: int, header: bytes, table: bytes, body: bytes
) -> None:
    with pytest.raises(WireError):
        wire.decode(framed(kind, header, table, body))


@given(
    st.sampled_from([update(), task(), Failure(KEY, "a", "b", "c"), FromClient(SESSION, b"body")]), st.data()
)
def test_a_mutated_message_with_a_right_checksum_is_refused_or_read(
    message: Any, data: st.DataObject
) -> None:
    frame = wire.encode(message)
    kind, header, table = struct.unpack("<BII", frame[3:12])
    parts = [bytearray(frame[20 : 20 + header]), bytearray(frame[20 + header : 20 + header + table])]
    for part in parts:
        for _ in range(data.draw(st.integers(0, 3)) if part else 0):
            part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(32, 126))
    try:
        made = wire.decode(framed(kind, bytes(parts[0]), bytes(parts[1]), frame[20 + header + table : -16]))
    except WireError:
        return
    assert type(made) is type(message)
    assert wire.encode(made)


GOOD = {"codec": "none", "key": ["j", 0, "train", "", 0, "c"], "metrics": {}, "weight": 1.0, "work": 1.0}


@pytest.mark.parametrize(
    "header",
    [
        b'{"codec":"none","codec":"none","key":["j",0,"train","",0,"c"],"metrics":{},"weight":1,"work":1}',
        json.dumps({**GOOD, "weight": math.nan}).encode(),
        json.dumps({**GOOD, "weight": math.inf}).encode(),
        json.dumps(GOOD).replace('"weight": 1.0', '"weight": 1e999').encode(),
        json.dumps({**GOOD, "weight": True}).encode(),
        json.dumps({**GOOD, "weight": "1"}).encode(),
        json.dumps({**GOOD, "weight": 10**400}).encode(),
        json.dumps({**GOOD, "more": 1}).encode(),
        json.dumps({name: value for name, value in GOOD.items() if name != "work"}).encode(),
        json.dumps({**GOOD, "metrics": [["loss", 1.0]]}).encode(),
        json.dumps({**GOOD, "metrics": {"loss": None}}).encode(),
        json.dumps({**GOOD, "metrics": {"\ud800": 1.0}}).encode(),
        json.dumps({**GOOD, "key": ["j", 0, "train", "", 0]}).encode(),
        json.dumps({**GOOD, "key": ["j", -1, "train", "", 0, "c"]}).encode(),
        json.dumps({**GOOD, "key": ["j", 2**53 + 1, "train", "", 0, "c"]}).encode(),
        json.dumps({**GOOD, "key": ["j", 0.0, "train", "", 0, "c"]}).encode(),
        json.dumps({**GOOD, "key": ["j", 0, "delete", "", 0, "c"]}).encode(),
        json.dumps({**GOOD, "key": ["j", 0, ["train"], "", 0, "c"]}).encode(),
        json.dumps({**GOOD, "codec": "é"}, ensure_ascii=False).encode(),
        json.dumps(GOOD).encode("utf-16"),
        b"[" * 16_000,
        b'{"a":' * 3_000,
        b"9" * 16_000,
        b"",
        b"null",
        b"{}",
    ],
)
def test_a_header_that_is_not_exact_is_refused(header: bytes) -> None:
    assert wire.decode(framed(2, json.dumps(GOOD).encode()))  # the base is good
    with pytest.raises(WireError):
        wire.decode(framed(2, header))


def rows(*tensors: object, context: object = ()) -> bytes:
    """A table with these tensors in the model."""
    groups: list[object] = [["model", list(tensors)]]
    return json.dumps(groups + list(context if isinstance(context, list) else [])).encode()


@pytest.mark.parametrize(
    ("table", "body"),
    [
        (rows(["w", "float32", [2**50]]), b"1234"),
        (rows(["w", "float32", [2**40, 2**40]]), b"1234"),
        (rows(["w", "float32", [0, 2**52, 2**52]]), b""),
        (rows(["w", "float32", [1] * 40]), b"1234"),
        (rows(["w", "float32", [-1]]), b""),
        (rows(["w", "float32", [True]]), b"1234"),
        (rows(["w", "object", [1]]), b"12345678"),
        (rows(["w", "<f4", [1]]), b"1234"),
        (rows(["w", "float32", [1]], ["w", "float32", [1]]), b"12341234"),
        (rows(["w", "float32", [1]]), b"123412341"),
        (rows(["w", "float32", [1]]), b""),
        (rows(["w", "float32"]), b""),
        (rows(["w", "float32", [1]], context=[["b", []], ["a", []]]), b"1234"),
        (rows(["w", "float32", [1]], context=[["b", []], ["b", []]]), b"1234"),
        (b'[["other",[]]]', b""),
        (b"[]", b""),
        (b"", b""),
        (b"[" * 100_000, b""),
    ],
)
def test_a_table_that_is_not_exact_is_refused_without_allocating(table: bytes, body: bytes) -> None:
    whole = wire.encode(task())
    header = whole[20 : 20 + struct.unpack("<I", whole[4:8])[0]]
    assert wire.decode(framed(1, header, rows(["w", "float32", [1]]), b"1234"))  # the base is good
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            wire.decode(framed(1, header, table, body))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_sections_of_other_kinds_are_refused() -> None:
    header = wire.encode(Failure(KEY, "a", "b", "c"))[20:-16]
    assert wire.decode(framed(3, header))
    for table, body in ((b"", b"x"), (b"[]", b"")):
        with pytest.raises(WireError, match="sections"):
            wire.decode(framed(3, header, table, body))
    header = wire.encode(FromClient(SESSION, b""))[20:-16]
    for kind in (4, 5):
        assert wire.decode(framed(kind, header, b"", b"x"))
        with pytest.raises(WireError, match="sections"):
            wire.decode(framed(kind, header, b"[]", b"x"))


def test_a_message_of_a_session_names_its_stage() -> None:
    for message in (FromServer(KEY, b"x"), FromClient(dataclasses.replace(SESSION, stage="recover"), b"x")):
        with pytest.raises(WireError, match="none of a secure session's"):
            wire.encode(message)
    assert wire.decode(wire.encode(FromServer(SESSION, b"x"))) != FromClient(SESSION, b"x")


GOLDEN: dict[str, wire.Message] = {
    "task": task(context={"control": {"weight": np.full((2, 3), 0.5, np.float64)}}),
    "update": update(),
    "failure": Failure(KEY, "diverged", "FloatingPointError", "weight"),
    "from-server": FromServer(SESSION, bytes(range(48))),
    "from-client": FromClient(SESSION, bytes(range(255, 191, -1))),
}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_bytes_are_those_of_version_1(name: str) -> None:
    golden = (VECTORS / f"wire-1-{name}.bin").read_bytes()
    assert wire.encode(GOLDEN[name]) == golden
    assert plain(wire.decode(golden)) == plain(GOLDEN[name])


def test_golden_frames_can_be_read_without_fedkit() -> None:
    """What docs/wire.md says is enough to read a task: this reads by the page alone."""
    about = json.loads((VECTORS / "wire-1.json").read_text())["task"]
    data = (VECTORS / "wire-1-task.bin").read_bytes()
    magic, version, kind, header, table, body = struct.unpack("<2sBBIIQ", data[:20])
    assert (magic, version, kind, 36 + header + table + body) == (b"FK", 1, 1, len(data))
    assert hashlib.blake2b(data[:-16], digest_size=16).digest() == data[-16:]
    assert json.loads(data[20 : 20 + header]) == about["header"]
    groups = json.loads(data[20 + header : 20 + header + table])
    assert groups == about["table"]
    start, sizes = 20 + header + table, {"float32": 4, "float64": 8}
    for (_, tensors), values in zip(groups, about["values"], strict=True):
        for (_, dtype, shape), expected in zip(tensors, values, strict=True):
            count = math.prod(shape)
            got = struct.unpack_from(f"<{count}{'f' if dtype == 'float32' else 'd'}", data, start)
            assert list(got) == expected
            start += count * sizes[dtype]
    assert start == len(data) - 16


def test_the_example_in_the_docs_is_the_golden_frame() -> None:
    page = (Path(__file__).parents[1] / "docs" / "wire.md").read_text()
    lines = page.split("```text\n")[1].split("```")[0].splitlines()
    data = b"".join(bytes.fromhex(line[6:53]) for line in lines)
    assert data == (VECTORS / "wire-1-failure.bin").read_bytes()
