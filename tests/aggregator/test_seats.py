"""Places for devices: kept but for revocation, and given to who waits longest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedkit.aggregator.seats import Seats, seated

ROWS = st.lists(
    st.tuples(st.sampled_from("abcde"), st.integers(0, 99).map(str)), unique_by=lambda row: row[1]
)


def test_who_comes_first_has_a_place() -> None:
    rows = [("b", "1"), ("a", "2"), ("b", "3"), ("c", "4")]
    assert seated(rows, set(), 2) == Seats(2, ("b", "a"), ("c",))
    assert seated(rows, set(), 5).free == 2
    assert seated(rows, set(), 0) == Seats(0, ("b", "a", "c"))


def test_who_is_revoked_leaves_its_place_and_comes_last_when_it_joins_again() -> None:
    rows = [("b", "1"), ("a", "2"), ("c", "3")]
    assert seated(rows, {"1"}, 2) == Seats(2, ("a", "c"), (), ("b",))
    assert seated([*rows, ("b", "4")], {"1"}, 2) == Seats(2, ("a", "c"), ("b",))


@given(rows=ROWS, room=st.integers(0, 5), revoked=st.sets(st.integers(0, 99).map(str)), data=st.data())
def test_nobody_loses_a_place_but_by_being_revoked(
    rows: list[tuple[str, str]], room: int, revoked: set[str], data: st.DataObject
) -> None:
    before = seated(rows, revoked, room)
    more = data.draw(ROWS.map(lambda rows: [(client, f"new {serial}") for client, serial in rows]))
    gone = data.draw(st.sets(st.sampled_from([serial for _, serial in rows] or ["none"])))
    after = seated([*rows, *more], revoked | gone, room)
    hit = {client for client, serial in rows if serial in gone}
    assert {*before.held} - hit <= {*after.held}
    assert len(after.held) <= room or not room
    assert {*after.held, *after.waiting, *after.left} == {client for client, _ in [*rows, *more]}
    assert len(after.held) + len(after.waiting) + len(after.left) == len({c for c, _ in [*rows, *more]})
    assert not (after.waiting and after.free), "nobody waits beside a free place"
