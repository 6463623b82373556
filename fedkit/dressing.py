"""An Update dressed for travel and undressed again: the one place that knows the payload's shape."""

from __future__ import annotations

import math

from fedkit.aggregate import WeightedSum
from fedkit.codecs import CodecContext
from fedkit.codecs.none import Plain
from fedkit.errors import ClientFailed, WireError
from fedkit.job import Job
from fedkit.messages import EncodedUpdate, Key, Metrics, Update
from fedkit.seeds import derive
from fedkit.tensors import norm

_PLAIN = Plain()


def codec_context(job: Job, key: Key, seed: int, scale: float = 0.0, budget: int = 0) -> CodecContext:
    """What both ends of one exchange know: the client's seed, the round's, the public scale."""
    return CodecContext(seed, derive(job.model_seed, "codec", key.round), scale, budget)


def dress(job: Job, key: Key, update: Update, ctx: CodecContext) -> EncodedUpdate:
    """The update as bytes: the coded delta, then the extras uncompressed.

    LayoutError, naming the tensor, if delta or extras do not fit the job or are not finite;
    ClientFailed, naming it, if the weight or a metric is not a finite number.
    """
    weight, metrics = figures(update.weight, update.metrics)
    payload = job.codec_up.encode(update.delta, job.layout, ctx)
    if job.extras.size:
        payload += _PLAIN.encode(update.extras, job.extras, ctx)
    return EncodedUpdate(key, job.codec_up.id, payload, weight, metrics, float(update.work))


def figures(weight: float, metrics: Metrics) -> tuple[float, Metrics]:
    """Weight and metrics as they can travel: finite Python floats. ClientFailed names the one that is not."""
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
    delta = job.codec_up.decode(body, job.layout, ctx)
    extras = _PLAIN.decode(encoded.payload[cut:], job.extras, ctx) if job.extras.size else {}
    return Update(delta, encoded.weight, encoded.metrics, extras, encoded.work)


def min_bytes(job: Job) -> int:
    """Lower bound of a payload's length."""
    return job.codec_up.min_len(job.layout) + job.extras.nbytes


def max_bytes(job: Job) -> int:
    """Upper bound of a payload's length."""
    return job.codec_up.max_len(job.layout) + job.extras.nbytes


def public_scale(total: WeightedSum) -> float:
    """Root mean square per entry of the sum of equally weighted deltas, from the round's mean.

    What secure aggregation reveals anyway, so it may be told to every client of the next round.
    """
    return total.clients * norm(total.mean()) / math.sqrt(max(1, total.layout.size))
