"""`fedkit serve`: a scenario for devices; `fedkit identity`: the key that one is known by."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from fedkit.cli.door import last_event
from fedkit.cli.output import Format, FormatOption, echo_json
from fedkit.errors import ConfigError, CryptoError

if TYPE_CHECKING:
    from fedkit.aggregator.serve import Service
    from fedkit.rounds import Result
    from fedkit.secagg.identity import Trust

ROSTER = Path("roster.toml")


def serve(
    scenario: Annotated[str, typer.Argument(help="A shipped name (`fedkit scenarios`) or a TOML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings over the scenario's, as in rounds.count=5."),
    ] = None,
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
    ] = Path("aggregator"),
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
    output: FormatOption = Format.text,
) -> None:
    """Run a scenario with devices. Started again with the same words, it continues."""
    from fedkit.aggregator.memory import frugal
    from fedkit.ca.apart import demand_apart
    from fedkit.cli import folders
    from fedkit.cli.run import one
    from fedkit.keyfile import own_key

    with last_event(output):
        run_it, service_of = _aggregator()
        frugal()
        host, port = _address(address)
        tls = None if insecure_http else directory
        signer = own_key(directory)
        trust = _trust(directory, signer.public, ca, roster)
        service = service_of(
            trust,
            signer,
            host,
            port,
            lease,
            wait_for,
            patience,
            tls,
            (*_address(operator, "--operator"), directory),
            log,
            clients,
        )
        launch = folders.launch_into(scenario, overrides or [], directory / "run", True)
        if launch.scenario.secagg.mode == "lying_server":
            demand_apart(directory, trust.ca)
        listening = partial(_listening, output)
        go = partial(run_it, service=service, directory=directory / "journal", listening=listening)
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            one(launch, output, go=go)
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


def _aggregator() -> tuple[Callable[..., Result], type[Service]]:
    """`serve` and `Service`; ConfigError where the extras are not installed."""
    try:
        from fedkit.aggregator.serve import Service, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("h11", "prometheus_client", "starlette", "uvicorn"):
            raise
        raise ConfigError("serving takes starlette and uvicorn: pip install 'fedkit[server]'") from error
    return serve, Service


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


def _interrupt(_number: int, _frame: object) -> NoReturn:
    """SIGTERM ends as Ctrl-C does."""
    raise KeyboardInterrupt
