"""What secure aggregation demands: each refusal names its key and a way out, and comes before round 0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit import Grid, RoundPolicy, SecAgg, plugins, run
from fedkit.codecs import CodecContext
from fedkit.codecs.none import Plain
from fedkit.codecs.ring_rotq import RingRotQ
from fedkit.codecs.ring_srht import RingSrht
from fedkit.errors import ConfigError
from fedkit.federation import Federation, ServerTrust
from fedkit.job import Job
from fedkit.planning import make_plan, most_counted, most_invited
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.settings import SUITES
from fedkit.securecheck import (
    NOISE,
    check_secagg,
    demand_reach,
    demand_secure,
    fitting_codec,
    metric_names,
    settled,
)
from fedkit.tensors import Layout
from fedkit.trainer import Workload
from fedkit_clients import NumpyWorkload, Softmax
from fedkit_strategies import FedAvg

LAYOUT = Layout(("w",), ((4000,),), ("float32",))
HONEST, LYING = (SecAgg(Policy(mode=mode)) for mode in (Mode.HONEST_SERVER, Mode.LYING_SERVER))


def job(clients: int = 10, **changes: Any) -> Job:
    made = Job(FedAvg(), Plain(), Plain(), LAYOUT, Layout((), (), ()), Grid(64.0), {}, 0, cohort=clients)
    return replace(made, **{"secagg": LYING, **changes})


def workload(clients: int = 6) -> NumpyWorkload:
    one = (np.eye(4, dtype=np.float32), np.arange(4) % 2)
    return NumpyWorkload(Softmax(4, 2), {f"c{n}": one for n in range(clients)}, test=one)


@dataclass(frozen=True)
class Median(FedAvg):
    """A rule that looks at each update."""

    needs_each_update: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("settings", "rounds", "clients", "least"),
    [
        (Policy(), RoundPolicy(), 10, 9),  # a tenth may be lost
        (Policy(dropout=0.3), RoundPolicy(), 10, 7),
        (Policy(dropout=0.3), RoundPolicy(cohort=5, over_select=1.4), 10, 5),  # as many as are wanted
        (Policy(smallest=4), RoundPolicy(), 10, 4),
        (Policy(), RoundPolicy(), 3, 3),
    ],
)
def test_the_fewest_of_a_sum_are_those_who_stay(
    settings: Policy, rounds: RoundPolicy, clients: int, least: int
) -> None:
    found = settled(SecAgg(settings), rounds, clients)
    assert found is not None
    assert found.policy.least == found.policy.smallest == least
    assert settled(None, rounds, clients) is None


def test_modes_by_their_names() -> None:
    assert check_secagg("off") is None
    assert check_secagg("honest_server") == HONEST
    assert check_secagg("lying_server") == LYING == check_secagg(SecAgg())


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("lying_servr", "did you mean 'lying_server'"),
        (None, "give a SecAgg"),
        (True, "give a SecAgg"),
        (Policy(), "give a SecAgg"),
    ],
)
def test_what_is_no_mode_is_refused(value: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_secagg(value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"width": 16}, "secagg.width = 16: must be 32 or 64"),
        ({"width": True}, "secagg.width = True"),
        ({"policy": "lying_server"}, "secagg.policy = 'lying_server': must be a Policy"),
        ({"explicit": (4,)}, r"secagg.explicit = \(4,\)"),
        ({"explicit": [4, 3]}, r"secagg.explicit = \[4, 3\]"),
        ({"explicit": (4.0, 3)}, r"secagg.explicit = \(4.0, 3\)"),
        ({"suite": "aes"}, "secagg.suite = 'aes'"),
        ({"suite": 1}, "secagg.suite = 1"),
        ({"retries": -1}, "secagg.retries = -1"),
        ({"retries": 1.0}, "secagg.retries = 1.0"),
        ({"verify": 1}, "secagg.verify = 1"),
    ],
)
def test_settings_that_are_none_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SecAgg(**settings)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"secagg": HONEST},
        {"secagg": None, "strategy": Median(), "codec_up": plugins.codec("int8")},
        {"codec_up": RingRotQ()},
        {"codec_up": RingSrht()},
        {"secagg": SecAgg(width=64, suite=SUITES["chacha"])},
        {"secagg": SecAgg(explicit=(9, 7))},
    ],
)
def test_what_can_be_summed_is_let_through(changes: dict[str, Any]) -> None:
    demand_secure(job(**changes), RoundPolicy(), 10)


@pytest.mark.parametrize(
    ("changes", "policy", "clients", "says"),
    [
        (
            {"strategy": Median()},
            {},
            10,
            "strategy.name: Median needs each update .* secagg.mode = 'lying_server'",
        ),
        ({"codec_up": plugins.codec("int8")}, {}, 10, "codec.up = 'int8.*: use 'ring-rotq' .* 'ring-srht'"),
        ({"codec_up": plugins.codec("auto")}, {}, 10, "codec.up = .* or 'none'"),
        ({"feedback": True}, {}, 10, "codec.feedback = 'on': .* set it to 'off'"),
        ({}, {"late": "carry"}, 10, "rounds.late = 'carry' cannot be combined with secure .* use 'drop'"),
        ({"grid": Grid(2.0**20)}, {}, 10, "secagg.width = 32 with aggregate.max_delta = 256"),
        ({"codec_up": RingRotQ(4), "cohort": 100}, {}, 100, "width = 4 is too small .* use width=6"),
        ({}, {}, 2, "rounds.cohort: sums of 2 clients hide nobody: ask at least 3 clients in a round"),
        ({}, {"cohort": 0.2}, 10, "rounds.cohort: sums of 2 clients"),
        (
            {"secagg": SecAgg(Policy(smallest=8))},
            {"cohort": 7},
            10,
            "^secagg.n_min = 8: .* set it to 7 or less",
        ),
        (
            {"secagg": SecAgg(Policy(dropout=0.5))},
            {},
            10,
            "secagg.dropout = 0.5: no parameters for 10",
        ),
        (
            {"secagg": SecAgg(Policy(dropout=0.6, smallest=3))},
            {},
            4,
            "secagg.dropout = 0.6: no parameters for 4 .* 3 clients must stay and 2 are sure to",
        ),
        (
            {"secagg": SecAgg(Policy(corrupt=0.9))},
            {},
            10,
            "secagg.corrupt = 0.9: no parameters for 10",
        ),
        (
            {"secagg": SecAgg(explicit=(8, 5))},
            {},
            10,
            "secagg.threshold = 5: .* takes 6 to 10",
        ),
        (
            {"secagg": SecAgg(explicit=(6, 4))},
            {},
            200,
            "secagg.threshold = 4: k=6, t=4 for 200 clients: secrecy fails .* or let them be chosen",
        ),
        (
            {"secagg": SecAgg(Policy(dropout=0.1))},
            {"cohort": 5, "over_select": 2.0},
            10,
            "rounds.over_select = 2: a round ends with 5 of 10 .* and 7 must stay .*: set it lower$",
        ),
        (
            {"secagg": SecAgg(explicit=(2, 2))},  # nobody of 10 is corrupt, but in a session one may be
            {},
            10,
            "secagg.threshold = 2: .* secrecy fails",
        ),
        (
            {"secagg": SecAgg(Policy(sigma=40), explicit=(28, 26))},
            {},
            100,
            "secagg.threshold = 26: some of 100 clients would keep fewer .* set it lower, or leave",
        ),
        (
            {"secagg": SecAgg(explicit=(8, 6))},
            {"cohort": 10, "over_select": 1.3},
            50,
            "secagg.threshold = 6 with secagg.neighbours = 8: .* 10 of 13 .* 11 must .*: leave both at 0",
        ),
        (
            {"secagg": SecAgg(Policy(corrupt=0.9, mode=Mode.HONEST_SERVER, dropout=0.0, smallest=10))},
            {},
            10,
            "secagg.corrupt = 0.9: 9 of 10 .* sum of 10 .* one honest client, .* see: expect fewer",
        ),
        (
            {"secagg": SecAgg(Policy(corrupt=0.3, smallest=4))},
            {},
            10,
            "secagg.corrupt = 0.3: 3 of 10 .* see: set secagg.n_min to 5 or more, or expect fewer",
        ),
        (
            {"cohort": 200},
            {"cohort": 200, "over_select": 1.2},
            240,
            "rounds.over_select = 1.2: .* 200 of 240 .* 215 must .* lower, or secagg.dropout to 0.17$",
        ),
    ],
)
def test_what_cannot_be_summed_is_refused(
    changes: dict[str, Any], policy: dict[str, Any], clients: int, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        demand_secure(job(**changes), RoundPolicy(**policy), clients)


def test_what_an_error_advises_is_enough() -> None:
    wide = RoundPolicy(cohort=200, over_select=1.2)
    demand_secure(job(200, secagg=SecAgg(Policy(dropout=0.17))), wide, 240)
    demand_secure(job(10, grid=Grid(2.0**20, 12.0)), RoundPolicy(), 10)
    demand_secure(job(10, grid=Grid(2.0**20), secagg=SecAgg(width=64)), RoundPolicy(), 10)
    demand_secure(job(7, secagg=SecAgg(Policy(smallest=7))), RoundPolicy(cohort=7), 10)
    demand_secure(job(100, codec_up=RingRotQ(6)), RoundPolicy(), 100)


@given(st.integers(1, 5000))
def test_auto_is_the_narrowest_ring_that_is_good_enough(clients: int) -> None:
    codec = fitting_codec("auto", clients)
    assert isinstance(codec, RingRotQ)
    assert codec.nmse(clients) <= NOISE
    lanes = 64 // codec.width
    assert 64 // lanes == codec.width  # no bit of a word is left unused by so many lanes
    narrower = 64 // (lanes + 1)
    if narrower >= 4:
        try:
            assert RingRotQ(narrower).nmse(clients) > NOISE
        except ConfigError:
            RingRotQ(codec.width).ruler(CodecContext(scale=1.0, clients=clients))


def test_other_codecs_are_as_given() -> None:
    assert fitting_codec("none", 10) == "none"
    assert fitting_codec(" auto ", 10) == fitting_codec("auto", 10)
    codec = RingSrht()
    assert fitting_codec(codec, 10) is codec


@given(
    st.integers(1, 60),
    st.none() | st.integers(1, 60) | st.floats(0.01, 0.99),
    st.sampled_from([1.0, 1.1, 1.3, 2.0]),
)
def test_the_cohort_that_is_checked_is_the_one_that_is_invited(
    clients: int, cohort: int | float | None, more: float
) -> None:
    policy = RoundPolicy(cohort=cohort, over_select=more)
    plan = make_plan(policy, [f"c{n:02d}" for n in range(clients)], {}, 0, 0.0, 0)
    assert (plan.want, len(plan.cohort)) == (most_counted(policy, clients), most_invited(policy, clients))


class Reach:
    """A federation, as far as these checks look."""

    def __init__(self, trust: object = None) -> None:
        self._trust = trust

    def trust(self) -> ServerTrust | None:
        return cast("ServerTrust | None", self._trust)


class Seen(Reach):
    def witness(self) -> None: ...


@pytest.mark.parametrize("federation", [object(), Reach()])
def test_a_lying_server_takes_identities(federation: object) -> None:
    reach = cast("Federation", federation)
    with pytest.raises(
        ConfigError, match=r"takes clients with identities, .* secagg\.mode = 'honest_server'"
    ):
        demand_reach(LYING, reach)
    demand_reach(HONEST, reach)
    demand_reach(LYING, cast("Federation", Reach(object())))


def test_only_a_simulation_can_verify() -> None:
    verify = replace(HONEST, verify=True)
    with pytest.raises(ConfigError, match=r"secagg\.verify = true .* set it to false"):
        demand_reach(verify, cast("Federation", Reach()))
    demand_reach(verify, cast("Federation", Seen()))


def test_names_of_metrics() -> None:
    assert metric_names(workload()) == ("loss", "accuracy")
    named = workload()
    named.metric_names = ["auc"]  # type: ignore[attr-defined]
    assert metric_names(named) == ("auc",)


@pytest.mark.parametrize("names", ["loss", 3, None, [1], [["a"]], ["a", "a"], ["x" * 129]])
def test_names_that_are_none_are_refused(names: object) -> None:
    named: Any = workload()
    named.metric_names = names
    with pytest.raises(ConfigError, match="the workload's metric_names"):
        metric_names(cast("Workload", named))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"secagg": "lier"}, "secagg = 'lier'"),
        ({"strategy": Median()}, "strategy.name: Median"),
        ({"codec_up": "eden"}, "codec.up = 'eden"),
        ({"codec_up": "none", "feedback": "on"}, "feedback"),
        ({"policy": RoundPolicy(late="carry")}, "rounds.late"),
        ({"policy": RoundPolicy(cohort=2)}, "rounds.cohort"),
        (
            {"secagg": "lying_server", "policy": RoundPolicy(cohort=3, over_select=2.0)},
            "rounds.over_select",
        ),
        ({"grid": Grid(2.0**20)}, "aggregate.max_delta"),
    ],
)
def test_a_run_refuses_before_it_does_anything(arguments: dict[str, Any], says: str, tmp_path: Path) -> None:
    given = {"strategy": "fedavg", "secagg": "honest_server", "rounds": 1, **arguments}
    with pytest.raises(ConfigError, match=says):
        run(workload=workload(), out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()
