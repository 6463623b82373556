"""The ladder: the rung that fits, any rung decoded, nothing else let in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkit import RoundPolicy, plugins, run
from fedkit.codecs import CodecContext, frame
from fedkit.codecs.adaptive import LADDER, Adaptive
from fedkit.config import Devices, Links
from fedkit.errors import ConfigError, RunFailed, WireError
from fedkit.tensors import Layout
from fedkit_clients import MLP, NumpyWorkload
from fedkit_simulations.engine import Simulation

Heavy = Callable[..., NDArray[np.float32]]
LAYOUT = Layout(("w", "b"), ((20_000,), (10,)), ("float32", "float32"))
CODEC = Adaptive()
SIZES = [rung.size_estimate(LAYOUT) for rung in CODEC.rungs]


def named(payload: bytes) -> int:
    """The rung that made a payload."""
    contracts = [frame.contract(rung.spec, LAYOUT) for rung in CODEC.rungs]
    return contracts.index(frame.peek(payload))


def test_rungs_are_unbiased_and_shorter_from_step_to_step() -> None:
    assert all(rung.unbiased for rung in CODEC.rungs)
    assert sorted(SIZES, reverse=True) == SIZES
    assert [rung.spec for rung in CODEC.rungs] == [plugins.codec(spec).spec for spec in LADDER]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 50_000))
def test_the_best_rung_that_fits_the_budget_is_taken(budget: int) -> None:
    delta = LAYOUT.view(np.linspace(-1, 1, LAYOUT.size, dtype=np.float32))
    rung = named(CODEC.encode(delta, LAYOUT, CodecContext(seed=1, budget=budget)))
    if budget == 0:
        assert rung == 0
    elif rung < len(SIZES) - 1:
        assert SIZES[rung] <= budget
    if budget and rung:
        assert SIZES[rung - 1] > budget


def test_each_budget_at_the_edge_of_a_rung() -> None:
    for number, size in enumerate(SIZES):
        assert CODEC.choose(LAYOUT, int(np.ceil(size))) is CODEC.rungs[number]
        assert CODEC.choose(LAYOUT, int(size) - 1) is CODEC.rungs[min(number + 1, len(SIZES) - 1)]
    assert CODEC.choose(LAYOUT, 1) is CODEC.rungs[-1]


def test_every_rung_is_decoded_whatever_budget_the_server_knows(heavy: Heavy) -> None:
    delta = LAYOUT.view(heavy(LAYOUT.size))
    for rung in CODEC.rungs:
        budget = int(np.ceil(rung.size_estimate(LAYOUT)))
        sent = CODEC.encode(delta, LAYOUT, CodecContext(3, 4, budget=budget))
        assert CODEC.min_len(LAYOUT) <= len(sent) <= CODEC.max_len(LAYOUT)
        made = CODEC.decode(sent, LAYOUT, CodecContext(3, 4))
        own = rung.decode(sent, LAYOUT, CodecContext(3, 4))
        assert LAYOUT.flatten(made).tobytes() == LAYOUT.flatten(own).tobytes()


@pytest.mark.parametrize(
    "spec", ["int8", "bfloat16:mode=near", "ecsq:delta=8", "ecsq:delta=4,mode=near", "none"]
)
def test_what_is_not_on_the_ladder_is_refused(spec: str, heavy: Heavy) -> None:
    payload = plugins.codec(spec).encode(LAYOUT.view(heavy(LAYOUT.size)), LAYOUT, CodecContext(3, 4))
    with pytest.raises(WireError, match="not on the ladder"):
        CODEC.decode(payload, LAYOUT, CodecContext(3, 4))


def test_a_rung_outside_best_and_worst_is_refused(heavy: Heavy) -> None:
    delta = LAYOUT.view(heavy(LAYOUT.size))
    top = CODEC.encode(delta, LAYOUT, CodecContext())
    low = CODEC.encode(delta, LAYOUT, CodecContext(budget=1))
    middle = Adaptive(best=1, worst=3)
    for payload in (top, low):
        with pytest.raises(WireError, match="not on the ladder"):
            middle.decode(payload, LAYOUT, CodecContext())
    assert named(middle.encode(delta, LAYOUT, CodecContext())) == 1
    assert named(middle.encode(delta, LAYOUT, CodecContext(budget=1))) == 3


def test_a_short_payload_is_refused() -> None:
    for size in (0, 1, frame.OVERHEAD - 1, frame.OVERHEAD):
        with pytest.raises(WireError, match="not on the ladder"):
            CODEC.decode(bytes(size), LAYOUT, CodecContext())


def test_tensors_go_around_every_rung_by_name(heavy: Heavy) -> None:
    codec = plugins.codec("adaptive:exempt=b,below=0,small=float32")
    assert isinstance(codec, Adaptive)
    delta = LAYOUT.view(heavy(LAYOUT.size))
    for budget in (0, 1):
        sent = codec.encode(delta, LAYOUT, CodecContext(1, 2, budget=budget))
        assert codec.rung(sent, LAYOUT) == (4 if budget else 0)
        made = codec.decode(sent, LAYOUT, CodecContext(1, 2))
        assert np.array_equal(made["b"], delta["b"])
        assert not np.array_equal(made["w"], delta["w"])
    with pytest.raises(WireError, match="not on the ladder"):
        CODEC.decode(codec.encode(delta, LAYOUT, CodecContext()), LAYOUT, CodecContext())


def test_rungs_are_numbered_as_on_the_whole_ladder(heavy: Heavy) -> None:
    delta, codec = LAYOUT.view(heavy(LAYOUT.size)), Adaptive(best=2, worst=3)
    for budget, rung in ((0, 2), (1, 3)):
        assert codec.rung(codec.encode(delta, LAYOUT, CodecContext(budget=budget)), LAYOUT) == rung


def test_bad_rules_are_refused_when_it_is_made() -> None:
    with pytest.raises(ConfigError, match="below = -1"):
        Adaptive(below=-1)


@pytest.mark.parametrize(("best", "worst"), [(3, 1), (0, 5), (-1, 4)])
def test_bounds_that_are_no_rungs_are_refused(best: int, worst: int) -> None:
    with pytest.raises(ConfigError, match="must be rungs from 0 to 4, best not above worst: bfloat16"):
        Adaptive(best, worst)


def test_clients_behind_slow_links_are_in_time_with_fewer_bytes() -> None:
    """2 kB/s and 10 s: 40 kB of float32 take 20 s, and so would bfloat16's half of that at 60 % goodput."""
    rng = np.random.default_rng(0)
    clients = {}
    for name in ("slow0", "slow1", "slow2"):
        x = rng.normal(size=(8, 100)).astype(np.float32)
        clients[name] = (x, (x[:, 0] > 0).astype(np.int64))
    workload = NumpyWorkload(MLP(100, (100,), 2), clients, test=clients["slow0"])

    def sent(up: str, rate: float) -> tuple[int, int, dict[str, int]]:
        links = Links(profile="custom", up=rate, down=1e9, latency=0.0)
        federation = Simulation(workload, links=links, devices=Devices(profile="server"))
        policy = RoundPolicy(deadline=10.0, max_failures=9)
        result = run("fedavg", workload, federation, rounds=2, policy=policy, codec_up=up)
        told = result.summary
        return told["clients_counted"], told["bytes_up"], told["codec"]["rungs"]

    with pytest.raises(RunFailed, match=r"0 of 3 invited clients were counted.*late"):
        sent("none", 2000.0)
    slow, fast = sent("adaptive", 2000.0), sent("adaptive", 1e6)
    assert slow[0] == fast[0] == 6
    assert fast[1] > 5 * slow[1]  # bfloat16 where there is room
    assert fast[2] == {LADDER[0]: 6}
    assert slow[2] == {LADDER[1]: 6}
