"""`fedkit invite`: one line for each device that is to come."""

from __future__ import annotations

import csv
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from fedkit.cli.ca import CA, CaOption
from fedkit.errors import ConfigError

REMEMBERED = "aggregator.toml"
"""In the CA's directory: address and key of the aggregator that it invited to last."""


def invite(
    name: Annotated[
        str,
        typer.Argument(
            help="The client's id; with --count, what ids begin with, or c{:03} for c000, c001 ..."
        ),
    ],
    ca: CaOption = CA,
    address: Annotated[
        str, typer.Option(help="HOST:PORT at which devices reach the aggregator; kept for the next time.")
    ] = "",
    server: Annotated[
        str,
        typer.Option(help="The aggregator's directory, or its key in hex (`fedkit identity`); kept, too."),
    ] = "",
    count: Annotated[int, typer.Option(min=0, help="So many devices: NAME-001, NAME-002 ...")] = 0,
    first: Annotated[
        int | None, typer.Option(min=0, help="The number of the first; default 1, and of a pattern 0.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Lines of client,token.")] = False,
    days: Annotated[float, typer.Option(min=0.001, help="Days until it is over.")] = 7.0,
) -> None:
    """Invite a device, or a fleet: whoever has the line may enrol once, so send it by a safe way."""
    from fedkit.ca.authority import Authority

    with Authority(ca) as authority:
        where, key = _aggregator(ca, address, server)
        names = _names(name, count, first) if count else [name]
        made = [authority.invite(each, where, key, timedelta(days=days)) for each in names]
    if not as_csv:
        for one in made:
            typer.echo(one.token())
        return
    writer = csv.writer(sys.stdout)
    writer.writerow(("client", "token"))
    writer.writerows((one.client, one.token()) for one in made)


def _names(name: str, count: int, first: int | None) -> list[str]:
    """Ids of a fleet: numbered after a hyphen, or as a pattern says."""
    if "{" not in name:
        start = 1 if first is None else first
        width = len(str(start + count - 1))
        return [f"{name}-{number:0{width}}" for number in range(start, start + count)]
    start = first or 0
    try:
        names = [name.format(number) for number in range(start, start + count)]
    except (ValueError, LookupError, AttributeError) as error:
        raise ConfigError(f"{name!r} is no pattern of names, such as c{{:03}}: {error}") from None
    if len(set(names)) < count:
        raise ConfigError(f"{name!r} makes one name for two devices: it needs its number, as in c{{:03}}")
    return names


def _aggregator(ca: Path, address: str, server: str) -> tuple[str, bytes]:
    """Address and key: as given, else as given the last time."""
    from fedkit import toml
    from fedkit.runfolder import replace_file

    path = ca / REMEMBERED
    kept = toml.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    where, key = url(address) if address else str(kept.get("address", "")), str(kept.get("server", ""))
    if server:
        key = _key(server).hex()
    if not where or not key:
        missing = "--address HOST:PORT" if not where else "--server, the aggregator's directory or key"
        raise ConfigError(f"where the aggregator is, and its key, must be told once: give {missing}")
    replace_file(path, toml.dumps({"address": where, "server": key}).encode())
    return where, bytes.fromhex(key)


def url(address: str) -> str:
    """https://HOST:PORT of what was given as --address; ConfigError."""
    if "://" in address or not address.rpartition(":")[0] or not address.rpartition(":")[2].isdigit():
        raise ConfigError(f"--address {address!r}: HOST:PORT is due, as in fed.example.org:8470")
    return f"https://{address}"


def _key(text: str) -> bytes:
    from fedkit.errors import CryptoError
    from fedkit.keyfile import read_key
    from fedkit.secagg.identity import check_signer

    if Path(text).is_dir():
        return read_key(Path(text)).public
    try:
        public = bytes.fromhex(text.replace(" ", ""))
        check_signer(public)
    except (ValueError, CryptoError) as error:
        raise ConfigError(
            f"--server {text!r}: neither a folder nor a key of 64 hex digits: {error}"
        ) from None
    return public
