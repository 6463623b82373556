"""Who is named for wrong shares: nobody who could be honest among as many liars as a session stands."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedkit.secagg.blame import WRONG_SHARE, WRONG_SHARES, Offence, known, wrong_shares

NAMES = [f"c{at}" for at in range(10)]


def test_of_one_wrong_share_either() -> None:
    assert wrong_shares([(3, 1)], 2, NAMES, 3) == (Offence(("c1", "c3"), WRONG_SHARE),)
    assert wrong_shares([(3, 1), (1, 3)], 2, NAMES, 3) == (Offence(("c1", "c3"), WRONG_SHARE),)
    assert str(wrong_shares([(3, 1)], 2, NAMES, 3)[0]) == "c1 or c3: a wrong share"


def test_a_wrong_share_of_its_own() -> None:
    assert wrong_shares([(4, 4)], 2, NAMES, 3) == (Offence(("c4",), WRONG_SHARES),)


def test_more_than_may_be_bad() -> None:
    """A holder of wrong shares of three, where two may lie; an owner whose shares were wrong with three."""
    pairs = {(1, 0), (2, 0), (3, 0), (9, 5), (9, 6), (9, 7), (2, 7)}
    assert known(pairs, 2) == {0, 9}
    assert known(pairs, 3) == set()
    assert [str(made) for made in wrong_shares(pairs, 2, NAMES, 3)] == [
        "c0: wrong shares",
        "c9: wrong shares",
        "c2 or c7: a wrong share",
    ]


def test_as_many_as_a_session_stands_could_have_bent_them() -> None:
    told = [str(made) for made in wrong_shares([(3, 1), (4, 4)], 2, NAMES, 2)]
    assert told == ["c4: wrong shares, unless 2 others lied", "c1 or c3: a wrong share, unless 2 others lied"]


CLIENT = st.integers(0, 9)


@given(liars=st.sets(CLIENT, max_size=3), pairs=st.lists(st.tuples(CLIENT, CLIENT), max_size=60))
def test_no_honest_client_is_known_to_lie(liars: set[int], pairs: list[tuple[int, int]]) -> None:
    """Every wrong share has a liar at one end; up to three may lie."""
    true = [pair for pair in pairs if liars & set(pair)]
    assert known(true, 3) <= liars
    for made in wrong_shares(true, 3, NAMES, 4):
        assert {NAMES[liar] for liar in liars} & set(made.clients)
