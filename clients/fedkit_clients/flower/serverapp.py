"""What a ServerApp does: run a scenario over its Grid, or lend the Grid to the process that does.

Its settings, by `flwr run APP SUPERLINK -c 'scenario="digits" set="rounds.count=5"'`:

    scenario, set        a scenario and `key=value` overrides
    out                  the run folder; one that holds this run already is continued
    wait-for, patience   before a round, wait for so many clients, for so many seconds; 0: all that it invites
    bridge               a socket of `fedkit run ... federation.kind=flower`
"""

from __future__ import annotations

import logging
import math
import shlex
from dataclasses import replace
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid

from fedkit.config import Scenario
from fedkit.events import RoundEnded
from fedkit.federation import RoundPolicy
from fedkit.launch import build, run_built
from fedkit.messages import Metrics
from fedkit.scenario import read
from fedkit_clients.flower.bridge import serve
from fedkit_clients.flower.federation import FlowerFederation
from fedkit_clients.flower.grid import GridFleet
from fedkit_clients.flower.guard import demand_flower

log = logging.getLogger("fedkit")


def main(grid: Grid, context: Context) -> None:
    """The whole run. Raises what `fedkit.run` raises, so that Flower marks its run as failed."""
    demand_flower()
    config = context.run_config
    if bridge := str(config.get("bridge", "")):
        serve(Path(bridge), GridFleet(grid))
        return
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    given = read(str(config["scenario"]), shlex.split(str(config.get("set", ""))))
    scenario = replace(given, federation=Scenario().federation)  # whatever the file says: it is this one
    built = build(scenario)
    wait_for = int(config.get("wait-for", 0)) or invited(built.policy, len(built.workload.clients()))
    federation = FlowerFederation(
        GridFleet(grid), wait_for=wait_for, patience=float(config.get("patience", 120.0))
    )
    out = Path(str(config.get("out") or f"runs/flower-{context.run_id}"))
    try:
        result = run_built(
            scenario,
            replace(built, federation=federation),
            out=out,
            resume=(out / "scenario.toml").is_file(),
            observers=[_Told()],
        )
    finally:
        federation.close()
    log.info("%s: %s", out, _line(result.summary["metrics"]))


def invited(policy: RoundPolicy, clients: int) -> int:
    """How many of the clients a round invites."""
    cohort = policy.cohort
    if isinstance(cohort, int):
        return min(math.ceil(cohort * policy.over_select), clients)
    return clients


class _Told:
    """One line for each round in Flower's log."""

    def round_ended(self, event: RoundEnded) -> None:
        record = event.record
        log.info("round %d: %s", record.round + 1, _line(record.metrics) if record.ok else record.reason)


def _line(metrics: Metrics) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(metrics.items()))
