"""What a round costs beside training: time per client, memory per registered client, start-up.

    python tests/bench/overhead.py

Training is stubbed out: every client answers with the same delta of 650 parameters, so that what is
left is sampling, tasks, virtual clock, encoding, decoding, the exact sum and the history.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

from fedkit import RoundPolicy, run
from fedkit.events import RoundEnded
from fedkit.messages import ClientId, Metrics, Pass, Task, Trained
from fedkit.tensors import Flat, Layout, Tensors
from fedkit.trainer import Correct

LAYOUT = Layout(("weight", "bias"), ((64, 10), (10,)), ("float32", "float32"))
CLIENTS = 1000
REGISTERED = 10_000


@dataclass(frozen=True)
class Trainer:
    """Answers every task with one and the same delta."""

    delta: Flat = field(default_factory=lambda: LAYOUT.view(np.full(LAYOUT.size, 1e-3, np.float32)))
    examples: int = 20

    def train(self, pass_: Pass, task: Task, correct: Correct | None) -> Trained:
        return Trained(self.delta, 2, 20.0, {"loss": 1.0})

    def evaluate(self, model: Tensors) -> tuple[Metrics, int]:
        return {"loss": 1.0}, self.examples


@dataclass(frozen=True)
class Stub:
    """A workload without data."""

    names: Sequence[ClientId]
    stub: Trainer = field(default_factory=Trainer)

    def init(self, seed: int) -> Tensors:
        return LAYOUT.view(np.zeros(LAYOUT.size, np.float32))

    def clients(self) -> Sequence[ClientId]:
        return self.names

    def trainer(self, client: ClientId) -> Trainer:
        return self.stub

    def evaluate(self, model: Tensors) -> Metrics:
        return {"loss": 1.0}


@dataclass(frozen=True)
class Clock:
    """Notes the CPU time at the end of every round."""

    marks: list[float]

    def round_ended(self, event: RoundEnded) -> None:
        self.marks.append(time.process_time())


def main() -> None:
    """Print the four figures; `memory N` is what this script calls itself with."""
    if sys.argv[1:2] == ["memory"]:
        run("fedavg", Stub(names(int(sys.argv[2]))), rounds=3, policy=RoundPolicy(cohort=100))
        print(peak_kilobytes())
        return
    few, many = round_seconds(100), round_seconds(CLIENTS)
    print(f"round of {CLIENTS} clients x {LAYOUT.size} parameters   {1e3 * many:8.1f} ms")
    print(f"per client, between 100 and {CLIENTS}       {1e6 * (many - few) / (CLIENTS - 100):8.1f} us")
    print(f"memory of {REGISTERED} registered clients   {registered_megabytes():8.1f} MB")
    wall, cpu = start_up()
    print(f"fedkit run digits, first round planned   {wall:8.2f} s, {cpu:.2f} s of them CPU time")


def names(count: int) -> list[ClientId]:
    """So many client ids."""
    return [f"c{i:05d}" for i in range(count)]


def round_seconds(cohort: int) -> float:
    """Median CPU seconds of a round in which all clients take part."""
    clock = Clock([])
    run("fedavg", Stub(names(cohort)), rounds=15, observers=[clock])
    return median(late - early for early, late in pairwise(clock.marks))


def peak_kilobytes() -> int:
    """The most memory this process has held; ru_maxrss would count that of its parent as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def registered_megabytes() -> float:
    """How much more memory a process takes at its peak with that many clients than with 100."""
    peaks = []
    for count in (100, REGISTERED):
        command = [sys.executable, __file__, "memory", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    return (peaks[1] - peaks[0]) / 1024


def start_up() -> tuple[float, float]:
    """Seconds, and CPU seconds, from the command to the plan of the first round; the best of three."""
    with tempfile.TemporaryDirectory() as folder:
        return min(_start(Path(folder, str(i))) for i in range(3))


def _start(out: Path) -> tuple[float, float]:
    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(Path(sys.executable).with_name("fedkit")), "run", "digits", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (out / "plan.json").exists():
            if process.poll() is not None:
                raise RuntimeError(
                    f"{' '.join(command)} ended with {process.returncode} before its first round"
                )
            time.sleep(0.002)
        wall = time.perf_counter() - began
        process.kill()
    total = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, total.ru_utime + total.ru_stime - used.ru_utime - used.ru_stime


if __name__ == "__main__":
    main()
