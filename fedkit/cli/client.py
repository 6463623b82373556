"""`fedkit client`: one device of a deployed federation."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from fedkit.config import Population
from fedkit.errors import ConfigError, PluginError

QUIET = {
    **{"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"},
    **{"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
}
"""Environment of the small process where nothing else is set: what is freed goes back to the system,
and small matrices are not handed from thread to thread."""
_ADDRESS = re.compile(r"[^=]*(://|:[0-9]+$)")


def client(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ADDRESS] [SCENARIO] [KEY=VALUE]...",
            help="https://HOST:PORT of the aggregator; of a device that has joined with an invite only where "
            "it has moved to, once: that is kept. Then a scenario, whose workload is the one of this device, "
            "and settings over it, or with --workload the options of that.",
        ),
    ] = None,
    workload: Annotated[
        str,
        typer.Option("--workload", help="A registered name, FILE.py:ATTR or MODULE:ATTR; no scenario."),
    ] = "",
    data: Annotated[
        str,
        typer.Option("--data", help="The data of this device: the option `data` of the workload."),
    ] = "",
    directory: Annotated[
        Path,
        typer.Option("--dir", help="Where its key is (`fedkit identity DIR`) and what it must not lose."),
    ] = Path("edge"),
    roster: Annotated[
        Path, typer.Option("--roster", help="TOML file with the keys of the aggregator and of all clients.")
    ] = Path("roster.toml"),
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Speak plain HTTP with an aggregator on this machine.")
    ] = False,
    name: Annotated[
        str, typer.Option("--name", help="The client's id in the roster; default the name of the folder.")
    ] = "",
    shard: Annotated[
        str,
        typer.Option(
            "--shard",
            help="Whose data of the workload this device has; default those of its own id, or the only ones.",
        ),
    ] = "",
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="What this device insists on; default DIR/policy.toml, if there."),
    ] = None,
    audit: Annotated[
        Path | None, typer.Option("--audit", help="A file that gets a line for all that leaves the device.")
    ] = None,
    model_out: Annotated[
        Path | None, typer.Option("--model-out", help="A file for the newest model, as safetensors.")
    ] = None,
) -> None:
    """Train what an aggregator asks, for ever; SIGTERM or Ctrl-C ends it, and nothing finished is lost."""
    if policy is not None and not policy.is_file():
        raise ConfigError(f"--policy {policy}: there is no such file")
    address, rest = _address(words or [], insecure_http)
    if data:
        rest = [*rest, f"{'' if workload else 'workload_options.'}data={json.dumps(data)}"]
    told = {
        "address": address,
        "roster": str(roster),
        "directory": str(directory),
        "name": name,
        "shard": shard,
        "policy": str(policy or ""),
        "audit": str(audit or ""),
        "model_out": str(model_out or ""),
    }
    _become({**told, **(_named(workload, rest) if workload else _of_scenario(rest))})


def _address(words: Sequence[str], insecure_http: bool) -> tuple[str, Sequence[str]]:
    """The aggregator's address, empty where none is given, and the words behind it; ConfigError."""
    address, rest = (words[0], words[1:]) if words and _ADDRESS.match(words[0]) else ("", words)
    if address.startswith("http:") and not insecure_http:
        raise ConfigError(f"{address} is not encrypted: write https://, or --insecure-http on one machine")
    return address, rest


def _of_scenario(words: Sequence[str]) -> dict[str, object]:
    """The workload of a scenario; ConfigError."""
    from fedkit.scenario import read

    if not words:
        raise ConfigError("say what is to be trained: a scenario, or --workload")
    scenario = read(words[0], words[1:])
    return {
        "workload": scenario.workload,
        "options": dict(scenario.workload_options),
        "population": dataclasses.asdict(scenario.population),
        "seed": scenario.seed,
    }


def _named(workload: str, words: Sequence[str]) -> dict[str, object]:
    """A workload and its options, KEY=VALUE each; ConfigError."""
    from fedkit import toml

    options: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{word!r}: options of a workload are written KEY=VALUE")
        options[key] = toml.value(value)
    return {"workload": workload, "options": options, "population": dataclasses.asdict(Population())}


def _become(start: Mapping[str, object]) -> NoReturn:
    """Be the client, in a process that never loaded this command: it stays for years on a small device."""
    from fedkit import plugins

    found = plugins.names("fedkit.clients")
    if "edge" not in found:
        raise PluginError("fedkit_clients is not installed: pip install fedkit")
    module, text = found["edge"][0].partition(":")[0], json.dumps(start)
    if os.name == "nt":  # has no exec: a process would stay behind and wait
        raise typer.Exit(importlib.import_module(f"{module}.start").main(text))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-m", module, text], {**QUIET, **os.environ})  # noqa: S606
