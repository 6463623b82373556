from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from fedkit.errors import ClientFailed, ConfigError, DataError
from fedkit.messages import Key, Pass, Task
from fedkit.tensors import Array, Flat, add, digest
from fedkit.trainer import Trainer, Workload, frozen, trained_part
from fedkit_clients import ClientArrays, NumpyWorkload, Softmax, TorchWorkload
from fedkit_clients.torch_trainer import accuracy, in_channels_last, seeded
from fedkit_strategies import FedProx

RNG = np.random.default_rng(5)
X = RNG.normal(size=(90, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 90)
CPU = torch.device("cpu")


def _task(seed: int = 1, work: float = 1.0, **settings: float | str) -> Task:
    return Task(Key("job", 0, "train", "", 0, "a"), 0, {}, {}, settings, seed, work, 1e9)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def _everything() -> nn.Module:
    """Batch norm, dropout and a frozen layer together."""
    module = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 8), nn.Linear(8, 3)
    )
    module[3].requires_grad_(False)
    return module


def _workload(model: Callable[[], nn.Module] = _mlp) -> TorchWorkload:
    rows = {"a": np.arange(40), "b": np.arange(40, 90, 2)}
    return TorchWorkload(model, cross_entropy, ClientArrays(X, Y, rows), test=(X, Y))


def _start(workload: TorchWorkload) -> dict[str, np.ndarray]:
    return dict(trained_part(workload.init(0), frozen(workload)))


def test_it_is_a_workload() -> None:
    workload: Workload = _workload(_everything)
    trainer: Trainer = workload.trainer("b")
    assert workload.clients() == ["a", "b"]
    assert trainer.examples == 25
    assert _workload().max_weight == 64.0
    assert frozen(workload) == ("3.weight", "3.bias")
    assert {c: int(n.sum()) for c, n in _workload().label_counts().items()} == {"a": 40, "b": 25}


def test_init_names_the_whole_model_and_depends_on_the_seed_alone() -> None:
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = _workload(_everything).init(4)
    torch.manual_seed(12)
    assert digest(first) == digest(_workload(_everything).init(4)) != digest(_workload(_everything).init(5))
    assert set(first) == set(_everything().state_dict())
    torch.manual_seed(11)
    _workload().init(4)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_given_module_keeps_its_weights_and_is_left_alone() -> None:
    module = _mlp()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    workload = TorchWorkload(module, cross_entropy, {"a": (X, Y)})
    start = workload.init(3)
    workload.trainer("a").train(Pass(start, start), _task(), None)
    assert digest(workload.init(4)) == digest(start)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert start[name].tolist() == before[name].tolist()


