"""The conformance kit lets good plugins pass and catches each way of being bad, by the right law."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from fedkit.aggregate import Grid, WeightedSum
from fedkit.codecs import CodecContext
from fedkit.codecs.none import Plain
from fedkit.conformance import FEDERATION_LAWS, STRATEGY_LAWS, check_federation, check_strategy
from fedkit.downlink import Release
from fedkit.dressing import dress
from fedkit.errors import ConformanceError
from fedkit.federation import Arrival, Request, Standing, Traffic, Verdict
from fedkit.job import Job
from fedkit.messages import ClientId, Key, Pass, Settings, Task, Trained, Update
from fedkit.strategy import Strategy
from fedkit.tensors import Array, Layout, Memory, State, Tensors, add, scale, zeros, zeros_like
from fedkit.trainer import Correct
from fedkit_simulations.engine import Simulation
from fedkit_strategies import FedAvg

# Strategies


@dataclass(frozen=True)
class Controlled(FedAvg):
    """State, context, extras, memory, two passes and correction: everything a strategy may have."""

    beta: float = 0.5

    def init(self, model: Tensors) -> State:
        return {"velocity": zeros_like(model), "count": {"rounds": np.zeros((), np.int64)}}

    def context(self, state: State) -> State:
        return {"velocity": state["velocity"]}

    def extras(self, model: Tensors) -> Tensors:
        return {f"control/{name}": array for name, array in zeros_like(model).items()}

    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        velocity = add(scale(state["velocity"], self.beta), total.mean())
        count = {"rounds": np.asarray(state["count"]["rounds"] + 1)}
        return add(model, velocity, scale=self.lr), {"velocity": velocity, "count": count}

    def begin(self, task: Task, memory: Memory) -> Sequence[Pass]:
        own = memory.get("own", zeros_like(task.model))
        one = Pass(task.model, task.model, {"own": own, "velocity": task.context["velocity"]})
        return one, replace(one, start=add(task.model, own))

    def correct(self, grad: Array, weight: Array, anchor: Array, extra: Mapping[str, Array]) -> Array:
        return grad + 0.1 * (weight - anchor) - 0.01 * extra["own"]

    def finish(self, task: Task, memory: Memory, trained: Sequence[Trained]) -> tuple[Update, Memory]:
        last = trained[-1]
        more = {f"control/{name}": array for name, array in last.delta.items()}
        update = Update(last.delta, last.examples, last.metrics, more, task.work)
        return update, {"own": scale(trained[0].delta, 0.5)}


@dataclass(frozen=True)
class Median(FedAvg):
    """A robust rule: the coordinate-wise median, which needs each update."""

    needs_each_update: ClassVar[bool] = True

    def combine(self, updates: Sequence[tuple[ClientId, Update]], zero: WeightedSum) -> WeightedSum:
        stack = np.array([zero.layout.flatten(update.delta) for _, update in updates])
        middle = zero.layout.view(np.median(stack, axis=0).astype(zero.layout.dtype))
        for client, update in updates:
            zero.add(client, replace(update, delta=middle))
        return zero


@dataclass(frozen=True)
class Personal(Controlled):
    """Normalisation stays at the client."""

    def shared(self, name: str) -> bool:
        return not name.startswith("norm.")


@pytest.mark.parametrize("strategy", [Controlled(), Median(), Personal()], ids=lambda s: type(s).__name__)
def test_a_good_strategy_passes_all_laws(strategy: Strategy) -> None:
    assert check_strategy(strategy, seed=3) == list(STRATEGY_LAWS)


class Thawed(FedAvg):
    """Not a dataclass of its own."""


@dataclass(frozen=True)
class Listed(FedAvg):
    steps: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Stingy(FedAvg):
    def shared(self, name: str) -> bool:
        return False


@dataclass(frozen=True)
class Numbed(FedAvg):
    def settings(self, state: State, round: int) -> Settings:
        return {"lr": float("nan")}


@dataclass(frozen=True)
class Loose(FedAvg):
    def context(self, state: State) -> State:
        return {"c": [1.0]}  # type: ignore[dict-item]


@dataclass(frozen=True)
class Full(FedAvg):
    def extras(self, model: Tensors) -> Tensors:
        return model

    def finish(self, task: Task, memory: Memory, trained: Sequence[Trained]) -> tuple[Update, Memory]:
        update, memory = super().finish(task, memory, trained)
        return replace(update, extras=update.delta), memory


@dataclass(frozen=True)
class Secretive(FedAvg):
    def init(self, model: Tensors) -> State:
        return {"s": {"object": np.array([object()])}}


@dataclass(frozen=True)
class Widening(FedAvg):
    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        return {name: array.astype(np.float64) for name, array in model.items()}, state


@dataclass(frozen=True)
class Forgetful(FedAvg):
    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        return {name: array for name, array in model.items() if name != "scale"}, state


@dataclass(frozen=True)
class Exploding(FedAvg):
    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        return scale(model, float("inf")), state


@dataclass(frozen=True)
class InPlace(FedAvg):
    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        for name, array in total.mean().items():
            model[name][...] += array
        return model, state


_calls: list[int] = []


@dataclass(frozen=True)
class Stateful(FedAvg):
    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        _calls.append(1)
        return scale(model, 1.0 / len(_calls)), state


@dataclass(frozen=True)
class Ordered(FedAvg):
    """State whose meaning lies in what a checkpoint does not keep: the writability of an array."""

    def init(self, model: Tensors) -> State:
        mark = np.zeros(1, np.float32)
        mark.flags.writeable = False
        return {"mark": {"m": mark}}

    def step(self, model: Tensors, state: State, total: WeightedSum) -> tuple[Tensors, State]:
        return scale(model, 2.0 if state["mark"]["m"].flags.writeable else 1.0), state


@dataclass(frozen=True)
class First(FedAvg):
    needs_each_update: ClassVar[bool] = True

    def combine(self, updates: Sequence[tuple[ClientId, Update]], zero: WeightedSum) -> WeightedSum:
        zero.add(*updates[0])
        return zero


@dataclass(frozen=True)
class Undecided(FedAvg):
    needs_each_update: ClassVar[bool] = True


@dataclass(frozen=True)
class Vengeful(FedAvg):
    def weigh(self, age: int) -> float:
        return -1.0 if age > 5 else 1.0


@dataclass(frozen=True)
class Passless(FedAvg):
    def begin(self, task: Task, memory: Memory) -> Sequence[Pass]:
        return ()


@dataclass(frozen=True)
class Grudging(FedAvg):
    def begin(self, task: Task, memory: Memory) -> Sequence[Pass]:
        task.model["scale"][...] += 1
        return super().begin(task, memory)


@dataclass(frozen=True)
class Negative(FedAvg):
    def finish(self, task: Task, memory: Memory, trained: Sequence[Trained]) -> tuple[Update, Memory]:
        update, memory = super().finish(task, memory, trained)
        return replace(update, weight=-1.0), memory


@dataclass(frozen=True)
class Scribbling(FedAvg):
    def finish(self, task: Task, memory: Memory, trained: Sequence[Trained]) -> tuple[Update, Memory]:
        return super().finish(task, memory, trained)[0], {"notes": "trained well"}  # type: ignore[dict-item]


@dataclass(frozen=True)
class Clipping(FedAvg):
    def correct(self, grad: Array, weight: Array, anchor: Array, extra: Mapping[str, Array]) -> Array:
        return grad / (1.0 + abs(grad).max())


@dataclass(frozen=True)
class Momentous(FedAvg):
    def correct(self, grad: Array, weight: Array, anchor: Array, extra: Mapping[str, Array]) -> Array:
        grad += weight - anchor
        return grad


@dataclass(frozen=True)
class Wide(FedAvg):
    def correct(self, grad: Array, weight: Array, anchor: Array, extra: Mapping[str, Array]) -> Array:
        return grad * np.float64(2.0)


@dataclass(frozen=True)
class NumpyOnly(FedAvg):
    def correct(self, grad: Array, weight: Array, anchor: Array, extra: Mapping[str, Array]) -> Array:
        return np.clip(np.asarray(grad), -1.0, 1.0)


@dataclass(frozen=True)
class Disguised(FedAvg):
    def __reduce__(self) -> tuple[type[FedAvg], tuple[float]]:
        return FedAvg, (self.lr,)


@dataclass(frozen=True)
class Scalar(FedAvg):
    def init(self, model: Tensors) -> State:
        return {"count": {"n": np.zeros((), np.float32) + 1}}


@dataclass(frozen=True)
class Raising(FedAvg):
    def init(self, model: Tensors) -> State:
        raise KeyError("velocity")


BAD: list[tuple[Strategy, str, str]] = [
    (Thawed(), "is a frozen dataclass of plain fields", "@dataclass"),
    (Listed(), "is a frozen dataclass of plain fields", "'steps'"),
    (Stingy(), "lets something travel", "no tensor"),
    (Raising(), "lets something travel", "KeyError"),
    (Numbed(), "settings are plain values", "'lr'"),
    (Loose(), "context is named tensors", "'c'"),
    (Full(), "extras are floating zeros", "not zeros"),
    (Secretive(), "state is named tensors", "'s'"),
    (Widening(), "step keeps the model's layout", "float64"),
    (Forgetful(), "step keeps the model's layout", "lacks tensor 'scale'"),
    (Exploding(), "step keeps the model's layout", "not finite"),
    (InPlace(), "step is pure", ""),
    (Stateful(), "step is pure", "second time"),
    (Ordered(), "state survives a checkpoint", "another model"),
    (First(), "arrival order does not matter", "order"),
    (Undecided(), "arrival order does not matter", "combine"),
    (Vengeful(), "weigh is finite and not negative", "weigh(6)"),
    (Passless(), "passes start from the task's layout", "no pass"),
    (Grudging(), "begin and finish are pure", ""),
    (Negative(), "updates are accepted by the sum", "not negative"),
    (Scribbling(), "memory survives a checkpoint", "memory"),
    (Clipping(), "correct is elementwise", "stacked"),
    (Momentous(), "correct keeps shape, dtype and arguments", "changed its arguments"),
    (Wide(), "correct keeps shape, dtype and arguments", "another kind"),
    (NumpyOnly(), "correct takes torch tensors too", "torch"),
    (Scalar(), "state is named tensors", "np.asarray"),
    (Disguised(), "pickles", "another strategy"),
]


@pytest.mark.parametrize(("strategy", "law", "reason"), BAD, ids=lambda v: type(v).__name__)
def test_a_bad_strategy_is_caught_by_the_law_it_breaks(strategy: Strategy, law: str, reason: str) -> None:
    """The law itself, tried alone: an earlier law may catch it first."""
    from fedkit.conformance.laws import run_laws
    from fedkit.conformance.rehearsal import Case

    if "torch" in law:
        pytest.importorskip("torch")
    with pytest.raises(ConformanceError) as caught:
        run_laws({law: STRATEGY_LAWS[law]}, Case(strategy, 0))
    assert caught.value.law == law
    assert reason in str(caught.value)
    with pytest.raises(ConformanceError):
        check_strategy(strategy)


def test_every_law_of_strategies_can_be_broken() -> None:
    assert {law for _, law, _ in BAD} | {"init is pure"} == set(STRATEGY_LAWS)


def test_init_must_be_pure() -> None:
    @dataclass(frozen=True)
    class Growing(FedAvg):
        def init(self, model: Tensors) -> State:
            model["scale"][...] += 1
            return {}

    with pytest.raises(ConformanceError, match="init is pure"):
        check_strategy(Growing())


# Federations

LAYOUT = Layout(("w",), ((4,),), ("float32",))
JOB = Job(FedAvg(), Plain(), Plain(), LAYOUT, Layout((), (), ()), Grid(), {"lr": 0.1}, 0)


class Paper:
    """The least federation: every client answers after a time that follows from its name."""

    names: ClassVar[tuple[str, ...]] = ("a", "b", "c")

    def __init__(self) -> None:
        self.clock, self.up, self.down = 0.0, 0, 0
        self.flying: dict[Key, float] = {}
        self.answered: set[Key] = set()

    def publish(self, release: Release) -> None: ...

    def open(self, job: Job) -> None:
        self.job = job

    def clients(self) -> Sequence[ClientId]:
        return self.names

    def send(self, requests: Iterable[Request]) -> None:
        for task in requests:
            if task.key not in self.flying and task.key not in self.answered:
                self.flying[task.key] = self.clock + 10.0 / (1 + self.names.index(task.key.client))
                self.down += 100

    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        idle = not self.flying
        for key, at in sorted(self.flying.items(), key=lambda pair: (pair[1], pair[0])):
            if at <= until:
                del self.flying[key]
                self.answered.add(key)
                yield self.arrive(key, at)
        if idle or self.flying:
            self.clock = max(self.clock, until)

    def arrive(self, key: Key, at: float) -> Arrival:
        self.clock = max(self.clock, at)
        reply = dress(self.job, key, Update(zeros(LAYOUT), 1.0), CodecContext())
        self.up += len(reply.payload)
        return Arrival(key, at, reply)

    def outstanding(self) -> Mapping[Key, Standing]:
        return {key: Standing(True, "") for key in self.flying}

    def settle(self, verdicts: Mapping[Key, Verdict]) -> None:
        for key in verdicts:
            self.flying.pop(key, None)
            self.answered.discard(key)

    def now(self) -> float:
        return self.clock

    def traffic(self) -> Traffic:
        return Traffic(self.up, self.down)

    def save(self) -> State:
        keys = [(key, at) for key, at in self.flying.items()] + [(key, -1.0) for key in self.answered]
        text = repr([((k.job, k.round, k.kind, k.stage, k.attempt, k.client), at) for k, at in sorted(keys)])
        numbers = np.array([self.clock, self.up, self.down])
        return {"paper": {"numbers": numbers, "flying": np.frombuffer(text.encode(), np.uint8)}}

    def load(self, state: State) -> None:
        from ast import literal_eval

        clock, up, down = state["paper"]["numbers"].tolist()
        self.clock, self.up, self.down = clock, int(up), int(down)
        rows = literal_eval(state["paper"]["flying"].tobytes().decode())
        self.flying = {Key(*key): at for key, at in rows if at >= 0}
        self.answered = {Key(*key) for key, at in rows if at < 0}


def test_a_good_federation_passes_all_laws() -> None:
    assert check_federation(Paper, JOB) == list(FEDERATION_LAWS)
    assert check_federation(Paper, JOB, repeatable=False) == list(FEDERATION_LAWS)


class Unsorted(Paper):
    names: ClassVar[tuple[str, ...]] = ("b", "a")


class Stranger(Paper):
    def arrive(self, key: Key, at: float) -> Arrival:
        return super().arrive(replace(key, attempt=1), at)


class Echo(Paper):
    def send(self, requests: Iterable[Request]) -> None:
        for task in requests:
            again = task.key in self.flying
            self.flying[replace(task.key, stage="again") if again else task.key] = self.clock + 1.0
            self.down += 1

    def arrive(self, key: Key, at: float) -> Arrival:
        return super().arrive(replace(key, stage=""), at)


class Scribbled(Paper):
    def send(self, requests: Iterable[Request]) -> None:
        tasks = [request for request in requests if isinstance(request, Task)]
        for array in tasks[0].model.values():
            array += 1
        super().send(tasks)


class Backwards(Paper):
    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        yield from reversed(list(super().receive(until, want)))


class Endless(Paper):
    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        arrivals = list(super().receive(until + 1e9, want))
        self.clock = min(self.clock, until)
        yield from arrivals


class Frozen(Paper):
    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        before = self.clock if not self.flying else None
        yield from super().receive(until, want)
        self.clock = before if before is not None else self.clock


class Hasty(Paper):
    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        yield from list(super().receive(until, want))


class Touchy(Paper):
    def settle(self, verdicts: Mapping[Key, Verdict]) -> None:
        self.clock += len(verdicts)
        super().settle(verdicts)


class Free(Paper):
    def traffic(self) -> Traffic:
        return Traffic(0, self.down)


class Amnesiac(Paper):
    def load(self, state: State) -> None:
        super().load(state)
        self.clock = 0.0


class Dropping(Paper):
    def load(self, state: State) -> None:
        super().load(state)
        self.flying = {}


class Stepping:
    """Three clients that move each weight by their number."""

    examples = 2

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def init(self, seed: int) -> Tensors:
        return zeros(LAYOUT)

    def clients(self) -> Sequence[ClientId]:
        return ["a", "b", "c"]

    def trainer(self, client: ClientId) -> Stepping:
        return Stepping(ord(client))

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        return Trained({"w": np.full(4, self.number * task.work, np.float32)}, 1, 2.0, {})

    def evaluate(self, model: Tensors) -> Any:
        return {}


class Deaf(Simulation):
    """Loses the requests for shares on their way."""

    def __init__(self) -> None:
        super().__init__(Stepping())

    def send(self, requests: Iterable[Request]) -> None:
        super().send(one for one in requests if one.key.stage != "share")


class Biased(Simulation):
    """Has its clients do half the work unless they are in a secure session."""

    def __init__(self) -> None:
        super().__init__(Stepping())

    def send(self, requests: Iterable[Request]) -> None:
        super().send(
            replace(one, work=0.5) if isinstance(one, Task) and not one.session else one for one in requests
        )


def test_a_simulation_passes_all_laws_and_its_secure_sums_are_compared() -> None:
    calls: list[str] = []

    class Noted(Simulation):
        def send(self, requests: Iterable[Request]) -> None:
            made = list(requests)
            calls.extend(one.key.stage for one in made)
            super().send(made)

    assert check_federation(lambda: Noted(Stepping()), JOB) == list(FEDERATION_LAWS)
    assert {"advertise", "share", "mask", "agree", "unmask"} < set(calls)


@pytest.mark.parametrize(("make", "why"), [(Deaf, "came to nothing"), (Biased, "gives another sum")])
def test_a_federation_whose_secure_sums_are_not_the_plain_ones_is_caught(make: Any, why: str) -> None:
    with pytest.raises(ConformanceError, match=why) as caught:
        check_federation(make, JOB)
    assert caught.value.law == "a secure sum is the plain sum"


BAD_FEDERATIONS: list[tuple[Any, str]] = [
    (Unsorted, "clients are sorted"),
    (Stranger, "replies answer what was sent"),
    (Scribbled, "tasks are left as they were"),
    (Echo, "send is idempotent"),
    (Backwards, "arrivals are ordered in time"),
    (Endless, "receive ends at until"),
    (Frozen, "idle time passes"),
    (Hasty, "an early stop loses nothing"),
    (Touchy, "settle is idempotent"),
    (Free, "traffic is counted"),
    (Amnesiac, "a checkpoint continues alike"),
    (Dropping, "a checkpoint within a round continues alike"),
    (Deaf, "a secure sum is the plain sum"),
]


@pytest.mark.parametrize(("make", "law"), BAD_FEDERATIONS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_bad_federation_is_caught_by_the_law_it_breaks(make: Any, law: str) -> None:
    from fedkit.conformance.federation import Case
    from fedkit.conformance.laws import run_laws

    with pytest.raises(ConformanceError) as caught:
        run_laws({law: FEDERATION_LAWS[law]}, Case(make, JOB, 1e6, True))
    assert caught.value.law == law
    with pytest.raises(ConformanceError):
        check_federation(make, JOB)


def test_every_law_of_federations_can_be_broken() -> None:
    assert {law for _, law in BAD_FEDERATIONS} == set(FEDERATION_LAWS)
