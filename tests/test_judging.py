"""The record of a round, and the place of a fatal cause."""

from __future__ import annotations

import numpy as np
import pytest

from fedkit import Grid, Update
from fedkit.codecs.none import Plain
from fedkit.collect import Collected
from fedkit.federation import Plan, Traffic
from fedkit.history import Carried, Fate, Outcome
from fedkit.job import Job
from fedkit.judging import fatal_cause, make_record
from fedkit.measuring import Measured
from fedkit.messages import Failure, Key
from fedkit.tensors import Layout
from fedkit_strategies import FedAvg

LAYOUT = Layout(("w",), ((5,),), ("float32",))
JOB = Job(FedAvg(), Plain(), Plain(), LAYOUT, Layout((), (), ()), Grid(), {}, 0)
PLAN = Plan(2, 10.0, 20.0, ("ann", "bob"), 2, 1, {"ann": 7, "bob": 8})


def collected() -> Collected:
    got = Collected(JOB.zero())
    for client in ("ann", "old"):
        got.total.add(client, Update({"w": np.ones(5, np.float32)}, 2.0, {"loss": 0.5}))
    got.counted = 1
    got.fates = {"ann": Fate(Outcome.counted), "bob": Fate(Outcome.lost, "no reply")}
    got.carried = {"old": Carried(1, Outcome.counted, "1 rounds late")}
    return got


def test_a_record_says_what_the_round_came_to() -> None:
    got, spent = collected(), Traffic(100, 200) - Traffic(40, 50)
    good = make_record(JOB, PLAN, got, "", Measured({"accuracy": 0.5}), spent, 15.0, 0.25)
    assert (good.ok, good.reason, good.fatal, good.weight, good.train) == (True, "", "", 4.0, {"loss": 0.5})
    assert (good.bytes_up, good.bytes_down) == (60, 150)
    assert (good.bytes_up_float32, good.bytes_down_float32) == (2 * 20, 2 * 20)  # counted, invited
    assert (good.virtual_start, good.virtual_end, good.wall_seconds) == (10.0, 15.0, 0.25)
    failed = make_record(JOB, PLAN, got, "why", Measured({}), spent, 15.0, 0.25)
    assert (failed.ok, failed.reason, failed.carried["old"].outcome) == (False, "why", Outcome.unwanted)


@pytest.mark.parametrize(
    ("detail", "told"),
    [
        ("", "exception: KeyError"),
        ("Traceback:\nKeyError: 'x'\n", "exception: KeyError: 'x'"),
        (
            '  File "/me/a b.py", line 12, in f\n    g()\nKeyError: 1\n',
            "exception: KeyError: 1 (/me/a b.py:12)",
        ),
        ('  File "/x/site-packages/torch/a.py", line 12, in f\nKeyError: 1\n', "exception: KeyError: 1"),
    ],
)
def test_the_cause_is_told_in_a_line_with_its_place(detail: str, told: str) -> None:
    got = Collected(JOB.zero())
    got.first_failure = Failure(Key("j", 0, "train", "", 0, "ann"), "exception", "KeyError", "", detail)
    got.fates = {"ann": Fate(Outcome.failed, "x")}
    assert fatal_cause(got, 1) == f"all 1 client of the round failed, 'ann' first: {told}"


def test_a_failure_on_purpose_is_told_by_its_code_once() -> None:
    got = Collected(JOB.zero())
    detail = "Traceback:\nfedkit.errors.ClientFailed: no_data: 'examples' are none\n"
    got.first_failure = Failure(
        Key("j", 0, "train", "", 0, "ann"), "no_data", "ClientFailed", "examples", detail
    )
    got.fates = {"ann": Fate(Outcome.failed, "x")}
    assert fatal_cause(got, 1).endswith("first: no_data: 'examples' are none")


@pytest.mark.parametrize(
    ("code", "subject", "fatal"),
    [
        ("refused", "second sum", False),
        ("refused", "attempt", False),
        ("refused", "model", True),
        ("x", "sid", True),
    ],
)
def test_a_session_too_many_is_no_reason_to_end_the_run(code: str, subject: str, fatal: bool) -> None:
    got = Collected(JOB.zero())
    got.first_failure = Failure(Key("j", 0, "train", "", 0, "ann"), code, "ProtocolRefused", subject)
    got.fates = {"ann": Fate(Outcome.failed, "x")}
    assert bool(fatal_cause(got, 1)) is fatal
