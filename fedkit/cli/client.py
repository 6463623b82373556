"""`fedkit client`: one device of a deployed federation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, cast

import typer

from fedkit.errors import ConfigError

if TYPE_CHECKING:
    from fedkit.messages import ClientId
    from fedkit.trainer import Workload


class _Member(Protocol):
    """What the entry point `member` of the group fedkit.clients does: it makes a Membership."""

    def __call__(self, directory: Path, address: str, roster: Path | None, client: ClientId) -> object: ...


class _Serve(Protocol):
    """What the entry point `edge` does with it."""

    def __call__(self, membership: object, workload: Workload, directory: Path) -> None: ...


def client(
    address: Annotated[str, typer.Argument(help="Where the aggregator is, as https://HOST:PORT.")],
    scenario: Annotated[
        str, typer.Argument(help="A shipped name or a TOML file: its workload is the one of this device.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings over the scenario's, as in data=FILE."),
    ] = None,
    directory: Annotated[
        Path,
        typer.Option("--dir", help="Where its key is (`fedkit identity DIR`) and what it must not lose."),
    ] = Path("edge"),
    roster: Annotated[
        Path, typer.Option("--roster", help="TOML file with the keys of the aggregator and of all clients.")
    ] = Path("roster.toml"),
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Speak plain HTTP with an aggregator on this machine.")
    ] = False,
    name: Annotated[
        str, typer.Option("--name", help="The client's id in the roster; default the name of the folder.")
    ] = "",
) -> None:
    """Train what an aggregator asks, for ever; SIGTERM or Ctrl-C ends it, and nothing finished is lost."""
    from fedkit import plugins
    from fedkit.launch import make_workload
    from fedkit.scenario import read

    if address.startswith("http:") and not insecure_http:
        raise ConfigError(f"{address} is not encrypted: write https://, or --insecure-http on one machine")
    member = cast("_Member", plugins.load("fedkit.clients", "member"))
    membership = member(directory, address, roster, name)
    workload = make_workload(read(scenario, overrides or []))
    serve = cast("_Serve", plugins.load("fedkit.clients", "edge"))
    with _told():
        try:
            serve(membership, workload, directory)
        except KeyboardInterrupt:
            typer.echo("fedkit: stopped; what is finished is safe and goes on at the next start", err=True)


@contextmanager
def _told() -> Iterator[None]:
    """One line on stderr for each thing that a client does."""
    logger, handler = logging.getLogger("fedkit.edge"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
