"""What every party of a run agrees on before the first task."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from fedkit.aggregate import Grid, WeightedSum
from fedkit.codecs import Codec
from fedkit.downlink import Base
from fedkit.messages import Settings
from fedkit.strategy import Strategy
from fedkit.tensors import Layout


@dataclass(frozen=True)
class Job:
    """Agreed at join, content-addressed: two jobs with one id are the same job.

    layout: what travels. extras: layout of Update.extras. settings: the scenario's [train].
    model_seed: what Workload.init is called with, on the server and on every client. feedback: clients
    keep what the codec left out and add it to their next update. down_base: see downlink.py. cohort: the
    most fresh updates that one sum holds.
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

    @cached_property
    def id(self) -> str:
        """16 hex digits of SHA-256 over the job's content."""
        parts = [_spec(self.strategy), self.codec_up.spec, self.codec_down.spec]
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
        ]
        return hashlib.sha256(json.dumps([parts, rest]).encode()).hexdigest()[:16]

    def zero(self) -> WeightedSum:
        """An empty sum of this job."""
        return WeightedSum(self.layout, self.grid, self.extras)


def _spec(plugin: object) -> list[object]:
    kind = type(plugin)
    names = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    fields = {name: repr(getattr(plugin, name)) for name in sorted(names)}
    return [f"{kind.__module__}.{kind.__qualname__}", fields]
