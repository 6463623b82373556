"""Observers are plain objects; what they return may stop the run."""

from __future__ import annotations

import logging

import pytest

from fedkit.aggregate import Grid
from fedkit.codecs.none import Plain
from fedkit.errors import RunFailed
from fedkit.events import Evaluated, Event, Replied, RoundEnded, RoundStarted, RunEnded, RunStarted, emit
from fedkit.federation import Plan
from fedkit.history import Fate, History, Outcome, RoundRecord
from fedkit.job import Job
from fedkit.tensors import Layout
from fedkit_strategies import FedAvg

HISTORY = History()
LAYOUT = Layout(("w",), ((2,),), ("float32",))
JOB = Job(FedAvg(), Plain(), Plain(), LAYOUT, Layout((), (), ()), Grid(), {}, 0)
RECORD = RoundRecord(0, True, "", {}, {}, 1.0, {}, {}, 1, 2, 3, 0.0, 1.0, 0.1)
EVENTS: dict[str, Event] = {
    "run_started": RunStarted(JOB, 10, HISTORY),
    "round_started": RoundStarted(Plan(0, 0.0, 60.0, ("a",), 1, 1, {"a": 7})),
    "replied": Replied(0, "a", Fate(Outcome.counted), 1, 1),
    "evaluated": Evaluated(1, {"accuracy": 0.5}, {}, HISTORY),
    "round_ended": RoundEnded(RECORD, HISTORY),
    "run_ended": RunEnded(HISTORY, {}, ""),
}


class Recorder:
    """Notes the name of each method and its event."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, object]] = []

    def __getattr__(self, name: str) -> object:
        return lambda event: self.seen.append((name, event))


class Stopper:
    """Answers one method."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def round_ended(self, event: RoundEnded) -> object:
        return self.answer


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_each_event_has_its_method(name: str) -> None:
    recorder = Recorder()
    assert emit([recorder, recorder], EVENTS[name]) == ""
    assert recorder.seen == [(name, EVENTS[name])] * 2


def test_missing_methods_are_skipped() -> None:
    assert emit([object(), Stopper("enough")], EVENTS["replied"]) == ""


@pytest.mark.parametrize(
    ("answers", "reason"),
    [(["enough"], "enough"), (["", "late", "later"], "late"), ([None, 0, True, ["x"]], ""), ([], "")],
)
def test_the_first_string_stops_and_all_are_told(answers: list[object], reason: str) -> None:
    recorder = Recorder()
    assert emit([*map(Stopper, answers), recorder], EVENTS["round_ended"]) == reason
    assert len(recorder.seen) == 1


def test_an_error_of_an_observer_is_not_swallowed() -> None:
    class Broken:
        def round_ended(self, event: RoundEnded) -> None:
            raise RuntimeError("disk full")

    with pytest.raises(
        RunFailed, match=r"observer Broken\.round_ended raised RuntimeError: disk full \(.*py:\d+\)"
    ):
        emit([Broken()], EVENTS["round_ended"])


def test_a_method_that_is_nearly_an_event_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    class Misspelt:
        round_ends = 3

        def on_round_end(self, event: RoundEnded) -> None: ...

        def run_start(self, event: RunStarted) -> None: ...

        def replied(self, event: Replied) -> None: ...

        def reply(self) -> None: ...

        def rounds_so_far(self) -> int:
            return 0

    with caplog.at_level(logging.WARNING, "fedkit"):
        for name in ("run_started", "replied", "round_ended"):
            emit([Misspelt(), Recorder()], EVENTS[name])
    assert sorted(record.getMessage() for record in caplog.records) == [
        "observer Misspelt: on_round_end() is never called; did you mean round_ended()?",
        "observer Misspelt: run_start() is never called; did you mean run_started()?",
    ]
