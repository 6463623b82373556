"""One client as a process: from settings in JSON to the loop that runs until a signal ends it."""

from __future__ import annotations

import json
import logging
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from fedkit import workloads
from fedkit.config import Options, Population
from fedkit.errors import ConfigError, FedkitError
from fedkit.oneline import told
from fedkit_clients.edge.audit import Audit
from fedkit_clients.edge.device import Device
from fedkit_clients.edge.membership import member
from fedkit_clients.edge.meter import Meter
from fedkit_clients.edge.modelout import ModelOut
from fedkit_clients.edge.policy import NAME, read_policy
from fedkit_clients.edge.runtime import serve

TRAFFIC = "traffic.json"
"""Where the bytes of the month are kept."""


@dataclass(frozen=True)
class Start:
    """What `fedkit client` was told; texts may be empty. Without an address it is one that has joined."""

    directory: str
    address: str
    roster: str
    name: str
    workload: str
    options: Options = field(default_factory=dict)
    population: Population = field(default_factory=Population)
    seed: int = 0
    policy: str = ""
    audit: str = ""
    model_out: str = ""


def main(text: str) -> int:
    """Be the client that `text` (JSON, the fields of Start) describes; returns the exit code.

    0: ended by SIGTERM or Ctrl-C, 2: something asked for is wrong, 1: anything else.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("fedkit").setLevel(logging.INFO)
    try:
        given = json.loads(text)
        go(Start(**{**given, "population": Population(**given["population"])}))
    except KeyboardInterrupt:
        print("fedkit: stopped; what is finished is safe and goes on at the next start", file=sys.stderr)  # noqa: T201
        return 0
    except (FedkitError, OSError, SystemExit) as error:
        print(f"fedkit: {told(error)}", file=sys.stderr)  # noqa: T201 - the command's own output
        return 2 if isinstance(error, ConfigError) else 1
    return 0


def go(start: Start) -> None:
    """Be that client until a signal; raises what `serve` raises, ConfigError for settings that cannot be."""
    directory = Path(start.directory)
    membership = member(directory, start.address, Path(start.roster), start.name)
    policy = read_policy(Path(start.policy) if start.policy else directory / NAME)
    device = Device(
        policy,
        start.workload,
        Meter(directory / TRAFFIC, policy.monthly_bytes),
        Audit(Path(start.audit)) if start.audit else None,
        ModelOut(Path(start.model_out)) if start.model_out else None,
    )
    workload = workloads.make(start.workload, start.options, start.population, start.seed)
    serve(membership, workload, directory, device)
