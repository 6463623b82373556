"""Code that changes what it was handed, raises where it should not, or returns nonsense."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fedkit import RoundPolicy, RunFailed, Strategy, run
from fedkit.aggregate import WeightedSum
from fedkit.config import Devices
from fedkit.events import Evaluated, RunEnded
from fedkit.history import Outcome
from fedkit.messages import ClientId, Metrics, Pass, Settings, Task, Trained, Update
from fedkit.tensors import Memory, State, Tensors, add, digest, zeros_like
from fedkit.trainer import Correct
from fedkit_simulations.engine import Simulation
from fedkit_strategies import FedAvg

Act = Callable[[Pass, Task], None]


@dataclass
class Trainer:
    act: Act | None
    metrics: Any = field(default_factory=lambda: {"loss": 1.0})
    examples: int = 10

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        delta = {name: np.full_like(array, 0.1) for name, array in pass_.start.items()}
        if self.act is not None:
            self.act(pass_, task)
        return Trained(delta, 1, 10.0, self.metrics)

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        return {"loss": 1.0}, 10


def _loss(model: Tensors) -> Any:
    return {"loss": float(model["w"][0])}


@dataclass
class Work:
    """Three clients, of which `ann` does what `act` does."""

    act: Act | None = None
    score: Callable[[Tensors], Any] = _loss
    metrics: Any = field(default_factory=lambda: {"loss": 1.0})
    made: Tensors = field(default_factory=lambda: {"w": np.zeros(3, np.float32), "n": np.arange(2)})

    def init(self, seed: int) -> Tensors:
        return self.made

    def clients(self) -> Sequence[ClientId]:
        return ["ann", "bob", "cay"]

    def trainer(self, client: ClientId) -> Trainer:
        return Trainer(self.act, self.metrics) if client == "ann" else Trainer(None)

    def evaluate(self, model: Tensors) -> Metrics:
        return self.score(model)  # type: ignore[no-any-return]


def set_first(tensors: Tensors, name: str) -> None:
    tensors[name][...] = 99


@dataclass(frozen=True)
class Carrying(FedAvg):
    """FedAvg with a state, a context and client memory to meddle with."""

    def init(self, model: Tensors) -> State:
        return {"v": zeros_like(model)}

    def context(self, state: State) -> State:
        return {"v": state["v"]}

    def finish(self, task: Task, memory: Memory, trained: Sequence[Trained]) -> tuple[Update, Memory]:
        update, _ = super().finish(task, memory, trained)
        return update, {"n": {"n": memory.get("n", {}).get("n", np.zeros(1)) + 1}}


@pytest.mark.parametrize(
    "act",
    [
        lambda pass_, task: set_first(pass_.start, "w"),
        lambda pass_, task: set_first(pass_.anchor, "w"),
        lambda pass_, task: set_first(task.model, "w"),
        lambda pass_, task: set_first(task.context["v"], "w"),
        lambda pass_, task: task.settings.update(lr=9.0),
    ],
    ids=["start", "anchor", "model", "context", "settings"],
)
def test_a_client_that_changes_what_it_was_handed_fails_alone(act: Act) -> None:
    hostile, clean = Work(act), Work()
    result = run(Carrying(), hostile, rounds=3, train={"lr": 0.5})
    assert {r.fates["ann"].outcome for r in result.history.rounds} == {Outcome.failed}
    assert {r.count(Outcome.counted) for r in result.history.rounds} == {2}
    expected = run(Carrying(), clean, rounds=3, train={"lr": 0.5})  # all push by the same
    assert digest(result.model) == digest(expected.model)


@dataclass(frozen=True)
class Scratches(Carrying):
    """Changes its memory in place before it is known whether the update counted."""

    def finish(self, task: Task, memory: Memory, trained: Sequence[Trained]) -> tuple[Update, Memory]:
        if memory:
            memory["n"]["n"][0] += 1
        return super().finish(task, memory, trained)


def test_client_memory_cannot_be_changed_before_its_verdict() -> None:
    with pytest.raises(RunFailed, match=r"all 3 clients .*read-only \(.*test_hostile_code\.py:\d+\)"):
        run(Scratches(), Work(), rounds=3)


@pytest.mark.parametrize(
    "error", [SystemExit(0), SystemExit("x"), GeneratorExit(), StopIteration()], ids=repr
)
def test_a_client_that_exits_fails_alone(error: BaseException) -> None:
    def act(pass_: Pass, task: Task) -> None:
        raise error

    result = run("fedavg", Work(act), rounds=2)
    fate = result.history.rounds[1].fates["ann"]
    assert (fate.outcome, fate.why.split(":")[0]) == (Outcome.failed, "exception")
    assert type(error).__name__ in fate.why


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ({1: 1.0}, "name of metric 1 is an int"),
        ({f"m{i}": 1.0 for i in range(257)}, "257 metrics"),
        ({"x" * 129: 1.0}, "129 characters"),
        (None, "are a NoneType"),
        ({"loss": "x"}, "metric 'loss' is 'x'"),
    ],
    ids=["int", "many", "long", "none", "text"],
)
def test_metrics_that_are_none_fail_their_client_alone(metrics: object, text: str) -> None:
    result = run("fedavg", Work(metrics=metrics), rounds=1)
    fate = result.history.rounds[0].fates["ann"]
    assert fate.outcome is Outcome.failed
    assert text in fate.why
    assert result.history.rounds[0].train == {"loss": 1.0}


@dataclass(frozen=True)
class Forgets(FedAvg):
    def finish(self, task: Task, memory: Memory, trained: Sequence[Trained]) -> tuple[Update, Memory]:
        update, _ = super().finish(task, memory, trained)
        return update, {"x": 1.0} if task.key.client == "ann" else memory  # type: ignore[dict-item]


def test_memory_that_is_none_fails_its_client_alone() -> None:
    fates = run(Forgets(), Work(), rounds=2).history.rounds[1].fates
    assert fates["bob"].outcome is Outcome.counted
    assert "finish returned memory that cannot be kept: group 'x' is a float" in fates["ann"].why


# On the server


def scribble(model: Tensors) -> Metrics:
    model["w"][...] = 7
    return {"loss": 1.0}


def exits(model: Tensors) -> Metrics:
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (scribble, "evaluate raised ValueError: assignment destination is read-only (" + __file__),
        (exits, "evaluate raised SystemExit: 0 ("),
        (lambda model: None, "evaluate returned None, not a mapping"),
        (lambda model: {"loss": "x"}, "evaluate returned metrics that cannot be kept: metric 'loss' is 'x'"),
        (lambda model: {1: 1.0}, "the name of metric 1 is an int"),
    ],
    ids=["scribbles", "exits", "none", "text", "name"],
)
def test_an_evaluation_that_misbehaves_fails_the_run_and_is_named(
    score: Callable[[Tensors], Any], text: str
) -> None:
    with pytest.raises(RunFailed) as caught:
        run("fedavg", Work(score=score), rounds=1)
    assert str(caught.value).startswith("workload Work.evaluate ")
    assert text in str(caught.value)


def test_the_initial_model_stays_the_users_own() -> None:
    work = Work()
    result = run("fedavg", work, rounds=1)
    assert work.made["w"].flags.writeable
    assert work.made["w"].tolist() == [0, 0, 0]
    result.model["w"][:] += 1  # and the result is the caller's
    result.model["n"][0] = 5
    assert work.made["n"].tolist() == [0, 1]


def test_an_observer_that_changes_the_model_is_named(tmp_path: Path) -> None:
    class Meddles:
        def evaluated(self, event: Evaluated) -> None:
            if event.rounds == 1:
                event.model["n"][0] = 9

    with pytest.raises(RunFailed, match=r"observer Meddles\.evaluated raised ValueError: .*read-only \("):
        run("fedavg", Work(), rounds=2, observers=[Meddles()], out=tmp_path / "run")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("failed", 0)
    again = run("fedavg", Work(), rounds=2, out=tmp_path / "run", resume=True)
    assert again.summary["model_sha256"] == run("fedavg", Work(), rounds=2).summary["model_sha256"]


def test_an_observer_is_handed_a_model_at_the_end_that_nobody_else_changes() -> None:
    kept: list[Tensors] = []

    class Keeps:
        def run_ended(self, event: RunEnded) -> None:
            kept.append(event.model)

    result = run("fedavg", Work(), rounds=1, observers=[Keeps()])
    before = digest(kept[0])
    result.model["w"][:] += 1
    assert digest(kept[0]) == before


Step = Callable[[Tensors, Any, WeightedSum], Any]


def strategy(**methods: Callable[..., Any]) -> Strategy:
    made: Strategy = type("Mine", (FedAvg,), {n: staticmethod(m) for n, m in methods.items()})()
    return made


def raises(*arguments: object) -> Any:
    raise ValueError("my own bug")


PLACE = rf"raised ValueError: my own bug \({__file__}:\d+\)"


@pytest.mark.parametrize("name", ["step", "settings", "context", "weigh", "combine"])
def test_a_strategy_that_raises_is_named_with_its_line(name: str) -> None:
    made = strategy(**{name: raises})
    if name == "combine":
        made = type("Mine", (type(made),), {"needs_each_update": True})()
    work = Work()
    federation, policy = Simulation(work), RoundPolicy()
    if name == "weigh":
        federation, policy = late(work)
    with pytest.raises(RunFailed, match=rf"strategy Mine\.{name} {PLACE}") as caught:
        run(made, work, federation, rounds=4, policy=policy)
    assert isinstance(caught.value.__cause__, ValueError)


def late(work: Work) -> tuple[Simulation, RoundPolicy]:
    """Clients that all come after the deadline of their round, and before that of the next."""
    federation = Simulation(work, devices=Devices(profile="custom", speed=1.0))
    return federation, RoundPolicy(cohort=1, deadline=6.0, late="carry", max_failures=9)


def test_a_federation_in_which_every_reply_is_late_still_learns() -> None:
    work = Work()
    federation, policy = late(work)
    result = run("fedavg", work, federation, rounds=6, policy=policy)
    rounds = result.history.rounds
    assert sum(r.count(Outcome.counted) for r in rounds) == 0
    arrived = [r.carried_in for r in rounds]
    assert sum(arrived) >= 3
    assert [r.ok for r in rounds] == [count > 0 for count in arrived]  # nothing that came was thrown away
    assert result.model["w"][0] > 0.2


@pytest.mark.parametrize("factor", [float("nan"), -1.0, float("inf"), None, "1"], ids=repr)
def test_a_factor_of_staleness_that_is_none_fails_the_run(factor: object) -> None:
    work = Work()
    federation, policy = late(work)
    with pytest.raises(RunFailed, match=r"strategy Mine\.weigh\(1\) returned .* finite and not negative"):
        run(strategy(weigh=lambda age: factor), work, federation, rounds=6, policy=policy)


def in_place(model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
    model["w"][...] += 1
    return model, state


BAD_STEPS: Mapping[str, tuple[Step, str]] = {
    "in place": (in_place, "step raised ValueError: .*read-only"),
    "none": (lambda m, s, t: None, "step returned a NoneType, not"),
    "three": (lambda m, s, t: (m, s, 1), "step returned a tuple, not"),
    "list": (
        lambda m, s, t: ({"w": [0.0] * 3}, s),
        "another model: tensor 'w': is a list, not a numpy array",
    ),
    "vector": (lambda m, s, t: (t.mean().vector, s), "another model: .*a ndarray is no mapping"),
    "more": (lambda m, s, t: ({**m, "x": m["w"]}, s), "another model: tensor 'x': is not in the layout"),
    "complex": (lambda m, s, t: ({"w": m["w"] + 1j}, s), "another model: tensor 'w': has dtype complex"),
    "no state": (lambda m, s, t: (m, None), "state that cannot be kept: it is None"),
    "array": (lambda m, s, t: (m, {"v": m["w"]}), "cannot be kept: group 'v' is a ndarray"),
    "object": (lambda m, s, t: (m, {"v": {"x": np.array([{}])}}), "tensor 'x' of group 'v' has dtype object"),
    "float": (lambda m, s, t: (m, {"v": {"x": 1.0}}), "tensor 'x' of group 'v' is a float"),
}


@pytest.mark.parametrize("name", BAD_STEPS)
def test_a_step_that_misbehaves_fails_the_run_and_is_named(name: str) -> None:
    step, text = BAD_STEPS[name]
    with pytest.raises(RunFailed, match=rf"strategy Mine\.(step)?.*{text}|strategy Mine\.{text}"):
        run(strategy(step=step), Work(), rounds=1)


def test_a_step_keeps_nothing_of_the_model_it_returned() -> None:
    class Hoards(FedAvg):
        kept: ClassVar[list[Any]] = []

        def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
            for old in self.kept:
                old.vector[:] = 1e9
            moved = add(model, total.mean())
            self.kept.append(moved)
            return moved, state

    assert digest(run(Hoards(), Work(), rounds=3).model) == digest(run("fedavg", Work(), rounds=3).model)


def test_what_is_no_sum_is_no_sum() -> None:
    made = type("Mine", (type(strategy(combine=lambda *_: None)),), {"needs_each_update": True})()
    with pytest.raises(RunFailed, match=r"strategy Mine\.combine returned None, not a WeightedSum"):
        run(made, Work(), rounds=1)


def test_settings_of_a_strategy_travel_as_plain_numbers() -> None:
    seen: list[Settings] = []
    work = Work(lambda pass_, task: seen.append(task.settings))
    run(
        strategy(settings=lambda state, round: {"lr": np.float32(0.5), "round": np.int64(round)}),
        work,
        rounds=1,
    )
    assert dict(seen[0]) == {"lr": 0.5, "round": 0}
    assert {type(value) for value in seen[0].values()} == {float, int}
    with pytest.raises(RunFailed, match=r"strategy Mine\.settings: setting 'lr' is \[1\]"):
        run(strategy(settings=lambda state, round: {"lr": [1]}), work, rounds=1)
