"""k and t: the published table, exact probabilities of small cases, what a policy refuses."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from math import comb, inf, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import ConfigError
from fedkit.secagg import parameters
from fedkit.secagg.header import Encoding, Header
from fedkit.secagg.identity import Floors
from fedkit.secagg.parameters import DENSEST, MOST, Mode, Policy, assess, choose, sparsest
from fedkit.secagg.primitives.suite import Suite
from fedkit.secagg.settings import SecAgg

LYING, HONEST = Mode
SHARES = ((0.05, 0.1), (0.1, 0.1), (0.05, 0.3))
TABLE = {
    100: ((28, 18), (28, 18), (32, 22), (32, 22), (68, 38), (68, 38)),
    200: ((42, 27), (42, 27), (56, 39), (56, 39), (116, 64), (116, 64)),
    500: ((66, 44), (76, 52), (84, 59), (102, 74), (218, 123), (218, 123)),
    1000: ((78, 52), (96, 67), (100, 70), (124, 90), (314, 179), (336, 194)),
    10_000: ((96, 64), (122, 85), (122, 85), (160, 116), (522, 299), (626, 366)),
}
"""n -> (k, t) for each of SHARES at sigma 40 and 80."""


@pytest.mark.parametrize("n", TABLE)
def test_the_table_of_sparse_graphs(n: int) -> None:
    for (shares, sigma), expected in zip(itertools.product(SHARES, (40, 80)), TABLE[n], strict=True):
        found = sparsest(n, Policy(*shares, sigma))
        assert found is not None
        assert (found.neighbours, found.threshold) == expected
        assert found.meets(Policy(*shares, sigma))


@pytest.mark.parametrize(("n", "t"), [(3, 2), (5, 4), (10, 7), (20, 14), (50, 34), (100, 67)])
def test_the_complete_graph_stands_nearly_a_third(n: int, t: int) -> None:
    found = choose(n, Policy())
    assert (found.complete, found.threshold) == (True, t)
    assert -(-n // 3) - 1 <= found.colluding <= n // 3 + 1
    assert (found.disconnected, found.privacy, found.correctness) == (-inf, -inf, -inf)


def test_complete_up_to_128_sparse_above() -> None:
    assert choose(128, Policy()).complete
    assert not choose(129, Policy()).complete
    assert choose(1000, Policy()) == sparsest(1000, Policy())


def test_a_complete_graph_gives_up_colluders_for_dropout_but_not_those_of_the_policy() -> None:
    """Of 50, 30 % lost: 34 would be needed for a third, 35 stay. 40 %: 30 stay, for up to 9 colluders."""
    assert choose(50, Policy(dropout=0.3)).threshold == 34
    tight = choose(50, Policy(dropout=0.4))
    assert (tight.threshold, tight.colluding) == (30, 9)
    with pytest.raises(ConfigError, match="31 clients must stay and 30 are sure to"):
        choose(50, Policy(corrupt=0.2, dropout=0.4))


def test_an_honest_server_needs_less() -> None:
    for n in (20, 1000):
        lying, honest = choose(n, Policy()), choose(n, Policy(mode=HONEST))
        assert honest.threshold < lying.threshold
        assert honest.neighbours <= lying.neighbours
        assert honest.meets(Policy(mode=HONEST))


@pytest.mark.parametrize("n", [3, 4, 10, 33, 64, 128, 129, 300, 2000])
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(("corrupt", "dropout"), [(0.0, 0.0), (0.05, 0.1), (0.2, 0.2), (0.3, 0.3)])
def test_the_threshold_keeps_its_promise(n: int, mode: Mode, corrupt: float, dropout: float) -> None:
    policy = Policy(corrupt, dropout, mode=mode)
    if n == 3 or (n == 4 and dropout == 0.3):
        policy = Policy(corrupt, 0.0, mode=mode)
    found = choose(n, policy)
    h, t, c = found.holders, found.threshold, found.colluding
    assert 2 <= t <= h
    assert c < t <= (h if found.complete else found.neighbours)
    if mode is LYING:
        assert 2 * t > h + c  # nobody gets t answers of both kinds
        assert 2 * t <= h + c + 1
    if found.complete:
        assert policy.corrupt_of(n) <= c
        assert policy.alive_of(n) >= t


def exactly(n: int, special: int, k: int, wanted: range) -> Fraction:
    return sum(
        (Fraction(comb(special, x) * comb(n - special, k - x), comb(n, k)) for x in wanted), Fraction()
    )


@given(data=st.data(), n=st.integers(4, 60))
def test_tails_are_those_of_exact_fractions(data: st.DataObject, n: int) -> None:
    k, special = data.draw(st.integers(1, n - 1)), data.draw(st.integers(0, n))
    bound = data.draw(st.integers(0, k))
    upper = n * exactly(n, special, k, range(bound + 1, k + 1))
    lower = n * exactly(n, special, k, range(bound))
    for found, exact in (
        (parameters._above(n, special, k, bound), upper),
        (parameters._below(n, special, k, bound), lower),
    ):
        expected = min(0.0, log2(exact.numerator) - log2(exact.denominator)) if exact else -inf
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("n", "k", "gone"), [(200, 20, 60), (200, 20, 20), (1000, 78, 150), (200, 20, 19)])
def test_the_bound_on_isolation_is_that_of_exact_fractions(n: int, k: int, gone: int) -> None:
    exact = Fraction(n * (n - k - 1), 2) * Fraction(comb(gone, k), comb(n, k))
    expected = log2(exact.numerator) - log2(exact.denominator) if exact else -inf
    assert parameters._disconnected(n, k, gone) == pytest.approx(expected, abs=1e-6)


def test_probabilities_of_explicit_parameters() -> None:
    """The benchmark's k = 28, t = 18 of 100 is enough; less of either is not, and says which."""
    policy = Policy()
    assert assess(100, 28, 18, policy).meets(policy)
    low = assess(100, 28, 16, policy)
    assert low.privacy > -41
    assert not low.meets(policy)
    high = assess(100, 28, 26, policy)
    assert high.correctness > -20
    assert not high.meets(policy)
    few = assess(100, 8, 6, policy)
    assert few.disconnected > -41


