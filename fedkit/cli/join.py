"""`fedkit join`: the device's side of an invite."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Protocol, cast

import typer

DirOption = Annotated[Path, typer.Option("--dir", help="The device's folder, with its key and certificate.")]
WaitOption = Annotated[
    float, typer.Option(min=0.0, help="Seconds to wait for the CA; run it again to wait longer.")
]
ProxyOption = Annotated[str, typer.Option(help="Proxy on the way, as http://HOST:PORT.")]
EDGE, WAIT = Path("edge"), 600.0


class _Rotate(Protocol):
    """What the entry point `rotate` does."""

    def __call__(self, directory: Path, wait: float, proxy: str) -> None: ...


class _Join(Protocol):
    """What the entry point `join` of the group fedkit.clients does: it ends when the device has joined."""

    def __call__(self, token: str, directory: Path, wait: float, proxy: str) -> None: ...


def join(
    token: Annotated[str, typer.Argument(help="The line that `fedkit invite` has printed; - reads it.")],
    directory: DirOption = EDGE,
    wait: WaitOption = WAIT,
    proxy: ProxyOption = "",
    address: Annotated[
        str, typer.Option(help="HOST:PORT of the aggregator, if it has moved since the invite was made.")
    ] = "",
) -> None:
    """Make this device a client: its key is made here and stays here, and the CA certifies it."""
    from fedkit import plugins
    from fedkit.ca.invites import read_invite
    from fedkit.cli.invite import url

    line = token.replace("-", typer.get_text_stream("stdin").readline()) if len(token) == 1 else token
    if address:
        line = dataclasses.replace(read_invite(line), address=url(address)).token()
    with _told():
        cast("_Join", plugins.load("fedkit.clients", "join"))(line, directory, wait, proxy)
    typer.echo(f"joined; go on with: fedkit client --dir {directory} ...", err=True)


def rotate(
    directory: DirOption = EDGE,
    wait: WaitOption = WAIT,
    proxy: ProxyOption = "",
) -> None:
    """Give this device a new key, on the word of the old one; no client may be running.

    Should it be cut off, the client finishes it when it starts.
    """
    from fedkit import plugins

    with _told():
        cast("_Rotate", plugins.load("fedkit.clients", "rotate"))(directory, wait, proxy)
    typer.echo("the new key is in place", err=True)


@contextmanager
def _told() -> Iterator[None]:
    """What is waited for, in a line each on stderr."""
    logger, handler = logging.getLogger("fedkit.edge"), logging.StreamHandler()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
