"""Ring codecs as secure aggregation will use them: one sum in the ring, and all that is public is public.

The server sees the sum of the encodings alone, and the scale of a round comes from the sum of the round
before. A tenth of the clients drop out after they have encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkit import plugins
from fedkit.codecs import CodecContext
from fedkit.codecs.ring import RingCodec
from fedkit.messages import ClientId, Key, Pass, Task
from fedkit.seeds import derive, stream
from fedkit.tensors import Flat, Layout, Tensors, add, scale
from fedkit.trainer import Workload

SEEDS = (0, 1, 2)
COHORT, LOST, ROUNDS, LAST = 20, 2, 60, 5
SETTINGS = {"epochs": 1, "batch": 20, "lr": 0.1}
Merge = Callable[[Sequence[Tensors], Sequence[int], int], Tensors]
"""(deltas, seeds of their clients, round) -> the sum of those that arrive."""


def trained(workload: Workload, client: ClientId, model: Tensors, seed: int) -> tuple[Tensors, float]:
    """A client's delta, and its examples."""
    task = Task(Key("", 0, "train", "", 0, client), 0, model, {}, SETTINGS, seed, 1.0, 0.0)
    made = workload.trainer(client).train(Pass(model, model), task, None)
    return made.delta, made.examples


def accuracies(workload: Workload, seed: int, merge: Merge) -> list[float]:
    """Federated averaging of deltas weighted by examples: accuracy after each round, in points."""
    model, clients, found = workload.init(seed), workload.clients(), []
    for number in range(ROUNDS):
        chosen = [clients[i] for i in stream(seed, "cohort", number).choice(len(clients), COHORT)]
        seeds = [derive(seed, "train", number, client) for client in chosen]
        made = [trained(workload, client, model, s) for client, s in zip(chosen, seeds, strict=True)]
        mean = sum(examples for _, examples in made) / COHORT
        deltas = [scale(delta, examples / mean) for delta, examples in made]
        counted = sum(examples for _, examples in made[LOST:]) / mean
        model = add(model, merge(deltas, seeds, number), 1 / counted)
        found.append(100 * workload.evaluate(model)["accuracy"])
    return found


def in_float(deltas: Sequence[Tensors], seeds: Sequence[int], number: int) -> Tensors:
    """The sum as it is."""
    return _sum(deltas[LOST:])


def _sum(deltas: Sequence[Tensors]) -> Tensors:
    total = deltas[0]
    for delta in deltas[1:]:
        total = add(total, delta)
    return total


class InRing:
    """The sum of encodings, decoded once."""

    def __init__(self, codec: RingCodec, layout: Layout) -> None:
        self.codec, self.layout, self.scale = codec, layout, 0.0
        self.sent: list[int] = []

    def __call__(self, deltas: Sequence[Tensors], seeds: Sequence[int], number: int) -> Tensors:
        shared = CodecContext(0, derive(7, number), self.scale, clients=COHORT)
        own = [CodecContext(seed, shared.shared_seed, self.scale, clients=COHORT) for seed in seeds]
        words = [self.codec.to_ring(d, self.layout, c) for d, c in zip(deltas, own, strict=True)]
        total: NDArray[np.uint64] = np.sum(words[LOST:], axis=0, dtype=np.uint64)
        made: Flat = self.codec.from_ring(total, seeds[LOST:], self.layout, shared)
        self.scale = self.codec.next_scale(made, len(seeds) - LOST, self.layout, shared)
        self.sent.append(8 * words[0].nbytes)
        return made


@pytest.mark.prove
def test_a_ring_sum_takes_under_a_bit_an_entry_at_half_a_point(needs: Callable[[str], None]) -> None:
    needs("mnist.npz")
    make = cast("Callable[..., Workload]", plugins.load("fedkit.workloads", "mnist"))
    codec = plugins.codec("ring-srht")
    assert isinstance(codec, RingCodec)
    gaps, bits, table = [], [], dict[int, Mapping[str, float]]()
    for seed in SEEDS:
        workload = make(model="2nn", seed=seed)
        layout = Layout.of(workload.init(seed))
        ring = InRing(codec, layout)
        plain, coded = (float(np.mean(accuracies(workload, seed, m)[-LAST:])) for m in (in_float, ring))
        gaps.append(coded - plain)
        bits.append(float(np.mean(ring.sent)) / layout.size)
        table[seed] = {"float32": plain, "ring-srht": coded, "bits": bits[-1], "first": ring.sent[0]}
        print(seed, {name: round(value, 2) for name, value in table[seed].items()}, flush=True)
    assert max(bits) <= 1
    assert np.mean(gaps) >= -0.5
