from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from fedkit.errors import ClientFailed, ConfigError, DataError, LayoutError
from fedkit.messages import Key, Pass, Task
from fedkit.tensors import Flat, Tensors, add, digest, flat
from fedkit.trainer import Trainer, Workload
from fedkit_clients import MLP, ClientArrays, NumpyWorkload, Softmax
from fedkit_strategies import FedProx

RNG = np.random.default_rng(5)
X = RNG.normal(size=(90, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 90)
ROWS = {"a": np.arange(0, 40), "b": np.arange(40, 90, 2), "c": np.arange(41, 90, 2)}


def _task(seed: int = 1, work: float = 1.0, **settings: float | str) -> Task:
    return Task(Key("job", 0, "train", "", 0, "a"), 0, {}, {}, settings, seed, work, 1e9)


def _workload(model: Softmax | MLP | None = None) -> NumpyWorkload:
    return NumpyWorkload(model or MLP(6, (8,), 3), ClientArrays(X, Y, ROWS), test=(X, Y))


def test_it_is_a_workload_with_sorted_clients_and_a_bound_on_weights() -> None:
    workload: Workload = _workload()
    trainer: Trainer = workload.trainer("b")
    assert workload.clients() == ["a", "b", "c"]
    assert trainer.examples == 25
    assert _workload().max_weight == 64.0
    assert {c: int(n.sum()) for c, n in _workload().label_counts().items()} == {"a": 40, "b": 25, "c": 25}


def test_one_full_batch_step_is_the_gradient_step_computed_by_hand() -> None:
    x, y = X.astype(np.float64), Y
    workload = NumpyWorkload(Softmax(6, 3, "float64"), {"a": (x, y)})
    start = flat({"weight": RNG.normal(size=(6, 3)), "bias": RNG.normal(size=3)})
    trained = workload.trainer("a").train(Pass(start, start), _task(batch=0, lr=0.3), None)
    scores = x @ start["weight"] + start["bias"]
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    by_score = (shares - np.eye(3)[y]) / len(y)
    np.testing.assert_allclose(trained.delta["weight"], -0.3 * x.T @ by_score, rtol=1e-12)
    np.testing.assert_allclose(trained.delta["bias"], -0.3 * by_score.sum(axis=0), rtol=1e-12)
    assert (trained.steps, trained.examples) == (1, 90.0)
    assert trained.metrics["loss"] == pytest.approx(-np.log(shares[np.arange(90), y]).mean())


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.9},
        {"weight_decay": 0.1},
        {"clip": 0.05},
        {"momentum": 0.5, "weight_decay": 0.01, "clip": 0.3},
    ],
)
def test_momentum_decay_and_clipping_are_those_of_torch(settings: dict[str, float]) -> None:
    torch = pytest.importorskip("torch")
    x, y = X.astype(np.float64), Y
    workload = NumpyWorkload(Softmax(6, 3, "float64"), {"a": (x, y)})
    start = workload.init(0)
    task = replace(_task(), settings={"batch": 0, "epochs": 4, **settings})
    delta = workload.trainer("a").train(Pass(start, start), task, None).delta
    layer = torch.nn.Linear(6, 3, dtype=torch.float64)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    options = {key: settings.get(key, 0.0) for key in ("momentum", "weight_decay")}
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, **options)
    for _ in range(4):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        if "clip" in settings:
            torch.nn.utils.clip_grad_norm_(layer.parameters(), settings["clip"])
        optimizer.step()
    np.testing.assert_allclose(delta["weight"].T, layer.weight.detach().numpy(), rtol=1e-9)


def test_training_depends_on_the_task_alone_not_on_who_trained_before() -> None:
    workload, fresh = _workload(), _workload()
    start = workload.init(0)
    alone = fresh.trainer("b").train(Pass(start, start), _task(momentum=0.9, batch=4), None)
    workload.trainer("a").train(Pass(start, start), _task(seed=9, lr=0.7, momentum=0.5), None)
    workload.evaluate(start)
    after = workload.trainer("b").train(Pass(start, start), _task(momentum=0.9, batch=4), None)
    other = workload.trainer("b").train(Pass(start, start), _task(seed=2, momentum=0.9, batch=4), None)
    assert digest(after.delta) == digest(alone.delta) != digest(other.delta)
    assert after.metrics == alone.metrics


