"""Bits, error, speed and memory of every codec.

    python tests/bench/codecs.py [SPEC ...] [--turns N]

Speed and memory are those of a heavy-tailed vector of 4 million entries, on one thread: medians of CPU
time (time.process_time), codecs turn by turn. Error is |decoded - x|^2 / |x|^2, beside what a formula
says of the same x. With mnist.npz in FEDKIT_DATA, bits and error of a real update too: what one writer
trains into the 2NN after 20 rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fedkit import RoundPolicy, plugins, run
from fedkit.codecs import Codec, CodecContext
from fedkit.codecs.pipeline import Pipeline
from fedkit.codecs.ring import RingCodec
from fedkit.messages import Key, Pass, Task
from fedkit.seeds import stream
from fedkit.tensors import Flat, Layout
from fedkit.trainer import Workload

Vector = NDArray[np.float64]
Formula = Callable[[Vector], float]
"""The error that is expected of a vector, over its energy."""
SHAPE = (2048, 2048)


def steps_of(x: Vector, block: int, step: Callable[[Vector], Vector]) -> tuple[Vector, Vector]:
    """Each entry's step (a function of the rows of `block` entries), and its magnitude in steps."""
    rows = np.pad(x, (0, -x.size % block)).reshape(-1, block)
    each = np.repeat(step(rows), block)[: x.size]
    return each, np.abs(x) / np.maximum(each, 1e-300)


def stochastic(block: int, step: Callable[[Vector], Vector]) -> Formula:
    """Rounding at random: step^2 f (1 - f), where f is what is left above a whole number of steps."""

    def formula(x: Vector) -> float:
        each, sizes = steps_of(x, block, step)
        f = sizes % 1
        return float((each**2 * f * (1 - f)).sum() / (x @ x))

    return formula


def nearest(block: int, step: Callable[[Vector], Vector]) -> Formula:
    """Rounding to the nearest whole number of steps."""

    def formula(x: Vector) -> float:
        each, sizes = steps_of(x, block, step)
        return float(np.square(each * (sizes - np.rint(sizes))).sum() / (x @ x))

    return formula


def rms(factor: float) -> Callable[[Vector], Vector]:
    """Steps of `factor` times the root mean square of a row."""
    return lambda rows: factor * np.sqrt(np.square(rows).mean(axis=1))


def peak(levels: float) -> Callable[[Vector], Vector]:
    """`levels` steps up to the largest magnitude of a row."""
    return lambda rows: np.abs(rows).max(axis=1) / levels


def top(share: float, ternary: bool) -> Formula:
    """What the largest entries leave out, sent as they are or with one magnitude for all."""

    def formula(x: Vector) -> float:
        count = round(share * x.size)
        largest = np.partition(np.abs(x), x.size - count)[x.size - count :]
        kept = largest.sum() ** 2 / count if ternary else largest @ largest
        return float(1 - kept / (x @ x))

    return formula


def signs(x: Vector) -> float:
    """What signs times the mean magnitude of a block of 4096 leave out (a shorter last block too)."""
    blocks = [x[low : low + 4096] for low in range(0, x.size, 4096)]
    return float(1 - sum(np.abs(b).sum() ** 2 / b.size for b in blocks) / (x @ x))


def bfloat16(x: Vector) -> float:
    """Rounding to 8 significant bits."""
    steps = np.where(x == 0, 0.0, np.ldexp(2.0**-8, np.frexp(x)[1]))
    return float((steps @ steps) / 12 / (x @ x))


FORMULAS: Mapping[str, Formula | None] = {
    "none": lambda x: 0.0,
    "bfloat16": bfloat16,
    "int8": stochastic(1024, peak(126.9)),
    "int4": stochastic(128, peak(6.99)),
    "eden:bits=4": None,
    "eden:bits=2": None,
    "eden:bits=1": None,
    "eden:bits=1,keep=0.1": None,
    "eden:bits=1,keep=0.05": None,
    "rotate|eden:bits=1": None,
    "ecsq:delta=1": stochastic(4096, rms(1.0)),
    "ecsq:delta=4": stochastic(4096, rms(4.0)),
    "ecsq:delta=16": stochastic(4096, rms(16.0)),
    "ecsq:delta=2,mode=dither": None,
    "ecsq:delta=2,mode=near": nearest(4096, rms(2.0)),
    "ecsq:delta=4,mode=near": nearest(4096, rms(4.0)),
    "qsgd": stochastic(512, rms(512**0.5)),
    "sign": signs,
    "topk:share=0.01|int8": top(0.01, ternary=False),
    "stc:share=0.01": top(0.01, ternary=True),
    "powersgd:rank=2": None,
    "ring-rotq": None,
    "ring-srht": None,
}
"""Codecs of the table; None: the codec has a formula of its own that depends on its parameters alone,
or there is none."""


