"""`fedkit ca`: the authority that says which devices there are; best on a machine that is no aggregator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkit.ca.mailbox import WITHIN, Mailbox
from fedkit.cli.output import echo_table
from fedkit.cli.words import AGGREGATOR, AggregatorOption
from fedkit.errors import ConfigError, WireError, many, nearest

if TYPE_CHECKING:
    from fedkit.ca.requests import Grant, Request

app = typer.Typer(no_args_is_help=True, help="Certify devices, and revoke them.")

CaOption = Annotated[Path, typer.Option("--ca", help="The CA's directory.")]
NearOption = Annotated[
    Path | None, typer.Option("--dir", help="The aggregator's directory, if it is on this machine.")
]
DaysOption = Annotated[float, typer.Option(min=0.0001, help="Days that a certificate is good for.")]
CA = Path("ca")
BUNDLE = 1 << 26
"""Most bytes of a file that is carried between aggregator and CA."""


@app.callback()
def _group() -> None:
    """Certify devices, and revoke them."""


@app.command()
def init(directory: Annotated[Path, typer.Argument(help="A new folder; keep it safe.")] = CA) -> None:
    """Make a CA: a key that never leaves its folder, and a certificate for aggregators."""
    from fedkit.ca.authority import CERTIFICATE, make_authority
    from fedkit.secagg.identity import fingerprint

    public = make_authority(directory)
    typer.echo(f"fingerprint: {fingerprint(public)}")
    typer.echo(f"for the aggregator: fedkit serve SCENARIO --ca {directory / CERTIFICATE}")


@app.command()
def approve(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these clients; default all.")
    ] = None,
    ca: CaOption = CA,
    directory: AggregatorOption = AGGREGATOR,
    days: DaysOption = 180.0,
) -> None:
    """Answer the devices that wait at an aggregator on this machine."""
    from fedkit.ca.authority import Authority
    from fedkit.ca.requests import read_request

    box, waiting = _mailbox(directory), list["Request"]()
    for name, data in box.requests():
        try:
            waiting.append(read_request(data))
        except WireError as error:  # the others shall not wait for it
            typer.echo(
                f"{box.folder / 'requests' / name}.json is passed over, it is damaged: {error}", err=True
            )
    asked = _chosen(waiting, names or [])
    with Authority(ca) as authority:
        grants = [authority.answer(request, timedelta(days=days)) for request in asked]
        for grant in grants:
            box.tell(grant.id, grant.data())
        box.put("crl.pem", authority.publish())
    _report(asked, grants)


@app.command()
def requests(
    directory: AggregatorOption = AGGREGATOR,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("requests.jsonl"),
) -> None:
    """Write what devices ask to a file, for a CA on another machine."""
    found = [data for _, data in _mailbox(directory).requests()]
    out.write_bytes(b"".join(data + b"\n" for data in found))
    typer.echo(f"{many(len(found), 'request')} in {out}; on the CA's machine: fedkit ca sign {out}")


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(help="What `fedkit ca requests` has written.")],
    ca: CaOption = CA,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("answers.jsonl"),
    days: DaysOption = 180.0,
) -> None:
    """Answer the requests of a file, without any network."""
    from fedkit.ca.authority import Authority
    from fedkit.ca.requests import read_request

    asked = []
    for number, line in enumerate(_lines(file), 1):
        try:
            asked.append(read_request(line))
        except WireError as error:
            raise ConfigError(f"{file}:{number}: {error}") from None
    with Authority(ca) as authority:
        grants = [authority.answer(request, timedelta(days=days)) for request in asked]
        crl = json.dumps({"crl": authority.publish().decode("ascii")}).encode()
    out.write_bytes(b"".join(line + b"\n" for line in (*(grant.data() for grant in grants), crl)))
    _report(asked, grants)
    typer.echo(f"answers in {out}; on the aggregator's machine: fedkit ca import {out}")


@app.command("import")
def take(
    file: Annotated[Path, typer.Argument(help="What `fedkit ca sign` has written.")],
    directory: AggregatorOption = AGGREGATOR,
) -> None:
    """Hand the CA's answers, its crl.pem or next-ca.json to an aggregator here, which checks them."""
    from fedkit import fields
    from fedkit.ca.requests import read_grant
    from fedkit.ca.succession import FILE, read_succession
    from fedkit.cli.succession import hand_over

    box, count = _mailbox(directory), 0
    if (data := b"\n".join(_lines(file))).startswith(b"-----BEGIN X509 CRL-----"):
        box.put("crl.pem", data + b"\n")
        typer.echo("the list of revocations is handed over")
        return
    for number, line in enumerate(_lines(file), 1):
        try:
            if file.name == FILE:
                hand_over(directory, read_succession(line))
                typer.echo("the new CA is announced")
                return
            found = fields.mapping(fields.parse(line, "a line"), "a line")
            if "crl" in found:
                box.put("crl.pem", fields.text(found["crl"], "crl").encode())
                continue
            grant = read_grant(line)
        except WireError as error:
            raise ConfigError(f"{file}:{number}: {error}") from None
        box.tell(grant.id, grant.data())
        count += 1
    typer.echo(f"{many(count, 'answer')} handed over")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The client.")],
    ca: CaOption = CA,
    directory: NearOption = None,
) -> None:
    """Revoke all certificates of a client; it is refused as soon as the aggregator has the list."""
    from fedkit.ca.authority import Authority

    with Authority(ca) as authority:
        count = authority.revoke(name)
        crl = authority.publish()
    typer.echo(f"client {name!r}: {many(count, 'certificate')} revoked")
    _hand_over(ca, directory, crl)