def test_the_result_is_its_own_and_the_start_is_left_alone() -> None:
    workload = _workload()
    start = workload.init(0)
    before = digest(start)
    first = workload.trainer("a").train(Pass(start, start), _task(), None)
    kept = digest(first.delta)
    workload.trainer("b").train(Pass(start, start), _task(), None)
    assert isinstance(first.delta, Flat)
    assert digest(first.delta) == kept
    assert digest(start) == before


def test_fedprox_without_mu_is_plain_training_bit_for_bit() -> None:
    workload = _workload()
    start = workload.init(0)
    plain = workload.trainer("a").train(Pass(start, start), _task(batch=7), None)
    zero = workload.trainer("a").train(Pass(start, start), _task(batch=7), FedProx(mu=0.0).correct)
    some = workload.trainer("a").train(Pass(start, start), _task(batch=7), FedProx(mu=1.0).correct)
    assert digest(zero.delta) == digest(plain.delta) != digest(some.delta)


def test_the_correction_reaches_every_parameter_with_its_own_anchor() -> None:
    workload = _workload()
    start, anchor = workload.init(0), workload.init(1)

    def to_anchor(
        grad: np.ndarray, weight: np.ndarray, anchor: np.ndarray, extra: Mapping[str, np.ndarray]
    ) -> object:
        return weight - anchor + extra["c"]

    control = flat({name: np.full_like(a, 0.25) for name, a in start.items()})
    pass_ = Pass(start, anchor, {"c": control})
    delta = workload.trainer("a").train(pass_, _task(lr=1.0, batch=0), to_anchor).delta
    for name, array in add(start, delta).items():
        np.testing.assert_allclose(array, anchor[name] - 0.25, atol=1e-6)


def test_personal_tensors_train_without_being_corrected() -> None:
    workload = _workload()
    start = workload.init(0)
    shared = {name: array for name, array in start.items() if name.startswith("0.")}
    pull = FedProx(mu=5.0).correct
    mixed = workload.trainer("a").train(Pass(start, shared), _task(batch=0), pull)
    plain = workload.trainer("a").train(Pass(start, start), _task(batch=0), None)
    assert mixed.delta["1.weight"].tolist() == plain.delta["1.weight"].tolist()
    assert set(mixed.delta) == set(start)


def test_work_takes_its_share_of_the_same_steps() -> None:
    workload = _workload()
    start = workload.init(0)
    half = workload.trainer("a").train(Pass(start, start), _task(work=0.5, epochs=2, batch=10), None)
    one = workload.trainer("a").train(Pass(start, start), _task(epochs=1, batch=10), None)
    least = workload.trainer("a").train(Pass(start, start), _task(work=0.001, epochs=2, batch=10), None)
    assert (half.steps, one.steps, least.steps) == (4, 4, 1)
    assert digest(half.delta) == digest(one.delta)


def test_bytes_with_a_scale_are_the_scaled_floats() -> None:
    images = RNG.integers(0, 256, size=(30, 2, 3), dtype=np.uint8)
    scaled = (images.astype(np.float32) * np.float32(1 / 255)).reshape(30, 6)
    results: list[Tensors] = []
    for x, scale in ((images, 1 / 255), (scaled, 1.0)):
        workload = NumpyWorkload(MLP(6, (4,), 3), {"a": (x, Y[:30])}, scale=scale)
        start = workload.init(0)
        results.append(workload.trainer("a").train(Pass(start, start), _task(batch=8), None).delta)
    assert digest(results[0]) == digest(results[1])


