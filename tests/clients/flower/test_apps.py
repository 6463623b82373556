"""A ClientApp as a workload: the messages it gets, what is made of its replies."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from fedkit import run
from fedkit.errors import RunFailed
from fedkit.history import Outcome
from fedkit.tensors import Tensors, digest
from fedkit_clients.flower.apps import ClientApps
from fedkit_clients.flower.strategies import named
from fedkit_clients.flower.trainers import NumPyClients
from fedkit_strategies import FedAvg

app_api = pytest.importorskip("flwr.app")
clientapp = pytest.importorskip("flwr.clientapp")

MODEL: Tensors = {"w": np.zeros((2, 3), np.float32), "seen": np.array(7), "b": np.ones(3, np.float32)}


def made(**odd: Any) -> Any:
    """An app in which client k moves all floats by k + lr; `odd` changes the reply of client 2."""
    app = clientapp.ClientApp()

    def train(message: Any, context: Any) -> Any:
        number, config = context.node_config["partition-id"], message.content["config"]
        arrays = {n: a.numpy() for n, a in message.content["arrays"].items()}
        after = {
            n: a + np.float32(number + config["lr"]) if a.dtype.kind == "f" else a for n, a in arrays.items()
        }
        runs = context.state.get("count", app_api.MetricRecord({"runs": 0}))["runs"] + 1
        context.state["count"] = app_api.MetricRecord({"runs": runs})
        figures = {"num-examples": 10 * (number + 1), "runs": runs, "loss": float(config["server-round"])}
        if number == 2:
            after, figures = after | odd.get("arrays", {}), figures | odd.get("figures", {})
            if "error" in odd:
                return app_api.Message(app_api.Error(3, "no"), reply_to=message)
        record = app_api.ArrayRecord({n: app_api.Array(np.asarray(a)) for n, a in after.items()})
        content = app_api.RecordDict({"arrays": record, "metrics": app_api.MetricRecord(figures)})
        if number == 2 and "more" in odd:
            content[odd["more"]] = app_api.ArrayRecord() if odd["more"] == "x" else app_api.MetricRecord()
        return app_api.Message(content, reply_to=message)

    def evaluate(message: Any, context: Any) -> Any:
        figures = {"num-examples": 5, "accuracy": context.run_config["share"]}
        content = app_api.RecordDict({"metrics": app_api.MetricRecord(figures)})
        return app_api.Message(content, reply_to=message)

    app.train()(train)
    app.evaluate()(evaluate)
    return app


class Same:
    """The same client as a NumPyClient."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fit(self, parameters: Any, config: Any) -> Any:
        step = np.float32(self.number + config["lr"])
        after = [a + step if a.dtype.kind == "f" else a for a in parameters]
        return after, 10 * (self.number + 1), {}

    def evaluate(self, parameters: Any, config: Any) -> Any:
        return 0.0, 1, {}


def test_an_app_and_numpy_clients_train_the_same_model_to_the_bit() -> None:
    train = {"lr": 0.25}
    numpy = NumPyClients(MODEL, {str(k): Same(k) for k in range(3)})
    record = app_api.ArrayRecord({n: app_api.Array(a) for n, a in MODEL.items()})
    apps = ClientApps(record, made(), 3)
    one, two = (run(FedAvg(), w, rounds=3, train=train).model for w in (numpy, apps))
    assert digest(one) == digest(two)
    assert one["w"].max() > 1


def test_its_state_lasts_and_it_is_told_of_the_round() -> None:
    got = run(FedAvg(), ClientApps(MODEL, made(), ["ann", "bob"]), rounds=3, train={"lr": 0.0})
    assert [r.train for r in got.history.rounds] == [{"loss": k, "runs": k} for k in (1.0, 2.0, 3.0)]


