"""Users' code: what it raises is told with its place, what it returns is proven."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import ConfigError, LayoutError, RunFailed
from fedkit.tensors import flat
from fedkit.usercode import (
    called,
    odd_client,
    odd_metrics,
    odd_state,
    returned_metrics,
    returned_model,
    returned_settings,
    returned_state,
    where,
)


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (SystemExit(0), "SystemExit: 0"),
        (GeneratorExit(), "GeneratorExit"),
        (StopIteration(), "StopIteration"),
        (LayoutError("w", "is missing"), "fedkit.errors.LayoutError: tensor 'w': is missing"),
        (Unreadable(), "<exception str() failed>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_raised_is_told_with_its_place_and_chained(
    cause: BaseException, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RunFailed) as caught, called("strategy X.step"):
        raise cause
    assert text in str(caught.value)
    assert str(caught.value).startswith("strategy X.step raised ")
    assert "test_usercode.py:" in str(caught.value)
    assert caught.value.__cause__ is cause
    assert caplog.text.count("Traceback") == 1


def test_errors_on_purpose_and_ctrl_c_pass() -> None:
    for error in (ConfigError("x"), RunFailed("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, called("anything", ConfigError):
            raise error
        assert caught.value is error


def test_a_traceback_is_logged_only_for_those_who_keep_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger("fedkit"), "propagate", False)
    with pytest.raises(RunFailed), called("x"):
        raise ValueError
    assert capsys.readouterr().err == ""


def test_the_place_is_the_innermost_line_of_the_user() -> None:
    frames = [
        ("/lib/site-packages/fedkit/loop.py", 3),
        ("/home/me/my.py", 7),
        ("/home/me/my_layers.py", 9),
        ("/x/site-packages/torch/nn.py", 1),
        ("/src/clients/fedkit_clients/torch_trainer.py", 2),
        ("<frozen importlib>", 2),
    ]
    assert where(frames) == " (/home/me/my_layers.py:9)"
    assert where(frames[:1]) == where([]) == ""


W = np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "init returned None, not a mapping"),
        ([W], "returned a list, not a mapping"),
        ({"w": [0.0]}, "tensor 'w' is a list, not a numpy array"),
        ({1: W}, "tensor 1 is an int, not a plain string"),
        ({"\ud800": W}, "holds a lone surrogate"),
        ({"w": np.array([None])}, "'w' has dtype object"),
        ({"w": np.array(["x"])}, "'w' has dtype str"),
        ({"w": W.astype(complex)}, "'w' has dtype complex128"),
        ({"w": W.astype(np.longdouble)}, "'w' has dtype "),
        ({"v": W, "w": W + np.float32("nan")}, "'w' holds values that are not finite"),
        ({"w": W.astype(np.float16) - np.float16("inf")}, "'w' holds values that are not finite"),
    ],
)
def test_what_is_no_model_is_refused_by_tensor(value: object, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        returned_model(value, "init")
    assert text in str(caught.value)


def test_a_model_is_a_copy_that_refuses_assignment() -> None:
    mine: dict[str, Any] = {"w": np.zeros(3, np.float32), "n": np.arange(2), "b": np.array(True)}
    made = returned_model(mine, "init")
    mine["w"][0] = 7
    assert made["w"].tolist() == [0, 0, 0]
    assert list(made) == ["w", "n", "b"]
    for array in made.values():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (None, "it is None"),
        ({"v": W}, "group 'v' is a ndarray"),
        ({1: {}}, "group 1 is an int"),
        ({"v": {2: W}}, "tensor 2 of group 'v' is an int"),
        ({"v": {"x": 1.0}}, "tensor 'x' of group 'v' is a float, not a numpy array"),
        ({"v": {"x": np.array([1j])}}, "tensor 'x' of group 'v' has dtype complex128"),
    ],
)
def test_what_is_no_state_is_refused_by_group_and_tensor(state: object, text: str) -> None:
    assert text in odd_state(state)
    with pytest.raises(RunFailed) as caught:
        returned_state(state, "step")
    assert text in str(caught.value)


def test_a_state_comes_back_read_only_with_scalars_as_arrays() -> None:
    made = returned_state({"v": {"x": np.float64(2)}, "f": flat({"w": W.copy()}), "e": {}}, "step")
    assert made["v"]["x"].shape == ()
    assert list(made["e"]) == []
    for tensors in (made["v"], made["f"]):
        for array in tensors.values():
            assert not array.flags.writeable


def test_metrics_become_plain_floats_and_may_be_nan() -> None:
    made = returned_metrics({"a": np.float32(0.5), "b": float("nan"), "c": True}, "evaluate")
    assert {type(value) for value in made.values()} == {float}
    assert (made["a"], made["c"]) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ({1: 1.0}, "name of metric 1 is an int"),
        ({"x" * 129: 1.0}, "has 129 characters, at most 128"),
        ({"\ud800": 1.0}, "lone surrogate"),
        ({f"m{i}": 1.0 for i in range(257)}, "257 metrics, at most 256"),
        ({"loss": "x"}, "metric 'loss' is 'x', not a number"),
        ({"loss": 10**400}, "metric 'loss' is an integer of"),
        ({"loss": np.ones(2)}, "metric 'loss' is array"),
    ],
)
def test_what_are_no_metrics_is_told(metrics: dict[Any, Any], text: str) -> None:
    assert text in odd_metrics(metrics)
    with pytest.raises(RunFailed):
        returned_metrics(metrics, "evaluate")
    with pytest.raises(RunFailed, match="returned None"):
        returned_metrics(None, "evaluate")


@given(
    st.dictionaries(st.text(max_size=9), st.floats() | st.integers() | st.booleans() | st.text(max_size=3))
)
def test_settings_are_taken_if_and_only_if_they_can_travel(given_: dict[str, Any]) -> None:
    fits = all(
        np.isfinite(v) if isinstance(v, float) else isinstance(v, str) or abs(v) <= 2**53
        for v in given_.values()
    )
    if fits:
        assert returned_settings(given_, "train") == given_
    else:
        with pytest.raises(ConfigError, match="only finite numbers"):
            returned_settings(given_, "train", ConfigError)


def test_settings_of_numpy_become_plain() -> None:
    made = returned_settings({"lr": np.float32(0.5), "n": np.int64(3), "on": np.bool_(True)}, "train")
    assert [type(value) for value in made.values()] == [float, int, bool]
    bad: list[Any] = [
        {"lr": [1]},
        {"lr": "\ud800"},
        {"\ud800": 1},
        {"lr": None},
        {"lr": np.ones(1)},
        {1: 2},
        5,
        {"lr": np.float32("nan")},
    ]
    for settings in bad:
        with pytest.raises(RunFailed):
            returned_settings(settings, "X.settings")


@pytest.mark.parametrize(
    "client", ["", 3, None, b"a", np.str_("a"), ("a",), "\ud800", "é" * 128, "x" * 256], ids=repr
)
def test_ids_that_are_none_are_odd(client: object) -> None:
    assert odd_client(client)


@pytest.mark.parametrize("client", ["a", "../../x", "<b>", "a\0b", "\n", "é" * 127], ids=repr)
def test_any_other_text_is_an_id(client: str) -> None:
    assert odd_client(client) == ""


def test_calls_that_succeed_cost_nothing_and_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    identity: Callable[[int], int] = lambda x: x  # noqa: E731 - the shortest user's code
    with called("x"):
        assert identity(3) == 3
    assert caplog.text == ""
