"""What all tests share: required data, Ctrl-C that is heard, programs that start fast, traced runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, settings

from fedkit.events import Evaluated
from fedkit.federation import Arrival
from fedkit.history import History, Outcome
from fedkit.launch import build, run_built
from fedkit.messages import ClientId
from fedkit.scenario import read
from fedkit.strategy import Strategy
from fedkit_simulations.engine import Simulation

# no test depends on how fast the machine is
settings.register_profile("fedkit", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fedkit")


def pytest_configure() -> None:
    """A shell ignores SIGINT for what it runs in the background, and so would programs that tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of programs are started: compiled once


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With FEDKIT_REQUIRE_DATA set, a data test that was skipped has failed."""
    report = yield
    required = os.environ.get("FEDKIT_REQUIRE_DATA")
    if required and report.skipped and item.get_closest_marker("data") is not None:
        report.outcome = "failed"
        report.longrepr = f"skipped although FEDKIT_REQUIRE_DATA is set: {report.longrepr}"
    return report


@dataclass
class Traced:
    """A run and the bits of the model whenever it was evaluated, the first one included."""

    history: History = field(default_factory=History)
    models: list[dict[str, bytes]] = field(default_factory=list)

    @property
    def members(self) -> dict[int, set[ClientId]]:
        """Per round the clients whose updates are in the model."""
        return {
            record.round: {c for c, fate in record.fates.items() if fate.outcome is Outcome.counted}
            for record in self.history.rounds
        }

    def evaluated(self, event: Evaluated) -> None:
        self.models.append({name: array.tobytes() for name, array in event.model.items()})


class Survivors(Simulation):
    """In every round these clients alone are heard."""

    members: Mapping[int, Set[ClientId]]

    def receive(self, until: float, want: int | None = None) -> Iterator[Arrival]:
        for arrival in super().receive(until, want):
            if arrival.key.kind != "train" or arrival.key.client in self.members[arrival.key.round]:
                yield arrival


def _trace(
    name: str,
    settings: Sequence[str],
    members: Mapping[int, Set[ClientId]] | None = None,
    strategy: Strategy | None = None,
) -> Traced:
    scenario, traced = read(name, settings), Traced()
    built = build(scenario)
    built = replace(built, strategy=strategy or built.strategy)
    if members is not None:
        made = Survivors(built.workload, seed=scenario.seed, links=scenario.links, devices=scenario.devices)
        made.members = members
        built = replace(built, federation=made)
    traced.history = run_built(scenario, built, observers=[traced]).history
    return traced


@pytest.fixture
def trace() -> Callable[..., Traced]:
    """Runs a scenario: its name, settings, per round who survives (None: whoever does), another strategy."""
    return _trace
