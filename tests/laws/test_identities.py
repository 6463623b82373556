"""Exact identities between algorithms: the strongest proof that a round computes what its paper says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkit import Grid, RoundPolicy, run
from fedkit.aggregate import WeightedSum
from fedkit.codecs import CodecContext
from fedkit.codecs.none import Plain
from fedkit.config import Devices
from fedkit.messages import Key, Pass, Settings, Task, Update
from fedkit.planning import train_seed
from fedkit.tensors import Layout, Tensors, add, digest
from fedkit_clients import MLP, NumpyWorkload, Softmax
from fedkit_clients.models import Model, Network
from fedkit_simulations.engine import Simulation
from fedkit_strategies import FedAvg, FedProx

FEATURES, CLASSES = 12, 4
FINE = Grid(max_weight=64, max_delta=2.0**-4)  # 48 bits after the point, for small steps in float64


def data(clients: int = 5, dtype: str = "float64") -> dict[str, tuple[NDArray[Any], NDArray[np.int64]]]:
    """Clients of 7, 10, 13 ... examples, whose labels differ in distribution."""
    draws = np.random.default_rng(1)
    made = {}
    for i in range(clients):
        y = (draws.integers(0, 2 + i % 3, 7 + 3 * i)).astype(np.int64)
        x = draws.normal(size=(len(y), FEATURES)) + y[:, None]
        made[f"c{i}"] = (x.astype(dtype), y)
    return made


def models(dtype: str) -> list[Model]:
    return [Softmax(FEATURES, CLASSES, dtype, init_scale=0.1), MLP(FEATURES, (8,), CLASSES, dtype)]


def descent(model: Model, dtype: str, steps: int, lr: float) -> Tensors:
    """Gradient descent on all clients' examples together."""
    parts = data(dtype=dtype).values()
    x, y = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    network = Network(model)
    network.weight[:] = model.init(0).vector
    for _ in range(steps):
        network.backward(x, y)
        network.weight -= network.weight.dtype.type(lr) * network.grad
    return network.layout.view(network.weight)


def relative(a: Tensors, b: Tensors) -> float:
    """Largest difference, as a share of the largest entry."""
    x, y = (np.concatenate([np.ravel(array) for array in tensors.values()]) for tensors in (a, b))
    return float(np.abs(x.astype(np.float64) - y).max() / np.abs(y).max())


@pytest.mark.parametrize(("dtype", "grid", "bound"), [("float32", None, 1e-6), ("float64", FINE, 1e-12)])
@pytest.mark.parametrize("kind", [0, 1], ids=["softmax", "mlp"])
def test_one_full_batch_step_of_all_clients_is_centralised_gradient_descent(
    kind: int, dtype: str, grid: Grid | None, bound: float
) -> None:
    """FedSGD (McMahan et al. 2017, section 2): the weighted mean of gradients is the gradient of all."""
    model = models(dtype)[kind]
    work = NumpyWorkload(model, data(dtype=dtype))
    settings: Settings = {"epochs": 1, "batch": 0, "lr": 0.02}
    result = run("fedavg", work, rounds=20, train=settings, grid=grid)
    central = descent(model, dtype, 20, 0.02)
    assert relative(central, model.init(0)) > 0.05  # it has moved
    assert relative(result.model, central) <= bound


TRAIN: Settings = {"epochs": 2, "batch": 4, "lr": 0.05}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [0, 1], ids=["softmax", "mlp"])
def test_fedprox_without_its_term_is_fedavg_bit_for_bit(kind: int, dtype: str) -> None:
    work = NumpyWorkload(models(dtype)[kind], data(dtype=dtype))
    policy = RoundPolicy(cohort=3)
    runs = [
        run(s, work, rounds=6, policy=policy, train=TRAIN) for s in (FedAvg(), FedProx(mu=0.0), FedProx())
    ]
    assert digest(runs[0].model) == digest(runs[1].model)
    assert digest(runs[0].model) != digest(runs[2].model)


def local(work: NumpyWorkload, model: Tensors, round: int) -> Tensors:
    """What the only client's own training makes of the model."""
    key = Key("none", round, "train", "", 0, "c0")
    task = Task(key, 1, model, {}, TRAIN, train_seed(0, round, "c0"), 1.0, 1e9)
    trained = work.trainer("c0").train(Pass(model, model), task, None)
    return {name: model[name] + trained.delta[name] for name in model}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [0, 1], ids=["softmax", "mlp"])
@pytest.mark.parametrize("grid", [Grid(64), Grid(64, 2.0**-1)], ids=["coarse", "fine"])
def test_one_client_is_local_training(kind: int, dtype: str, grid: Grid) -> None:
    """Within one float32 ulp of max(|model|, |trained|) plus half a step of the grid over the weight."""
    work = NumpyWorkload(models(dtype)[kind], data(1, dtype))
    (count,) = [len(y) for _, y in work.data.values()]
    model = work.init(0)
    for rounds in range(1, 5):
        result = run("fedavg", work, rounds=rounds, train=TRAIN, grid=grid)
        trained = local(work, model, rounds - 1)
        for name, want in trained.items():
            ulp = np.spacing(np.maximum(np.abs(model[name]), np.abs(want)).astype(np.float32))
            step = 2.0**-grid.fraction / count
            got = result.model[name].astype(np.float64)
            assert (np.abs(got - want) <= ulp.astype(np.float64) + step).all()
        model = result.model


def test_codec_none_is_the_identity_on_the_whole_run() -> None:
    """Models with and without a round trip through bytes: the deltas summed by hand."""
    work = NumpyWorkload(Softmax(FEATURES, CLASSES), data(dtype="float32"))
    result = run("fedavg", work, rounds=1, train=TRAIN, codec_up="none", codec_down="none")
    model = work.init(0)
    layout = Layout.of(model)
    total, ctx = WeightedSum(layout, Grid(work.max_weight)), CodecContext()
    for client in work.clients():
        key = Key("none", 0, "train", "", 0, client)
        task = Task(key, 1, model, {}, TRAIN, train_seed(0, 0, client), 1.0, 1e9)
        trained = work.trainer(client).train(Pass(model, model), task, None)
        payload = Plain().encode(trained.delta, layout, ctx)
        assert digest(Plain().decode(payload, layout, ctx)) == digest(trained.delta)
        total.add(client, Update(trained.delta, trained.examples))
    assert digest(result.model) == digest(add(model, total.mean()))


def test_who_trains_when_changes_nothing_while_all_are_counted() -> None:
    """Fast, slow, near and far: another order of arrival, the same model."""
    work = NumpyWorkload(Softmax(FEATURES, CLASSES), data(dtype="float32"))
    models = [
        run(
            "fedavg",
            work,
            Simulation(work, devices=devices),
            rounds=4,
            train=TRAIN,
            policy=RoundPolicy(deadline=1e6),
        ).model
        for devices in (Devices(), Devices(profile="micro", spread=2.0), Devices(profile="pi", spread=1.0))
    ]
    assert len({digest(model) for model in models}) == 1
