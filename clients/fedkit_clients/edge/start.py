"""One client as a process: from settings in JSON to the loop that runs until a signal ends it."""

from __future__ import annotations

import json
import logging
import signal
import sys
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fedkit import workloads
from fedkit.config import Options, Population
from fedkit.errors import ConfigError, FedkitError
from fedkit.oneline import told
from fedkit.secagg.identity import Floors
from fedkit.secureclient import Credentials
from fedkit.trainer import Workload
from fedkit_clients.edge.audit import Audit
from fedkit_clients.edge.device import Device
from fedkit_clients.edge.enrolment import Desk
from fedkit_clients.edge.membership import Membership, member, read_place
from fedkit_clients.edge.meter import Meter
from fedkit_clients.edge.modelout import ModelOut
from fedkit_clients.edge.policy import NAME, read_policy
from fedkit_clients.edge.renewal import Renewal
from fedkit_clients.edge.root import Root
from fedkit_clients.edge.runtime import EdgeClient
from fedkit_clients.edge.sessions import vouch
from fedkit_clients.edge.shard import of_device
from fedkit_clients.edge.transport import Transport

TRAFFIC = "traffic.json"
"""Where the bytes of the month are kept, and when the tasks of the last day began."""


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
    shard: str = ""


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
    if not start.address:
        read_place(directory)  # before a folder is made for what has not joined
    with closing(Root(directory)) as root:
        membership = member(directory, start.address, Path(start.roster), start.name)
        workload = of_device(_workload(start), membership.client, start.shard)
        serve(membership, workload, root, _device(start))


def _workload(start: Start) -> Workload:
    return workloads.make(start.workload, start.options, start.population, start.seed)


def _device(start: Start) -> Device:
    directory = Path(start.directory)
    policy = read_policy(Path(start.policy) if start.policy else directory / NAME)
    return Device(
        policy,
        start.workload,
        Meter(directory / TRAFFIC, policy.monthly_bytes, daily=policy.max_tasks_per_day),
        Audit(Path(start.audit)) if start.audit else None,
        ModelOut(Path(start.model_out)) if start.model_out else None,
    )


def serve(membership: Membership, workload: Workload, root: Root, device: Device | None = None) -> None:
    """Be one client of an aggregator until SIGTERM or Ctrl-C (KeyboardInterrupt for both).

    root: its directory, to be closed by the caller. device: what its owner has decided. ConfigError: the
    address, the job or the workload cannot be.
    """
    device = device if device is not None else Device()
    transport = Transport(
        membership.address,
        membership.client,
        membership.key,
        membership.trust.server,
        meter=device.meter,
        audit=device.audit,
        proxy=device.policy.proxy,
    )
    try:
        desk = partial(_desk, membership, device)
        renewal = Renewal(root.directory, membership, desk, ahead=lambda: transport.ahead)

        def who(floors: Floors) -> Credentials:
            return vouch(renewal.held, root.directory, floors)

        edge = EdgeClient(
            transport, membership.client, workload, root, device=device, vouch=who, renewal=renewal
        )
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            edge.run()
        finally:
            signal.signal(signal.SIGTERM, before)
            device.meter.keep()
    finally:
        transport.close()


def _desk(membership: Membership, device: Device) -> Desk:
    proxy, server = device.policy.proxy, membership.trust.server
    return Desk(membership.address, server, proxy, audit=device.audit)
