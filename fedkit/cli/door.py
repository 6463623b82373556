"""What goes wrong inside leaves through here: one line that says what to do, and never exit code 0."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from fedkit.cli.output import Format, echo_json
from fedkit.oneline import told


@contextmanager
def last_event(output: Format) -> Iterator[None]:
    """Around a run: with JSON, whatever ends it by an error is told as the event "failed"."""
    try:
        yield
    except (typer.Exit, BrokenPipeError):
        raise
    except (Exception, SystemExit) as error:
        if output is Format.json:
            echo_json({"event": "failed", "error": told(error), "kind": type(error).__name__})
        raise
