"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AGGREGATOR = Path("aggregator")
AggregatorOption = Annotated[Path, typer.Option("--dir", help="The aggregator's directory.")]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings over the scenario's, as in rounds.count=5."),
]
