"""Waits: exponential, bounded, different for each client, and as long as the server asks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedkit_clients.edge.backoff import CAP, LONGEST, Backoff


def test_waits_are_uniform_below_a_ceiling_that_doubles() -> None:
    many = [[backoff.wait() for _ in range(12)] for backoff in (Backoff(f"c{i}") for i in range(200))]
    for n, waits in enumerate(zip(*many, strict=True)):
        ceiling = min(CAP, 0.5 * 2**n)
        assert max(waits) < ceiling
        assert 0.4 < sum(waits) / len(waits) / ceiling < 0.6
        assert min(waits) < 0.1 * ceiling


def test_after_a_success_it_begins_anew() -> None:
    backoff = Backoff("c")
    for _ in range(50):
        backoff.wait()
    backoff.reset()
    assert backoff.wait() < 0.5


@given(st.floats(allow_nan=False), st.integers(0, 2000))
def test_what_the_server_asks_is_granted_within_reason(asked: float, failures: int) -> None:
    backoff = Backoff("c")
    backoff.failures = failures
    wait = backoff.wait(asked)
    assert min(max(asked, 0.0), LONGEST) <= wait <= LONGEST + CAP


def test_two_clients_do_not_come_back_together() -> None:
    assert Backoff("a").wait() != Backoff("b").wait()
