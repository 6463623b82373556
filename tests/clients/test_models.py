import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import ConfigError
from fedkit.tensors import digest
from fedkit_clients.models import MLP, Model, Network, Softmax

MODELS = [
    Softmax(3, 4, "float64", init_scale=0.5),
    MLP(3, (5,), 4, "float64"),
    MLP(3, (4, 6), 4, "float64"),
    MLP(3, (), 4, "float64"),
]


def _batch(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 3)), rng.integers(0, 4, size)


@pytest.mark.parametrize("model", MODELS)
def test_gradients_equal_finite_differences(model: Model) -> None:
    network = Network(model)
    network.weight[:] = model.init(1).vector + 0.01
    x, y = _batch(6)
    network.backward(x, y)
    grad, step = network.grad.copy(), 1e-6
    for i in range(network.layout.size):
        losses = []
        for sign in (1, -1):
            network.weight[i] += sign * step
            losses.append(network.score(x, y)[0] / len(y))
            network.weight[i] -= sign * step
        assert grad[i] == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5, abs=1e-8)


def test_softmax_starts_from_zero_and_its_loss_is_log_classes() -> None:
    network = Network(Softmax(3, 4))
    network.weight[:] = Softmax(3, 4).init(7).vector
    x, y = _batch(5)
    assert not network.weight.any()
    assert network.backward(x.astype(np.float32), y) == pytest.approx(np.log(4))


def test_names_and_shapes() -> None:
    assert dict(zip(Softmax(3, 4).layout.names, Softmax(3, 4).layout.shapes, strict=True)) == {
        "weight": (3, 4),
        "bias": (4,),
    }
    mlp = MLP(3, (5,), 4).layout
    assert mlp.names == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert mlp.shapes == ((3, 5), (5,), (5, 4), (4,))


def test_mcmahans_2nn_has_199210_parameters() -> None:
    assert MLP(784, (200, 200), 10).layout.size == 199_210


def test_init_depends_on_the_seed_alone_and_has_the_stated_variance() -> None:
    model = MLP(400, (300,), 10)
    assert digest(model.init(3)) == digest(model.init(3)) != digest(model.init(4))
    assert float(model.init(3)["0.weight"].var()) == pytest.approx(2 / 400, rel=0.03)
    assert float(model.init(3)["1.weight"].var()) == pytest.approx(2 / 310, rel=0.1)
    assert not model.init(3)["0.bias"].any()


@settings(max_examples=30)
@given(st.floats(-1e4, 1e4), st.integers(0, 3))
def test_scores_too_large_to_exponentiate_still_give_the_loss(shift: float, label: int) -> None:
    network = Network(Softmax(3, 4, "float64"))
    network.weight[-4:] = [shift, 0, 0, 0]
    loss, _ = network.score(np.zeros((1, 3)), np.array([label]))
    logits = np.array([shift, 0, 0, 0])
    assert loss == pytest.approx(np.logaddexp.reduce(logits) - logits[label], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_float64_is_float64_throughout(model: Model) -> None:
    network = Network(model)
    assert {a.dtype.name for a in network._forward(_batch(4)[0])} == {"float64"}
    assert network.grad.dtype == network.weight.dtype == np.float64


def test_what_cannot_be_built_is_an_error() -> None:
    with pytest.raises(ConfigError, match="float16"):
        Softmax(3, 4, "float16")
    with pytest.raises(ConfigError, match="at least 1"):
        MLP(3, (0,), 4)
