import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import ConfigError
from fedkit_clients.settings import TRAIN_SETTINGS, TrainSettings, epochs


def test_every_key_is_documented_and_defaulted() -> None:
    made = TrainSettings.of({})
    assert made == TrainSettings(1, 0, 32, 0.1, 0.0, 0.0, "sgd", 0.0)
    assert all(TRAIN_SETTINGS[key] and hasattr(made, key) for key in TRAIN_SETTINGS)


def test_a_strategys_own_settings_are_left_alone() -> None:
    assert TrainSettings.of({"mu": 0.1, "lr": 0.5}) == TrainSettings(lr=0.5)


def test_whole_numbers_serve_where_floats_are_expected() -> None:
    made = TrainSettings.of({"lr": 1, "epochs": 3})
    assert (made.lr, made.epochs) == (1.0, 3)
    assert type(made.lr) is float
    assert type(made.epochs) is int


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -0.1}, "train.lr must be a finite number, at least 0, not -0.1"),
        ({"lr": math.nan}, "train.lr"),
        ({"lr": math.inf}, "train.lr"),
        ({"lr": "fast"}, "train.lr"),
        ({"lr": True}, "train.lr"),
        ({"epochs": 0}, "train.epochs must be a whole number, at least 1, not 0"),
        ({"epochs": 1.5}, "train.epochs"),
        ({"steps": -1}, "train.steps"),
        ({"batch": -1}, "train.batch"),
        ({"momentum": 1.0}, "at least 0 and below 1, not 1.0"),
        ({"weight_decay": -1e-9}, "train.weight_decay"),
        ({"clip": -1.0}, "train.clip"),
        ({"optimizer": 3}, "train.optimizer must be a name"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_the_key(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainSettings.of(settings)


@pytest.mark.parametrize(
    ("settings", "examples", "work", "steps"),
    [
        ({"epochs": 2, "batch": 10}, 25, 1.0, 6),
        ({"epochs": 20, "batch": 10}, 10, 0.35, 7),
        ({"epochs": 2, "batch": 0}, 25, 1.0, 2),
        ({"steps": 7, "epochs": 9}, 25, 1.0, 7),
        ({"steps": 100}, 25, 0.25, 25),
        ({}, 5, 0.01, 1),
    ],
)
def test_steps_done(settings: dict[str, Any], examples: int, work: float, steps: int) -> None:
    assert TrainSettings.of(settings).steps_done(examples, work) == steps


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 60), st.integers(0, 2**64 - 1))
def test_epochs_are_permutations_that_give_the_steps(
    examples: int, batch: int, steps: int, seed: int
) -> None:
    batch = min(batch, examples)
    total = 0
    for order, some in epochs(seed, examples, batch, steps):
        assert some <= math.ceil(examples / batch)
        assert (order is None) == (batch == examples)
        assert order is None or sorted(order) == list(range(examples))
        total += some
    assert total == steps


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    first, second = (order for order, _ in epochs(1, 50, 10, 10))
    other = next(order for order, _ in epochs(2, 50, 10, 10))
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.tolist() != second.tolist()
    assert first.tolist() != other.tolist()


@given(st.integers(2, 60), st.integers(2, 60))
def test_a_raised_batch_leaves_no_single_example(examples: int, batch: int) -> None:
    raised = TrainSettings(batch=batch).without_single_examples(examples).batch_size(examples)
    assert raised >= min(batch, examples)
    assert examples % raised != 1
    assert raised == min(batch, examples) or examples % batch == 1
