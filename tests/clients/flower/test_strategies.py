"""Flower's strategies in fedkit against Flower's own loop, on the same updates."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fedkit import jobfile, plugins, run
from fedkit.aggregate import Grid, WeightedSum
from fedkit.codecs.none import Plain
from fedkit.conformance import check_strategy
from fedkit.errors import ClientFailed, ConfigError, PluginError, RunFailed
from fedkit.federation import RoundPolicy
from fedkit.history import Outcome
from fedkit.job import Job
from fedkit.messages import ClientId, Metrics, Pass, Task, Trained, Update
from fedkit.rounds import Result
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.settings import SecAgg
from fedkit.seeds import stream
from fedkit.tensors import Layout, Tensors, digest, flat
from fedkit.trainer import Correct
from fedkit_clients.flower.adapter import EachUpdate, FlowerStrategy
from fedkit_clients.flower.strategies import REFUSED, STRATEGIES, named

flower = pytest.importorskip("flwr.serverapp.strategy")
app = pytest.importorskip("flwr.app")

CLIENTS = [f"c{k}" for k in range(7)]
EXAMPLES = {client: 10 + 7 * k for k, client in enumerate(CLIENTS)}
MODEL: Tensors = {
    "w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "b": np.array([0.5, -0.25], np.float32),
}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "FedAvgM": {"server_momentum": 0.9, "server_learning_rate": 0.7},
    "FedProx": {"proximal_mu": 0.1},
    "FedTrimmedAvg": {"beta": 0.3},
    "Krum": {"num_malicious_nodes": 1},
    "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "Bulyan": {"num_malicious_nodes": 1},
    "QFedAvg": {"client_learning_rate": 0.1, "q": 1.5, "train_loss_key": "loss"},
}
ELSEWHERE = {
    *("fraction_train", "fraction_evaluate", "min_train_nodes", "min_evaluate_nodes", "min_available_nodes"),
    *("weighted_by_key", "arrayrecord_key", "configrecord_key", "selection_rule"),
    *("train_metrics_aggr_fn", "evaluate_metrics_aggr_fn"),
}


@pytest.fixture(scope="module", autouse=True)
def _few_objects() -> Iterator[None]:
    """Flower collects garbage for each reply of QFedAvg and Bulyan: not all of pytest's each time."""
    gc.freeze()
    yield
    gc.unfreeze()


def trained(model: Tensors, round: int, client: ClientId) -> Tensors:
    """What local training makes of the model: a step towards the client's own, with noise."""
    made = {}
    for name, array in model.items():
        near = np.asarray(array, np.float32)
        target = stream(3, "target", client, name).normal(near.size).reshape(near.shape)
        noise = stream(3, "noise", client, name, round).normal(near.size).reshape(near.shape)
        made[name] = (near + 0.3 * (target + 0.1 * noise - near)).astype(np.float32)
    return made


def loss_of(round: int, client: ClientId) -> float:
    """A loss that differs between clients and rounds."""
    return 0.5 + 0.1 * CLIENTS.index(client) + 0.01 * round


@dataclasses.dataclass
class Local:
    """A trainer that gives what `trained` says. spoil: what a bad client makes of its update."""

    client: ClientId
    spoil: Mapping[ClientId, Any]

    @property
    def examples(self) -> int:
        return EXAMPLES[self.client]

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        after = trained(pass_.start, task.key.round, self.client)
        delta = {name: after[name] - array for name, array in pass_.start.items()}
        made = Trained(delta, 1, self.examples, {"loss": loss_of(task.key.round, self.client)})
        change = self.spoil.get(self.client)
        return change(made) if change is not None else made

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        return {}, self.examples


@dataclasses.dataclass
class Work:
    """A workload of such trainers."""

    spoil: Mapping[ClientId, Any] = dataclasses.field(default_factory=dict)

    def init(self, seed: int) -> Tensors:
        return MODEL

    def clients(self) -> Sequence[ClientId]:
        return CLIENTS

    def trainer(self, client: ClientId) -> Local:
        return Local(client, self.spoil)

    def evaluate(self, model: Tensors) -> Metrics:
        return {"size": float(np.abs(model["w"]).max())}


