"""Laws of codecs on what they claim: unbiased, contractive, bounded, additive, alike everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkit.conformance.codec_case import HUGE, KINDS, LARGE, Case
from fedkit.conformance.elsewhere import elsewhere
from fedkit.conformance.laws import Broken, demand
from fedkit.tensors import Flat

SEEDS = 128
DEVIATIONS = 9.0
"""How many standard deviations are no chance: the square of one normal number may be all there is."""
MEMBERS = 3


def _unbiased(case: Case) -> None:
    if not case.codec.unbiased:
        return
    for delta, seeds in (
        (case.delta(1000), SEEDS),
        (case.delta(LARGE), SEEDS),
        (case.single(LARGE, "heavy"), SEEDS),
        (case.single(HUGE), SEEDS // 8),
    ):
        _demand_unbiased(delta, np.stack([_error(case, delta, number) for number in range(seeds)]))


def _demand_unbiased(delta: Flat, errors: NDArray[np.float64]) -> None:
    """Errors of different seeds have an inner product of mean 0, and so have errors and the delta.

    Their spread under this is estimated from themselves: sqrt(tr C^2) for errors of covariance C.
    """
    n, true = len(errors), delta.vector.astype(np.float64)
    length, what = float(np.linalg.norm(true)), f"over {n} seeds the mean of {delta.layout.size} entries"
    gram = errors @ errors.T
    pairs = gram[~np.eye(n, dtype=bool)]
    bias, spread = float(pairs.mean()), math.sqrt(2 * float(np.square(pairs).mean()) / (n * (n - 1)))
    limit = DEVIATIONS * spread + (1e-6 * length) ** 2
    demand(
        bias <= limit,
        f"{what} is off by {math.sqrt(max(0.0, bias)):.3g}, more than chance allows ({limit**0.5:.3g})",
    )
    along = errors @ true / length**2
    share = abs(float(along.mean()))
    chance = DEVIATIONS * float(along.std()) / math.sqrt(n) + 1e-6
    demand(share <= chance, f"{what} is {along.mean():+.3%} too long, more than chance allows ({chance:.3%})")


def _error(case: Case, delta: Flat, number: int = 0) -> NDArray[np.float64]:
    made: NDArray[np.float64] = delta.layout.flatten(case.there_and_back(delta, number)).astype(np.float64)
    made -= delta.vector
    return made


def _bounded(case: Case) -> None:
    codec = case.codec
    bound = codec.worst_nmse
    demand(bound is None or (math.isfinite(bound) and bound >= 0), f"`worst_nmse` is {bound}")
    for kind in KINDS if codec.contractive or bound is not None else ():
        for size, seeds in ((LARGE, 16), (HUGE, 3)):
            delta = case.single(size, kind)
            length = float(np.linalg.norm(delta.vector.astype(np.float64)))
            shares = [float(np.linalg.norm(_error(case, delta, n))) / length for n in range(seeds)]
            what = f"the error of {size} entries ({kind})"
            if codec.contractive:
                demand(
                    max(shares) <= 1 + 1e-6, f"contractive, but {what} has {max(shares):.4g} times their norm"
                )
            squares = np.square(shares)
            chance = 4 * float(squares.std()) / math.sqrt(seeds) + 1e-6
            demand(
                bound is None or float(squares.mean()) <= bound + chance,
                f"worst_nmse is {bound}, but {what} has {squares.mean():.4g} times their square norm",
            )


def _ring(case: Case) -> None:
    """What is decoded from a sum is the sum of what is decoded."""
    codec: Any = case.codec
    if not codec.ring:
        return
    if not callable(getattr(codec, "to_ring", None)) or not callable(getattr(codec, "from_ring", None)):
        raise Broken("`ring` is True, but there is no `to_ring` and `from_ring`")
    for size in (1000, LARGE, HUGE):
        deltas = [case.single(size, "heavy", number) for number in range(MEMBERS)]
        layout = deltas[0].layout
        scale = float(np.sqrt(np.square(sum(d.vector.astype(np.float64) for d in deltas)).mean()))
        contexts = [case.context(n, scale=scale, clients=MEMBERS) for n in range(MEMBERS)]
        words = [codec.to_ring(d, layout, c) for d, c in zip(deltas, contexts, strict=True)]
        demand(all(w.dtype == np.uint64 for w in words), "`to_ring` makes other numbers than uint64")
        seeds = [context.seed for context in contexts]
        whole = layout.flatten(codec.from_ring(sum(words[1:], words[0]), seeds, layout, contexts[0]))
        parts = [
            layout.flatten(codec.from_ring(w, [c.seed], layout, c)).astype(np.float64)
            for w, c in zip(words, contexts, strict=True)
        ]
        off, length = float(np.linalg.norm(whole - sum(parts))), float(np.linalg.norm(sum(parts)))
        demand(off <= 1e-4 * length, f"a sum of {MEMBERS} decodes to something else by {off / length:.2%}")


def _everywhere(case: Case) -> None:
    delta, context = case.single(LARGE), case.context()
    payload = case.codec.encode(delta, delta.layout, context)
    made = delta.layout.flatten(case.codec.decode(payload, delta.layout, context))
    sent, got = elsewhere(case.codec, delta, context, payload)
    demand(sent == payload, "the same delta and seed give other bytes in another process")
    demand(got == made.tobytes(), "the same payload decodes to another delta in another process")


CLAIM_LAWS: Mapping[str, Callable[[Case], None]] = {
    "is unbiased if it says so": _unbiased,
    "errs no more than it says": _bounded,
    "adds up if it says so": _ring,
    "is the same in another process": _everywhere,
}
