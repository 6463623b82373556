"""FedProx against the formula of the paper, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedkit.conformance import check_strategy
from fedkit.errors import ConfigError
from fedkit.strategy import Strategy
from fedkit_strategies import FedAvg, FedProx

arrays = hnp.arrays(np.float32, 6, elements=st.floats(-100, 100, width=32))


def test_it_keeps_the_laws() -> None:
    for mu in (0.0, 0.1, 1.0):
        assert len(check_strategy(FedProx(mu=mu))) >= 20


@given(arrays, arrays, arrays, st.floats(0, 2))
def test_the_gradient_is_that_of_the_proximal_objective(
    grad: np.ndarray, weight: np.ndarray, anchor: np.ndarray, mu: float
) -> None:
    """d/dw [ F(w) + mu/2 |w - w_t|^2 ] = grad + mu (w - w_t)."""
    made = FedProx(mu=mu).correct(grad, weight, anchor, {})
    expected = grad.astype(np.float64) + mu * (weight.astype(np.float64) - anchor)
    assert made.dtype == np.float32
    assert np.abs(made - expected).max() <= 1e-4


@given(arrays, arrays, arrays)
def test_mu_zero_is_fedavg_to_the_bit(grad: np.ndarray, weight: np.ndarray, anchor: np.ndarray) -> None:
    made = FedProx(mu=0.0).correct(grad, weight, anchor, {})
    assert np.array_equal(made, grad)  # -0.0 may become 0.0, which moves no weight
    assert np.array_equal(weight - np.float32(0.1) * made, weight - np.float32(0.1) * grad)


def test_at_the_anchor_nothing_is_corrected() -> None:
    grad, weight = np.ones(3, np.float32), np.full(3, 2.0, np.float32)
    assert FedProx(mu=9.0).correct(grad, weight, weight, {}).tolist() == [1.0, 1.0, 1.0]


def test_a_large_mu_keeps_clients_near_the_model() -> None:
    """Gradient descent on (w - 1)^2 / 2 + mu/2 w^2 ends at 1 / (1 + mu)."""
    for mu in (0.0, 1.0, 3.0):
        weight, anchor = np.zeros(1), np.zeros(1)
        for _ in range(400):
            weight = weight - 0.2 * FedProx(mu=mu).correct(weight - 1.0, weight, anchor, {})
        assert weight[0] == pytest.approx(1 / (1 + mu), abs=1e-6)


def test_partial_work_is_welcome_unlike_in_fedavg() -> None:
    assert (FedProx().accepts_partial_work, FedAvg().accepts_partial_work) == (True, False)


def test_the_server_half_is_that_of_fedavg() -> None:
    assert FedProx.step is FedAvg.step
    assert FedProx.finish is Strategy.finish
    assert FedProx(lr=0.5).lr == 0.5


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf")])
def test_a_mu_that_attracts_to_nothing_is_refused(mu: float) -> None:
    with pytest.raises(ConfigError, match=r"strategy\.mu = .*: must be at least 0 and finite"):
        FedProx(mu=mu)
    with pytest.raises(ConfigError, match=r"strategy\.lr"):
        FedProx(lr=float("nan"))
