"""`fedkit scenarios | strategies | codecs | workloads`: what is there, one line each."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from fedkit.cli.output import Format, FormatOption, echo_json, echo_table

Row = dict[str, str]


def scenarios(output: FormatOption = Format.text) -> None:
    """List the scenarios that are installed."""
    from fedkit.scenario import shipped

    _show([_row(name, text, owner) for name, (text, owner) in shipped().items()], output)


def strategies(output: FormatOption = Format.text) -> None:
    """List the strategies that are installed."""
    _show(_plugins("fedkit.strategies"), output)
    _report_doubled("fedkit.strategies")


def codecs(output: FormatOption = Format.text) -> None:
    """List the codecs that are installed, with their traits at default parameters."""
    from fedkit.cli import codecs

    rows = codecs.rows()
    if output is Format.json:
        echo_json(rows)
    else:
        codecs.show(rows)
    _report_doubled("fedkit.codecs")


def workloads(output: FormatOption = Format.text) -> None:
    """List the workloads that are installed."""
    _show(_plugins("fedkit.workloads"), output)
    _report_doubled("fedkit.workloads")


def _plugins(group: str) -> list[Row]:
    from fedkit import plugins
    from fedkit.errors import PluginError

    rows = []
    for name, (_, owner) in plugins.listing(group)[0].items():
        try:
            text = plugins.describe(plugins.load(group, name))
        except PluginError as error:  # one broken plugin must not hide the others
            text = f"cannot be used: {error}"
        rows.append(_row(name, text, owner))
    return rows


def _report_doubled(group: str) -> None:
    """After the list: names that two distributions register; exits 1 if there are any."""
    from fedkit import plugins

    doubled = plugins.listing(group)[1]
    for error in doubled.values():
        typer.echo(f"fedkit: {error}", err=True)
    if doubled:
        raise typer.Exit(1)


def _row(name: str, description: str, owner: str) -> Row:
    return {"name": name, "description": description, "distribution": owner}


def _show(rows: Sequence[Row], output: Format) -> None:
    if output is Format.json:
        echo_json(rows)
    else:
        echo_table(rows)
