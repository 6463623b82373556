"""The arguments of `run`: whatever cannot be used is refused by its name, before anything is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkit import RoundPolicy, run
from fedkit.arguments import client_ids, layouts, whole, whole_model
from fedkit.errors import ConfigError
from fedkit.federation import Federation
from fedkit.messages import Settings
from fedkit.tensors import Tensors
from fedkit_clients import NumpyWorkload, Softmax
from fedkit_simulations.engine import Simulation
from fedkit_strategies import FedAvg


def workload(**changes: Any) -> NumpyWorkload:
    data = {name: (np.eye(4, dtype=np.float32), np.arange(4) % 2) for name in ("a", "b", "c")}
    made = NumpyWorkload(Softmax(4, 2), data, test=data["a"])
    for name, value in changes.items():
        setattr(made, name, value)
    return made


class Empty:
    """Has none of the methods of an observer."""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"rounds": 1.5}, "rounds = 1.5: must be a whole number >= 0"),
        ({"rounds": "2"}, "rounds = '2'"),
        ({"rounds": True}, "rounds = True"),
        ({"seed": -1}, "seed = -1: must be a whole number in [0, 2^64)"),
        ({"seed": 2**64}, "seed = 18446744073709551616"),
        ({"seed": None}, "seed = None"),
        ({"evaluate_every": 0.5}, "evaluate_every = 0.5"),
        ({"evaluate_on": "client"}, "evaluate_on = 'client': did you mean 'clients'?"),
        ({"evaluate_on": 5}, "evaluate_on = 5: known: server, clients"),
        ({"feedback": "yes"}, "feedback = 'yes'"),
        ({"down_base": "lst"}, "down_base = 'lst': did you mean 'last'?"),
        ({"strategy": FedAvg}, "strategy is the class FedAvg: give a Strategy"),
        (
            {"workload": NumpyWorkload},
            "workload is the class NumpyWorkload: give an instance, NumpyWorkload(...)",
        ),
        ({"federation": Simulation}, "federation is the class Simulation: give an instance"),
        ({"federation": 3}, "federation is a int, which has no open()"),
        ({"codec_up": 5}, "codec_up is a int: give a Codec, or the name of one"),
        ({"codec_down": None}, "codec_down is None"),
        ({"policy": 3}, "policy is 3: give a RoundPolicy(...)"),
        ({"policy": RoundPolicy(quorum=4)}, "rounds.quorum = 4 is above the 3 clients that are registered"),
        ({"train": 5}, "train is an int, not a mapping"),
        ({"train": {"lr": float("nan")}}, "train: setting 'lr' is nan"),
        ({"grid": 5}, "grid is a int: give a Grid(...), or None"),
        (
            {"observers": 5},
            "observers is 5: give a list; an observer is an object with some of the methods run_",
        ),
        ({"observers": [print]}, "cannot be told of any event: an observer is an object with some"),
        ({"observers": [Empty()]}, "cannot be told of any event"),
        ({"observers": [Simulation]}, "observer Simulation is a class: give an instance"),
        ({"out": 5}, "out = 5: must be the path of a folder"),
        ({"out": ""}, "out = ''"),
        ({"resume": True}, "resume = True, but out is None"),
        ({"resume": 1}, "resume = 1: must be True or False"),
        ({"scenario": "not toml ["}, "scenario is not TOML: Expected '='"),
        ({"scenario": 5}, "scenario is a int: give TOML text"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_an_argument_that_cannot_be_used_is_named(
    arguments: dict[str, Any], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"strategy": "fedavg", "workload": workload(), "rounds": 1, **arguments}
    with pytest.raises(ConfigError) as caught:
        run(**given)
    assert text in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"over_select": float("nan")}, "rounds.over_select = nan: must be a finite number, at least 1"),
        ({"over_select": float("inf")}, "rounds.over_select = inf"),
        ({"over_select": "2"}, "rounds.over_select = '2'"),
        ({"deadline": "x"}, "rounds.deadline = 'x'"),
        ({"deadline": 1e300}, "rounds.deadline = 1e+300"),
        ({"deadline": None}, "rounds.deadline = None"),
        ({"cohort": True}, "rounds.cohort = True"),
        ({"cohort": "3"}, "rounds.cohort = '3'"),
        ({"quorum": None}, "rounds.quorum = None"),
        ({"carry_rounds": 2.0}, "rounds.carry_rounds = 2.0: must be a whole number"),
        ({"max_failures": float("inf")}, "rounds.max_failures = inf"),
        ({"late": ["drop"]}, "rounds.late = ['drop']: must be drop or carry"),
    ],
    ids=str,
)
def test_a_policy_of_wrong_types_is_refused_by_key(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run("fedavg", workload(), rounds=1, policy=RoundPolicy(**changes))
    assert text in str(caught.value)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    policy = RoundPolicy(cohort=np.int64(2), quorum=np.float32(0.5), deadline=np.float64(60.0))  # type: ignore[arg-type]
    train: dict[str, Any] = {"lr": np.float32(0.5), "epochs": np.int64(1)}
    counts: dict[str, Any] = {"rounds": np.int64(2), "seed": np.uint8(3)}
    result = run("fedavg", workload(), policy=policy, train=train, out=tmp_path / "r", **counts)
    plain = RoundPolicy(cohort=2, quorum=0.5, deadline=60.0)
    again = run(
        "fedavg",
        workload(),
        rounds=2,
        seed=3,
        policy=plain,
        train={"lr": 0.5, "epochs": 1},
        out=tmp_path / "r2",
    )
    assert result.summary["model_sha256"] == again.summary["model_sha256"]
    assert result.summary["job"] == again.summary["job"]
    more = run(
        "fedavg", workload(), rounds=3, seed=3, policy=plain, train=train, out=tmp_path / "r", resume=True
    )
    assert more.summary["rounds"] == 3


def test_whole_numbers() -> None:
    assert type(whole("x", np.int32(3), 0)) is int
    for bad in (1.0, np.float64(1), None, True, -1):
        with pytest.raises(ConfigError, match="x = "):
            whole("x", bad, 0)


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (["a", "a", "b"], "two clients have the id 'a'"),
        ([1, 2], "the id 1 is an int, not a plain string; make it one with str(...)"),
        (list(np.array(["a"])), "is a str_, not a plain string"),
        ([""], "the id '' has 0 bytes, 1 to 255 are allowed"),
        (["é" * 128], "has 256 bytes, 1 to 255 are allowed"),
        (["é" * 129], "has 258 bytes"),
        (["\ud800"], "lone surrogate"),
        ((c for c in "ab"), "returned a generator, not a list of ids"),
        ("ab", "returned a str, not a list"),
        (None, "returned None"),
        ([], "names no clients"),
    ],
    ids=range(11),
)
def test_ids_are_unique_plain_strings(ids: object, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        client_ids(workload(clients=lambda: ids), RoundPolicy())
    assert str(caught.value).startswith("workload NumpyWorkload.clients")
    assert text in str(caught.value)


def raises(*arguments: object) -> Any:
    raise KeyError("gone")


@pytest.mark.parametrize("name", ["clients", "init", "check_train", "fingerprint"])
def test_a_workload_that_raises_before_round_0_is_named(name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"workload NumpyWorkload\.{name} raised KeyError: 'gone' \(.*py:\d+\)"
    ):
        run("fedavg", workload(**{name: raises}), rounds=1)


def test_label_counts_that_are_none_leave_an_empty_folder(tmp_path: Path) -> None:
    bad: list[Callable[[], object]] = [raises, lambda: None, lambda: {"a": [float("nan")]}]
    for counts in bad:
        with pytest.raises(ConfigError, match=r"workload NumpyWorkload\.label_counts raised"):
            run("fedavg", workload(label_counts=counts), rounds=1, out=tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]
    run("fedavg", workload(), rounds=1, out=tmp_path / "run")  # and so it can be used


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            {"w": np.full(2, np.nan, np.float32)},
            "init returned a model whose tensor 'w' holds values that are not",
        ),
        ({"w": np.zeros((0, 3), np.float32)}, "nothing would travel"),
        ({"w": [0.0]}, "tensor 'w' is a list"),
        (None, "init returned None"),
    ],
    ids=["nan", "empty", "list", "none"],
)
def test_models_that_cannot_be_trained_are_refused_before_round_0(model: object, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run("fedavg", workload(init=lambda seed: model), rounds=1)
    assert text in str(caught.value)


def test_torch_tensors_are_no_model() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ConfigError, match="tensor 'w' is a Tensor, not a numpy array"):
        whole_model(workload(init=lambda seed: {"w": torch.zeros(2)}), 0)


@pytest.mark.parametrize(
    ("frozen", "text"),
    [
        ("weight", "frozen is 'weight': give a list"),
        (5, "frozen is 5"),
        (["wieght"], "did you mean 'weight'?"),
    ],
    ids=str,
)
def test_frozen_names_tensors(frozen: object, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run("fedavg", workload(frozen=frozen), rounds=1)
    assert text in str(caught.value)


class Extra(FedAvg):
    def __init__(self, made: object) -> None:
        object.__setattr__(self, "made", made)

    def extras(self, model: Tensors) -> Tensors:
        if self.made == "raises":  # type: ignore[attr-defined]
            raise ValueError("no")
        return self.made  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize(
    ("made", "text"),
    [("raises", "raised ValueError: no ("), ({"x": 1.0}, "'x'"), (None, "is None, not")],
    ids=str,
)
def test_extras_that_are_none_are_told(made: object, text: str) -> None:
    work = workload()
    with pytest.raises(ConfigError) as caught:
        layouts(Extra(made), work, work.init(0))
    assert str(caught.value).startswith("strategy Extra.extras")
    assert text in str(caught.value)


class Bad(FedAvg):
    def init(self, model: Tensors) -> Mapping[str, Any]:
        raise ZeroDivisionError

    def settings(self, state: Any, round: int) -> Settings:
        return {}


def test_a_strategy_that_raises_in_init_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"strategy Bad\.init raised ZeroDivisionError \(.*test_arguments\.py"
    ):
        run(Bad(), workload(), rounds=1)


def test_a_federation_is_taken_as_it_is() -> None:
    work = workload()
    federation: Federation = Simulation(work)
    assert run("fedavg", work, federation, rounds=1).summary["rounds"] == 1
