"""An Update as a vector that adds up under masks, and the sum undone: `dressing` for secure rounds.

The vector: the delta's lanes, then those of the extras, all of one width. The tail, 64-bit lanes: the
constant 1, the weight, and for each metric of the job its weighted total and the weight that reported it.
With 64 bits, and in the tail always, a lane is the integer that the plain sum would add, so unpacked sums
equal plain ones bit for bit. A ring codec is handed delta * weight / max_weight.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from fedkit.aggregate import METRIC_BITS, WeightedSum
from fedkit.codecs import CodecContext
from fedkit.codecs.ring import RingCodec
from fedkit.dressing import figures, shared_seed
from fedkit.errors import ClientFailed, ConfigError, LayoutError, SecAggAborted, UpdateRefused
from fedkit.job import Job
from fedkit.messages import Kind, Metrics, Task, Update
from fedkit.secagg.fixedpoint import FixedPoint
from fedkit.secagg.header import Encoding
from fedkit.seeds import stream
from fedkit.tensors import Layout, Tensors, digest

Lanes: TypeAlias = NDArray[np.unsignedinteger[Any]]
Tail: TypeAlias = NDArray[np.uint64]
_NOTHING = Layout((), (), ())


def encoding_of(job: Job, kind: Kind, round: int, scale: float) -> Encoding:
    """What the vectors of a session are: server and clients compute it, each by itself, and compare.

    scale: public, for ring codecs. ConfigError where the cohort has no room in the lanes.
    """
    tail = 2 + 2 * len(job.metrics)
    grid = [job.grid.weight_fraction, job.grid.metric_fraction]
    spec: dict[str, object] = {"kind": kind, "metrics": job.metrics, "grid": grid}
    if kind == "evaluate":
        return Encoding(0, 64, tail, _canonical(spec))
    delta, extras = _points(job)
    spec |= {
        "layout": job.layout.digest,
        "extras": job.extras.digest,
        "fractions": [delta.fraction, extras.fraction],
        "max_weight": float(job.grid.max_weight),
        "max_delta": float(job.grid.max_delta),
        "clients": job.cohort,
        "encoder": "fixed",
    }
    size, ring = job.layout.size, _ring(job)
    if ring is not None:
        seed = shared_seed(job, round)
        size = ring.words(job.layout, CodecContext(shared_seed=seed, scale=scale, clients=job.cohort))
        spec |= {"encoder": ring.spec, "scale": float(scale).hex(), "seed": f"{seed:016x}"}
    return Encoding(size + job.extras.size, delta.width, tail, _canonical(spec))


def given_to_all(task: Task) -> bytes:
    """SHA-256 of what every client of a session is given alike: model, context, settings.

    It is in the header, so clients that were given different things have no mask in common. Measuring takes
    the model alone: that of one model has one name, whatever else the task says.
    """
    sha = hashlib.sha256(bytes.fromhex(digest(task.model)))
    if task.key.kind == "evaluate":
        return sha.digest()
    for name in sorted(task.context):
        sha.update(hashlib.sha256(name.encode()).digest() + bytes.fromhex(digest(task.context[name])))
    sha.update(json.dumps(dict(task.settings), sort_keys=True, separators=(",", ":")).encode())
    return sha.digest()


def pack(job: Job, kind: Kind, update: Update, ctx: CodecContext) -> tuple[Lanes, Tail]:
    """Vector and tail of one client; metrics that the job does not name stay behind.

    ClientFailed, naming the tensor or figure: `diverged` for what is not finite or too large, `update` for
    what does not fit the job, metrics of which it names not one among them.
    """
    weight, metrics = figures(update.weight, update.metrics)
    if metrics and metrics.keys().isdisjoint(job.metrics):
        name = min(metrics)
        raise ClientFailed("update", name, "is not in the workload's metric_names")
    rounded, tail = _tail(job, weight, metrics)
    if kind == "evaluate":
        return np.zeros(0, np.uint64), tail
    if update.work < 1.0 and not job.strategy.accepts_partial_work:
        name = type(job.strategy).__name__
        raise ClientFailed("update", "work", f"is {update.work:.3g}: {name} does not accept partial work")
    vectors = [_checked(job, *part) for part in ((job.layout, update.delta), (job.extras, update.extras))]
    return _vector(job, vectors[0], vectors[1], rounded, ctx), tail


def unpack(
    job: Job, kind: Kind, vector: Lanes, tail: Tail, seeds: Sequence[int], ctx: CodecContext
) -> WeightedSum:
    """The sum of those whose tasks had these seeds; ctx: the round's, its seed is not looked at.

    SecAggAborted where the tail cannot be the sum of honest ones.
    """
    counts: list[int] = tail.view(np.int64).tolist()
    _demand_possible(job, len(seeds), counts)
    weight, rest = counts[1], counts[2:]
    metrics = {
        name: (total, reported)
        for name, total, reported in zip(job.metrics, rest[::2], rest[1::2], strict=True)
        if reported
    }
    if kind == "evaluate":
        none = np.zeros(0, np.int64)
        return WeightedSum.of(_NOTHING, job.grid, none, weight, len(seeds), metrics=metrics)
    cut = vector.size - job.extras.size
    delta, extras = _points(job)
    ring = _ring(job)
    total = _from_ring(job, ring, vector[:cut], seeds, ctx) if ring else delta.decode(vector[:cut])
    more = (job.extras, extras.decode(vector[cut:]))
    return WeightedSum.of(job.layout, job.grid, total, weight, len(seeds), more, metrics)


def _tail(job: Job, weight: float, metrics: Metrics) -> tuple[float, Tail]:
    """The weight as float32, and the tail."""
    most = 2.0**METRIC_BITS
    for name in job.metrics:
        if abs(metrics.get(name, 0.0)) > most:
            reason = f"is {metrics[name]:g}: a secure sum has room for metrics within +-{most:.0f}"
            raise ClientFailed("diverged", name, reason)
    try:
        rounded, integer = job.grid.weight("", weight)
        lanes = [1, integer]
        for name in job.metrics:
            told = name in metrics
            lanes += [job.grid.metric("", name, metrics[name], rounded), integer] if told else [0, 0]
    except UpdateRefused as error:
        raise ClientFailed("update", error.subject, error.reason) from error
    return rounded, np.array(lanes, np.int64).view(np.uint64)


def _checked(job: Job, layout: Layout, tensors: Tensors) -> NDArray[Any]:
    """The flat vector, every entry within the grid."""
    try:
        vector = layout.flatten(tensors)
        job.grid.check("", layout, vector, job.grid.max_delta)
    except LayoutError as error:
        raise ClientFailed("update", error.subject, error.reason) from error
    except UpdateRefused as error:
        raise ClientFailed("diverged", error.subject, error.reason) from error
    return vector


def _vector(job: Job, delta: NDArray[Any], extras: NDArray[Any], weight: float, ctx: CodecContext) -> Lanes:
    points, ring, draws = _points(job), _ring(job), stream(ctx.seed, "fixed-point")
    if ring is None:
        made: Lanes = np.zeros(delta.size + extras.size, points[0].dtype)
        points[0].encode(delta, weight, draws, made[: delta.size])
        points[1].encode(extras, 1.0, draws, made[delta.size :])
        return made
    share = np.multiply(delta, weight / job.grid.max_weight, dtype=delta.dtype)
    words = ring.to_ring(job.layout.view(share), job.layout, ctx)
    made = np.zeros(words.size + extras.size, np.uint64)
    made[: words.size] = words
    points[1].encode(extras, 1.0, draws, made[words.size :])
    return made


def _from_ring(
    job: Job, ring: RingCodec, words: Lanes, seeds: Sequence[int], ctx: CodecContext
) -> NDArray[np.int64]:
    """The sum on the grid; entries beyond what so many updates can come to are cut."""
    try:
        shares = ring.from_ring(cast("NDArray[np.uint64]", words), seeds, job.layout, ctx).vector
    except ConfigError as error:
        raise SecAggAborted(str(error), retry=False) from error
    values = shares.astype(np.float64)
    values *= math.ldexp(job.grid.max_weight, job.grid.fraction)
    most = float(len(seeds) * job.grid.limit)
    return np.rint(np.clip(values, -most, most, out=values), out=values).astype(np.int64)


def _demand_possible(job: Job, clients: int, tail: Sequence[int]) -> None:
    """No weight is negative or above the largest: a tail that says so comes from a client that lied."""
    most = clients * job.grid.limit
    one, weight, *rest = tail
    if one != clients:
        raise SecAggAborted(f"the sum is of {one} updates, not {clients}", retry=False)
    if not 0 <= weight <= most or not all(0 <= reported <= weight for reported in rest[1::2]):
        raise SecAggAborted("the sum of the weights is one that no honest clients can make", retry=False)


def _points(job: Job) -> tuple[FixedPoint, FixedPoint]:
    """How deltas and extras become lanes; with a ring codec both have 64 bits."""
    width: Literal[32, 64] = 64 if _ring(job) or job.secagg is None or job.secagg.width == 64 else 32
    made = [FixedPoint(job.grid, width, job.cohort, w) for w in (job.grid.max_weight, 1.0)]
    return made[0], made[1]


def _ring(job: Job) -> RingCodec | None:
    return job.codec_up if isinstance(job.codec_up, RingCodec) else None


def _canonical(spec: object) -> str:
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
