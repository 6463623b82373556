"""A run that is served to devices: uvicorn in a thread, the training loop in the main one."""

from __future__ import annotations

import math
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn
from starlette.concurrency import run_in_threadpool

from fedkit.aggregator.app import App
from fedkit.aggregator.federation import EdgeFederation
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.leases import LEASE
from fedkit.aggregator.registry import Registry, Roster
from fedkit.aggregator.tls import LOOK, certificate, demand_loopback, load
from fedkit.config import Scenario
from fedkit.errors import ConfigError
from fedkit.keyfile import NAME
from fedkit.launch import Built, build, run_built
from fedkit.messages import ClientId, Metrics
from fedkit.rounds import Result
from fedkit.secagg.identity import SigningKey, Trust, fingerprint
from fedkit.tensors import Tensors
from fedkit.trainer import Trainer, Workload

GRACE = 20.0
"""Seconds that a finished run waits for clients to fetch the last verdicts."""
_CLOSING = 5


@dataclass(frozen=True)
class Service:
    """How a run is served.

    trust: who the clients are. signer: the aggregator's own key, trust.server. host, port: where to listen;
    port 0 takes a free one. lease: seconds until a task is offered again that was not acknowledged. wait_for:
    clients to wait for before a round; None: as many as are invited where the cohort is a count, else all.
    patience: seconds to wait for them; None: the round's deadline. tls: the folder of the signer's key; None:
    plain HTTP, to this machine only.
    """

    trust: Trust
    signer: SigningKey = field(repr=False)
    host: str = "127.0.0.1"
    port: int = 8470
    lease: float = LEASE
    wait_for: int | None = None
    patience: float | None = None
    tls: Path | None = None


class Server:
    """Serves an application on its own thread while the context is open; `url` is where.

    tls: the folder of the key and its certificate; None: plain HTTP, on loopback only. ConfigError if the
    address cannot be taken.
    """

    def __init__(self, app: App, host: str, port: int, tls: Path | None = None) -> None:
        self._app, self._tls = app, tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # the protocol by name: asyncio switches Nagle's delay of 40 ms off for no other socket
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
        except (OSError, OverflowError) as error:
            self._socket.close()
            raise ConfigError(f"address {host}:{port} cannot be served: {error}; give another") from error
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        self.url = f"{'http' if tls is None else 'https'}://{shown}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            app.asgi,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_CLOSING,
            ssl_certfile=certificate(tls) if tls is not None else None,
            ssl_keyfile=tls / NAME if tls is not None else None,
            callback_notify=self._renew,
            timeout_notify=LOOK,
        )
        config.load()
        self._context = config.ssl
        if self._context is not None:
            self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="fedkit-aggregator", daemon=True
        )

    def __enter__(self) -> Server:
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise ConfigError(f"{self.url} cannot be served: the server ended at once")
            time.sleep(0.01)
        return self

    async def _renew(self) -> None:
        """A certificate that is half over is replaced while connections go on."""
        if self._tls is not None and self._context is not None:
            await run_in_threadpool(load, self._context, self._tls)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._app.drain()
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


class Deployed:
    """A workload whose clients are those of the roster: the server's own copy may hold no data of theirs."""

    def __init__(self, workload: Workload, clients: Sequence[ClientId]) -> None:
        self._workload, self._clients = workload, tuple(sorted(clients))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_workload"], name)

    def init(self, seed: int) -> Tensors:
        """The initial model."""
        return self._workload.init(seed)

    def clients(self) -> Sequence[ClientId]:
        """The clients of the roster."""
        return self._clients

    def trainer(self, client: ClientId) -> Trainer:
        """Nobody trains on a server."""
        return self._workload.trainer(client)

    def evaluate(self, model: Tensors) -> Metrics:
        """Metrics on the server's own data."""
        return self._workload.evaluate(model)


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

    out: the run folder. listening: told of the address once it is open. Of the scenario, [links], [devices]
    and [federation] are those of simulations. Raises what `fedkit.run` raises, ConfigError before round 0.
    """
    registry = _registry(service)
    if service.tls is None:
        demand_loopback(service.host)
    built = build(scenario)
    with ExitStack() as stack:
        journal = Journal(directory)
        stack.callback(journal.close)
        if journal.meta("job_id") is not None and not resume:
            raise ConfigError(
                f"{directory} is the journal of a run whose folder {out} is gone: put it back, or give "
                "another directory for a new run"
            )
        app = App(journal, registry, service.lease)
        federation = _federation(journal, registry, service, built)
        server = stack.enter_context(Server(app, service.host, service.port, service.tls))
        if listening is not None:
            listening(server.url)
        deployed = replace(built, workload=Deployed(built.workload, registry.known()), federation=federation)
        result = run_built(scenario, deployed, out=out, resume=resume, observers=observers)
        _linger(federation)
        return result


def _registry(service: Service) -> Registry:
    trust, own = service.trust, service.signer.public
    if trust.kind != "roster":
        raise ConfigError("a roster with the keys of all clients is needed: certificates are not checked yet")
    if trust.server != own:
        raise ConfigError(
            f"the roster's server is {fingerprint(trust.server)}, but this aggregator's key is "
            f'{fingerprint(own)}: write server = "{own.hex()}" into the roster, on every device too'
        )
    return Roster(trust.roster)


def _federation(journal: Journal, registry: Registry, service: Service, built: Built) -> EdgeFederation:
    cohort, over = built.policy.cohort, built.policy.over_select
    wanted = math.ceil(cohort * over) if isinstance(cohort, int) else len(registry.known())
    return EdgeFederation(
        journal,
        registry,
        wait_for=min(wanted if service.wait_for is None else service.wait_for, len(registry.known())),
        patience=built.policy.deadline if service.patience is None else service.patience,
    )


def _linger(federation: EdgeFederation) -> None:
    """Give clients the time to fetch the last verdicts; a later start of the same run tells the rest."""
    end = time.monotonic() + GRACE
    while federation.untold() and time.monotonic() < end:
        time.sleep(0.1)
