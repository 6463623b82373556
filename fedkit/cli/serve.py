"""`fedkit serve`: a scenario for devices; `fedkit identity`: the key that one is known by."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from fedkit.cli.door import last_event
from fedkit.cli.output import Format, FormatOption, echo_json
from fedkit.cli.words import AGGREGATOR, OverridesArgument
from fedkit.errors import ConfigError, CryptoError, RunFailed

if TYPE_CHECKING:
    from rich.console import Console

    from fedkit.aggregator.serve import Station
    from fedkit.aggregator.service import Service
    from fedkit.cli.folders import Launch
    from fedkit.config import Scenario
    from fedkit.rounds import Result
    from fedkit.secagg.identity import Trust

ROSTER = Path("roster.toml")


def serve(
    scenario: Annotated[str, typer.Argument(help="A shipped name (`fedkit scenarios`) or a TOML file.")],
    overrides: OverridesArgument = None,
    roster: Annotated[
        Path, typer.Option("--roster", help="TOML file with the keys of all clients.")
    ] = ROSTER,
    ca: Annotated[
        Path | None,
        typer.Option(help="The certificate of a CA (ca.pem), whose devices come one by one; kept in --dir."),
    ] = None,
    clients: Annotated[
        int | None,
        typer.Option(min=1, help="Room for so many devices of a CA; default the workload's clients."),
    ] = None,
    directory: Annotated[
        Path,
        typer.Option(
            "--dir", help="Where its key, the journal and the run folder are kept; made if they are not."
        ),
    ] = AGGREGATOR,
    address: Annotated[
        str, typer.Option(help="HOST:PORT to listen on; port 0 takes a free one.")
    ] = "127.0.0.1:8470",
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Serve plain HTTP, to this machine only.")
    ] = False,
    lease: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds until a task is offered again that no device acknowledged."),
    ] = 60.0,
    wait_for: Annotated[
        int | None,
        typer.Option(min=0, help="Clients to wait for before a round; default as many as are invited."),
    ] = None,
    patience: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds to wait for them; default the deadline of a round.")
    ] = None,
    operator: Annotated[
        str, typer.Option(help="HOST:PORT of the operator's door, on this machine; port 0 takes a free one.")
    ] = "127.0.0.1:0",
    log: Annotated[
        Path | None, typer.Option("--log", help="Write logs as JSON lines to this file; - is stderr.")
    ] = None,
    stay: Annotated[
        bool,
        typer.Option(
            "--stay", help="After the run go on answering devices (renewals, enrolment) until SIGTERM."
        ),
    ] = False,
    leave: Annotated[
        bool, typer.Option("--next", help="Leave another run that is there, though it is not over.")
    ] = False,
    output: FormatOption = Format.text,
) -> None:
    """Run a scenario with devices. Started again with the same words, it continues."""
    from fedkit.aggregator.memory import frugal
    from fedkit.cli import nextrun
    from fedkit.cli.run import warnings_shown
    from fedkit.keyfile import own_key

    with last_event(output):
        opened, service_of = _aggregator()
        frugal()
        where, tls = _address(address), None if insecure_http else directory
        signer = own_key(directory)
        trust = _trust(directory, signer.public, ca, roster)
        door = (*_address(operator, "--operator"), directory)
        service = service_of(trust, signer, *where, lease, wait_for, patience, tls, door, log, clients)
        launch = nextrun.launch(scenario, overrides or [], directory, leave)
        if launch.scenario.secagg.mode == "lying_server":
            _demand_apart(directory, ca, trust)
        journal, listening = directory / "journal", partial(_listening, output)
        with (
            _told_to_stop(),
            warnings_shown() as console,
            opened(
                *(launch.scenario, service, journal),
                out=launch.folder,
                resume=launch.resume,
                listening=listening,
            ) as station,
        ):
            _serve(station, launch, output, stay, console)


def _serve(station: Station, launch: Launch, output: Format, stay: bool, console: Console) -> None:
    """The run; then, if the aggregator stays, whatever devices want, until it is told to stop."""
    from fedkit.cli.run import one

    def go(_scenario: Scenario, **about: Any) -> Result:
        return station.run(**about)

    code = 0
    try:
        one(launch, output, go=go, clock="wall", console=console)
    except RunFailed as error:
        if not stay:
            raise
        typer.echo(f"fedkit: {error}", err=True)
        code = 1
    if stay:
        _stay(station, output)
        raise typer.Exit(code)


def _stay(station: Station, output: Format) -> None:
    if output is Format.json:
        echo_json({"event": "staying"})
    else:
        typer.echo("the run is over; devices are answered until SIGTERM or Ctrl-C", err=True)
    with suppress(KeyboardInterrupt):
        station.stay()


@contextmanager
def _told_to_stop() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does: with a line that says how to go on."""

    def interrupt(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        again = shlex.join(["fedkit", *sys.argv[1:]])
        typer.echo(f"\nfedkit: interrupted; continue with: {again}", err=True)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def identity(
    directory: Annotated[Path, typer.Argument(help="Folder of the key; it is made if there is none.")],
    name: Annotated[str, typer.Option(help="The client's id; default the name of the folder.")] = "",
) -> None:
    """Make a key, or show the one there is: its fingerprint, and the line for a roster."""
    from fedkit import toml
    from fedkit.keyfile import own_key
    from fedkit.secagg.identity import fingerprint

    key = own_key(directory)
    typer.echo(f"fingerprint: {fingerprint(key.public)}")
    typer.echo(f"roster line: {toml.dumps({name or directory.resolve().name: key.public.hex()}).strip()}")


def _trust(directory: Path, own: bytes, ca: Path | None, roster: Path) -> Trust:
    """Who the devices are: a CA, which the directory remembers, or a roster."""
    from fedkit.ca.certificates import ca_key
    from fedkit.cli.succession import KEPT, succeeded
    from fedkit.secagg.identity import Trust
    from fedkit.secagg.rosterfile import read_trust, write_trust

    kept = directory / KEPT
    if ca is None:
        if roster == ROSTER and not kept.exists() and not roster.exists():
            raise ConfigError(
                f"there is no {roster}: who the devices are is told by --roster FILE, which has their keys, "
                "or by --ca ca.pem, a CA's certificate (fedkit ca init)"
            )
        return succeeded(directory, read_trust(kept if kept.exists() and roster == ROSTER else roster))
    try:
        trust = Trust.of_ca(ca_key(ca.read_bytes()), own)
    except CryptoError as error:
        raise ConfigError(f"--ca {ca}: {error}") from None
    believed = succeeded(directory, trust)
    if not kept.exists():
        write_trust(kept, trust)
    elif believed != succeeded(directory, read_trust(kept)):
        raise ConfigError(f"{kept} names another CA than {ca}: devices of that are here already")
    return believed


def _demand_apart(directory: Path, certificate: Path | None, trust: Trust) -> None:
    """ConfigError if a CA's key lies in the aggregator's directory; a warning if beside its certificate."""
    from fedkit.ca.apart import demand_apart, key_beside

    demand_apart(directory, trust.cas)
    if certificate is not None and (path := key_beside(certificate, trust.cas)):
        typer.echo(
            f"fedkit: {path} is the key of the CA, and can be read here: who runs this machine could invent "
            "clients, and lying_server stands against others only; keep the CA on another machine",
            err=True,
        )


def _aggregator() -> tuple[Callable[..., AbstractContextManager[Station]], type[Service]]:
    """`opened` and `Service`; ConfigError where the extras are not installed."""
    try:
        from fedkit.aggregator.serve import opened
        from fedkit.aggregator.service import Service
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("h11", "prometheus_client", "starlette", "uvicorn"):
            raise
        raise ConfigError("serving takes starlette and uvicorn: pip install 'fedkit[server]'") from error
    return opened, Service


def _address(text: str, option: str = "--address") -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{option} {text!r}: HOST:PORT is due, as in 127.0.0.1:8470")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _listening(output: Format, url: str) -> None:
    if output is Format.json:
        echo_json({"event": "listening", "url": url})
    else:
        typer.echo(f"listening on {url}", err=True)
