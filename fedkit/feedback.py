"""Error feedback: what a biased codec left out of one update goes into the next.

Seide, Fu, Droppo, Li, Yu 2014 (doi:10.21437/Interspeech.2014-274); Karimireddy, Rebjock, Stich,
Jaggi 2019 (arXiv:1901.09847). The residual belongs to the client; it is committed when its update
was counted. One that is older than `STALE` rounds is dropped: it answers to a model long gone.
"""

from __future__ import annotations

import numpy as np

from fedkit.tensors import Memory, Tensors, add, norm, scale, subtract

STREAM = "residual"
STALE = 16
"""Rounds after which a residual is dropped."""
CAP = 30.0
"""Largest norm of a residual, in norms of the delta that it is added to."""
ROOM = 0.9
"""Share of the grid's limit for a delta and its residual: codecs round upwards, too."""


def compensated(delta: Tensors, memory: Memory, round: int) -> Tensors:
    """delta plus the residual in `memory`, unless that is stale."""
    if "residual" not in memory or round - committed(memory) > STALE:
        return delta
    return add(delta, memory["residual"])


def committed(memory: Memory) -> int:
    """The round whose residual is in `memory`; -1 before the first."""
    return int(memory["round"]["round"][0]) if "round" in memory else -1


def within(delta: Tensors, wanted: Tensors, limit: float) -> Tensors:
    """`wanted` cut off entry by entry where decoded it might be beyond +-limit; delta's own entries fit.

    Else an update would be refused for what earlier ones left out, and left out again. What is cut off
    stays in the remainder.
    """
    most = max(largest(delta), ROOM * limit)
    if largest(wanted) <= most:
        return wanted
    return {name: np.clip(part, -most, most) for name, part in wanted.items()}


def largest(tensors: Tensors) -> float:
    """The largest magnitude of all entries."""
    return max((float(np.abs(array).max()) for array in tensors.values() if array.size), default=0.0)


def remainder(wanted: Tensors, decoded: Tensors, delta: Tensors, round: int) -> Memory:
    """The memory to commit: wanted - decoded, its norm at most CAP times that of `delta` unless that is 0."""
    left = subtract(wanted, decoded)
    size, most = norm(left), CAP * norm(delta)
    if size > most > 0:
        left = scale(left, most / size)
    return {"residual": left, "round": {"round": np.array([round], np.int64)}}
