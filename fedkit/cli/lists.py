"""`fedkit scenarios | strategies | codecs | workloads`: what is there, one line each."""

from __future__ import annotations

from collections.abc import Sequence

from fedkit.cli.output import Format, FormatOption, echo_json, echo_table

Row = dict[str, str]


def scenarios(output: FormatOption = Format.text) -> None:
    """List the scenarios that are installed."""
    from fedkit.scenario import shipped

    _show([_row(name, text, owner) for name, (text, owner) in shipped().items()], output)


def strategies(output: FormatOption = Format.text) -> None:
    """List the strategies that are installed."""
    _show(_plugins("fedkit.strategies"), output)


def codecs(output: FormatOption = Format.text) -> None:
    """List the codecs that are installed, with their traits at default parameters."""
    from fedkit.cli import codecs

    rows = codecs.rows()
    if output is Format.json:
        echo_json(rows)
    else:
        codecs.show(rows)


def workloads(output: FormatOption = Format.text) -> None:
    """List the workloads that are installed."""
    _show(_plugins("fedkit.workloads"), output)


def _plugins(group: str) -> list[Row]:
    from fedkit import plugins
    from fedkit.errors import PluginError

    rows = []
    for name, (_, owner) in plugins.names(group).items():
        try:
            text = plugins.describe(plugins.load(group, name))
        except PluginError as error:  # one broken plugin must not hide the others
            text = f"cannot be used: {error}"
        rows.append(_row(name, text, owner))
    return rows


def _row(name: str, description: str, owner: str) -> Row:
    return {"name": name, "description": description, "distribution": owner}


def _show(rows: Sequence[Row], output: Format) -> None:
    if output is Format.json:
        echo_json(rows)
    else:
        echo_table(rows)
