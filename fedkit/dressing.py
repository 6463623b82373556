"""An Update dressed for travel and undressed again: the one place that knows the payload's shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

from fedkit.aggregate import WeightedSum
from fedkit.codecs import CodecContext
from fedkit.codecs.none import Plain
from fedkit.codecs.ring import RingCodec
from fedkit.coding import decoded, odd_payload
from fedkit.errors import ClientFailed, WireError
from fedkit.job import Job
from fedkit.messages import EncodedUpdate, Key, Metrics, Update
from fedkit.seeds import derive
from fedkit.tensors import scale
from fedkit.usercode import odd_metrics

_PLAIN = Plain()


def codec_context(job: Job, round: int, seed: int, public: float = 0.0, budget: int = 0) -> CodecContext:
    """What both ends of one exchange know: the client's seed, the round's, the public scale."""
    return CodecContext(seed, shared_seed(job, round), public, budget, job.cohort)


def shared_seed(job: Job, round: int) -> int:
    """The seed that all clients of a round share."""
    return _round_seed(job.model_seed, round)


@lru_cache(maxsize=16)
def _round_seed(root: int, round: int) -> int:
    """Cached: it is asked for twice for every client of a round."""
    return derive(root, "codec", round)


def dress(job: Job, key: Key, update: Update, ctx: CodecContext) -> EncodedUpdate:
    """The update as bytes: the coded delta, then the extras uncompressed.

    LayoutError, naming the tensor, if delta or extras do not fit the job or are not finite;
    ClientFailed, naming it, if the weight or a metric is not a finite number, or the codec makes no bytes.
    """
    weight, metrics = figures(update.weight, update.metrics)
    payload = job.codec_up.encode(update.delta, job.layout, ctx)
    if why := odd_payload(job.codec_up, job.layout, payload):
        raise ClientFailed("codec", job.codec_up.id, why)
    if job.extras.size:
        payload += _PLAIN.encode(update.extras, job.extras, ctx)
    return EncodedUpdate(key, job.codec_up.id, payload, weight, metrics, float(update.work))


def figures(weight: float, metrics: Metrics) -> tuple[float, Metrics]:
    """Weight and metrics as they can travel: finite Python floats. ClientFailed names the one that is not."""
    if not isinstance(metrics, Mapping):
        raise ClientFailed("update", "metrics", f"are a {type(metrics).__name__}, not a mapping of numbers")
    if why := odd_metrics(metrics):
        raise ClientFailed("update", "metrics", f"cannot travel: {why}")
    plain = {name: float(value) for name, value in metrics.items()}
    for name, value in (("weight", float(weight)), *plain.items()):
        if not math.isfinite(value):
            raise ClientFailed("diverged", name, f"is {value}")
    return float(weight), plain


def undress(job: Job, encoded: EncodedUpdate, ctx: CodecContext) -> Update:
    """The update inside; WireError if its codec or bytes are not the job's."""
    if encoded.codec != job.codec_up.id:
        raise WireError(f"codec {encoded.codec!r}, the job uses {job.codec_up.id!r}")
    cut = len(encoded.payload) - job.extras.nbytes
    if not 0 <= cut <= job.codec_up.max_len(job.layout):
        raise WireError(f"payload of {len(encoded.payload)} bytes is outside the bounds of the job")
    body = encoded.payload if not job.extras.size else encoded.payload[:cut]
    delta = decoded(job.codec_up, body, job.layout, ctx)
    extras = _PLAIN.decode(encoded.payload[cut:], job.extras, ctx) if job.extras.size else {}
    return Update(delta, encoded.weight, encoded.metrics, extras, encoded.work)


def min_bytes(job: Job) -> int:
    """Lower bound of a payload's length."""
    return job.codec_up.min_len(job.layout) + job.extras.nbytes


def max_bytes(job: Job) -> int:
    """Upper bound of a payload's length."""
    return job.codec_up.max_len(job.layout) + job.extras.nbytes


def next_scale(job: Job, total: WeightedSum, ctx: CodecContext) -> float:
    """The public scale of the next round: the size of this round's sum, as a ring codec sees it.

    In secure sums each delta counts weight / max_weight times, else once. A sum is no secret there, so
    every client may be told. 0 for other codecs.
    """
    if not isinstance(job.codec_up, RingCodec):
        return 0.0
    times = total.clients if job.secagg is None else total.weight / job.grid.max_weight
    summed = scale(total.mean(), times)
    return job.codec_up.next_scale(summed, total.clients, job.layout, ctx)
