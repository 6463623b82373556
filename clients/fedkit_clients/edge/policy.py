"""What a device insists on, whatever an aggregator asks: `policy.toml` in the directory of the client.

    secagg = "lying_server"          the least: "off" (the default), "honest_server" or "lying_server"
    n_min = 10                       fewest clients in a secure sum
    corrupt = 0.1                    also dropout and sigma: as [secagg] of a scenario has them
    workloads = ["digits"]           the only ones that this device serves; none given: any
    strategies = ["fedavg"]          the only ones that it takes part in; none given: any
    hours = "22:00-06:00"            when it asks and trains, by its own clock; none given: always
    monthly_bytes = 500_000_000      most bytes that it sends and receives in a month; none given: any
    proxy = "http://proxy:3128"      by which it reaches the aggregator
    max_epochs = 5                   most epochs that one task may ask for; none given: any
    max_steps = 2000                 most optimiser steps, for tasks that count in steps; none given: any
    max_tasks_per_day = 24           most tasks that it begins within 24 hours; none given: any
    tells_why = true                 false: of what it does not do it tells a word such as "refused" alone

Every key may be left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from fedkit import options, plugins, toml
from fedkit.errors import ConfigError, ProtocolRefused
from fedkit.job import Job
from fedkit.messages import Settings
from fedkit.secagg.identity import Floors
from fedkit.secagg.parameters import Mode, Policy

NAME = "policy.toml"
Least: TypeAlias = Literal["off", "honest_server", "lying_server"]
_RANK = ("off", "honest_server", "lying_server")
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")


@dataclass(frozen=True)
class DevicePolicy:
    """The keys of a policy file. ConfigError, naming the key, on a value that cannot be."""

    secagg: Least = "off"
    n_min: int = 0
    corrupt: float = Policy().corrupt
    dropout: float = Policy().dropout
    sigma: int = 0
    workloads: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    hours: str = ""
    monthly_bytes: int = 0
    proxy: str = ""
    max_epochs: int = 0
    max_steps: int = 0
    max_tasks_per_day: int = 0
    tells_why: bool = True

    def __post_init__(self) -> None:
        if self.hours and (not _HOURS.fullmatch(self.hours) or self.hours[:5] == self.hours[6:]):
            raise ConfigError('hours: write them as "22:00-06:00", from one time of day to another')
        if self.monthly_bytes < 0:
            raise ConfigError("monthly_bytes: a number of bytes above 0, or 0 for no limit")
        for name in ("max_epochs", "max_steps", "max_tasks_per_day"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: a number above 0, or 0 for no limit")
        self._floor(Mode.HONEST_SERVER)

    @property
    def window(self) -> tuple[int, int] | None:
        """Minutes of the day from which and up to which the device works; None: always."""
        found = _HOURS.fullmatch(self.hours)
        if not found:
            return None
        a, b, c, d = map(int, found.groups())
        return 60 * a + b, 60 * c + d

    def demand(self, job: Job, workload: str) -> None:
        """ProtocolRefused, naming the rule, unless the device takes part. workload: its name here."""
        mode = str(job.secagg.policy.mode) if job.secagg is not None else "off"
        if _RANK.index(mode) < _RANK.index(self.secagg):
            raise ProtocolRefused(
                "mode", f"the job has secagg.mode {mode!r}, this device insists on {self.secagg!r}"
            )
        if self.strategies:
            _demand_listed("strategy", plugins.strategy_name(job.strategy), self.strategies)
        _demand_listed("workload", workload, self.workloads)

    def allow(self, settings: Settings) -> None:
        """ProtocolRefused, naming the rule and both values, if the settings of a task ask for more than this
        device does. One with a ceiling takes no task that counts in what has none.
        """
        ceilings = {"epochs": self.max_epochs, "steps": self.max_steps}
        if not any(ceilings.values()):
            return
        unit = "steps" if settings.get("steps", 0) else "epochs"
        asked, most, rule = settings.get(unit, 1), ceilings[unit], f"max_{unit}"
        if not most:
            other = "max_epochs" if unit == "steps" else "max_steps"
            told = f"the task asks for {unit} = {asked}, this device gives a ceiling by {other} alone"
            raise ProtocolRefused(other, told)
        if isinstance(asked, bool | str) or not asked <= most:
            raise ProtocolRefused(
                rule, f"the task asks for {unit} = {asked}, this device allows {rule} = {most}"
            )

    def floors(self, job: Job) -> Floors:
        """What holds in secure sessions of the job.

        A device that does without secure sums takes them as the job has them, but for `n_min`; one that
        insists on them insists on its own policy.
        """
        if job.secagg is None or self.secagg != "off":
            return Floors(self._floor(Mode(self.secagg if self.secagg != "off" else "honest_server")))
        asked = job.secagg.policy
        return Floors(replace(asked, smallest=max(asked.smallest, self.n_min)), job.secagg.explicit)

    def _floor(self, mode: Mode) -> Policy:
        return Policy(self.corrupt, self.dropout, self.sigma, mode, self.n_min)


def read_policy(path: Path) -> DevicePolicy:
    """The policy of a file, the default one if there is no such file. ConfigError names file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return DevicePolicy()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    try:
        tree = toml.loads(text)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    places = toml.lines(text)

    def fail(key: str, reason: str) -> ConfigError:
        return ConfigError(f"{path}:{places.get(key, 1)}: {key}: {reason}")

    given = options.check(DevicePolicy, tree, fail)
    try:
        return DevicePolicy(**cast("dict[str, Any]", given))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _demand_listed(what: str, name: str, allowed: tuple[str, ...]) -> None:
    if allowed and name not in allowed:
        raise ProtocolRefused(what, f"{name!r} is not among those of this device: {', '.join(allowed)}")