class Nodes:
    """Flower's Grid, without a network: every node trains at once."""

    def get_node_ids(self) -> Iterable[int]:
        return range(len(CLIENTS))

    def send_and_receive(self, messages: Iterable[Any], timeout: float | None = None) -> list[Any]:
        sent = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        return [self._answer(m) for m in sent if m.metadata.message_type == "train"]

    def _answer(self, message: Any) -> Any:
        client = CLIENTS[message.metadata.dst_node_id]
        round = message.content["config"]["server-round"] - 1
        model = {name: array.numpy() for name, array in message.content["arrays"].items()}
        arrays = {n: app.Array(a) for n, a in trained(model, round, client).items()}
        figures = {"num-examples": EXAMPLES[client], "loss": loss_of(round, client)}
        content = {"arrays": app.ArrayRecord(arrays), "metrics": app.MetricRecord(figures)}
        return app.Message(app.RecordDict(content), reply_to=message)


def options(name: str) -> dict[str, Any]:
    """The parameters under which a strategy is tried."""
    return dict(OPTIONS.get(name, {}))


def in_fedkit(name: str, rounds: int = 3, work: Work | None = None, **more: Any) -> Result:
    """A run of Flower's strategy in fedkit's simulation."""
    strategy = plugins.strategy(f"flower:{name}", options(name))
    return run(strategy, work if work is not None else Work(), rounds=rounds, **more)


def in_flower(name: str) -> dict[str, Any]:
    """The model after three rounds of Flower's own loop."""
    strategy = getattr(flower, name)(fraction_evaluate=0.0, **options(name))
    arrays = app.ArrayRecord({n: app.Array(a) for n, a in MODEL.items()})
    result = strategy.start(Nodes(), arrays, num_rounds=3)
    return {n: a.numpy() for n, a in result.arrays.items()}


@pytest.mark.usefixtures("in_a_run")
@pytest.mark.parametrize("name", STRATEGIES)
def test_three_rounds_give_the_model_of_flowers_own_loop(name: str) -> None:
    ours, theirs = in_fedkit(name).model, in_flower(name)
    assert ours.keys() == theirs.keys()
    moved = max(float(np.abs(theirs[n] - MODEL[n]).max()) for n in MODEL)
    assert moved > 0.01  # or nothing would be compared
    for n in MODEL:
        assert np.abs(ours[n] - theirs[n]).max() <= 16 * np.finfo(np.float32).eps, n


@pytest.mark.parametrize("name", [name for name, kind in STRATEGIES.items() if kind.kept])
def test_what_is_kept_is_all_that_flowers_object_knows(name: str) -> None:
    """One object of Flower's for three rounds gives the bits of ours, which makes one a round."""
    strategy = named(name)(**options(name))
    model: Tensors = flat(MODEL)
    state, own = strategy.init(model), getattr(flower, name)(**options(name))
    own.fraction_train = 0.0
    from fedkit_clients.flower.records import record, reply, tensors

    for round in (1, 2, 3):
        total = WeightedSum(Layout.of(MODEL), Grid())
        for client in CLIENTS:
            after = trained(model, round, client)
            total.add(client, Update({n: after[n] - a for n, a in model.items()}, EXAMPLES[client]))
        mean = {n: a + total.mean()[n] for n, a in model.items()}
        own.configure_train(round, record(model), app.ConfigRecord(), None)
        theirs = tensors(own.aggregate_train(round, [reply(mean, {"num-examples": 3.0}, 2)])[0])
        model, state = strategy.step(model, state, total)
        assert all((model[n] == theirs[n].astype(np.float32)).all() for n in MODEL)


@pytest.mark.parametrize("name", ["FedAvgM", "FedAdam", "FedYogi", "Krum"])
def test_a_run_that_is_continued_is_the_run_to_the_bit(name: str, tmp_path: Path) -> None:
    whole = in_fedkit(name, 4)
    in_fedkit(name, 2, out=tmp_path)
    assert digest(in_fedkit(name, 4, out=tmp_path, resume=True).model) == digest(whole.model)


@pytest.mark.parametrize("name", ["FedAvgM", "FedAdam", "FedProx", "Krum"])
def test_they_keep_the_laws(name: str) -> None:
    assert len(check_strategy(named(name)(**options(name)))) >= 20


def test_strategies_of_the_mean_work_on_secret_sums() -> None:
    secret = SecAgg(Policy(0.25, 0.0, 40, Mode.HONEST_SERVER, 3), width=64)
    assert digest(in_fedkit("FedAdam", 2, secagg=secret).model) == digest(in_fedkit("FedAdam", 2).model)
    with pytest.raises(ConfigError, match="each update"):
        in_fedkit("Krum", 1, secagg=secret)


