"""The figures of a run, and what it ran on."""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

import numpy as np

from fedkit.codecs.adaptive import LADDER
from fedkit.codecs.none import Plain
from fedkit.history import History, Outcome, SecureRecord
from fedkit.job import Job
from fedkit.messages import Metrics
from fedkit.secagg.messages import Stage
from fedkit.tensors import Tensors, digest

_BYTES = ("bytes_up", "bytes_down", "bytes_up_float32", "bytes_down_float32")
_PACKAGES = ("fedkit", "numpy", "cryptography", "safetensors", "torch", "scikit-learn")


def headline(metrics: Metrics) -> str:
    """The metric by which models are compared: accuracy if there is one, else loss, else the first."""
    for name in ("accuracy", "loss"):
        if name in metrics:
            return name
    return next(iter(sorted(metrics)), "")


def lower_is_better(metric: str) -> bool:
    """Losses and errors fall, everything else rises."""
    return "loss" in metric.lower() or "error" in metric.lower()


def better(metric: str, value: float, best: tuple[str, float, int] | None) -> bool:
    """Whether `value` beats the best so far; NaN never does."""
    if not np.isfinite(value):
        return False
    if best is None or best[0] != metric:
        return True
    return value < best[1] if lower_is_better(metric) else value > best[1]


def summarise(
    job: Job,
    workload: str,
    seed: int,
    model: Tensors,
    history: History,
    best: tuple[str, float, int] | None,
) -> dict[str, Any]:
    """The part of summary.json that follows from the history and the model."""
    rounds = history.rounds
    count = {o: sum(r.count(o) for r in rounds) for o in Outcome}
    last = next((r.metrics for r in reversed(rounds) if r.metrics), history.initial)
    sizes = {name: sum(getattr(r, name) for r in rounds) for name in _BYTES}
    up, down, plain_up, plain_down = sizes.values()
    to_best = [r.bytes_up + r.bytes_down for r in rounds if best and r.round < best[2]]
    return {
        "workload": workload,
        "strategy": type(job.strategy).__name__,
        "job": job.id,
        "seed": seed,
        "model_sha256": digest(model),
        "parameters": job.layout.size,
        "rounds": len(rounds),
        "rounds_failed": sum(not r.ok for r in rounds),
        "metrics": dict(last),
        "initial": dict(history.initial),
        "best": {"metric": best[0], "value": best[1], "round": best[2]} if best else None,
        **sizes,
        "bytes_to_best": sum(to_best) if best else None,
        "ratio_up": _ratio(plain_up, up),
        "ratio_down": _ratio(plain_down, down),
        "ratio": _ratio(plain_up + plain_down, up + down),
        "codec": _codec(job, history),
        "clients_invited": sum(len(r.fates) for r in rounds),
        **{f"clients_{o.value}": n for o, n in count.items()},
        "clients_carried": sum(r.carried_in for r in rounds),
        "secagg": _secure(history.secure),
        "initial_secagg": asdict(history.initial_secagg) if history.initial_secagg is not None else None,
    }


def _ratio(plain: int, size: int) -> float | None:
    """How many times fewer bytes than float32; None where nothing was sent."""
    return plain / size if plain and size else None


def _codec(job: Job, history: History) -> dict[str, Any]:
    """What was decided about codecs: whole specs, feedback, from which version differences lead."""
    rungs: Counter[str] = Counter()
    for record in history.rounds:
        rungs.update(record.rungs)
    return {
        "up": job.codec_up.spec,
        "down": job.codec_down.spec,
        "feedback": job.feedback,
        "down_base": None if isinstance(job.codec_down, Plain) else job.down_base,
        "rungs": {rung: rungs[rung] for rung in LADDER if rungs[rung]} or None,
    }


def _secure(records: Sequence[SecureRecord]) -> dict[str, Any] | None:
    """What secure aggregation came to; None for a run without."""
    if not records:
        return None
    checked = [r.verified for r in records if r.verified is not None]
    stages = [stage.value for stage in Stage if any(stage in r.lost for r in records)]
    return {
        "mode": records[-1].mode,
        "identities": records[-1].identities,
        "sessions": sum(r.attempts for r in records),
        "aborted": sum(len(r.aborts) for r in records),
        "lost": {stage: sum(len(r.lost.get(stage, ())) for r in records) for stage in stages},
        "bytes_up": sum(r.bytes_up for r in records),
        "bytes_down": sum(r.bytes_down for r in records),
        "quarantined": sorted({client for r in records for client in r.quarantined}),
        "verified": sum(checked) if checked else None,
        "not_verified": len(checked) - sum(checked) if checked else None,
    }


def environment() -> dict[str, str]:
    """Versions, platform, cores and the command line, as plain strings."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {
        **found,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cores": str(os.cpu_count() or 0),
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
        "command": " ".join(sys.argv),
    }