@dataclass(frozen=True)
class Subject:
    """A codec on a vector."""

    codec: Codec
    delta: Flat
    layout: Layout
    ctx: CodecContext

    @classmethod
    def of(cls, spec: str, delta: Flat) -> Subject:
        vector = delta.vector.astype(np.float64)
        scale = float(np.sqrt(vector @ vector / vector.size))
        return cls(plugins.codec(spec), delta, Layout.of(delta), CodecContext(1, 2, scale))

    def encode(self) -> bytes:
        return self.codec.encode(self.delta, self.layout, self.ctx)

    def decode(self, payload: bytes) -> Flat:
        return cast("Flat", self.codec.decode(payload, self.layout, self.ctx))

    def figures(self, formula: Formula | None) -> list[str]:
        """Bits an entry, the error, and the error by formula."""
        payload, x = self.encode(), self.delta.vector.astype(np.float64)
        error = self.decode(payload).vector - x
        expected = formula(x) if formula is not None else self._own(x.size)
        said = "" if expected is None else f"{expected:.3g}"
        return [f"{8 * len(payload) / x.size:.3f}", f"{error @ error / (x @ x):.3g}", said]

    def _own(self, d: int) -> float | None:
        if isinstance(self.codec, RingCodec):
            return self.codec.nmse(self.ctx.clients)
        return self.codec.nmse(d) if isinstance(self.codec, Pipeline) else None

    def memory(self) -> list[str]:
        """Largest memory that encoding takes beside the delta, and decoding with its result, in deltas."""
        payload = self.encode()
        needs = [traced(self.encode), traced(lambda: self.decode(payload))]
        return [f"{need / self.delta.vector.nbytes:.2f}" for need in needs]


def traced(work: Callable[[], object]) -> int:
    """Peak bytes of what `work` allocates."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def speeds(subjects: Sequence[Subject], turns: int) -> list[tuple[float, float]]:
    """Median MB of the delta encoded and decoded a second, for each subject; they take turns."""
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in subjects]
    for turn in range(turns + 1):
        for subject, (encoding, decoding) in zip(subjects, times, strict=True):
            start = time.process_time()
            payload = subject.encode()
            middle = time.process_time()
            subject.decode(payload)
            if turn:  # the first warms caches
                encoding.append(middle - start)
                decoding.append(time.process_time() - middle)
    size = subjects[0].delta.vector.nbytes / 1e6
    return [(size / statistics.median(e), size / statistics.median(d)) for e, d in times]


def heavy_tailed() -> Flat:
    """Signed 2.4th powers of normal values: like local updates of small networks."""
    normal = stream(0, "bench").normal(SHAPE[0] * SHAPE[1])
    vector = (0.01 * np.sign(normal) * np.abs(normal) ** 2.4).astype(np.float32)
    return Layout(("weight",), (SHAPE,), ("float32",)).view(vector)


def real() -> Flat:
    """What one epoch of one writer adds to the 2NN after 20 rounds of federated averaging."""
    make = cast("Callable[..., Workload]", plugins.load("fedkit.workloads", "mnist"))
    workload, settings = make(model="2nn"), {"epochs": 1, "batch": 20, "lr": 0.1}
    policy = RoundPolicy(cohort=20)
    model = run("fedavg", workload, rounds=20, policy=policy, train=settings, evaluate_every=20).model
    client = workload.clients()[0]
    task = Task(Key("", 0, "train", "", 0, client), 0, model, {}, settings, 0, 1.0, 0.0)
    delta = workload.trainer(client).train(Pass(model, model), task, None).delta
    layout = Layout.of(delta)
    return layout.view(layout.flatten(delta))


def main() -> None:
    """Print the table, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("specs", nargs="*", metavar="SPEC", default=list(FORMULAS))
    parser.add_argument("--turns", type=int, default=9)
    given = parser.parse_args()
    found = Path(os.environ.get("FEDKIT_DATA", ""), "mnist.npz").is_file()
    deltas = {"synthetic": heavy_tailed(), **({"2NN": real()} if found else {})}
    subjects = [Subject.of(spec, deltas["synthetic"]) for spec in given.specs]
    heads = [f"{name} {what}" for name in deltas for what in ("bits", "NMSE", "formula")]
    heads = ["codec", *heads, "encode MB/s", "decode MB/s", "memory to encode", "to decode"]
    print(f"| {' | '.join(heads)} |\n|---|{'---:|' * (len(heads) - 1)}")
    pace = speeds(subjects, given.turns)
    for spec, subject, (up, down) in zip(given.specs, subjects, pace, strict=True):
        formula = FORMULAS.get(spec)
        figures = [f for delta in deltas.values() for f in Subject.of(spec, delta).figures(formula)]
        cells = [f"`{spec}`".replace("|", "\\|"), *figures, f"{up:.0f}", f"{down:.0f}", *subject.memory()]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