@app.command()
def publish(ca: CaOption = CA, directory: NearOption = None) -> None:
    """Sign the list of revocations anew: an aggregator that was restored from a copy asks for it."""
    from fedkit.ca.authority import Authority

    with Authority(ca) as authority:
        _hand_over(ca, directory, authority.publish())


@app.command()
def rotate(
    new: Annotated[Path, typer.Argument(help="A new folder for the CA that takes over.")],
    ca: CaOption = CA,
    directory: NearOption = None,
    days: Annotated[float, typer.Option(min=0.0001, help="Days for which both are believed.")] = 365.0,
) -> None:
    """Let a new CA take over: the old one announces it, and devices learn of it by the aggregator."""
    from fedkit.ca.authority import Authority
    from fedkit.ca.succession import FILE
    from fedkit.cli.invite import REMEMBERED
    from fedkit.cli.succession import hand_over
    from fedkit.runfolder import replace_file
    from fedkit.secagg.identity import fingerprint

    if directory is not None:
        _mailbox(directory)  # is there one? before a CA is made
    with Authority(ca) as authority:
        made = authority.succeed(new, timedelta(days=days))
    typer.echo(f"fingerprint: {fingerprint(made.ca)}")
    if directory is not None:
        hand_over(directory, made)
    else:
        typer.echo(f"on the aggregator's machine: fedkit ca import {ca / FILE}")
    if (ca / REMEMBERED).exists():
        replace_file(new / REMEMBERED, (ca / REMEMBERED).read_bytes())
    typer.echo(f"from now on invite, approve, sign and revoke with --ca {new}: {ca} does none of it any more")


@app.command("list")
def issued(ca: CaOption = CA) -> None:
    """Show the certificates that were issued."""
    from fedkit.ca.authority import Authority

    with Authority(ca) as authority:
        rows = [
            {
                "client": made.client,
                "until": datetime.fromtimestamp(made.ends, UTC).strftime("%Y-%m-%d"),
                "state": "revoked" if revoked else "",
                "key": made.key[:16],
                "serial": made.serial,
            }
            for made, revoked in sorted(authority.issued(), key=lambda row: row[0].client)
        ]
    if not rows:
        typer.echo("nobody has a certificate", err=True)
    echo_table(rows)


def _hand_over(ca: Path, directory: Path | None, crl: bytes) -> None:
    """Give a list of revocations to the aggregator, or say how."""
    from fedkit.ca.authority import REVOCATIONS

    if directory is not None:
        _mailbox(directory).put("crl.pem", crl)
        return
    typer.echo(f"on the aggregator's machine: fedkit ca import {ca / REVOCATIONS}")


def _mailbox(directory: Path) -> Mailbox:
    if not (directory / WITHIN.parent).is_dir():
        raise ConfigError(f"{directory} is no aggregator's directory: `fedkit serve` makes one; give --dir")
    return Mailbox(directory / WITHIN)


def _chosen(waiting: Sequence[Request], names: Sequence[str]) -> Sequence[Request]:
    known = {request.client for request in waiting}
    for name in names:
        if name not in known:
            raise ConfigError(f"client {name!r} does not wait; {nearest(name, known)}")
    return [request for request in waiting if not names or request.client in names]


def _report(asked: Sequence[Request], grants: Sequence[Grant]) -> None:
    from fedkit.secagg.identity import fingerprint

    for request, grant in zip(asked, grants, strict=True):
        said = f"refused: {grant.refused}" if grant.refused else fingerprint(request.key)
        typer.echo(f"client {request.client!r}: {said}")
    if not asked:
        typer.echo("nobody waits")


def _lines(file: Path) -> Sequence[bytes]:
    if file.stat().st_size > BUNDLE:
        raise ConfigError(f"{file}: of {file.stat().st_size} bytes; this is not what fedkit has written")
    return file.read_bytes().splitlines()
