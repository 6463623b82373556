"""What a run tells its observers.

An observer is any object with some of the methods `run_started`, `round_started`, `replied`,
`round_ended`, `evaluated`, `run_ended`; each takes the event. Missing methods are skipped; one whose
name is nearly that of an event is warned of when the run starts. A method that returns a string stops
the run after the current round, with that string as the reason.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias

from fedkit.errors import ConfigError, shown
from fedkit.federation import Plan
from fedkit.history import Fate, History, RoundRecord
from fedkit.job import Job
from fedkit.messages import ClientId, Failure, Metrics
from fedkit.tensors import Tensors
from fedkit.usercode import called


@dataclass(frozen=True)
class RunStarted:
    """rounds: how many there will be in all. history: what a resumed run has behind it."""

    job: Job
    rounds: int
    history: History


@dataclass(frozen=True)
class RoundStarted:
    """The plan is durable; tasks are about to be sent."""

    plan: Plan


@dataclass(frozen=True)
class Replied:
    """A client's fate in this round is known. failure is set when it answered with one."""

    round: int
    client: ClientId
    fate: Fate
    counted: int
    want: int
    failure: Failure | None = None


@dataclass(frozen=True)
class Evaluated:
    """`rounds` rounds are done; model is the whole model that was evaluated."""

    rounds: int
    metrics: Metrics
    model: Tensors
    history: History


@dataclass(frozen=True)
class RoundEnded:
    """The round is over; its checkpoint, if there is a run folder, is on disk."""

    record: RoundRecord
    history: History


@dataclass(frozen=True)
class RunEnded:
    """stopped: why the run ended before its last round; empty if it did not."""

    history: History
    model: Tensors
    stopped: str


log = logging.getLogger("fedkit")

Event: TypeAlias = RunStarted | RoundStarted | Replied | Evaluated | RoundEnded | RunEnded

_METHOD: Mapping[type[object], str] = {
    RunStarted: "run_started",
    RoundStarted: "round_started",
    Replied: "replied",
    Evaluated: "evaluated",
    RoundEnded: "round_ended",
    RunEnded: "run_ended",
}


def emit(observers: Sequence[object], event: Event) -> str:
    """Tell all observers; the first non-empty string that one returns, else the empty string."""
    if isinstance(event, RunStarted):
        _warn_of_misspelt(observers)
    stop = ""
    for observer in observers:
        name = _METHOD[type(event)]
        method = getattr(observer, name, None)
        if method is None:
            continue
        with called(f"observer {type(observer).__name__}.{name}"):
            answer: object = method(event)
        if isinstance(answer, str) and answer and not stop:
            stop = answer
    return stop


def check_observers(observers: object) -> tuple[object, ...]:
    """The observers; ConfigError for what could never be told of an event."""
    what = f"an observer is an object with some of the methods {', '.join(_METHOD.values())}"
    if not isinstance(observers, Sequence) or isinstance(observers, str):
        raise ConfigError(f"observers is {shown(observers)}: give a list; {what}")
    for observer in observers:
        if isinstance(observer, type):
            raise ConfigError(f"observer {observer.__name__} is a class: give an instance of it")
        methods = [getattr(observer, name) for name in _METHOD.values() if hasattr(observer, name)]
        if not methods or not all(map(callable, methods)):
            raise ConfigError(f"observer {shown(observer)} cannot be told of any event: {what}")
    return tuple(observers)


def _warn_of_misspelt(observers: Sequence[object]) -> None:
    """One warning for each public method that is no event, but looks like one."""
    for observer in observers:
        for name in dir(observer):
            meant = get_close_matches(name.removeprefix("on_"), _METHOD.values(), n=1, cutoff=0.75)
            if name.startswith("_") or name in _METHOD.values() or not meant or hasattr(observer, meant[0]):
                continue
            if callable(inspect.getattr_static(observer, name)):
                text = "observer %s: %s() is never called; did you mean %s()?"
                log.warning(text, type(observer).__name__, name, meant[0])
