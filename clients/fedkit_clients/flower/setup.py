"""What a node is: its workload, its clients, and what it insists on; from its own settings first.

scenario, set          a scenario and `key=value` overrides of it; a node's own count instead of the run's
clients                ids, separated by commas
partition-id, num-partitions     instead of `clients`: every so-manieth client of the workload
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedkit.config import Scenario
from fedkit.errors import ClientFailed, ConfigError, nearest
from fedkit.job import Job
from fedkit.launch import make_workload, secure
from fedkit.messages import ClientId
from fedkit.scenario import read, shipped
from fedkit.secagg.identity import RANDOM, Floors, Identity, Trust
from fedkit.secagg.memory import Sessions
from fedkit.secagg.settings import SecAgg
from fedkit.secureclient import Credentials
from fedkit.trainer import Workload, frozen, travelling

Config = Mapping[str, bool | float | int | str]
NODE_KEYS = ("scenario", "set", "clients", "partition-id", "num-partitions")


@dataclass(frozen=True)
class Setup:
    """A node. secagg: what it insists on; "off" insists on nothing, and takes what the job has."""

    workload: Workload
    clients: tuple[ClientId, ...]
    secagg: SecAgg | str

    def credentials(
        self,
        job: Job,
        identity: Callable[[ClientId], Identity],
        sessions: Callable[[ClientId], Sessions],
    ) -> Credentials | None:
        """Its clients in secure sessions: keys that nobody vouches for, against an honest server only."""
        if job.secagg is None:
            return None
        own = job.secagg if isinstance(self.secagg, str) else self.secagg
        return Credentials(
            Trust.none(), Floors(own.policy, own.explicit), identity, lambda _: RANDOM, sessions
        )

    def demand(self, job: Job) -> None:
        """ClientFailed: the job is for another model, or is plain where this node gives secure sums only."""
        workload = self.workload
        layout = travelling(workload.init(job.model_seed), frozen(workload), job.strategy.shared)
        if layout != job.layout:
            odd = next((name for name in job.layout.names if name not in layout.names), job.layout.names[0])
            raise ClientFailed("layout", odd, "the job's model is not that of this node's workload")
        if job.secagg is None and not isinstance(self.secagg, str):
            raise ClientFailed(
                "refused", "secagg", "this node's scenario asks for secure sums, the job for none"
            )


def scenario_of(node: Config, run: Config) -> Scenario:
    """The scenario of a node. ConfigError: there is none, or the run's names code."""
    if odd := [key for key in node if key not in NODE_KEYS]:
        raise ConfigError(f"node config: {odd[0]}: unknown key; {nearest(odd[0], NODE_KEYS)}")
    own = "scenario" in node
    if "set" in node and not own:
        raise ConfigError("node config: set: is for a scenario of the node: give it one, as scenario=...")
    given = node if own else run
    name, overrides = str(given.get("scenario", "")), shlex.split(str(given.get("set", "")))
    if not own:
        _demand_no_code(name, overrides)
    return read(name, overrides)


def _demand_no_code(name: str, overrides: Sequence[str]) -> None:
    """Before anything is read, as reading a scenario loads the code that it names."""
    if name not in shipped():
        raise ConfigError(
            f"the run's scenario {name!r} is none that is installed here: give this node its own, "
            "as in --node-config 'scenario=\"my.toml\"'"
        )
    for text in overrides:
        if ".py" in text or "\\" in text:  # a backslash could spell the dot
            raise ConfigError(f"the run names code, {text!r}: code is loaded only where the node names it")


def node_setup(node: Config, run: Config) -> Setup:
    """Make the workload of a node (this loads its data). ConfigError: settings that cannot be."""
    scenario = scenario_of(node, run)
    workload = make_workload(scenario)
    return Setup(workload, _clients(node, workload), secure(scenario.secagg))


def _clients(node: Config, workload: Workload) -> tuple[ClientId, ...]:
    known = sorted(workload.clients())
    if "clients" in node:
        named = [name.strip() for name in str(node["clients"]).split(",")]
        for name in named:
            if name not in known:
                raise ConfigError(
                    f"node config: clients: the workload has no {name!r}; {nearest(name, known)}"
                )
        return tuple(sorted(set(named)))
    try:
        part, parts = int(node["partition-id"]), int(node["num-partitions"])
    except (KeyError, ValueError):
        raise ConfigError(
            "node config: say which clients this node is, as in --node-config 'clients=\"c000,c001\"', "
            "or 'partition-id=0 num-partitions=2'"
        ) from None
    if not 0 <= part < parts <= len(known):
        raise ConfigError(f"node config: part {part} of {parts}, for a workload of {len(known)} clients")
    return tuple(known[part::parts])
