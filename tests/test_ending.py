"""When a run has failed, by its history alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fedkit import History, RoundPolicy, RoundRecord
from fedkit.ending import fewest_to_end, why_fruitless, why_hopeless
from fedkit.history import Fate, Outcome


def record(number: int, ok: bool, fatal: str = "", outcome: Outcome = Outcome.failed) -> RoundRecord:
    fates = {"ann": Fate(Outcome.counted), "bob": Fate(outcome, "why")}
    reason = "" if ok else "the reason"
    return RoundRecord(
        number, ok, reason, fates, {}, 0.0, {}, {}, 0, 0, 0, 0.0, 0.0, 0.0, bytes_down_float32=0, fatal=fatal
    )


@given(st.lists(st.booleans(), max_size=9), st.integers(1, 4))
def test_a_run_is_hopeless_after_so_many_failed_rounds_in_a_row(good: list[bool], most: int) -> None:
    history = History({}, [record(i, ok) for i, ok in enumerate(good)])
    ends_so = good[-most:] == [False] * most
    assert bool(why_hopeless(history, RoundPolicy(max_failures=most))) == ends_so
    assert bool(why_fruitless(history)) == (bool(good) and not any(good))


def test_the_reason_gives_an_example_and_advice_where_clients_are_missing() -> None:
    policy = RoundPolicy(max_failures=1)
    failed = why_hopeless(History({}, [record(0, False)]), policy)
    assert failed == ("1 rounds in a row have failed, the last because the reason (client 'bob' failed: why)")
    lost = why_hopeless(History({}, [record(0, False, outcome=Outcome.lost)]), policy)
    assert lost.endswith("or allow more with rounds.max_failures")


def test_who_may_end_a_run() -> None:
    """Not one of several, and nobody where devices can be mended."""
    federation: Any = SimpleNamespace()
    assert [fewest_to_end(federation, clients) for clients in (1, 2, 300)] == [1, 2, 2]
    federation.pause = lambda failures, reason: None
    assert fewest_to_end(federation, 300) == 0


def test_what_is_fatal_is_so_whatever_the_policy_and_the_round() -> None:
    history = History({}, [record(0, True), record(1, True, "all failed")])
    assert why_hopeless(history, RoundPolicy(max_failures=99)) == "all failed"
