"""A job as bytes: what a device fetches when it joins, described to the byte in docs/wire.md.

Strategy and codecs travel by name, and only names that are registered on the device are resolved: a
file of code that a server names is never loaded. Whoever lacks a name answers with a Failure that
says which. The id is computed again from what was read, so a job cannot differ from its id.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, cast

from fedkit import fields, packing, pluginfile, plugins
from fedkit.aggregate import Grid
from fedkit.codecs import Codec
from fedkit.codecs.spec import parse
from fedkit.errors import ClientFailed, ConfigError, WireError
from fedkit.fields import Fields
from fedkit.job import Job
from fedkit.messages import ClientId, Failure, Key
from fedkit.secagg.parameters import Mode, Policy
from fedkit.secagg.settings import SUITES, SecAgg
from fedkit.strategy import Strategy
from fedkit.tensors import Layout
from fedkit.usercode import odd_metrics

LIMIT = 1 << 21
"""Most bytes of a job."""
VERSION = 1
_NAMES = (
    *("codec", "cohort", "extras", "grid", "id", "layout", "metrics", "secagg", "seed", "settings"),
    *("strategy", "version"),
)
_SECAGG = (
    *("corrupt", "dropout", "explicit", "mode", "n_min", "retries", "sigma", "suite", "verify"),
    "width",
)
_UNFIT = (ConfigError, ValueError, TypeError, ArithmeticError)
"""What the class of a plugin may raise on options that it does not take."""
_SUBJECT = 256
"""Most characters of a name that are told back."""
_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def encode(job: Job) -> bytes:
    """The job as JSON; ConfigError if a device could not make the same job from it."""
    content = {
        "codec": {"base": job.down_base, "down": job.codec_down.spec, "feedback": job.feedback}
        | {"up": job.codec_up.spec},
        "cohort": job.cohort,
        "extras": packing.rows(job.extras),
        "grid": dataclasses.asdict(job.grid),
        "id": job.id,
        "layout": packing.rows(job.layout),
        "metrics": list(job.metrics),
        "secagg": _told(job.secagg) if job.secagg is not None else None,
        "seed": f"{job.model_seed:016x}",
        "settings": dict(job.settings),
        "strategy": {"name": plugins.strategy_name(job.strategy), "options": _options(job.strategy)},
        "version": VERSION,
    }
    try:
        data = _json(content).encode("ascii")
        decode(data)
    except (ClientFailed, WireError, ValueError, TypeError) as error:
        raise ConfigError(
            f"devices cannot be told of this job: {error}; its strategy and codecs must be registered "
            "by entry point, with options that are finite numbers, strings or lists of them"
        ) from error
    return data


def decode(data: bytes) -> Job:
    """The job in `data`, made of plugins that are installed here.

    WireError on anything that `encode` cannot have made; ClientFailed, "missing_plugin", on a
    strategy or codec that is not registered here or does not take the options of the job.
    """
    if len(data) > LIMIT:
        raise WireError(f"a job of {len(data)} bytes is over the limit of {LIMIT}")
    top = fields.mapping(fields.parse(data, "job"), "job")
    if top.get("version") != VERSION:
        raise WireError(f"job has version {top.get('version')!r}, this side speaks version {VERSION}")
    fields.exactly(top, *_NAMES)
    codec = fields.mapping(top["codec"], "codec")
    fields.exactly(codec, "base", "down", "feedback", "up")
    base, fed_back = codec["base"], codec["feedback"]
    if not (base == "last" or base == "first") or not isinstance(fed_back, bool):
        raise WireError("codec: base is neither last nor first, or feedback neither true nor false")
    job = Job(
        strategy=_strategy(fields.mapping(top["strategy"], "strategy")),
        codec_up=_codec(fields.text(codec["up"], "codec up")),
        codec_down=_codec(fields.text(codec["down"], "codec down")),
        layout=_layout(top["layout"], "layout"),
        extras=_layout(top["extras"], "extras"),
        grid=_grid(fields.mapping(top["grid"], "grid")),
        settings=_settings(fields.mapping(top["settings"], "settings")),
        model_seed=_seed(fields.text(top["seed"], "seed")),
        feedback=fed_back,
        down_base="last" if base == "last" else "first",
        cohort=fields.integer(top["cohort"], "cohort", 1),
        secagg=_secagg(fields.mapping(top["secagg"], "secagg")) if top["secagg"] is not None else None,
        metrics=_metrics(fields.items(top["metrics"], "metrics")),
    )
    if job.id != fields.text(top["id"], "id"):
        raise WireError(f"the job says that its id is {top['id']!r}, its content has id {job.id!r}")
    return job


def refusal(job: str, client: ClientId, error: ClientFailed) -> Failure:
    """What a device answers that cannot take part in the job with this id."""
    key = Key(job, 0, "train", "", 0, client)
    return Failure(key, error.code, type(error).__name__, error.subject)


def _options(strategy: Strategy) -> Mapping[str, object]:
    return dataclasses.asdict(strategy) if dataclasses.is_dataclass(strategy) else {}


def _strategy(given: Fields) -> Strategy:
    fields.exactly(given, "name", "options")
    name = fields.text(given["name"], "strategy name")
    _demand("strategies", name)
    options = fields.mapping(given["options"], "options")
    try:
        return plugins.strategy(name, options)
    except _UNFIT as error:
        raise _missing(name, str(error)) from error


def _codec(spec: str) -> Codec:
    try:
        for part in parse(spec):
            _demand("codecs", part.name)
        made = plugins.codec(spec, files=False)
    except _UNFIT as error:
        raise _missing(spec, str(error)) from error
    if made.spec != spec:
        raise WireError(f"codec {spec!r} is not written with all its parameters: {made.spec!r}")
    return made


def _demand(group: str, name: str) -> None:
    """The name is registered here, and is no file: nothing is loaded that a server names otherwise."""
    try:
        known = plugins.has(f"fedkit.{group}", name)
    except ConfigError as error:
        raise _missing(name, str(error)) from error
    if pluginfile.is_file(name) or not known:
        raise _missing(name, f"is none of the {group} that are registered here")


def _missing(subject: str, reason: str) -> ClientFailed:
    return ClientFailed("missing_plugin", subject[:_SUBJECT], reason)


def _layout(value: object, name: str) -> Layout:
    layout = packing.parse_rows(value)
    if len(set(layout.dtypes)) > 1 or not set(layout.dtypes) <= {"float32", "float64"}:
        raise WireError(f"{name}: tensors must all be float32 or all float64")
    return layout


def _grid(given: Fields) -> Grid:
    fields.exactly(given, "max_delta", "max_weight", "n_max")
    count = fields.integer(given["n_max"], "n_max", 1)
    try:
        return Grid(_as_given(given["max_weight"]), _as_given(given["max_delta"]), count)
    except ConfigError as error:
        raise WireError(f"grid: {error}") from error


def _metrics(given: list[object]) -> tuple[str, ...]:
    names = tuple(fields.text(name, "metric") for name in given)
    if why := odd_metrics(dict.fromkeys(names, 0.0)):
        raise WireError(f"metrics: {why}")
    if len(set(names)) < len(names):
        raise WireError("metrics: a name comes twice")
    return names


def _told(secagg: SecAgg) -> dict[str, object]:
    policy, suites = secagg.policy, {suite: name for name, suite in SUITES.items()}
    return {
        "corrupt": policy.corrupt,
        "dropout": policy.dropout,
        "explicit": list(secagg.explicit) if secagg.explicit is not None else None,
        "mode": str(policy.mode),
        "n_min": policy.smallest,
        "retries": secagg.retries,
        "sigma": policy.sigma,
        "suite": suites[secagg.suite],
        "verify": secagg.verify,
        "width": secagg.width,
    }


def _secagg(given: Fields) -> SecAgg:
    fields.exactly(given, *_SECAGG)
    mode, suite = fields.text(given["mode"], "mode"), fields.text(given["suite"], "suite")
    if mode not in set(Mode) or suite not in SUITES or not isinstance(given["verify"], bool):
        raise WireError(f"secagg: mode {mode!r}, suite {suite!r} or verify is not one that there is")
    sigma, smallest, width, retries = (
        fields.integer(given[name], name) for name in ("sigma", "n_min", "width", "retries")
    )
    pair = fields.items(given["explicit"], "explicit", 2) if given["explicit"] is not None else None
    explicit = tuple(fields.integer(number, "explicit") for number in pair) if pair is not None else None
    try:
        corrupt, dropout = _as_given(given["corrupt"]), _as_given(given["dropout"])
        policy = Policy(corrupt, dropout, sigma, Mode(mode), smallest)
        both = cast("tuple[int, int] | None", explicit)
        return SecAgg(policy, width, both, SUITES[suite], retries, given["verify"])
    except ConfigError as error:
        raise WireError(f"secagg: {error}") from error


def _as_given(value: Any) -> float:
    """A number that stays an integer if it is one: the id of a job tells 32 from 32.0."""
    return value if fields.number(value, "grid") == value else 0.0


def _settings(given: Fields) -> dict[str, float | int | str | bool]:
    return {fields.text(n, "setting"): fields.scalar(v, f"setting {n}") for n, v in given.items()}


def _seed(text: str) -> int:
    if len(text) != 16 or set(text) - set("0123456789abcdef"):
        raise WireError("seed is not 16 hex digits")
    return int(text, 16)
