"""`fedkit run SCENARIO federation.kind=flower`: a whole Flower fleet on this machine, for trying it out.

The run itself stays in this process, so that its folder, its progress and its end are those of any other run.
Flower's ServerApp lends its Grid over a socket.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from functools import partial
from pathlib import Path

from fedkit.config import Scenario
from fedkit.errors import ConfigError
from fedkit.job import Job
from fedkit.messages import ClientId
from fedkit.scenario import to_toml
from fedkit.trainer import Workload
from fedkit_clients.flower.bridge import BridgeFleet
from fedkit_clients.flower.federation import FlowerFederation
from fedkit_clients.flower.fleet import NoFleet
from fedkit_clients.flower.guard import demand_flower
from fedkit_clients.flower.programs import Programs

MOST_NODES = 8
"""SuperNodes that are started unless more are asked for: each takes about 150 MB."""
STARTING = 300.0
"""Seconds that the ServerApp may take to begin."""


class Loopback(FlowerFederation):
    """A SuperLink and SuperNodes on 127.0.0.1, started when the run begins and stopped when it ends.

    nodes: SuperNodes, among which the clients are divided; 0: one for each client, at most 8. patience:
    seconds to wait for all of them. logs: a folder that keeps the logs of Flower's programs; empty: none.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        scenario: Scenario,
        nodes: int = 0,
        patience: float = 120.0,
        logs: str = "",
    ) -> None:
        demand_flower()
        self._clients = sorted(workload.clients())
        self._scenario, self._logs = scenario, logs
        self._count = nodes or min(len(self._clients), MOST_NODES)
        if not 0 < self._count <= len(self._clients):
            raise ConfigError(
                f"federation.nodes = {nodes}: 1 to {len(self._clients)}, one client each at most"
            )
        self._programs: Programs | None = None
        super().__init__(NoFleet(), wait_for=len(self._clients), patience=patience)

    def open(self, job: Job) -> None:
        """Start everything. RunFailed: a program does not start."""
        super().open(job)
        folder = Path(tempfile.mkdtemp(prefix="fedkit-flower-"))
        self._programs = Programs(folder)
        try:
            self._fleet = self._start(self._programs)
        except BaseException:
            self.stop()
            raise

    def close(self) -> None:
        """Tell nodes the last verdicts, and stop everything."""
        try:
            super().close()
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop everything at once."""
        programs, self._programs = self._programs, None
        if programs is None:
            return
        if isinstance(self._fleet, BridgeFleet):
            self._fleet.close()
        self._fleet = NoFleet()
        programs.stop()
        if self._logs:
            Path(self._logs).mkdir(parents=True, exist_ok=True)
            for log in programs.folder.glob("*.log"):
                shutil.copy(log, self._logs)
        shutil.rmtree(programs.folder / "flwr" if programs.kept else programs.folder, ignore_errors=True)

    def parts(self) -> list[tuple[ClientId, ...]]:
        """The clients of each node."""
        return [tuple(self._clients[part :: self._count]) for part in range(self._count)]

    def _start(self, programs: Programs) -> BridgeFleet:
        """The fleet, once the ServerApp is there."""
        folder = programs.folder
        (folder / "scenario.toml").write_text(to_toml(self._scenario))
        programs.superlink()
        for number, clients in enumerate(self.parts()):
            config = {"scenario": str(folder / "scenario.toml"), "clients": ",".join(clients)}
            programs.supernode(f"node-{number}", config)
        with socket.socket(socket.AF_UNIX) as listening:
            path = folder / "bridge"
            listening.bind(str(path))
            listening.listen(1)
            listening.settimeout(0.2)
            programs.run(app_folder(), {"bridge": str(path)})
            end = time.monotonic() + STARTING
            while True:
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    programs.check()
                    if time.monotonic() > end:
                        raise programs.failed("superlink", "Flower's ServerApp did not start") from None
                else:
                    connection.settimeout(None)
                    return BridgeFleet(connection, partial(programs.failed, "superlink"))


def app_folder() -> Path:
    """fedkit's Flower app: in the repository, or in the wheel."""
    here = Path(__file__).parent
    places = (here / "app", here.parents[1] / "fedkit-flower")
    return next(place for place in places if (place / "pyproject.toml").is_file())
