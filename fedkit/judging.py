"""What a round came to: whether it failed and why, and its record."""

from __future__ import annotations

import re
from collections import Counter

from fedkit.collect import Collected, told
from fedkit.errors import many
from fedkit.federation import Plan, Traffic, Verdict
from fedkit.history import Carried, Outcome, RoundRecord
from fedkit.job import Job
from fedkit.measuring import Measured
from fedkit.messages import ClientId, Failure, Key
from fedkit.usercode import where

_PASSING = ("attempt", "attempts", "second sum", "sid", "task")
"""Rules of secure sessions that clients hold against a server that was restarted: the next round is free."""

_FRAME = re.compile(r'^ *File "(.+)", line (\d+)', re.M)


def verdicts(got: Collected, ok: bool) -> dict[Key, Verdict]:
    """What clients are told: a failed round throws its sum away, so nobody was counted after all."""
    if ok:
        return dict(got.verdicts)
    return {k: Verdict.unwanted if v is Verdict.counted else v for k, v in got.verdicts.items()}


def counted_replies(got: Collected) -> int:
    """Updates in the sum, carried ones included."""
    return got.counted + sum(c.outcome is Outcome.counted for c in got.carried.values())


def carried_fates(got: Collected, ok: bool) -> dict[ClientId, Carried]:
    """What became of carried updates: in a failed round they went with its sum."""
    if ok:
        return dict(got.carried)
    gone = "the round that it came in failed"
    return {
        client: Carried(c.round, Outcome.unwanted, gone) if c.outcome is Outcome.counted else c
        for client, c in got.carried.items()
    }


def why_failed(got: Collected, plan: Plan) -> str:
    """Why this round leaves the model unchanged; empty if it does not."""
    if not plan.cohort and not got.total.clients:
        return "no client could be reached"
    if got.aborted:
        return got.aborted
    late = counted_replies(got) - got.counted
    if got.counted + late < plan.quorum and plan.cohort:
        carried = f" and {late} late" if late else ""
        return (
            f"{got.counted} of {len(plan.cohort)} invited clients{carried} were counted, "
            f"the quorum is {plan.quorum}"
        )
    if got.total.weight_integer == 0:
        return "the weights of all counted updates are zero"
    return ""


def fatal_cause(got: Collected, fewest: int) -> str:
    """The first cause, if every client that answered failed and they are half of the invited or more.

    fewest: so many at least (ending.py); 0: never. Whoever is lost or late says nothing against the cause: a
    typo must not hide behind a dropout. That a session was one too many is no cause: it holds for its round
    only.
    """
    first, fates = got.first_failure, Counter(fate.outcome for fate in got.fates.values())
    failed = fates[Outcome.failed]
    others = len(got.fates) - failed - fates[Outcome.lost] - fates[Outcome.late]
    if first is None or (first.code == "refused" and first.subject in _PASSING):
        return ""
    if others or not fewest or failed < fewest or 2 * failed < len(got.fates):
        return ""
    who = (
        f"all {many(failed, 'client')} of the round failed"
        if failed == len(got.fates)
        else f"{many(failed, 'client')} answered and failed, {len(got.fates) - failed} did not answer"
    )
    return f"{who}, {first.key.client!r} first: {told(first)}{_where(first)}"


def _where(failure: Failure) -> str:
    """Where the user's code raised; the log has the traceback."""
    return where([(file, int(line)) for file, line in _FRAME.findall(failure.detail)])


def make_record(
    job: Job,
    plan: Plan,
    got: Collected,
    reason: str,
    measured: Measured,
    spent: Traffic,
    end: float,
    wall: float,
    fatal: str = "",
) -> RoundRecord:
    """The record of a round. spent: its bytes. end: when it ended. wall: seconds on our clock."""
    model = 4 * job.layout.size
    return RoundRecord(
        round=plan.round,
        ok=not reason,
        reason=reason,
        fates=got.fates,
        carried=carried_fates(got, not reason),
        weight=got.total.weight,
        train=dict(got.total.metrics),
        metrics=measured.metrics,
        bytes_up=spent.up,
        bytes_down=spent.down,
        bytes_up_float32=model * counted_replies(got),
        bytes_down_float32=model * len(plan.cohort),
        virtual_start=plan.start,
        virtual_end=end,
        wall_seconds=wall,
        fatal=fatal,
        secagg=got.secagg,
        rungs=dict(sorted(got.rungs.items())),
        secagg_evaluate=measured.secagg,
    )