def test_explicit_parameters_of_a_complete_graph_hold_or_do_not() -> None:
    assert assess(20, 19, 14, Policy(dropout=0.2)).meets(Policy(dropout=0.2))
    assert assess(20, 19, 17, Policy(dropout=0.2)).correctness == 0
    assert assess(20, 19, 11, Policy(corrupt=0.2)).privacy == 0


def test_more_sigma_more_corruption_and_more_dropout_never_need_fewer_neighbours() -> None:
    def degree(policy: Policy) -> int:
        return choose(600, policy).neighbours

    assert degree(Policy(sigma=20)) <= degree(Policy(sigma=40)) <= degree(Policy(sigma=80))
    assert degree(Policy(corrupt=0.0)) <= degree(Policy(corrupt=0.05)) <= degree(Policy(corrupt=0.15))
    assert degree(Policy(dropout=0.0)) <= degree(Policy(dropout=0.1)) <= degree(Policy(dropout=0.3))


def test_a_dense_demand_falls_back_to_the_complete_graph() -> None:
    policy = Policy(dropout=0.4)
    assert sparsest(200, policy) is None
    assert choose(200, policy).complete


@pytest.mark.parametrize(
    ("n", "policy", "reason"),
    [
        (2, Policy(), "2 clients: a secure sum takes at least 3"),
        (5, Policy(smallest=6), "at least 6"),
        (MOST + 1, Policy(), "up to 65535"),
        (50, Policy(dropout=0.5), r"allow less of both: 2 \(1 - dropout\) > 1 \+ corrupt, or trust"),
        (1000, Policy(dropout=0.6), "526 clients must stay and 400 are sure to"),
        (3, Policy(dropout=0.34), "3 clients must stay and 2 are sure to; invite more clients"),
        (50, Policy(0.5, 0.6, mode=HONEST), "allow less of both: 1 - dropout > corrupt$"),
        (50, Policy(0.5, 0.6), "allow less of both: 2 [^,]*$"),
    ],
)
def test_where_nothing_can_be_chosen_the_way_out_is_told(n: int, policy: Policy, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        choose(n, policy)


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        ({"corrupt": -0.1}, "corrupt"),
        ({"corrupt": 1.0}, "corrupt"),
        ({"dropout": 1.5}, "dropout"),
        ({"dropout": float("nan")}, "dropout"),
        ({"sigma": -1}, "sigma"),
        ({"sigma": 200}, "sigma"),
        ({"smallest": 2}, "hides nobody"),
    ],
)
def test_policies_that_mean_nothing(given_: dict[str, float], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Policy(**given_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("k", "t", "reason"),
    [
        (27, 18, "neighbours=27"),
        (0, 2, "neighbours=0"),
        (int(DENSEST * 100) + 2, 60, "neighbours=72"),
        (28, 14, "takes 15 to 29"),
        (28, 30, "takes 15 to 29"),
        (99, 50, "takes 51 to 100"),
    ],
)
def test_explicit_parameters_that_cannot_be(k: int, t: int, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        assess(100, k, t, Policy())


def test_shares_of_clients_are_not_cut_by_floating_point() -> None:
    """0.29 * 100 is 28.999999999999996 in floating point."""
    assert Policy(corrupt=0.29).corrupt_of(100) == 29
    assert Policy(dropout=0.57).alive_of(100) == 43
    assert Policy(corrupt=0.05).corrupt_of(19) == 0


def test_who_is_lost_before_the_roster_is_lost_no_second_time() -> None:
    """Two of twenty may be lost: a session of the other eighteen goes on, and none of them may be lost."""
    policy = Policy().settled(20, 20)
    assert policy.smallest == 18
    assert [choose(n, policy).threshold for n in (18, 19, 20)] == [12, 13, 14]
    assert all(choose(n, policy).meets(policy) for n in (18, 19, 20))
    assert choose(20, Policy(smallest=20)).threshold == 14


def test_a_sparse_graph_is_as_dense_for_those_who_came() -> None:
    policy = Policy(sigma=40).settled(1000, 1000)
    assert policy.smallest == 900
    assert choose(1000, policy).neighbours == 78
    assert choose(900, policy).neighbours >= 70


def test_a_server_that_may_try_graphs_has_more_to_try() -> None:
    """It chooses who is in the roster, and so the graph's seed."""
    assert (Policy().sigma, Policy(mode=HONEST).sigma, Policy(sigma=40).sigma) == (80, 40, 40)
    assert (choose(1000, Policy()).neighbours, choose(1000, Policy()).threshold) == (96, 67)
    assert choose(100, Policy()).threshold == choose(100, Policy(sigma=40)).threshold


def test_what_is_set_by_hand_is_worth_the_same_wherever_it_is_asked() -> None:
    """Settings, header and floors: nobody of ten is corrupt by the policy, in a session one may be."""
    header = Header(
        *(Suite.AES, bytes(32), "job", 0, "train", 0, bytes(32), Encoding(1, 32, 1, ""), Policy(), 10, None),
        (0.0,) * 5,
        "roster",
        bytes(32),
    )
    for explicit, good in (((9, 7), True), ((2, 2), False)):
        for asked in (
            Floors(Policy(), explicit),
            SecAgg(explicit=explicit),
            replace(header, explicit=explicit),
        ):
            if good:
                assert asked.parameters(10).threshold == 7
            else:
                with pytest.raises(ConfigError, match="k=2, t=2 for 10 clients: secrecy fails"):
                    asked.parameters(10)


def test_a_graph_that_takes_too_much_memory_is_no_graph() -> None:
    """Every client computes it: a server must not make them all run out of memory, or search for minutes."""
    assert choose(MOST, Policy()).neighbours * MOST < parameters.MOST_ENTRIES
    for asked in (
        SecAgg(Policy(corrupt=0.45, dropout=0.5, mode=HONEST)),
        SecAgg(explicit=(40_000, 30_000)),
        SecAgg(explicit=(MOST - 1, 60_000)),
    ):
        with pytest.raises(ConfigError, match=r"65535 clients with \d+ neighbours each are too many"):
            asked.parameters(MOST)