@dataclasses.dataclass(frozen=True)
class Clamped(FlowerStrategy):
    """A Flower strategy of someone's own."""

    kept: ClassVar[tuple[str, ...]] = ("seen",)
    bound: float = 1.0

    def flower(self) -> Any:
        bound = self.bound

        class Theirs(flower.FedAvg):  # type: ignore[misc, name-defined, unused-ignore]
            """FedAvg within bounds; adds up what it has seen."""

            seen: Any = None

            def aggregate_train(self, server_round: int, replies: Any) -> Any:
                arrays, metrics = super().aggregate_train(server_round, replies)
                made = {n: np.clip(a.numpy(), -bound, bound) for n, a in arrays.items()}
                self.seen = {n: a + self.seen[n] for n, a in made.items()}
                return app.ArrayRecord({n: app.Array(a) for n, a in made.items()}), metrics

        return Theirs()


def test_a_flower_strategy_of_ones_own_takes_a_class_around_it() -> None:
    got = run(Clamped(bound=0.125), Work(), rounds=2)
    free = in_fedkit("FedAvg", 2)
    assert all((np.abs(array) <= 0.125).all() for array in got.model.values())
    assert np.abs(free.model["w"]).max() > 0.5
    assert plugins.strategy_name(Clamped()) == "Clamped"
    model: Tensors = flat(MODEL)
    total = WeightedSum(Layout.of(MODEL), Grid())
    total.add("c0", Update({n: np.zeros_like(a) for n, a in MODEL.items()}, 1.0))
    strategy = Clamped()
    state = strategy.init(model)
    for _ in range(2):
        model, state = strategy.step(model, state, total)
    assert (state["seen"]["w"] == 2 * MODEL["w"]).all()


def test_a_rule_that_sees_each_update_keeps_nothing() -> None:
    @dataclasses.dataclass(frozen=True)
    class Keeps(EachUpdate):
        kept: ClassVar[tuple[str, ...]] = ("seen",)

    with pytest.raises(ConfigError, match="strategy 'Keeps': one that sees each update keeps nothing"):
        run(Keeps(), Work(), rounds=1)


def nan(made: Trained) -> Trained:
    """The update with one entry that is no number."""
    spoilt = np.array(made.delta["w"])
    spoilt[0, 0] = np.nan
    return dataclasses.replace(made, delta={**made.delta, "w": spoilt})


