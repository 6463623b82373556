"""Messages are values: frozen, comparable, picklable."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from fedkit.messages import EncodedUpdate, Failure, Key, Pass, Task, Trained, Update

KEY = Key("job", 3, "train", "", 0, "a")
MODEL = {"w": np.ones(2, np.float32)}
MESSAGES = [
    KEY,
    Task(KEY, 1, MODEL, {}, {"lr": 0.1}, 7, 1.0, 60.0),
    Pass(MODEL, MODEL),
    Trained(MODEL, 4, 10.0, {"loss": 0.5}),
    Update(MODEL, 2.0),
    EncodedUpdate(KEY, "none", b"x", 1.0, {}, 1.0),
    Failure(KEY, "exception"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_messages_cannot_be_changed(message: object) -> None:
    for field in dataclasses.fields(message):  # type: ignore[arg-type]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(message, field.name, None)
    with pytest.raises((AttributeError, TypeError)):
        message.unknown = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_messages_pickle(message: object) -> None:
    assert repr(pickle.loads(pickle.dumps(message))) == repr(message)


def test_keys_are_values_with_an_order() -> None:
    twin = dataclasses.replace(KEY)
    assert (twin == KEY, hash(twin) == hash(KEY)) == (True, True)
    others = [dataclasses.replace(KEY, client="b"), dataclasses.replace(KEY, round=2), KEY]
    assert [k.round for k in sorted(others)] == [2, 3, 3]
    assert len({KEY, twin, *others}) == 3


def test_defaults_are_not_shared() -> None:
    first, second = Update(MODEL, 1.0), Update(MODEL, 1.0)
    assert first.metrics is not second.metrics
    assert (first.work, dict(first.extras)) == (1.0, {})
    assert Pass(MODEL, MODEL).extra == {}
