"""A round over fedkit's own devices and over Flower: seconds, bytes and memory, where nothing is trained.

    python tests/bench/flower_transport.py [ROUNDS]

The same scenario, two clients, both as commands on this machine: `fedkit serve` with two `fedkit client`,
then `fedkit run federation.kind=flower` with two SuperNodes. A round's seconds are the median without the
first. Memory is resident, at its highest: of the one process of a device, of all processes of a SuperNode.
Exits 1 unless both ways end with one model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from fedkit_clients.flower.programs import free_port

WORK = '''
"""Models of a given size, trained by nobody."""
import numpy as np
from fedkit.messages import Trained


class Trainer:
    examples = 10

    def train(self, pass_, task, correct):
        delta = {name: np.full_like(array, 0.125) for name, array in pass_.start.items()}
        return Trained(delta, 1, 10.0, {"loss": 1.0})

    def evaluate(self, model):
        return {"loss": 1.0}, 10


class Work:
    def __init__(self, size, tensors):
        self.size, self.tensors = size, tensors

    def init(self, seed):
        each = self.size // 4 // self.tensors
        return {f"t{i:03}": np.zeros(each, np.float32) for i in range(self.tensors)}

    def clients(self):
        return ["c0", "c1"]

    def trainer(self, client):
        return Trainer()

    def evaluate(self, model):
        return {"loss": 1.0}


def make(*, size: int, tensors: int = 1):
    """The workload. size: bytes of the model."""
    return Work(size, tensors)
'''
MODELS = {"1 MB": (1_000_000, 1), "25 MB": (25_000_000, 1), "1 MB in 122 arrays": (1_000_000, 122)}
FEDKIT = [sys.executable, "-c", "import sys; from fedkit.cli import main; sys.exit(main())"]


@dataclass(frozen=True)
class Cost:
    """Of one way: seconds of a round, bytes of a client's round, bytes of memory."""

    seconds: float
    up: float
    down: float
    memory: int
    model: str


class Watch:
    """The highest memory of a group of processes, looked at while a block runs."""

    def __init__(self, group: Callable[[], Sequence[int]]) -> None:
        self._group, self._over, self.highest = group, threading.Event(), 0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.2):
            self.highest = max(self.highest, sum(map(resident, self._group())))


def resident(pid: int) -> int:
    """Bytes of a process in memory, 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0


def members(file: Path) -> list[int]:
    """The processes of the group that the process in this file belongs to."""
    found = []
    try:
        group = os.getpgid(int(file.read_text()))
    except (OSError, ValueError):
        return []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) == group:
                found.append(int(path.name))
        except OSError:
            continue
    return found


def costs(run: Path, memory: int) -> Cost:
    """What the records of a run say."""
    records = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert all(len(record["fates"]) == 2 and record["ok"] for record in records)
    clients = 2 * len(records)
    up, down = (sum(record[key] for record in records) / clients for key in ("bytes_up", "bytes_down"))
    seconds = median(record["virtual_end"] - record["virtual_start"] for record in records[1:])
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return Cost(seconds, up, down, memory, summary["model_sha256"])


def flower(folder: Path, settings: Sequence[str]) -> Cost:
    """The run over Flower's programs."""
    command = [*FEDKIT, "run", "toy.toml", *settings, "federation.kind=flower", "--out", "flower"]
    with Watch(lambda: [p for f in folder.glob("fedkit-flower-*/node-0.pid") for p in members(f)]) as watch:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "TMPDIR": str(folder)}, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return costs(folder / "flower", watch.highest)


def edge(folder: Path, settings: Sequence[str]) -> Cost:
    """The run over fedkit's own server and devices."""
    names = ("c0", "c1")
    said = {
        name: subprocess.run(
            [*FEDKIT, "identity", *words], cwd=folder, capture_output=True, text=True, check=True
        )
        for name, words in {**{n: [n] for n in names}, "server": ["server", "--name", "server"]}.items()
    }
    lines = {name: done.stdout.split("roster line: ")[1] for name, done in said.items()}
    (folder / "roster.toml").write_text(f"{lines['server']}\n[clients]\n{lines['c0']}{lines['c1']}")
    address = f"127.0.0.1:{free_port()}"
    serve = [*FEDKIT, "serve", "toy.toml", *settings, "--dir", "server", "--address", address]
    with (folder / "edge.log").open("w") as log:
        server = subprocess.Popen(serve, cwd=folder, stdout=log, stderr=log)
        commands = [
            [*FEDKIT, "client", f"https://{address}", "toy.toml", *settings, "--dir", name] for name in names
        ]
        devices = [subprocess.Popen(one, cwd=folder, stdout=log, stderr=log) for one in commands]
        with Watch(lambda: [devices[0].pid]) as watch:
            code = server.wait(600)
        for device in devices:
            device.terminate()
            device.wait()
    assert code == 0, (folder / "edge.log").read_text()[-3000:]
    return costs(folder / "server" / "run", watch.highest)


def main(rounds: int) -> int:
    """The table."""
    print("| model | | seconds a round | up | down | memory of a client |\n|---|---|---:|---:|---:|---:|")
    same = True
    for name, (size, tensors) in MODELS.items():
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            (folder / "work.py").write_text(WORK)
            (folder / "toy.toml").write_text('workload = "work.py:make"\n')
            settings = [f"workload_options.size={size}", f"workload_options.tensors={tensors}"]
            settings += [f"rounds.count={rounds}", "rounds.quorum=2", "rounds.deadline=300"]
            ways = {"fedkit's devices": edge(folder, settings), "Flower": flower(folder, settings)}
        same = same and len({cost.model for cost in ways.values()}) == 1
        for way, cost in ways.items():
            sizes = " | ".join(f"{number / 1e6:.3f} MB" for number in (cost.up, cost.down))
            print(
                f"| {name} | {way} | {cost.seconds:.2f} | {sizes} | {cost.memory / 1e6:.0f} MB |", flush=True
            )
    print(f"\nload {os.getloadavg()[1]:.1f} (5 minutes), {time.strftime('%d %B %Y')}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
