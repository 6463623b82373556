"""Which run `fedkit serve` goes on with: the one that its folder holds, or the next one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from fedkit.cli.folders import Launch, differing, is_run, launch_into
from fedkit.errors import ConfigError

OVER = ("done", "failed")
"""What a summary says of a run that is over."""


def launch(source: str, overrides: Sequence[str], directory: Path, leave: bool) -> Launch:
    """The run of a scenario in the folder of an aggregator, continued if it has begun there.

    The run of another scenario is put aside if it is over. leave: or if it is not. ConfigError: it is not.
    """
    folder = directory / "run"
    if is_run(folder) and (keys := differing(folder, source, overrides)):
        if not (leave or _is_over(folder)):
            raise ConfigError(
                f"{folder} holds a run with other settings than {source} ({', '.join(keys)} differ), and it "
                "is not over: continue it with its own settings, or leave it for this one with --next"
            )
        from fedkit.aggregator.nextrun import retire

        typer.echo(f"the run before is kept in {retire(directory)}", err=True)
    return launch_into(source, overrides, folder, True)


def _is_over(folder: Path) -> bool:
    """Whether its summary says so; one that is missing or torn does not."""
    try:
        summary = json.loads((folder / "summary.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get("status") in OVER
