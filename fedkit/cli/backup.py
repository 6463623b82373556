"""`fedkit backup`: a copy of an aggregator's folder, whether it runs or not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedkit.cli.words import AGGREGATOR, AggregatorOption
from fedkit.errors import ConfigError


def backup(
    to: Annotated[Path, typer.Argument(help="Folder to make; it must not exist.")],
    directory: AggregatorOption = AGGREGATOR,
) -> None:
    """Copy an aggregator's folder so that it can be started from the copy. It may run meanwhile."""
    from fedkit.aggregator.backup import backup, demand_new, hand_over
    from fedkit.cli.operator import ask

    demand_new(to)
    if ask(directory, "POST", "/backup") is not None:
        hand_over(directory, to)
    else:
        try:
            backup(directory, to)
        except ConfigError as error:
            if "in use" not in str(error):
                raise
            raise ConfigError(
                f"{directory} is in use by an aggregator that does not answer at its operator's door: "
                "stop it for the copy"
            ) from error
    typer.echo(f"{to}: a copy of {directory}, with the aggregator's key: keep it as safe")
