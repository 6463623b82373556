"""Records become JSON lines and back."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import CheckpointError
from fedkit.history import Carried, Fate, History, Outcome, RoundRecord, SecureRecord

names = st.text(max_size=8)
outcomes = st.sampled_from(Outcome)
metrics = st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False), max_size=3)
seconds = st.floats(0, 1e12)
counts = st.integers(0, 2**40)
texts = st.lists(names, max_size=3).map(tuple)
secure = st.builds(
    SecureRecord,
    mode=names,
    suite=names,
    identities=names,
    width=counts,
    reached=st.dictionaries(names, counts, max_size=3),
    neighbours=counts,
    threshold=counts,
    colluding=counts,
    attempts=counts,
    aborts=texts,
    lost=st.dictionaries(names, texts, max_size=3),
    bytes_up=counts,
    bytes_down=counts,
    client_seconds=st.none() | seconds,
    server_seconds=seconds,
    verified=st.none() | st.booleans(),
    offenders=texts,
    quarantined=st.dictionaries(names, names, max_size=2),
)
records = st.builds(
    RoundRecord,
    round=st.integers(0, 999),
    ok=st.booleans(),
    reason=names,
    fates=st.dictionaries(names, st.builds(Fate, outcomes, names), max_size=4),
    carried=st.dictionaries(names, st.builds(Carried, st.integers(0, 9), outcomes, names), max_size=2),
    weight=st.floats(0, 1e9),
    train=metrics,
    metrics=metrics,
    virtual_start=seconds,
    virtual_end=seconds,
    wall_seconds=seconds,
    secagg=st.none() | secure,
    rungs=st.dictionaries(names, counts, max_size=3),
)


def record(round: int, ok: bool = True, **values: float) -> RoundRecord:
    """A short record with these metrics."""
    fates = {"a": Fate(Outcome.counted), "b": Fate(Outcome.lost, "crashed"), "c": Fate(Outcome.lost)}
    return RoundRecord(round, ok, "", fates, {}, 1.0, {}, values, 1, 2, 3, 0.0, 1.0, 0.1)


@given(records)
def test_a_line_gives_back_the_record(made: RoundRecord) -> None:
    line = made.to_json()
    assert "\n" not in line
    again = RoundRecord.from_json(line)
    assert again == made
    assert again.to_json() == line
    assert all(isinstance(fate.outcome, Outcome) for fate in again.fates.values())


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "null", "{}", '{"fates": 1}', '{"fates": {}, "carried": {}, "x": 1}']
)
def test_another_line_is_an_error_that_shows_it(line: str) -> None:
    with pytest.raises(CheckpointError, match="not a round record"):
        RoundRecord.from_json(line)


@given(secure, st.sampled_from([one.name for one in dataclasses.fields(SecureRecord)]), st.booleans())
def test_a_secure_record_with_another_field_is_an_error(made: SecureRecord, name: str, gone: bool) -> None:
    told = json.loads(dataclasses.replace(record(0), secagg=made).to_json())
    if gone:
        del told["secagg"][name]
    else:
        told["secagg"][name] = {"x": [1.5]}
    with pytest.raises(CheckpointError, match="not a round record"):
        RoundRecord.from_json(json.dumps(told))


def test_cpu_seconds_do_not_tell_secure_records_apart() -> None:
    base = SecureRecord("m", "s", "i", 32, {}, 4, 3, 1, 1, (), {}, 1, 2, 0.5, 0.25, None, ())
    assert dataclasses.replace(base, client_seconds=None, server_seconds=9.0) == base
    assert dataclasses.replace(base, bytes_up=2) != base


def test_a_line_from_before_secure_rounds_is_read() -> None:
    told = json.loads(record(0).to_json())
    del told["secagg"]
    assert RoundRecord.from_json(json.dumps(told)) == record(0)


def test_an_unknown_outcome_is_an_error() -> None:
    fields = json.loads(record(0).to_json())
    fields["fates"]["a"]["outcome"] = "eaten"
    with pytest.raises(CheckpointError, match="eaten"):
        RoundRecord.from_json(json.dumps(fields))


def test_counts_by_outcome() -> None:
    made = record(0)
    assert [made.count(o) for o in (Outcome.counted, Outcome.lost, Outcome.late)] == [1, 2, 0]


def test_series_start_at_the_initial_evaluation() -> None:
    rounds = [record(0, accuracy=0.5), record(1), record(2, accuracy=0.75)]
    history = History({"accuracy": 0.1}, rounds)
    assert history.series("accuracy") == [(0, 0.1), (1, 0.5), (3, 0.75)]
    assert History({}, rounds).series("accuracy") == [(1, 0.5), (3, 0.75)]
    assert history.series("loss") == []


@given(st.lists(st.booleans(), max_size=12))
def test_failures_in_a_row_are_those_at_the_end(oks: list[bool]) -> None:
    history = History({}, [record(n, ok) for n, ok in enumerate(oks)])
    text = "".join("x" if ok else "-" for ok in oks)
    assert history.failures_in_a_row == len(text) - len(text.rstrip("-"))


def test_records_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        record(0).ok = False  # type: ignore[misc]


def test_a_number_that_is_not_finite_is_null_in_the_line() -> None:
    line = record(0, loss=math.nan, accuracy=0.5).to_json()
    assert "NaN" not in line
    assert '"loss":null' in line
    again = RoundRecord.from_json(line).metrics
    assert math.isnan(again["loss"])
    assert again["accuracy"] == 0.5
