"""When a run has failed: read off its history alone, so that a resumed run fails as it would have."""

from __future__ import annotations

from fedkit.federation import Federation, RoundPolicy, mends
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


def fewest_to_end(federation: Federation, registered: int) -> int:
    """How many clients must have failed, while no other answered, for the run to end; 0: none are enough.

    Several that fail at once in a simulation have met an error in code, in whatever round it shows. Where
    devices can be mended, whatever they say is a reason to wait.
    """
    return 0 if mends(federation) else min(2, registered)


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
