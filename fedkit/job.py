"""What every party of a run agrees on before the first task."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedkit.aggregate import Grid, WeightedSum
from fedkit.codecs import Codec
from fedkit.downlink import Base
from fedkit.errors import ConfigError, shown
from fedkit.messages import Settings
from fedkit.secagg.settings import SecAgg
from fedkit.strategy import Strategy
from fedkit.tensors import Layout


@dataclass(frozen=True)
class Job:
    """Agreed at join, content-addressed: two jobs with one id are the same job.

    layout: what travels. extras: layout of Update.extras. settings: the scenario's [train].
    model_seed: what Workload.init is called with, on the server and on every client. feedback: clients
    keep what the codec left out and add it to their next update. down_base: see downlink.py. cohort: the
    most fresh updates that one sum holds. secagg: None where the server may see each update. metrics: the
    names that a secure sum has room for.
    """

    strategy: Strategy
    codec_up: Codec
    codec_down: Codec
    layout: Layout
    extras: Layout
    grid: Grid
    settings: Settings
    model_seed: int
    feedback: bool = False
    down_base: Base = "last"
    cohort: int = 1
    secagg: SecAgg | None = None
    metrics: tuple[str, ...] = ("loss", "accuracy")

    @cached_property
    def id(self) -> str:
        """16 hex digits of SHA-256 over the job's content; ConfigError if the strategy cannot be told."""
        parts = [identity(self.strategy), self.codec_up.spec, self.codec_down.spec]
        grid = [self.grid.max_weight, self.grid.max_delta, self.grid.n_max]
        rest = [
            self.layout.digest,
            self.extras.digest,
            grid,
            dict(sorted(self.settings.items())),
            self.model_seed,
            self.feedback,
            self.down_base,
            self.cohort,
            _told(self.secagg, "secagg"),
            self.metrics,
        ]
        return hashlib.sha256(json.dumps([parts, rest]).encode()).hexdigest()[:16]

    def zero(self) -> WeightedSum:
        """An empty sum of this job."""
        return WeightedSum(self.layout, self.grid, self.extras)


def identity(plugin: object) -> list[object]:
    """Class and parameters of a plugin: fields of a dataclass, else all attributes, arrays by their digest.

    ConfigError for a parameter that another process could not tell from another value.
    """
    kind = type(plugin)
    names = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    given = {name: getattr(plugin, name) for name in names} or dict(getattr(plugin, "__dict__", {}))
    fields = {name: _told(given[name], f"{kind.__name__}.{name}") for name in sorted(given)}
    return [f"{kind.__module__}.{kind.__qualname__}", fields]


def _told(value: object, where: str) -> str:
    """A parameter as text that is equal exactly when the value is."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "O":
            return _told(value.tolist(), where)
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"array {value.dtype.str} {value.shape} {content}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(_told(item, where) for item in value)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{k!r}: {_told(v, where)}' for k, v in value.items()))}}}"
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}({', '.join(sorted(_told(item, where) for item in value))})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return json.dumps(identity(value))
    text = repr(value)
    if " at 0x" in text and not isinstance(value, str):
        raise ConfigError(
            f"{where} = {shown(value)}: a run is known by the parameters of its strategy, and this one reads "
            "otherwise in every process; make it a number, a string or an array, or give its class a __repr__"
        )
    return text