@pytest.mark.parametrize("name", ["FedAdam", "FedMedian"])
def test_a_bad_client_is_named_and_left_out(name: str) -> None:
    got = in_fedkit(name, 1, Work({"c2": nan}), policy=RoundPolicy(quorum=1))
    assert all(np.isfinite(array).all() for array in got.model.values())
    fates = got.history.rounds[0].fates
    assert {client: fate.outcome for client, fate in fates.items()} == {
        client: Outcome.failed if client == "c2" else Outcome.counted for client in CLIENTS
    }
    assert fates["c2"].why == "diverged: 'w' holds nan"


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({}, "no metric 'loss'"),
        ({"Loss": 1.0}, "did you mean 'Loss'"),
        ({"loss": -1.0}, "negative"),
        ({"loss": 1e30}, "is 1e+30: to the power of q it leaves float32"),
    ],
)
def test_a_client_without_a_loss_has_no_say_in_qfedavg(
    metrics: Metrics, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    strategy: Any = named("QFedAvg")(**options("QFedAvg"))
    near, far = ({n: np.full_like(a, size) for n, a in MODEL.items()} for size in (0.1, 5.0))
    good, bad = ("c0", Update(near, 10.0, {"loss": 0.5})), ("c1", Update(far, 10.0, metrics))
    both, alone = (
        strategy.combine(updates, WeightedSum(Layout.of(MODEL), Grid())) for updates in ([good, bad], [good])
    )
    assert said in caplog.text
    assert "leaves out client c1" in caplog.text
    assert both.clients == 2
    assert all(np.abs(both.mean()[n] - alone.mean()[n]).max() < 1e-6 for n in MODEL)


def test_bulyan_without_enough_updates_fails_the_round_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    strategy = plugins.strategy("flower:Bulyan", {"num_malicious_nodes": 2})
    with pytest.raises(RunFailed, match="none of 1 rounds succeeded"):
        run(strategy, Work(), rounds=1)
    assert "flower:Bulyan made no model of 7 updates" in caplog.text


def test_every_strategy_of_flower_is_offered_or_refused() -> None:
    """Contract: a new one must be entered in one of the tables."""
    assert {*STRATEGIES, *REFUSED, "Strategy", "Result"} == set(flower.__all__)


@pytest.mark.parametrize("name", STRATEGIES)
def test_fields_and_defaults_are_flowers(name: str) -> None:
    theirs = {
        p.name: p.default
        for p in inspect.signature(getattr(flower, name)).parameters.values()
        if p.name not in ELSEWHERE
    }
    assert {f.name for f in dataclasses.fields(STRATEGIES[name])} == theirs.keys()
    for field in dataclasses.fields(STRATEGIES[name]):
        missing = theirs[field.name] is inspect.Parameter.empty
        assert missing == (field.default is dataclasses.MISSING)
        assert missing or field.default == theirs[field.name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("FedAdm", "unknown strategy 'flower:FedAdm'; did you mean 'flower:FedAdam'"),
        ("os:system", "unknown strategy 'flower:os:system'"),
        ("FedXgbBagging", "cannot be used in fedkit: it averages no tensors"),
        ("DifferentialPrivacyClientSideFixedClipping", "needs a Flower mod in every client"),
        ("DifferentialPrivacyServerSideFixedClipping", "draws its noise without a seed"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(name: str, said: str) -> None:
    with pytest.raises(PluginError, match=said):
        plugins.strategy(f"flower:{name}")


def test_flower_alone_is_no_strategy() -> None:
    with pytest.raises(PluginError, match="say which of Flower's; known: flower:FedAvg, flower:FedAvgM"):
        plugins.strategy("flower")


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("FedAdam", {"beta1": 0.5}, "beta1: unknown key; did you mean 'beta_1'"),
        ("FedAdam", {"fraction_train": 0.5}, "fraction_train: unknown key"),
        ("FedYogi", {"eta": "much"}, "eta: must be a number"),
        ("FedTrimmedAvg", {"beta": 0.5}, r"strategy\.beta = 0\.5: must be at least 0 and below 0\.5"),
        ("Krum", {"num_malicious_nodes": -1}, r"strategy\.num_malicious_nodes = -1: must be at least 0"),
        ("MultiKrum", {"num_nodes_to_select": 0}, "must be at least 1"),
        ("FedAdam", {"beta_1": 1.0}, r"strategy\.beta_1 = 1\.0: must be at least 0 and below 1"),
        ("FedYogi", {"beta_2": -0.1}, "must be at least 0 and below 1"),
        ("FedAdagrad", {"tau": 0.0}, r"strategy\.tau = 0\.0: must be above 0"),
        ("QFedAvg", {}, "client_learning_rate: is missing"),
        ("QFedAvg", {"client_learning_rate": 0.0}, "must be above 0"),
    ],
)
def test_wrong_options_are_refused(name: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plugins.strategy(f"flower:{name}", given)


def test_parameters_are_finite() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.tau = nan: must be finite"):
        named("FedAdam")(tau=float("nan"))  # type: ignore[call-arg]


def job(name: str) -> Job:
    """A job with a strategy of Flower's."""
    strategy = plugins.strategy(f"flower:{name}", options(name))
    layout = Layout.of(MODEL)
    return Job(strategy, Plain(), Plain(), layout, Layout((), (), ()), Grid(), {}, 0)


@pytest.mark.parametrize("name", STRATEGIES)
def test_devices_are_told_of_them_by_name(name: str) -> None:
    there = jobfile.decode(jobfile.encode(job(name)))
    assert there.strategy == job(name).strategy


def test_devices_need_no_flower(tmp_path: Path) -> None:
    (tmp_path / "job").write_bytes(jobfile.encode(job("FedProx")))
    code = (
        "import sys; sys.modules['flwr'] = None\n"
        "from fedkit import jobfile\n"
        "from pathlib import Path\n"
        "print(jobfile.decode(Path('job').read_bytes()).strategy.correct(1.0, 3.0, 2.0, {}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "1.1\n", done.stderr


@pytest.mark.parametrize("name", ["flower:FedAdm", "flower:evil.py:X", "flour:FedAdam"])
def test_a_device_answers_a_name_that_there_is_not(name: str) -> None:
    data = jobfile.encode(job("FedAvg")).replace(b'"flower:FedAvg"', f'"{name}"'.encode())
    with pytest.raises(ClientFailed) as caught:
        jobfile.decode(data)
    assert (caught.value.code, caught.value.subject) == ("missing_plugin", name)