def test_one_full_batch_step_is_the_gradient_step_that_autograd_gives() -> None:
    module = _mlp().double()
    workload = TorchWorkload(module, cross_entropy, {"a": (X, Y)})
    start = workload.init(0)
    trained = workload.trainer("a").train(Pass(start, start), _task(batch=0, lr=0.3), None)
    loss = cross_entropy(module(torch.from_numpy(X).double()), torch.from_numpy(Y))
    grads = torch.autograd.grad(loss, list(module.parameters()))
    for name, grad in zip(dict(module.named_parameters()), grads, strict=True):
        np.testing.assert_allclose(trained.delta[name], -0.3 * grad.numpy(), rtol=1e-11, atol=1e-15)
    assert (trained.steps, trained.examples) == (1, 90.0)
    assert trained.metrics["loss"] == pytest.approx(loss.item())
    assert isinstance(trained.delta, Flat)
    assert trained.delta.vector.dtype == np.float64


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9, "weight_decay": 0.01, "clip": 0.2}])
def test_it_trains_softmax_regression_as_numpy_does(settings: dict[str, float]) -> None:
    task = replace(_task(), settings={"batch": 10, "epochs": 3, **settings})
    mine = NumpyWorkload(Softmax(6, 3), {"a": (X, Y)}, test=(X, Y))
    start = mine.init(0)
    by_numpy = mine.trainer("a").train(Pass(start, start), task, None)
    workload = TorchWorkload(lambda: nn.Linear(6, 3), cross_entropy, {"a": (X, Y)}, test=(X, Y))
    zero = {"weight": np.zeros((3, 6), np.float32), "bias": np.zeros(3, np.float32)}
    by_torch = workload.trainer("a").train(Pass(zero, zero), task, None)
    np.testing.assert_allclose(by_torch.delta["weight"].T, by_numpy.delta["weight"], atol=1e-6)
    np.testing.assert_allclose(by_torch.delta["bias"], by_numpy.delta["bias"], atol=1e-6)
    assert by_torch.metrics == pytest.approx(by_numpy.metrics, rel=1e-5)
    theirs = workload.evaluate(by_torch.delta)
    assert theirs == pytest.approx(dict(mine.evaluate(by_numpy.delta)), rel=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_depends_on_the_task_alone_not_on_who_trained_before(optimizer: str) -> None:
    task = _task(batch=8, lr=0.01, optimizer=optimizer)
    fresh = _workload(_everything)
    start = _start(fresh)
    alone = fresh.trainer("b").train(Pass(start, start), task, None)
    workload = _workload(_everything)
    workload.init(0)
    workload.trainer("a").train(Pass(start, start), _task(seed=9, lr=0.7, momentum=0.5), FedProx().correct)
    workload.evaluate(workload.init(0))
    torch.manual_seed(99)
    after = workload.trainer("b").train(Pass(start, start), task, None)
    other = workload.trainer("b").train(Pass(start, start), replace(task, seed=2), None)
    assert digest(after.delta) == digest(alone.delta) != digest(other.delta)
    assert after.metrics == alone.metrics


def test_a_failed_client_leaves_no_trace() -> None:
    workload = _workload(_everything)
    start = _start(workload)
    before = workload.trainer("b").train(Pass(start, start), _task(batch=5), None)
    with pytest.raises(ClientFailed):
        workload.trainer("a").train(Pass(start, start), _task(lr=1e38, epochs=3), None)
    after = workload.trainer("b").train(Pass(start, start), _task(batch=5), None)
    assert digest(after.delta) == digest(before.delta)


def test_dropout_draws_from_the_task_and_leaves_torchs_own_generator_alone() -> None:
    workload = _workload(lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3)))
    start = _start(workload)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, again, other = (
        workload.trainer("a").train(Pass(start, start), _task(seed=s, batch=0), None).delta for s in (1, 1, 2)
    )
    assert digest(one) == digest(again) != digest(other)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_largest_seed_is_a_seed() -> None:
    with seeded(2**64 - 1, CPU):
        first = torch.rand(1)
    with seeded(2**64 - 2, CPU):
        assert torch.rand(1) != first


def test_batch_norm_statistics_travel_in_the_delta_and_frozen_weights_do_not() -> None:
    workload = _workload(_everything)
    whole = workload.init(0)
    start = trained_part(whole, frozen(workload))
    trained = workload.trainer("a").train(Pass(start, start), _task(batch=0, steps=1), None)
    assert set(trained.delta) == set(start)
    assert {"1.running_mean", "1.running_var"} <= set(start)
    first = X[:40] @ whole["0.weight"].T + whole["0.bias"]
    np.testing.assert_allclose(
        trained.delta["1.running_mean"], 0.1 * first.mean(axis=0), rtol=1e-4, atol=1e-6
    )
    assert not {"3.weight", "1.num_batches_tracked"} & set(start)


def test_no_batch_of_one_example_reaches_batch_norm() -> None:
    workload = _workload(_everything)
    start = _start(workload)
    trained = workload.trainer("b").train(Pass(start, start), _task(batch=8), None)
    assert trained.examples % 8 == 1
    assert trained.steps == 3


