"""A secure sum that was written down is the same again, for its own round alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fedkit.aggregate import Grid, WeightedSum
from fedkit.collect import Collected
from fedkit.federation import Plan, Verdict
from fedkit.history import Fate, Outcome, SecureRecord
from fedkit.messages import Key, Kind, Task, Update
from fedkit.sums import once
from fedkit.tensors import Layout

LAYOUT, EXTRAS = Layout(("w",), ((3,),), ("float32",)), Layout(("c",), ((2,),), ("float32",))
RECORD = SecureRecord(
    *("lying_server", "aes", "roster", 64, {"mask": 3}, 2, 2, 1, 1, (), {"share": ("d",)}, 10, 20, None, 0.5),
    *(None, ("d: liar",), {"d": "two messages"}),
)


@dataclass
class Memory:
    """Keeps sums where tests can spoil them."""

    sums: dict[Kind, bytes] = field(default_factory=dict)

    def keep(self, kind: Kind, data: bytes) -> None:
        self.sums[kind] = data

    def kept(self, kind: Kind) -> bytes | None:
        return self.sums.get(kind)


class Durable:
    durable = True


class Job:
    id = "job"


def tasks(round: int = 4, kind: Kind = "train") -> dict[Key, Task]:
    keys = [Key("job", round, kind, "", 0, client) for client in ("a", "b", "d")]
    return {key: Task(key, 1, {}, {}, {}, 5, 1.0, 9.0) for key in keys}


def zero() -> WeightedSum:
    return WeightedSum(LAYOUT, Grid(), EXTRAS)


def collected(given: Mapping[Key, Task]) -> Collected:
    total = zero()
    for n, client in enumerate("ab"):
        delta, extras = {"w": np.full(3, n - 0.25, np.float32)}, {"c": np.full(2, -n, np.float32)}
        total.add(client, Update(delta, 2.0 + n, {"loss": -1.5}, extras))
    fates = {c: Fate(Outcome.counted, "") for c in "ab"} | {"d": Fate(Outcome.lost, "at share")}
    verdicts = {key: Verdict.lost if key.client == "d" else Verdict.counted for key in given}
    return Collected(total, fates, verdicts=verdicts, counted=2, secagg=RECORD)


@dataclass
class Round:
    """One round, asked for again and again."""

    memory: Memory = field(default_factory=Memory)
    runs: int = 0
    told: list[str] = field(default_factory=list)

    def ask(self, round: int = 4, kind: Kind = "train", federation: Any = Durable) -> Collected:
        def run(given: Mapping[Key, Task]) -> Collected:
            self.runs += 1
            return collected(given)

        job: Any = Job()
        plan = Plan(round, 0.0, 9.0, ("a", "b", "d"), 3, 1, {})
        notify = lambda client, fate, counted, failure: self.told.append(client)  # noqa: E731
        about = (job, plan, zero(), notify)
        return once(run, self.memory, federation(), about, tasks(round, kind))


def test_it_is_the_same_again() -> None:
    one = Round()
    first, again = one.ask(), one.ask()
    assert one.runs == 1
    for mine, other in zip(first.total.parts()[:2], again.total.parts()[:2], strict=True):
        assert mine.tobytes() == other.tobytes()
    assert first.total.parts()[2:] == again.total.parts()[2:]
    assert (first.total.clients, first.fates, first.verdicts, first.counted, first.secagg) == (
        *(again.total.clients, again.fates, again.verdicts, again.counted, again.secagg),
    )
    assert one.told == ["a", "b", "d"]


def test_another_round_and_another_kind_are_made_anew() -> None:
    one = Round()
    for round, kind in ((4, "train"), (5, "train"), (5, "evaluate"), (5, "train")):
        one.ask(round, kind)  # type: ignore[arg-type]
    assert one.runs == 3


@pytest.mark.parametrize("cut", [0, 7, 40, -1])
def test_one_that_is_damaged_is_made_anew(cut: int) -> None:
    one = Round()
    one.ask()
    one.memory.sums["train"] = one.memory.sums["train"][:cut]
    one.ask()
    assert one.runs == 2


def test_a_federation_that_dies_with_the_process_begins_the_round_again() -> None:
    one = Round()
    one.ask(federation=object)
    one.ask(federation=object)
    assert (one.runs, one.memory.sums) == (2, {})
