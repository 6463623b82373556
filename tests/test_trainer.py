"""Which tensors train and which travel: the one rule for buffers and frozen weights."""

from __future__ import annotations

import numpy as np
import pytest

from fedkit.errors import ConfigError
from fedkit.tensors import Tensors
from fedkit.trainer import frozen, trained_part, travelling

MODEL: Tensors = {
    "conv.weight": np.ones((2, 2), np.float32),
    "norm.running_mean": np.zeros(2, np.float32),
    "norm.num_batches_tracked": np.zeros((), np.int64),
    "embed.weight": np.ones(3, np.float32),
}


class Frozen:
    """A workload that freezes its embedding."""

    frozen = ("embed.weight",)


def test_integer_buffers_and_frozen_weights_do_not_train() -> None:
    assert list(trained_part(MODEL, ("embed.weight",))) == ["conv.weight", "norm.running_mean"]


def test_what_travels_keeps_the_order_of_the_model() -> None:
    layout = travelling(MODEL, (), lambda name: True)
    assert layout.names == ("conv.weight", "norm.running_mean", "embed.weight")
    assert travelling(MODEL, (), lambda name: "norm" not in name).names == ("conv.weight", "embed.weight")


def test_frozen_is_optional() -> None:
    assert frozen(Frozen()) == ("embed.weight",)  # type: ignore[arg-type]
    assert frozen(object()) == ()  # type: ignore[arg-type]


def test_nothing_to_send_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing would travel"):
        travelling(MODEL, (), lambda name: False)
    with pytest.raises(ConfigError, match="nothing would travel"):
        travelling({"n": np.zeros(2, np.int64)}, (), lambda name: True)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dtypes_that_are_mixed_or_not_supported_are_errors(dtype: str) -> None:
    with pytest.raises(ConfigError, match=dtype):
        travelling({**MODEL, "half": np.ones(2, dtype)}, (), lambda name: True)
    with pytest.raises(ConfigError, match="float16"):
        travelling({"half": np.ones(2, np.float16)}, (), lambda name: True)
