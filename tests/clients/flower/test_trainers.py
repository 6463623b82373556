"""NumPyClient-shaped objects as a workload: what they are told, what is made of their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkit import run
from fedkit.errors import ConfigError, RunFailed
from fedkit.federation import RoundPolicy
from fedkit.history import Outcome
from fedkit.tensors import Tensors
from fedkit_clients.flower.trainers import Config, NumPyClients
from fedkit_strategies import FedAvg, FedProx

MODEL: Tensors = {
    "w": np.zeros((2, 3), np.float32),
    "seen": np.array(7),  # as num_batches_tracked of a batch norm: it stays at home
    "b": np.ones(3, np.float32),
}


class Client:
    """Moves every float by `step`; keeps what it was told."""

    def __init__(self, step: float, count: Any = 10, **answer: Any) -> None:
        self.step, self.count, self.answer = step, count, answer
        self.told: list[Config] = []
        self.given: list[NDArray[Any]] = []

    def fit(self, parameters: list[NDArray[Any]], config: Config) -> Any:
        self.told.append(config)
        self.given = parameters
        for array in parameters:
            if array.dtype.kind == "f":
                array += np.float32(self.step)  # in place, as clients of Flower may
        if "fit" in self.answer:
            return self.answer["fit"]
        named = dict(zip(MODEL, parameters, strict=True)) | self.answer.get("arrays", {})
        return list(named.values()), self.count, {"loss": self.step, "note": "text", "all": [1.0]}

    def evaluate(self, parameters: list[NDArray[Any]], config: Config) -> Any:
        return self.answer.get("evaluate", (float(parameters[0][0, 0]), self.count, {"accuracy": self.step}))


def test_the_model_is_the_weighted_mean_of_what_they_return() -> None:
    clients = {"ann": Client(1.0, 30), "bob": Client(-1.0, 10)}
    got = run(FedAvg(), NumPyClients(MODEL, clients), rounds=2, train={"lr": 0.5, "epochs": 3})
    assert np.allclose(got.model["w"], 1.0)  # 2 rounds of (30 - 10) / 40
    assert np.allclose(got.model["b"], 2.0)
    assert got.model["seen"] == 7
    assert got.history.rounds[0].train == {"loss": 0.5}


def test_they_are_told_of_the_settings_the_round_and_a_seed() -> None:
    ann = Client(1.0)
    run(FedAvg(), NumPyClients(MODEL, {"ann": ann}), rounds=2, train={"lr": 0.5, "epochs": 3})
    first, second = ann.told
    assert {**first, "seed": 0} == {"lr": 0.5, "epochs": 3, "server-round": 1, "seed": 0, "work": 1.0}
    assert second["server-round"] == 2
    assert first["seed"] != second["seed"]
    assert [array.dtype.name for array in ann.given] == ["float32", "int64", "float32"]


def test_a_list_of_arrays_gets_flowers_names() -> None:
    workload = NumPyClients([np.zeros(2, np.float32), np.ones(1, np.float32)], {"a": Client(1.0)})
    assert list(workload.init(0)) == ["0", "1"]


def test_they_evaluate_on_their_own_data() -> None:
    clients = {"ann": Client(1.0, 30), "bob": Client(-1.0, 10)}
    got = run(FedAvg(), NumPyClients(MODEL, clients), rounds=1, evaluate_on="clients")
    assert got.history.rounds[0].metrics == {"accuracy": 0.5, "loss": 0.5}


def test_the_server_evaluates_if_it_can() -> None:
    workload = NumPyClients(MODEL, {"a": Client(1.0)}, lambda model: {"size": float(model["w"].max())})
    assert run(FedAvg(), workload, rounds=1).summary["metrics"] == {"size": 1.0}


def test_examples_drive_the_clock() -> None:
    workload = NumPyClients(MODEL, {"a": Client(1.0), "b": Client(1.0)}, examples={"a": 12})
    assert [workload.trainer(name).examples for name in "ab"] == [12, 0]


GOOD = [np.ones((2, 3), np.float32), np.array(7), np.ones(3, np.float32)]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (Client(1.0, -29), "'num-examples' is -29"),
        (Client(1.0, 0), "'num-examples' is 0"),
        (Client(1.0, float("nan")), "'num-examples' is nan"),
        (Client(1.0, "many"), "'num-examples' is 'many'"),
        (Client(1.0, 2**40), "'weight' is 1.09951e+12, above the run's maximum"),
        (Client(float("nan")), "'w' holds nan"),
        (Client(1e30), "'w' holds 1e+30"),
        (Client(1.0, arrays={"b": np.ones(1, np.float32)}), "'b' is float32 (1,) after training"),
        (Client(1.0, arrays={"b": np.ones((3, 1), np.float32)}), "'b' is float32 (3, 1) after training"),
        (Client(1.0, arrays={"b": np.ones(3, np.int64)}), "'b' is int64 (3,) after training"),
        (Client(1.0, arrays={"b": [1.0, 2.0, 3.0]}), "'b' is a list, not a numpy array"),
        (Client(1.0, fit=(GOOD[:2], 10, {})), "'parameters' fit returned 2, not a list of 3"),
        (Client(1.0, fit=({"w": GOOD[0]}, 10, {})), "fit returned a dict, not a list of 3"),
        (Client(1.0, fit=(GOOD, 10)), "'fit' returned a tuple, not a tuple of three"),
        (Client(1.0, fit=None), "'fit' returned a NoneType"),
    ],
)
def test_a_bad_answer_is_named_and_harms_nobody(bad: Client, why: str) -> None:
    clients = {**{f"c{k}": Client(1.0) for k in range(3)}, "evil": bad}
    policy = RoundPolicy(quorum=3)
    got = run(FedAvg(), NumPyClients(MODEL, clients), rounds=1, policy=policy)
    fate = got.history.rounds[0].fates["evil"]
    assert fate.outcome in (Outcome.failed, Outcome.refused)
    assert why in fate.why
    assert np.allclose(got.model["b"], 2.0)


def test_an_evaluation_that_is_none_is_named(caplog: pytest.LogCaptureFixture) -> None:
    clients = {"a": Client(1.0, evaluate=0.5), "b": Client(1.0)}
    got = run(FedAvg(), NumPyClients(MODEL, clients), rounds=1, evaluate_on="clients")
    assert "client a failed: update: 'evaluate' returned a float, not a tuple of three" in caplog.text
    assert got.history.rounds[0].metrics == {"accuracy": 1.0, "loss": 1.0}


def test_strategies_that_correct_gradients_are_refused_with_the_reason() -> None:
    with pytest.raises(RunFailed, match="'correct' corrects gradients, and a Flower client"):
        run(FedProx(), NumPyClients(MODEL, {"a": Client(1.0)}), rounds=1)


@pytest.mark.parametrize(
    ("model", "clients", "said"),
    [
        (MODEL, [Client(1.0)], "clients is a list: give a mapping"),
        (MODEL, {"a": Client}, "client 'a' is .*: give an object with fit and evaluate"),
        (MODEL, {"a": object()}, "client 'a' is .*: give an object with fit and evaluate"),
        (3, {"a": Client(1.0)}, "model is 3: give a mapping or a list of arrays"),
        ({}, {"a": Client(1.0)}, "model is {}: give .*, at least one"),
    ],
)
def test_what_is_no_model_and_no_client_is_refused(model: Any, clients: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        NumPyClients(model, clients)


def test_an_unknown_client_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no client 'anne'; did you mean 'ann'"):
        NumPyClients(MODEL, {"ann": Client(1.0)}).trainer("anne")


def test_a_state_dict_of_torch_is_a_model() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    model: Mapping[str, Any] = NumPyClients(net.state_dict(), {"a": Client(1.0)}).init(0)
    assert model["0.weight"].dtype == np.float32
    assert model["1.num_batches_tracked"].dtype == np.int64