def test_evaluation_is_on_test_data_on_held_out_data_or_on_the_clients_own() -> None:
    model = Softmax(6, 3, "float64")
    workload = NumpyWorkload(model, {"a": (X, Y), "b": (X, Y)}, held_out={"b": (X[:10], Y[:10])})
    weights = flat({"weight": np.zeros((6, 3)), "bias": np.array([0.0, 1.0, 0.0])})
    assert workload.evaluate(weights) == {}
    metrics, count = workload.trainer("a").evaluate(weights)
    assert count == 90
    assert metrics["accuracy"] == pytest.approx((Y == 1).mean())
    metrics, count = workload.trainer("b").evaluate(weights)
    assert count == 10
    assert metrics["accuracy"] == pytest.approx((Y[:10] == 1).mean())


def test_evaluation_in_parts_equals_the_whole() -> None:
    x, y = np.tile(X, (30, 1)), np.tile(Y, 30)
    workload = NumpyWorkload(MLP(6, (8,), 3), {"a": (X, Y)}, test=(x, y))
    start = workload.init(3)
    own, _ = workload.trainer("a").evaluate(start)
    assert workload.evaluate(start) == pytest.approx(own, rel=1e-5)


def test_training_learns() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    x = rng.normal(size=(300, 6)) + 2 * np.eye(3, 6)[y]
    workload = NumpyWorkload(MLP(6, (16,), 3), {"a": (x, y)}, test=(x, y))
    start = workload.init(0)
    trained = workload.trainer("a").train(Pass(start, start), _task(epochs=20, batch=20), None)
    assert (
        workload.evaluate(add(start, trained.delta))["accuracy"] > 0.9 > workload.evaluate(start)["accuracy"]
    )


def test_a_client_that_diverges_fails_and_says_where() -> None:
    workload = NumpyWorkload(MLP(6, (8,), 3), {"a": (X * 1e30, Y)})
    start = workload.init(0)
    with pytest.raises(ClientFailed, match="diverged") as caught:
        workload.trainer("a").train(Pass(start, start), _task(lr=1e30, epochs=5), None)
    assert caught.value.code == "diverged"
    assert caught.value.subject in {"loss", *start}


def test_parameters_that_overflow_in_the_last_step_are_named() -> None:
    workload = NumpyWorkload(Softmax(6, 3), {"a": (X * 1e3, Y)})
    start = workload.init(0)
    with pytest.raises(ClientFailed) as caught:
        workload.trainer("a").train(Pass(start, start), _task(lr=1e38, batch=0), None)
    assert caught.value.subject == "weight"


def test_a_client_without_examples_fails() -> None:
    workload = NumpyWorkload(Softmax(6, 3), {"a": (X[:0], Y[:0])})
    start = workload.init(0)
    with pytest.raises(ClientFailed) as caught:
        workload.trainer("a").train(Pass(start, start), _task(), None)
    assert caught.value.code == "no_data"
    with pytest.raises(ClientFailed):
        workload.trainer("a").evaluate(start)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[:, :5], Y, "client 'a': inputs of shape 5, the model takes 6 features"),
        (X, Y + 1, "labels 1 to 3, the model has 3 classes"),
        (X, Y - 1, "labels -1 to 1"),
        (X, Y.astype(float), "vector of integers"),
        (X, Y[:-1], "90 inputs but 89 labels"),
        (X.astype(str), Y, "must be numbers"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused(x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        NumpyWorkload(Softmax(6, 3), {"a": (x, y)})


def test_what_the_numpy_trainer_cannot_do_is_an_error() -> None:
    workload = _workload()
    start = workload.init(0)
    with pytest.raises(ConfigError, match=r"'adam'.*torch"):
        workload.trainer("a").train(Pass(start, start), _task(optimizer="adam"), None)
    with pytest.raises(ConfigError, match="no client 'aa'; "):
        workload.trainer("aa")
    lacking = {name: array for name, array in start.items() if name != "1.bias"}
    with pytest.raises(LayoutError, match=r"1\.bias"):
        workload.trainer("a").train(Pass(lacking, lacking), _task(), None)
