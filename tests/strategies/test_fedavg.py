"""FedAvg against the formula of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.aggregate import Grid, WeightedSum
from fedkit.conformance import check_strategy
from fedkit.errors import ConfigError
from fedkit.messages import Update
from fedkit.tensors import Layout
from fedkit_strategies import FedAvg

LAYOUT = Layout(("w", "b"), ((2,), (1,)), ("float64", "float64"))
values = st.lists(st.floats(-100, 100), min_size=3, max_size=3)


def summed(deltas: list[list[float]], weights: list[float]) -> WeightedSum:
    """The sum of these updates."""
    total = WeightedSum(LAYOUT, Grid())
    for k, (delta, weight) in enumerate(zip(deltas, weights, strict=True)):
        total.add(str(k), Update(LAYOUT.view(np.array(delta)), weight))
    return total


def test_it_keeps_the_laws() -> None:
    for lr in (1.0, 0.5):
        assert len(check_strategy(FedAvg(lr=lr))) >= 20


@given(values, st.lists(st.tuples(values, st.integers(1, 1000)), min_size=1, max_size=5))
def test_the_new_model_is_the_weighted_mean_of_the_clients_models(
    model: list[float], rows: list[tuple[list[float], int]]
) -> None:
    """w <- sum_k n_k / n w_k, with w_k = w + delta_k (algorithm 1)."""
    deltas, weights = [d for d, _ in rows], [float(n) for _, n in rows]
    made, _ = FedAvg().step(LAYOUT.view(np.array(model)), {}, summed(deltas, weights))
    local = np.array(model) + np.array(deltas)
    expected = np.average(local, axis=0, weights=weights)
    assert np.abs(LAYOUT.flatten(made) - expected).max() <= 2.0**-32 + 1e-12


def test_lr_scales_the_step() -> None:
    total = summed([[1.0, 2.0, 4.0]], [3.0])
    made, state = FedAvg(lr=0.5).step(LAYOUT.view(np.ones(3)), {}, total)
    assert LAYOUT.flatten(made).tolist() == [1.5, 2.0, 3.0]
    assert state == {}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_client_is_local_training(dtype: str) -> None:
    """Within one ulp of max(|model|, |trained|) plus the grid step (the identity of field.md)."""
    layout = Layout(("w",), ((200,),), (dtype,))
    random = np.random.default_rng(0)
    model, trained = (random.standard_normal(200).astype(dtype) for _ in range(2))
    total = WeightedSum(layout, Grid())
    total.add("only", Update(layout.view(trained - model), 17.0))
    made = layout.flatten(FedAvg().step(layout.view(model), {}, total)[0])
    ulp = np.spacing(np.maximum(np.abs(model), np.abs(trained)))
    assert (np.abs(made - trained) <= ulp + 2.0**-32 / 17).all()
    assert made.dtype == np.dtype(dtype)


@pytest.mark.parametrize("lr", [float("nan"), float("inf")])
def test_a_step_of_no_length_is_refused(lr: float) -> None:
    with pytest.raises(ConfigError, match=r"strategy\.lr = .*: must be finite"):
        FedAvg(lr=lr)
