"""`fedkit check`: the conformance kit on anyone's plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from fedkit.cli.output import Format, FormatOption, echo_json

app = typer.Typer(help="Check that a plugin keeps the laws of its kind.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A registered name, or FILE.py:NAME.")]
Options = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options to make it with, as in mu=0.1.")
]


@app.command("strategy")
def strategy(name: Name, options: Options = None, output: FormatOption = Format.text) -> None:
    """Check a strategy; exits 1 and names the law if one is broken."""
    from fedkit import plugins, toml
    from fedkit.conformance import check_strategy
    from fedkit.errors import ConfigError

    pairs = [option.partition("=") for option in options or []]
    if bare := [key for key, equals, _ in pairs if not equals]:
        raise ConfigError(f"option {bare[0]!r}: must be key=value, as in mu=0.1")
    made = plugins.strategy(name, {key: toml.value(text) for key, _, text in pairs})
    _show("strategy", name, check_strategy(made), output)


@app.command("codec")
def codec(
    spec: Annotated[str, typer.Argument(help="A spec string (none, name:key=value), or FILE.py:NAME.")],
    output: FormatOption = Format.text,
) -> None:
    """Check a codec; exits 1 and names the law if one is broken."""
    from fedkit import plugins
    from fedkit.conformance import check_codec

    _show("codec", spec, check_codec(plugins.codec(spec)), output)


def _show(kind: str, name: str, laws: Sequence[str], output: Format) -> None:
    if output is Format.json:
        echo_json({"kind": kind, "name": name, "laws": list(laws)})
        return
    for law in laws:
        typer.echo(f"  ok  {law}")
    typer.echo(f"{kind} {name} keeps {len(laws)} laws")
