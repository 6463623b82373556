"""The `fedkit` command. Each module holds one group of commands and imports lazily."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fedkit.cli import backup, ca, client, doctor, invite, join, lists, reports, run, serve, status
from fedkit.cli.check import app as check_app
from fedkit.cli.new import app as new_app
from fedkit.cli.secagg import app as secagg_app
from fedkit.errors import ConfigError, FedkitError
from fedkit.oneline import told


class _Commands(TyperGroup):
    """Turns fedkit's own errors, the system's and a stray sys.exit into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader has seen enough: typer ends quietly
        except (FedkitError, OSError, SystemExit) as error:
            print(f"fedkit: {told(error)}", file=sys.stderr)  # noqa: T201 - the command's own output
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from error


app = typer.Typer(
    name="fedkit",
    cls=_Commands,
    help="Federated learning: run, compare and extend.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from fedkit import __version__

        typer.echo(f"fedkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Federated learning: run, compare and extend."""


app.command("run")(run.run)
app.command("serve")(serve.serve)
app.command("identity")(serve.identity)
app.command("status")(status.status)
app.command("backup")(backup.backup)
app.command("client")(client.client)
app.command("scenarios")(lists.scenarios)
app.command("strategies")(lists.strategies)
app.command("codecs")(lists.codecs)
app.command("workloads")(lists.workloads)
app.command("report")(reports.report)
app.command("compare")(reports.compare)
app.command("doctor")(doctor.doctor)
app.command("invite")(invite.invite)
app.command("join")(join.join)
app.command("rotate")(join.rotate)
app.command("revoke")(ca.revoke)
app.add_typer(ca.app, name="ca")
app.add_typer(new_app, name="new")
app.add_typer(check_app, name="check")
app.add_typer(secagg_app, name="secagg")


def main() -> None:
    """Entry point of the `fedkit` command.

    Exit codes: 0 done, 1 the run or the check failed, 2 something asked for is wrong, 130 Ctrl-C.
    """
    app()
