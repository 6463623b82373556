"""When a run has failed: read off its history alone, so that a resumed run fails as it would have."""

from __future__ import annotations

from fedkit.federation import RoundPolicy
from fedkit.history import History, Outcome, RoundRecord


def why_hopeless(history: History, policy: RoundPolicy) -> str:
    """Why no further round may begin; empty if one may."""
    if not history.rounds:
        return ""
    last = history.rounds[-1]
    if last.fatal:
        return last.fatal
    failures = history.failures_in_a_row
    if failures < policy.max_failures:
        return ""
    missing = last.count(Outcome.lost) + last.count(Outcome.late)
    advice = "; lower rounds.quorum, raise rounds.deadline or rounds.over_select, or allow more with "
    return (
        f"{failures} rounds in a row have failed, the last because {last.reason}{_example(last)}"
        f"{advice + 'rounds.max_failures' if missing else ''}"
    )


def why_fruitless(history: History) -> str:
    """Why a run that had all its rounds has failed: not one was good, however few there were."""
    done = history.rounds
    if not done or any(record.ok for record in done):
        return ""
    return (
        f"none of {len(done)} rounds succeeded; the last failed because {done[-1].reason}{_example(done[-1])}"
    )


def _example(record: RoundRecord) -> str:
    """One of the clients that were not counted, and why."""
    for client, fate in record.fates.items():
        if fate.outcome is not Outcome.counted:
            return f" (client {client!r} {fate.outcome.value}: {fate.why})"
    return ""