def test_statistics_are_neither_corrected_nor_decayed() -> None:
    workload = _workload(_everything)
    start = _start(workload)
    anchor = {name: array + 1 for name, array in start.items()}
    plain = workload.trainer("a").train(Pass(start, start), _task(batch=0), None)
    pulled = workload.trainer("a").train(
        Pass(start, anchor), _task(batch=0, weight_decay=0.5, momentum=0.9), FedProx(mu=9.0).correct
    )
    assert pulled.delta["1.running_var"].tolist() == plain.delta["1.running_var"].tolist()
    assert pulled.delta["0.weight"].tolist() != plain.delta["0.weight"].tolist()


def test_a_parameter_that_the_loss_does_not_use_does_not_move() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(6, 3)
            self.spare = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x)
            return out

    workload = _workload(Spare)
    start = workload.init(0)
    delta = workload.trainer("a").train(Pass(start, start), _task(momentum=0.9), None).delta
    assert delta["used.weight"].any()
    assert not delta["spare.weight"].any()
    assert not delta["spare.bias"].any()


def test_tied_parameters_get_the_gradients_of_both_uses() -> None:
    def tied() -> nn.Module:
        first, last = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        last.weight = first.weight
        return nn.Sequential(first, last).double()

    workload = TorchWorkload(tied, mse_loss, {"a": (X, X)})
    start = workload.init(0)
    assert list(start) == ["0.weight"]
    delta = workload.trainer("a").train(Pass(start, start), _task(batch=0), None).delta
    x = torch.from_numpy(X).double()
    weight = torch.from_numpy(start["0.weight"].copy()).requires_grad_()
    (grad,) = torch.autograd.grad(mse_loss(x @ weight.T @ weight.T, x), weight)
    np.testing.assert_allclose(delta["0.weight"], -0.1 * grad.numpy(), rtol=1e-10)
    module = workload.module(add(start, delta))
    assert torch.equal(module.get_parameter("0.weight"), module.state_dict()["1.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_trains_and_is_exported_as_float32(dtype: torch.dtype) -> None:
    workload = TorchWorkload(lambda: nn.Linear(6, 3).to(dtype), cross_entropy, {"a": (X, Y)}, test=(X, Y))
    start = workload.init(0)
    trained = workload.trainer("a").train(Pass(start, start), _task(epochs=20, clip=1.0), FedProx().correct)
    assert {a.dtype.name for a in (*start.values(), *trained.delta.values())} == {"float32"}
    assert workload.evaluate(add(start, trained.delta))["loss"] < workload.evaluate(start)["loss"]


def test_fedprox_without_mu_is_plain_training_bit_for_bit() -> None:
    workload = _workload(_everything)
    start = _start(workload)
    plain, zero, some = (
        workload.trainer("a").train(Pass(start, start), _task(batch=7), correct).delta
        for correct in (None, FedProx(mu=0.0).correct, FedProx(mu=1.0).correct)
    )
    assert digest(zero) == digest(plain) != digest(some)


def test_the_correction_reaches_every_parameter_with_its_own_anchor_and_extra() -> None:
    def to_anchor(grad: Array, weight: Array, anchor: Array, extra: Mapping[str, Array]) -> Array:
        return weight - anchor + extra["c"]

    workload = _workload()
    start, anchor = _workload().init(0), _workload().init(1)
    control = {name: np.full_like(a, 0.25) for name, a in sorted(start.items())}
    trained = workload.trainer("a").train(
        Pass(start, anchor, {"c": control}), _task(lr=1.0, batch=0), to_anchor
    )
    for name, array in add(start, trained.delta).items():
        np.testing.assert_allclose(array, anchor[name] - 0.25, atol=1e-6)


def test_personal_tensors_train_without_being_corrected() -> None:
    workload = _workload()
    start = workload.init(0)
    shared = {name: array for name, array in start.items() if name.startswith("0.")}
    pull = FedProx(mu=5.0).correct
    mixed = workload.trainer("a").train(Pass(dict(start), shared), _task(steps=2), pull).delta
    plain = workload.trainer("a").train(Pass(start, start), _task(steps=1), None).delta
    first = workload.trainer("a").train(Pass(dict(start), shared), _task(steps=1), pull).delta
    assert set(mixed) == set(start)
    assert first["2.weight"].tolist() == plain["2.weight"].tolist()


def test_work_takes_its_share_of_the_same_steps() -> None:
    workload = _workload(_everything)
    start = _start(workload)
    half = workload.trainer("a").train(Pass(start, start), _task(work=0.5, epochs=2, batch=10), None)
    one = workload.trainer("a").train(Pass(start, start), _task(epochs=1, batch=10), None)
    assert half.steps == one.steps == 4
    assert digest(half.delta) == digest(one.delta)


def test_the_start_may_be_read_only_and_is_left_alone() -> None:
    workload = _workload()
    start = workload.init(0)
    assert isinstance(start, Flat)
    before = digest(start)
    start.vector.flags.writeable = False
    kept = workload.trainer("a").train(Pass(start, start), _task(), FedProx().correct).delta
    once = digest(kept)
    workload.trainer("b").train(Pass(start, start), _task(), None)
    assert digest(start) == before
    assert digest(kept) == once


def test_own_metrics_replace_accuracy_and_are_means_over_examples() -> None:
    def first_score(output: Tensor, y: Tensor) -> Tensor:
        return output[:, 0].mean()

    x = np.tile(X, (30, 1))
    workload = TorchWorkload(
        lambda: nn.Linear(6, 3),
        cross_entropy,
        {"a": (X, Y)},
        (x, np.tile(Y, 30)),
        metrics={"score": first_score},
    )
    start = workload.init(0)
    metrics = workload.evaluate(start)
    assert set(metrics) == {"loss", "score"}
    assert metrics["score"] == pytest.approx((X @ start["weight"][0] + start["bias"][0]).mean(), abs=1e-5)


def test_regression_has_a_loss_and_no_accuracy() -> None:
    workload = TorchWorkload(lambda: nn.Linear(6, 6), mse_loss, {"a": (X, X)}, test=(X, X))
    assert set(workload.evaluate(workload.init(0))) == {"loss"}
    assert workload.label_counts() == {}


def test_evaluation_is_on_held_out_data_or_on_the_clients_own_and_in_evaluation_mode() -> None:
    held_out = {"b": (X[:10], Y[:10])}
    both = {"a": (X, Y), "b": (X, Y)}
    workload = TorchWorkload(_everything, cross_entropy, both, held_out=held_out)
    start = workload.init(0)
    module = workload.module(start)
    assert not module.training
    own, count = workload.trainer("a").evaluate(start)
    held, few = workload.trainer("b").evaluate(trained_part(start, frozen(workload)))
    assert (count, few) == (90, 10)
    right = module(torch.from_numpy(X)).argmax(1).numpy() == Y
    assert own["accuracy"] == pytest.approx(right.mean())
    assert held["accuracy"] == pytest.approx(right[:10].mean())
    assert workload.evaluate(start) == {}


@pytest.mark.parametrize("swap", [False, True])
def test_accuracy_of_sequences_with_classes_on_either_axis(swap: bool) -> None:
    output, y = torch.eye(4)[torch.tensor([[0, 1, 2], [3, 3, 3]])], torch.tensor([[0, 1, 1], [3, 0, 3]])
    assert float(accuracy(output.transpose(1, 2) if swap else output, y)) == pytest.approx(4 / 6)


def test_channels_last_changes_the_order_in_memory_only() -> None:
    images = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    for channels in (1, 3):
        part = images[:, :channels]
        moved = in_channels_last(part)
        assert torch.equal(moved, part)
        assert moved.stride() == (20 * channels, 1, 5 * channels, channels)

    def cnn() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))

    x = RNG.normal(size=(20, 1, 8, 8))
    usual, other = (
        TorchWorkload(cnn, cross_entropy, {"a": (x, Y[:20])}, channels_last=c) for c in (False, True)
    )
    start = usual.init(0)
    other.init(0)
    deltas = [w.trainer("a").train(Pass(start, start), _task(batch=5), None).delta for w in (usual, other)]
    for name in start:
        np.testing.assert_allclose(deltas[1][name], deltas[0][name], atol=1e-6)


