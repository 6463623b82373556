"""The arguments of `run`: each is proven before anything is done, by an error that names it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from fedkit import plugins
from fedkit.aggregate import Grid
from fedkit.codecs import Codec
from fedkit.coding import demand_traits
from fedkit.errors import ConfigError, nearest, shown
from fedkit.federation import Federation, RoundPolicy
from fedkit.messages import ClientId, Settings
from fedkit.strategy import Strategy
from fedkit.tensors import Layout, Tensors, pick
from fedkit.trainer import Workload, frozen, travelling
from fedkit.usercode import called, odd_client, returned_model, returned_settings, returned_state

WORKLOAD = ("init", "clients", "trainer", "evaluate")
FEDERATION = ("open", "publish", "clients", "send", "receive", "outstanding", "settle", "now", "traffic")


def whole(name: str, value: object, low: int, high: int = 2**53) -> int:
    """A whole number in [low, high]; numpy's become Python's."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        bounds = f">= {low}" if high == 2**53 else f"in [{low}, 2^{high.bit_length()})"
        raise ConfigError(f"{name} = {shown(value)}: must be a whole number {bounds}")
    return int(value)


def one_of(name: str, value: object, *allowed: str) -> None:
    """The value is one of these strings."""
    if not isinstance(value, str) or value not in allowed:
        hint = nearest(value, allowed) if isinstance(value, str) else f"known: {', '.join(allowed)}"
        raise ConfigError(f"{name} = {shown(value)}: {hint}")


def check_strategy(strategy: object) -> Strategy:
    """The strategy, or the plugin of that name."""
    made = plugins.strategy(strategy) if isinstance(strategy, str) else strategy
    if not isinstance(made, Strategy):
        raise ConfigError(f"strategy is {_a(made)}: give a Strategy, or the name of one")
    return made


def check_codec(codec: object, way: Literal["up", "down"]) -> Codec:
    """The codec, or the plugin of that name."""
    made = plugins.codec(codec, way) if isinstance(codec, str) else codec
    if not isinstance(made, Codec):
        raise ConfigError(f"codec_{way} is {_a(made)}: give a Codec, or the name of one, as in 'int8'")
    demand_traits(made, f"codec.{way}")
    return made


def check_workload(workload: object, train: Settings) -> None:
    """It is a workload, and knows the settings of local training."""
    _demand_methods("workload", workload, WORKLOAD)
    known: Mapping[str, str] | None = getattr(workload, "train_settings", None)
    for key in train:
        if known is not None and key not in known:
            raise ConfigError(f"train.{key}: unknown key; {nearest(key, known)}")
    check = getattr(workload, "check_train", None)
    if check is not None:
        with called(f"workload {type(workload).__name__}.check_train", ConfigError):
            check(train)


def check_federation(federation: Federation) -> Federation:
    """It is a federation."""
    _demand_methods("federation", federation, FEDERATION)
    return federation


def _demand_methods(what: str, value: object, names: Sequence[str]) -> None:
    if isinstance(value, type):
        raise ConfigError(f"{what} is {_a(value)}: give an instance, {value.__name__}(...)")
    lacking = [name for name in names if not callable(getattr(value, name, None))]
    if lacking:
        raise ConfigError(f"{what} is {_a(value)}, which has no {lacking[0]}()")


def check_train(train: object) -> Settings:
    """The settings of local training as plain scalars."""
    return returned_settings(train if train is not None else {}, "train", ConfigError)


def check_grid(grid: object) -> Grid:
    """It is a grid."""
    if not isinstance(grid, Grid):
        raise ConfigError(f"grid is {_a(grid)}: give a Grid(...), or None")
    return grid


def check_folder(out: object, resume: object) -> Path | None:
    """The run folder, None without one."""
    if not isinstance(resume, bool):
        raise ConfigError(f"resume = {shown(resume)}: must be True or False")
    if out is None:
        if resume:
            raise ConfigError("resume = True, but out is None: name the run folder that is to be continued")
        return None
    if not isinstance(out, str | os.PathLike) or not str(out):
        raise ConfigError(f"out = {shown(out)}: must be the path of a folder, or None")
    return Path(out)


def title_of(scenario: object, workload: Workload) -> str:
    """What the scenario calls the workload, else its class."""
    if not isinstance(scenario, str):
        raise ConfigError(f"scenario is {_a(scenario)}: give TOML text, or nothing")
    try:
        return str(tomllib.loads(scenario).get("workload", type(workload).__name__))
    except ValueError as error:
        raise ConfigError(f"scenario is not TOML: {error}") from error


def client_ids(workload: Workload, policy: RoundPolicy) -> tuple[ClientId, ...]:
    """All registered clients: at least one, each a plain string of its own, enough for the quorum."""
    name = f"workload {type(workload).__name__}.clients"
    with called(name, ConfigError):
        ids: object = workload.clients()
    if not isinstance(ids, Collection) or isinstance(ids, str | bytes):
        raise ConfigError(f"{name} returned {_a(ids)}, not a list of ids")
    found = tuple(ids)
    for client in found:
        if why := odd_client(client):
            advice = "" if isinstance(client, str) else "; make it one with str(...)"
            raise ConfigError(f"{name}: the id {shown(client)} {why}{advice}")
    if len(set(found)) < len(found):
        twice = next(client for client in found if found.count(client) > 1)
        raise ConfigError(f"{name}: two clients have the id {twice!r}")
    if not found:
        raise ConfigError(f"{name} names no clients: nobody could train")
    if policy.quorum > len(found):
        raise ConfigError(
            f"rounds.quorum = {policy.quorum} is above the {len(found)} clients that are registered: "
            "no round could succeed"
        )
    return found


def whole_model(workload: Workload, seed: int) -> Tensors:
    """The whole initial model, read-only."""
    name = f"workload {type(workload).__name__}.init"
    with called(name, ConfigError):
        made: object = workload.init(seed)
    return returned_model(made, name)


def layouts(strategy: Strategy, workload: Workload, base: Tensors) -> tuple[Layout, Layout]:
    """The layouts of what travels and of the strategy's extras."""
    name = f"strategy {type(strategy).__name__}"
    with called(f"{name}.shared", ConfigError):
        layout = travelling(base, frozen(workload), strategy.shared)
    with called(f"{name}.extras", ConfigError):
        extras: object = strategy.extras(pick(base, layout))
    state = returned_state({"extras": extras}, f"{name}.extras", ConfigError)
    return layout, Layout.of(state["extras"])


def _a(value: object) -> str:
    """`the class FedAvg`, `a FedAvg`, `None`."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else f"a {type(value).__name__}"
