"""Checkpoints: everything comes back bit for bit, and damage is never read as data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkit.checkpoint import Checkpoint
from fedkit.errors import CheckpointError
from fedkit.history import SecureRecord
from fedkit.messages import Key
from fedkit.runfolder import load_tensors, save_tensors
from fedkit.tensors import Layout, State, Tensors, zeros

NASTY = ["", "a/b", ":", "größe", "__metadata__", "model", "0", "x\ny", "a" * 300, "state:w", "\u2028", "🙂"]
FAST = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

names = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
arrays = st.builds(
    lambda dtype, shape, seed: np.random.default_rng(seed).integers(0, 2, shape).astype(dtype),
    st.sampled_from(["float32", "float64", "int64", "uint8", "bool"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 99),
)
tensors = st.dictionaries(names, arrays, max_size=4)
states = st.dictionaries(names, tensors, max_size=3)


def point(model: Tensors, state: State, federation: State, downlink: State) -> Checkpoint:
    return Checkpoint("job", 7, model, state, federation, downlink)


def equal(a: Tensors, b: Tensors) -> bool:
    return list(a) == list(b) and all(
        (a[n].dtype, a[n].shape, a[n].tobytes()) == (b[n].dtype, b[n].shape, b[n].tobytes()) for n in a
    )


def equal_state(a: State, b: State) -> bool:
    return list(a) == list(b) and all(equal(a[group], b[group]) for group in a)


@FAST
@given(tensors, states, states, states)
def test_tensors_come_back_under_any_name(
    tmp_path: Path, model: Tensors, state: State, federation: State, downlink: State
) -> None:
    saved = point(model, state, federation, downlink)
    saved.save(tmp_path / "c")
    back = Checkpoint.load(tmp_path / "c")
    assert equal(back.model, model)
    assert equal_state(back.state, state)
    assert equal_state(back.federation, federation)
    assert equal_state(back.downlink, downlink)


SECURE = SecureRecord("m", "s", "i", 32, {}, 4, 3, 1, 1, (), {}, 1, 2, None, 0.25, None, (), {"c": "why"})


def whole() -> Checkpoint:
    key = Key("job", 3, "train", "", 0, "ann/ü:")
    return Checkpoint(
        "job",
        7,
        zeros(Layout(("w", "s"), ((4, 3), ()), ("float32", "float32"))),
        {"velocity": {"w": np.arange(12.0).reshape(4, 3).T}, "empty": {}},
        {"engine": {"json": np.frombuffer(b"[1]", np.uint8)}},
        {},
        {"accuracy": 0.1},
        {key: 0.1 + 0.2},
        {key: "late", replace(key, round=6): "counted"},
        ("accuracy", 0.75, 4),
        12.5,
        initial_secagg=SECURE,
    )


def test_the_plain_fields_come_back(tmp_path: Path) -> None:
    saved = whole()
    saved.save(tmp_path / "c")
    back = Checkpoint.load(tmp_path / "c")
    for field in ("job", "rounds", "initial", "open", "verdicts", "best", "wall_seconds", "initial_secagg"):
        assert getattr(back, field) == getattr(saved, field), field
    assert equal_state(back.state, saved.state)
    assert equal(back.model, saved.model)
    assert back.model["s"].shape == ()


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        Checkpoint.load(tmp_path / "nowhere")


def test_a_checkpoint_cut_short_anywhere_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    whole().save(path)
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
            Checkpoint.load(path)


def test_a_flipped_bit_anywhere_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "flipped.safetensors"
    whole().save(path)
    data = path.read_bytes()
    survived = 0
    for place in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        survived += not _refused(path)
    assert survived < 0.01 * len(data)  # blanks of the header, which hold nothing


def _refused(path: Path) -> bool:
    """Whether the damage is found; what is read in spite of it must be what was written."""
    try:
        back = Checkpoint.load(path)
    except CheckpointError as error:
        return path.name in str(error)
    assert equal(back.model, whole().model)
    assert equal_state(back.state, whole().state)
    return False


def resealed(path: Path, about: dict[str, object], arrays: dict[str, NDArray[np.float32]]) -> None:
    """A checkpoint with that index, as another program might have written it."""
    Checkpoint("job", 0, arrays, {}, {}, {}).save(path)
    found, metadata = load_tensors(path)
    text = json.dumps({**json.loads(metadata["fedkit"]), **about})
    from fedkit.checkpoint import _checksum

    save_tensors(path, found, {"fedkit": text, "checksum": _checksum(text, found)})


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"format": "fedkit-checkpoint/9"}, "has format 'fedkit-checkpoint/9', this fedkit reads"),
        ({"index": [["model", "", "w"], ["model", "", "more"]]}, "is not a fedkit checkpoint"),
        ({"index": [["nothing", "", "w"]]}, "is not a fedkit checkpoint"),
        ({"open": [[["short"], 1.0]]}, "is not a fedkit checkpoint"),
        ({"groups": {}}, "is not a fedkit checkpoint"),
        ({"groups": 3}, "is not a fedkit checkpoint"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path, about: dict[str, object], says: str) -> None:
    path = tmp_path / "odd.safetensors"
    resealed(path, about, {"w": np.ones(2, np.float32)})
    with pytest.raises(CheckpointError, match=rf"odd\.safetensors {says}"):
        Checkpoint.load(path)


def test_safetensors_of_someone_else_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_tensors(path, {"w": np.ones(2)}, {})
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a fedkit checkpoint"):
        Checkpoint.load(path)


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c"
    whole().save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        replace(whole(), initial={"accuracy": object()}).save(path)  # type: ignore[dict-item]
    assert path.read_bytes() == before
