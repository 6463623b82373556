"""A run that is served to devices: uvicorn in a thread, the training loop in the main one."""

from __future__ import annotations

import logging
import math
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from fedkit.aggregator.app import App
from fedkit.aggregator.connections import Places, room
from fedkit.aggregator.deployed import Deployed
from fedkit.aggregator.desk import Desk
from fedkit.aggregator.desk import opened as opened_desk
from fedkit.aggregator.federation import EdgeFederation
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.listener import Listener
from fedkit.aggregator.logs import logged
from fedkit.aggregator.memory import give_back
from fedkit.aggregator.meters import Meters
from fedkit.aggregator.persevering import persevering
from fedkit.aggregator.progress import Progress
from fedkit.aggregator.registry import Registry
from fedkit.aggregator.service import Service
from fedkit.config import Rounds, Scenario
from fedkit.errors import ConfigError, RunFailed
from fedkit.federation import RoundPolicy
from fedkit.launch import Built, build, run_built
from fedkit.rounds import Result, default_grid

log = logging.getLogger("fedkit")

GRACE = 20.0
"""Seconds that a finished run waits for clients to fetch the last verdicts."""
BEAT = 10.0
"""Seconds between two notes in the journal that the aggregator stays."""


@dataclass(frozen=True)
class Station:
    """An aggregator that answers devices: before its run, while it goes on, and after it. most: room for so
    many devices.
    """

    scenario: Scenario
    service: Service
    built: Built
    journal: Journal
    registry: Registry
    progress: Progress
    most: int

    def run(self, *, out: Path, resume: bool = False, observers: Sequence[object] = ()) -> Result:
        """Run the scenario, once as many devices are there as it takes.

        While the disk cannot be written it waits. Raises what `fedkit.run` raises; ConfigError before
        round 0.
        """
        _warn(self.scenario, self.built, self.service)
        _await_devices(self.journal, self.registry, self.built, self.most, self.progress)
        by = "of a CA" if self.service.trust.kind == "ca" else ""  # not which: another may take over
        workload = Deployed(self.built.workload, self.registry.seats().held, self.most, by)
        watching = (*observers, self.progress)

        def go(resume: bool) -> Result:
            federation = self._federation()
            deployed = replace(self.built, workload=workload, federation=federation)
            result = run_built(self.scenario, deployed, out=out, resume=resume, observers=watching)
            self.journal.put(over=1)
            _linger(federation)
            return result

        try:
            return persevering(go, self.journal, out, resume)
        except RunFailed as error:
            self.progress.run_failed(str(error))
            raise

    def stay(self) -> NoReturn:
        """Go on answering devices, whose run is over, until the process is told to stop."""
        while True:
            try:
                self.journal.put(over=1)
                self.journal.beat()
                give_back()
            except sqlite3.Error as error:
                log.error("the journal cannot be written: %s", error)
            time.sleep(BEAT)

    def _federation(self) -> EdgeFederation:
        policy, service = self.built.policy, self.service
        cohort, over = policy.cohort, policy.over_select
        wanted = math.ceil(cohort * over) if isinstance(cohort, int) else self.most
        return EdgeFederation(
            self.journal,
            self.registry,
            signer=service.signer,
            wait_for=wanted if service.wait_for is None else service.wait_for,
            quorum=policy.quorum if isinstance(policy.quorum, int) else 1,
            patience=policy.deadline if service.patience is None else service.patience,
            waits=self.progress.waits,
        )


@contextmanager
def opened(
    scenario: Scenario,
    service: Service,
    directory: Path,
    *,
    out: Path,
    resume: bool = False,
    listening: Callable[[str], None] | None = None,
) -> Iterator[Station]:
    """An aggregator for a scenario, with a journal in `directory`, that answers devices meanwhile.

    out: the run folder. resume: whether it may hold the beginning of the run. listening: told of the address
    once it is open. Of the scenario, [links], [devices] and [federation] are those of simulations.
    ConfigError.
    """
    service.check()
    built = build(scenario)
    built = replace(built, policy=_lasting(scenario, built.policy))
    most = service.most(built)
    with ExitStack() as stack:
        stack.enter_context(logged(service.log))
        journal = stack.enter_context(closing(Journal(directory)))
        _demand_folder(journal, out, resume)
        registry = service.registry(journal, most)
        progress, meters, places = Progress(), Meters(), Places(room())
        app = App(journal, registry, service.lease, meters=meters, places=places)
        if service.operator is not None:
            host, port, home = service.operator
            desk = Desk(journal, registry, meters, progress, places, home)
            stack.enter_context(opened_desk(desk, host, port, home))
        where = (service.host, service.port, service.tls)
        server = stack.enter_context(Listener(app.asgi, *where, drain=app.drain, places=places))
        if listening is not None:
            listening(server.url)
        yield Station(scenario, service, built, journal, registry, progress, most)


def serve(
    scenario: Scenario,
    service: Service,
    directory: Path,
    *,
    out: Path,
    resume: bool = False,
    observers: Sequence[object] = (),
    listening: Callable[[str], None] | None = None,
) -> Result:
    """Run a scenario over the network, with a journal in `directory`; restarted, it continues.

    Arguments and errors are those of `opened` and of `Station.run`.
    """
    with opened(scenario, service, directory, out=out, resume=resume, listening=listening) as station:
        return station.run(out=out, resume=resume, observers=observers)


def _lasting(scenario: Scenario, policy: RoundPolicy) -> RoundPolicy:
    """The policy; where it does not say how many failed rounds end the run, none do: devices can mend."""
    told = "rounds.max_failures" in scenario.places or policy.max_failures != Rounds().max_failures
    return policy if told else replace(policy, max_failures=max(scenario.rounds.count, 1) + 1)


def _demand_folder(journal: Journal, out: Path, resume: bool) -> None:
    if journal.meta("job_id") is not None and not resume:
        raise ConfigError(
            f"{journal.directory} is the journal of a run whose folder {out} is gone: put it back, or give "
            "another directory for a new run"
        )


def _warn(scenario: Scenario, built: Built, service: Service) -> None:
    """Where devices come with data that nobody here knows, say how much an update may weigh."""
    if service.clients is None or scenario.aggregate.max_weight is not None:
        return
    log.warning(
        "an update that weighs more than %g, as a rule its number of examples, will be refused: that is "
        "enough for the aggregator's own data; set aggregate.max_weight to the most that a device may have",
        default_grid(built.workload, built.policy).max_weight,
    )


def _await_devices(journal: Journal, registry: Registry, built: Built, room: int, progress: Progress) -> None:
    """Wait until so many devices have enrolled that a round can have its quorum, however long that takes."""
    quorum, told = built.policy.quorum, -1
    need = quorum if isinstance(quorum, int) else math.ceil(quorum * room)
    while len(registry.seats().held) < min(max(need, 1), room):
        ticks, known = journal.ticks, len(registry.seats().held)
        if known != told:
            progress.waits(f"devices to enrol: {known} of {need}")
            log.warning("waiting for devices to enrol: %d of %d", known, need)
        told = known
        registry.clients()  # looks for answers of the CA
        journal.wait(ticks, 1.0)
    progress.waits("")


def _linger(federation: EdgeFederation) -> None:
    """Give clients the time to fetch the last verdicts; a later start of the same run tells the rest."""
    end = time.monotonic() + GRACE
    while federation.untold() and time.monotonic() < end:
        time.sleep(0.1)
