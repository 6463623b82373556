"""Costs and aborts: the design's measurements, and rounds played with dice."""

from __future__ import annotations

import numpy as np
import pytest

from fedkit.errors import ConfigError
from fedkit.secagg.estimate import aborted, cost, cover, vector_bytes
from fedkit.secagg.graph import neighbours
from fedkit.secagg.parameters import Mode, Policy, assess, choose
from fedkit.seeds import stream


def test_twenty_clients_of_whom_a_fifth_are_lost() -> None:
    assert aborted(choose(20, Policy(dropout=0.2)), 0.2, 3) == pytest.approx(0.087, abs=0.0005)


@pytest.mark.parametrize(
    ("n", "k", "t", "size", "width", "lost", "client", "server"),
    [
        (100, 28, 18, 1000, 32, 0.0, 11.9e-3, 0.051),
        (100, 28, 18, 1_000_000, 8, 0.1, 16.1e-3, 0.100),
        (100, 28, 18, 1_000_000, 32, 0.1, 22.6e-3, 0.182),
        (100, 68, 38, 1000, 32, 0.3, 40.8e-3, 0.141),
        (100, 99, 67, 1_000_000, 32, 0.1, 65.6e-3, 0.427),
        (300, 56, 37, 1000, 32, 0.0, 28.9e-3, 0.182),
        (1000, 78, 52, 1000, 32, 0.0, 49.1e-3, 0.704),
        (1000, 78, 52, 1_000_000, 8, 0.1, 57.2e-3, 1.907),
        (1000, 78, 52, 1_000_000, 32, 0.1, 70.1e-3, 3.714),
    ],
)
def test_costs_are_near_what_was_measured(
    n: int, k: int, t: int, size: int, width: int, lost: float, client: float, server: float
) -> None:
    """CPU seconds by tests/bench/secagg.py, the least of a few sums; within a quarter."""
    found = cost(assess(n, k, t, Policy()), size, width, lost)
    assert found.client_seconds == pytest.approx(client, rel=0.25)
    assert found.server_seconds == pytest.approx(server, rel=0.25)


@pytest.mark.parametrize(
    ("n", "k", "t", "size", "ratio"),
    [
        (100, 26, 17, 100_000, 1.008),
        (100, 26, 17, 1_000_000, 1.001),
        (1000, 78, 52, 100_000, 1.024),
        (1000, 78, 52, 1_000_000, 1.002),
    ],
)
def test_a_client_sends_little_beside_its_vector(n: int, k: int, t: int, size: int, ratio: float) -> None:
    """As the design says; ours counts frames too."""
    assert cost(assess(n, k, t, Policy()), size, 32, 0.1).overhead == pytest.approx(ratio, abs=0.002)


def test_an_honest_server_checks_no_signatures_of_survivors() -> None:
    lying, honest = (cost(choose(100, Policy(mode=mode)), 10_000, 32, 0.1) for mode in Mode)
    assert honest.server_seconds < lying.server_seconds
    assert honest.client_seconds < lying.client_seconds


@pytest.mark.parametrize(
    ("mode", "n", "up", "down"),
    [
        (Mode.LYING_SERVER, 4, 1366, 2439),
        (Mode.LYING_SERVER, 20, 3160, 8990),
        (Mode.LYING_SERVER, 100, 12130, 41741),
        (Mode.LYING_SERVER, 140, 5066, 20405),
        (Mode.HONEST_SERVER, 4, 1189, 2133),
        (Mode.HONEST_SERVER, 100, 11953, 35279),
        (Mode.HONEST_SERVER, 140, 2871, 12547),
    ],
)
def test_bytes_are_those_of_a_run(mode: Mode, n: int, up: int, down: int) -> None:
    """What a simulated round counted for a client, frames and all, with ids of ten letters."""
    found = cost(choose(n, Policy(mode=mode)), 58, 32, 0.0)
    assert found.up - found.vector == pytest.approx(up, rel=0.005)
    assert found.down == pytest.approx(down, rel=0.005)


def test_fewer_in_a_session_stand_fewer_helpers() -> None:
    """Of twenty all stand seven; a server that keeps a few back has sessions that stand fewer."""
    assert choose(20, Policy()).colluding == 7
    found = [cover(20, Policy(smallest=n)) for n in (3, 14, 18, 20)]
    assert [(c.smallest, c.helpers, c.hidden) for c in found] == [
        (3, 1, 2),
        (14, 4, 10),
        (18, 6, 12),
        (20, 13, 7),
    ]
    assert cover(1000, Policy().settled(1000, 1000)).hidden == 900 - 45


def test_narrow_lanes_cost_less_and_dropouts_cost_the_server() -> None:
    chosen = choose(1000, Policy())
    wide, narrow = (cost(chosen, 1_000_000, width, 0.1) for width in (32, 8))
    assert narrow.vector == wide.vector / 4
    assert narrow.server_seconds < wide.server_seconds / 2
    assert cost(chosen, 1_000_000, 32, 0.0).server_seconds < wide.server_seconds / 3


def test_words_hold_whole_lanes() -> None:
    assert vector_bytes(1000, 32) == 4000
    assert vector_bytes(1000, 64) == 8000
    assert vector_bytes(1000, 8) == 1000
    assert vector_bytes(1000, 10) == -(-1000 // 6) * 8
    assert vector_bytes(1, 12) == 8
    assert vector_bytes(7, 40) == 56


@pytest.mark.parametrize(("size", "width"), [(0, 32), (10, 0), (10, 65), (10, -8)])
def test_vectors_that_do_not_exist(size: int, width: int) -> None:
    with pytest.raises(ConfigError, match="at least one number" if size < 1 else "1 to 64 bits"):
        vector_bytes(size, width)


def test_the_complete_graph_aborts_as_often_as_dice_say() -> None:
    chosen, rounds = choose(20, Policy(dropout=0.2)), 20_000
    alive = (stream(0, "dice").uniform(rounds * 20).reshape(rounds, 20) >= 0.2).sum(axis=1)
    seen = float((alive < chosen.threshold).mean())
    expected = aborted(chosen, 0.2, 3)
    assert seen == pytest.approx(expected, abs=4 * (expected * (1 - expected) / rounds) ** 0.5)


def test_a_sparse_graph_aborts_no_more_often_than_said() -> None:
    """And not much less often, where it is rare: t of everyone's neighbours must stay."""
    chosen, rounds = assess(200, 20, 14, Policy()), 2000
    found = neighbours(200, 20, bytes(32))
    alive = stream(0, "dice").uniform(rounds * 200).reshape(rounds, 200) >= 0.1
    seen = float(np.mean([(there[found].sum(axis=1) < 14).any() for there in alive]))
    said = aborted(chosen, 0.1, 3)
    assert said / 2 < seen < said + 4 * (said / rounds) ** 0.5


@pytest.mark.parametrize("loss", [0.0, 1.0])
@pytest.mark.parametrize("n", [20, 1000])
def test_rounds_without_loss_never_abort_and_rounds_without_clients_always(n: int, loss: float) -> None:
    assert aborted(choose(n, Policy()), loss, 3) == loss


def test_the_smallest_sum_counts_too() -> None:
    """Of three, two would rebuild, but a sum of two is refused: 1 - 0.9^3."""
    assert aborted(choose(3, Policy()), 0.1, 3) == pytest.approx(0.271)
    assert aborted(choose(1000, Policy()), 0.1, 1000) == pytest.approx(1.0)