def test_a_client_that_diverges_fails_and_says_where() -> None:
    workload = _workload()
    start = workload.init(0)
    with pytest.raises(ClientFailed) as caught:
        workload.trainer("a").train(Pass(start, start), _task(lr=1e30, epochs=5), None)
    assert (caught.value.code, caught.value.subject) == ("diverged", "loss")
    wild = TorchWorkload(lambda: nn.Linear(6, 3), cross_entropy, {"a": (X * 1e3, Y)})
    start = wild.init(0)
    with pytest.raises(ClientFailed) as caught:
        wild.trainer("a").train(Pass(start, start), _task(lr=1e38, batch=0), None)
    assert (caught.value.code, caught.value.subject) == ("diverged", "weight")


def test_a_client_without_examples_fails() -> None:
    workload = TorchWorkload(_mlp, cross_entropy, {"a": (X[:0], Y[:0])})
    start = workload.init(0)
    with pytest.raises(ClientFailed) as caught:
        workload.trainer("a").train(Pass(start, start), _task(), None)
    assert caught.value.code == "no_data"
    with pytest.raises(ClientFailed, match="held-out"):
        workload.trainer("a").evaluate(start)


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no client 'aa'"):
        _workload().trainer("aa")
    with pytest.raises(DataError, match="client 'a': parts of 90 and 89"):
        TorchWorkload(_mlp, cross_entropy, {"a": (X, Y[:-1])})


