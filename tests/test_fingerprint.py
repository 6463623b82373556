"""What must be as it was: equal for equal runs, and a difference is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedkit import RoundPolicy
from fedkit.aggregate import Grid
from fedkit.codecs.none import Plain
from fedkit.fingerprint import differences, fingerprint
from fedkit.job import Job
from fedkit.tensors import Layout, Tensors
from fedkit_clients import NumpyWorkload, Softmax
from fedkit_strategies import FedAvg

BASE: Tensors = {"w": np.zeros(2, np.float32)}
WORKLOAD = NumpyWorkload(Softmax(4, 2), {"a": (np.eye(4, dtype=np.float32), np.arange(4) % 2)})
JOB = Job(
    FedAvg(), Plain(), Plain(), Layout.of(BASE), Layout((), (), ()), Grid(), {"lr": 0.1, "epochs": 1}, 0
)


def mark(**changes: Any) -> dict[str, str]:
    parts: dict[str, Any] = {
        "job": JOB,
        "policy": RoundPolicy(),
        "workload": WORKLOAD,
        "base": BASE,
        "clients": ("ann", "bob"),
        **changes,
    }
    return fingerprint(**parts)


def test_equal_runs_have_equal_fingerprints_in_any_order() -> None:
    turned = replace(JOB, settings={"epochs": 1, "lr": 0.1})
    assert mark() == mark(clients=("bob", "ann"), job=turned)
    assert differences(mark(), mark()) == ""


def test_what_differs_is_named_and_the_job_only_where_nothing_else_does() -> None:
    assert differences(mark(), mark(job=replace(JOB, model_seed=3))) == "seed was '0' and is '3'"
    told = differences(
        mark(), mark(policy=RoundPolicy(cohort=2, late="carry"), base={"w": np.ones(2, np.float32)})
    )
    assert [part.split(" was ")[0] for part in told.split(", ")] == [
        "the initial model",
        "rounds.cohort",
        "rounds.late",
    ]
    assert differences({"job": "a"}, {"job": "b"}) == "job was 'a' and is 'b'"


def test_how_many_failures_are_borne_may_change() -> None:
    assert differences(mark(), mark(policy=RoundPolicy(max_failures=99))) == ""


def test_what_only_one_side_has_is_a_difference() -> None:
    assert differences({"a": "1"}, {}) == "a was '1' and is 'unknown'"
    assert differences({}, {"a": "1"}) == "a was 'unknown' and is '1'"


@given(st.dictionaries(st.text(max_size=3), st.text(max_size=3)), st.dictionaries(st.text(), st.text()))
def test_no_difference_means_equal(a: dict[str, str], b: dict[str, str]) -> None:
    assert (differences(a, b) == "") == (a == b)
