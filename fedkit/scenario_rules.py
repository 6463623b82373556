"""The ranges of a scenario's numbers, what must hold between them, and which keys have no effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields

from fedkit.config import Scenario, SecAggSection

_LONGEST = 1e12
"""Seconds that a clock still counts to the tenth of a millisecond."""
_SECONDS = "must be in [1e-6, 1e12] seconds"

Rule = tuple[str, Callable[[float], bool], str]


def _share(number: float) -> bool:
    return 0 <= number <= 1


def _positive(number: float) -> bool:
    return number > 0 and math.isfinite(number)


def _seconds(number: float) -> bool:
    return 1e-6 <= number <= _LONGEST


def _rate(number: float) -> bool:
    return 1e-6 <= number <= 1e15


def _spread(number: float) -> bool:
    return 0 <= number <= 10


def _count(number: float) -> bool:
    return number >= 1


def _count_or_fraction(number: float) -> bool:
    return number >= 1 if isinstance(number, int) else 0 < number < 1


_EITHER = "must be a count (1, 2 ...) or a fraction in (0, 1)"
_FINITE = "must be positive and finite"
_RATE = "must be in [1e-6, 1e15] a second"
_LEAST_0 = "must be 0 or more"
_SPREAD = "must be in [0, 10]"
_SHARE = "must be in [0, 1]"
_COUNT = "must be at least 1"

_RULES: tuple[Rule, ...] = (
    ("seed", lambda n: 0 <= n < 2**63, "must be in [0, 2^63)"),
    ("population.clients", _count, _COUNT),
    ("population.alpha", _positive, _FINITE),
    ("population.shards", _count, _COUNT),
    ("population.min_examples", lambda n: n >= 0, _LEAST_0),
    ("rounds.count", _count, _COUNT),
    ("rounds.cohort", _count_or_fraction, f"{_EITHER}; 'none' takes all clients"),
    ("rounds.over_select", lambda n: 1 <= n <= 1e6, "must be in [1, 1e6]"),
    ("rounds.quorum", _count_or_fraction, _EITHER),
    ("rounds.deadline", _seconds, _SECONDS),
    ("rounds.carry_rounds", lambda n: 1 <= n <= 1000, "must be in [1, 1000]"),
    ("rounds.max_failures", _count, _COUNT),
    ("rounds.evaluate_every", _count, _COUNT),
    ("aggregate.max_weight", _positive, _FINITE),
    ("aggregate.max_delta", _positive, _FINITE),
    ("secagg.corrupt", lambda n: 0 <= n < 1, "must be in [0, 1)"),
    ("secagg.dropout", lambda n: 0 <= n < 1, "must be in [0, 1)"),
    ("secagg.sigma", lambda n: 0 <= n <= 128, "must be in [1, 128], or 0: chosen"),
    (
        "secagg.n_min",
        lambda n: n == 0 or n >= 3,
        "must be at least 3 (of two clients, each knows the other's update), or 0: chosen",
    ),
    ("secagg.neighbours", lambda n: n >= 0, _LEAST_0),
    ("secagg.threshold", lambda n: n >= 0, _LEAST_0),
    ("secagg.retries", lambda n: 0 <= n <= 100, "must be in [0, 100]"),
    ("links.up", _rate, _RATE),
    ("links.down", _rate, _RATE),
    ("links.latency", lambda n: 0 <= n <= _LONGEST, "must be in [0, 1e12]"),
    ("links.loss", lambda n: 0 <= n < 1, "must be in [0, 1)"),
    ("links.spread", _spread, _SPREAD),
    ("devices.speed", _rate, _RATE),
    ("devices.spread", _spread, _SPREAD),
    ("devices.drop", _share, _SHARE),
    ("devices.drop_after", _share, _SHARE),
    ("devices.stragglers", _share, _SHARE),
    ("devices.available", _share, _SHARE),
    ("devices.on_seconds", _seconds, _SECONDS),
    ("devices.off_seconds", _seconds, _SECONDS),
    ("stop.target", math.isfinite, "must be finite"),
    ("stop.patience", lambda n: n >= 0, _LEAST_0),
)

_SECURE = ("honest_server", "lying_server")

NEEDS: Sequence[tuple[str, str, tuple[str, ...]]] = (
    ("population.alpha", "population.partition", ("dirichlet", "quantity")),
    ("population.shards", "population.partition", ("shards",)),
    ("rounds.carry_rounds", "rounds.late", ("carry",)),
    *((f"secagg.{field.name}", "secagg.mode", _SECURE) for field in fields(SecAggSection)[1:]),
    ("devices.available", "devices.availability", ("bernoulli",)),
    ("devices.on_seconds", "devices.availability", ("markov",)),
    ("devices.off_seconds", "devices.availability", ("markov",)),
)
"""(key, the key that it depends on, the values of that one with which it has an effect)."""


def at(scenario: object, path: str) -> object:
    """The value of a dotted key."""
    for part in path.split("."):
        scenario = getattr(scenario, part)
    return scenario


def without_effect(scenario: Scenario) -> Iterator[tuple[str, str, str]]:
    """(key, the key that it depends on, what is wrong) of every key of NEEDS that nothing reads."""
    for key, needs, allowed in NEEDS:
        value = at(scenario, needs)
        if value not in allowed:
            wanted = " or ".join(f"{needs} = {name!r}" for name in allowed)
            yield key, needs, f"has no effect with {needs} = {value!r}: leave it out, or set {wanted}"
    up = scenario.codec.up.strip()
    if scenario.secagg.mode in _SECURE and (up == "auto" or up.startswith("ring-")):
        text = f"has no effect with codec.up = {up!r}, whose entries have a width of their own: leave it out"
        yield "secagg.width", "codec.up", f"{text}, or set codec.up = 'none'"


def problems(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """(dotted key, what is wrong) of every broken rule."""
    for path, holds, text in _RULES:
        item = at(scenario, path)
        if isinstance(item, int | float) and not holds(item):
            yield path, f"{text}, not {item!r}"
    yield from _between(scenario)


def _between(scenario: Scenario) -> Iterator[tuple[str, str]]:
    rounds, clients = scenario.rounds, scenario.population.clients
    cohort, quorum = rounds.cohort, rounds.quorum
    if isinstance(cohort, int) and isinstance(quorum, int) and quorum > cohort:
        yield "rounds.quorum", f"{quorum} is above the cohort of {cohort}: no round could succeed"
    if isinstance(cohort, int) and clients is not None and cohort > clients:
        yield "rounds.cohort", f"{cohort} is more than the {clients} clients of [population]"
    if rounds.late == "carry" and rounds.evaluate_on == "clients":
        yield "rounds.late", "'carry' cannot be combined with rounds.evaluate_on = 'clients'; use 'server'"
    if rounds.late == "carry" and scenario.secagg.mode != "off":
        text = "'carry' cannot be combined with secure aggregation; use 'drop'"
        yield "rounds.late", f"{text}: an update is masked for the sum of its own round alone"
    if bool(scenario.secagg.neighbours) != bool(scenario.secagg.threshold):
        yield "secagg.threshold", "goes with secagg.neighbours: give both, or leave both at 0"
    if scenario.codec.down == "none" and scenario.codec.down_base != "auto":
        yield "codec.down_base", "has no effect with codec.down = 'none': leave it out, or set codec.down"
    links, devices, stop = scenario.links, scenario.devices, scenario.stop
    if links.profile == "custom" and (links.up is None or links.down is None):
        yield "links.profile", "'custom' needs links.up and links.down (bytes per second)"
    if devices.profile == "custom" and devices.speed is None:
        yield "devices.profile", "'custom' needs devices.speed (training examples per second)"
    if not stop.metric and (stop.target is not None or stop.patience):
        key = "stop.patience" if stop.patience else "stop.target"
        yield key, 'needs stop.metric, an evaluation metric, as in stop.metric = "accuracy"'
    if stop.metric and stop.target is None and not stop.patience:
        yield "stop.metric", "needs stop.target or stop.patience to stop anything"