def test_an_lstm_trains_on_sequences() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 4)
            self.lstm = nn.LSTM(4, 8, batch_first=True)
            self.head = nn.Linear(8, 9)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.lstm(self.embed(x))[0])
            return out

    def loss(output: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(output.flatten(0, 1), y.flatten())

    text = (np.arange(200) % 9).reshape(20, 10)
    workload = TorchWorkload(
        Reader, loss, {"a": (text[:, :-1], text[:, 1:])}, test=(text[:, :-1], text[:, 1:])
    )
    start = workload.init(0)
    task = _task(epochs=30, batch=5, lr=0.02, optimizer="adam")
    trained = workload.trainer("a").train(Pass(start, start), task, None)
    assert (
        workload.evaluate(add(start, trained.delta))["accuracy"] > 0.9 > workload.evaluate(start)["accuracy"]
    )


def test_a_client_with_one_example_cannot_train_batch_norm_and_is_told_so() -> None:
    rows = {"a": np.arange(1), "b": np.arange(9)}
    workload = TorchWorkload(_everything, cross_entropy, ClientArrays(X, Y, rows))
    start = _start(workload)
    with pytest.raises(ClientFailed, match=r"no_data.*set population\.min_examples to 2") as caught:
        workload.trainer("a").train(Pass(start, start), _task(), None)
    assert (caught.value.code, caught.value.subject) == ("no_data", "examples")
    with pytest.raises(ClientFailed, match=r"no_data.*raise train\.batch"):
        workload.trainer("b").train(Pass(start, start), _task(batch=1), None)


def test_batch_norm_that_stays_in_evaluation_takes_one_example() -> None:
    module = _everything()
    module.get_submodule("1").eval()
    workload = TorchWorkload(module, cross_entropy, ClientArrays(X, Y, {"a": np.arange(1)}))
    start = _start(workload)
    assert workload.trainer("a").train(Pass(start, start), _task(), None).steps == 1


@pytest.mark.parametrize("device", ["meta", "nonsense", "cuda:99"])
def test_a_device_that_holds_no_numbers_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=rf"device = '{device}'.*use device='cpu'"):
        TorchWorkload(_mlp, cross_entropy, {"a": (X, Y)}, device=device)