def test_it_evaluates_with_its_run_config() -> None:
    workload = ClientApps(MODEL, made(), 2, run_config={"share": 0.75})
    got = run(FedAvg(), workload, rounds=1, train={"lr": 0.0}, evaluate_on="clients")
    assert got.history.rounds[0].metrics == {"accuracy": 0.75}


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"error": True}, "'ClientApp' answered with error 3"),
        ({"arrays": {"x": np.ones(1)}}, "'x' is in the reply"),
        (
            {"arrays": {"b": np.ones((), np.float32)}},
            "'b' is float32 () after training, sent was float32 (3,)",
        ),
        ({"figures": {"num-examples": -29}}, "'num-examples' is -29"),
        ({"figures": {"num-examples": [1, 2]}}, "'num-examples' is [1, 2]"),
        ({"more": "x"}, "the reply has 2 ArrayRecords"),
        ({"more": "y"}, "the reply has 2 MetricRecords"),
    ],
)
def test_a_bad_reply_is_named_and_harms_nobody(odd: dict[str, Any], why: str) -> None:
    got = run(FedAvg(), ClientApps(MODEL, made(**odd), 4), rounds=1, train={"lr": 1.0})
    fate = got.history.rounds[0].fates["2"]
    assert fate.outcome is Outcome.failed
    assert why in fate.why
    without = (1 * 10 + 2 * 20 + 4 * 40) / 70
    assert np.allclose(got.model["w"], without)


def test_an_app_that_cannot_do_it_is_named() -> None:
    with pytest.raises(RunFailed, match="No train function registered"):
        run(FedAvg(), ClientApps(MODEL, clientapp.ClientApp(), 2), rounds=1)


class Old:
    """The client of an app made with client_fn; `odd` is what client 2 does instead."""

    def __init__(self, number: int, odd: str) -> None:
        self.odd = odd if number == 2 else ""
        self.same = Same(number)

    def fit(self, parameters: Any, config: Any) -> Any:
        after, count, _ = self.same.fit(parameters, config)
        answers: dict[str, Any] = {
            "few": (after[:2], count, {}),
            "shape": ([after[0], after[1], after[2][:1]], count, {}),
        }
        return answers.get(self.odd, (after, count, {"loss": 0.5, "note": "text"}))

    def evaluate(self, parameters: Any, config: Any) -> Any:
        return 0.25, 5, {"accuracy": 0.75}


def old_app(odd: str = "") -> Any:
    """An app with such clients. "nothing": client 2 is a NumPyClient without methods."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = pytest.importorskip("flwr.client").NumPyClient

    def client_fn(context: Any) -> Any:
        number = context.node_config["partition-id"]
        kind = type("Client", (base,) if odd == "nothing" and number == 2 else (Old, base), {})
        return (kind() if kind.__mro__[1] is base else kind(number, odd)).to_client()

    return clientapp.ClientApp(client_fn=client_fn)


def test_an_app_with_client_fn_trains_the_same_model_to_the_bit() -> None:
    train = {"lr": 0.25}
    numpy = NumPyClients(MODEL, {str(k): Same(k) for k in range(3)})
    old = run(FedAvg(), ClientApps(MODEL, old_app(), 3), rounds=2, train=train, evaluate_on="clients")
    assert digest(old.model) == digest(run(FedAvg(), numpy, rounds=2, train=train).model)
    assert old.history.rounds[0].train == {"loss": 0.5}
    assert old.history.rounds[0].metrics == {"accuracy": 0.75, "loss": 0.25}


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ("few", "'parameters' are 2 arrays, the model has 3"),
        ("shape", "'b' is float32 (1,) after training, sent was float32 (3,)"),
        ("nothing", "answered 'Client does not implement `fit`'"),
    ],
)
def test_a_bad_answer_of_such_an_app_is_named(odd: str, why: str) -> None:
    got = run(FedAvg(), ClientApps(MODEL, old_app(odd), 4), rounds=1, train={"lr": 1.0})
    assert why in got.history.rounds[0].fates["2"].why
    assert got.history.rounds[0].ok


def test_flowers_fedprox_reaches_flowers_clients() -> None:
    app = clientapp.ClientApp()
    told = []

    def train(message: Any, context: Any) -> Any:
        told.append(message.content["config"]["proximal-mu"])
        figures = app_api.MetricRecord({"num-examples": 1})
        content = app_api.RecordDict({"arrays": message.content["arrays"], "metrics": figures})
        return app_api.Message(content, reply_to=message)

    app.train()(train)
    run(named("FedProx")(proximal_mu=0.25), ClientApps(MODEL, app, 2), rounds=1)  # type: ignore[call-arg]
    assert told == [0.25, 0.25]
