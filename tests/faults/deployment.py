"""A deployment of real processes on one machine, to be killed and cut off at will."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType

import numpy as np

from fedkit import keyfile
from fedkit.launch import run_scenario
from fedkit.runfolder import replace_file
from fedkit.scenario import read
from fedkit.secagg.identity import Trust
from fedkit.secagg.rosterfile import write_trust
from tests.faults.faultproxy import FaultProxy, Faults
from tests.ports import reserved

LIMIT = 600.0
"""Seconds that anything may take, on a machine that is busy with other things."""
_FEDKIT = "import sys; from fedkit.cli import main; sys.exit(main())"
_SCENARIO = """
workload = "arrays"
seed = 3
[workload_options]
path = "{data}"
model = "mlp"
hidden = {hidden}
[rounds]
count = {rounds}
cohort = {clients}
over_select = 1.0
quorum = {quorum}
deadline = 3600
[train]
epochs = 1
batch = 8
lr = 0.1
[codec]
up = "{up}"
down = "{down}"
feedback = "{feedback}"
"""
_SECURE = """
[secagg]
mode = "lying_server"
width = 64
dropout = 0.35
"""
FINE = ("tensors:below=1|topk:share=0.2|int8", "tensors:below=1|sign", "on")
"""Codecs up and down, and feedback: clients remember a residual from round to round."""
PLAIN = ("none", "none", "off")
_LOGGED = re.compile(r"INFO round (\d+): (train done|the aggregator has the reply|counted)")


@dataclass(frozen=True)
class Plan:
    """What is run.

    hidden: width of the perceptron, 75 weights each. codecs: up, down, feedback. secure: in secure sessions.
    quorum: of clients; 0: all, and then the simulation says which model comes out. tested: examples that the
    server evaluates on; 0: a fifth of those of the clients.
    """

    rounds: int
    clients: int = 3
    hidden: int = 16
    codecs: tuple[str, str, str] = FINE
    secure: bool = False
    quorum: int = 0
    tested: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The clients."""
        return tuple(f"c{i:03d}" for i in range(self.clients))

    def write(self, folder: Path) -> Path:
        """The scenario, with its data beside it."""
        data = folder / "data.npz"
        if not data.exists():
            draws = np.random.default_rng(0)
            x = draws.normal(size=(40 * self.clients, 64)).astype(np.float32)
            y = (x @ draws.normal(size=(64, 10))).argmax(axis=1)
            apart = {"x_test": x[: self.tested], "y_test": y[: self.tested]} if self.tested else {}
            np.savez(data, x=x, y=y, client=np.repeat(np.array(self.names), 40), **apart)
        up, down, feedback = self.codecs
        text = _SCENARIO.format(
            data=data, hidden=self.hidden, rounds=self.rounds, clients=self.clients,
            up=up, down=down, feedback=feedback, quorum=self.quorum or self.clients,
        ) + _SECURE * self.secure  # fmt: skip
        replace_file(folder / "scenario.toml", text.encode())
        return folder / "scenario.toml"


class Party:
    """A command of fedkit in a process of its own; each of its lives has a log."""

    def __init__(
        self, folder: Path, name: str, words: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.lives, self._folder, self._words = name, 0, folder, list(words)
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs, or ran last."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Live (again)."""
        self.lives += 1
        with (self._folder / f"{self.name}-{self.lives:04d}.log").open("wb") as log:
            command = [sys.executable, "-c", _FEDKIT, *self._words]
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=log, stderr=subprocess.STDOUT, env=self._environment
            )

    def kill(self, how: int = signal.SIGKILL) -> int:
        """Send it a signal; what it ended with."""
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(LIMIT)

    def ended(self) -> int | None:
        """What it ended with; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def end(self) -> None:
        """Let nothing of it be left."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def megabytes(self, what: str = "VmRSS") -> float:
        """Memory of the process (VmHWM: at its peak); 0 if it is gone."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return 0.0
        return sum(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024

    def logs(self) -> list[str]:
        """All that it has said, in all its lives, line by line."""
        paths = sorted(self._folder.glob(f"{self.name}-*.log"))
        return [line for path in paths for line in path.read_text(errors="replace").splitlines()]


@dataclass
class Deployment:
    """An aggregator and its clients, which reach it through `proxy`. The processes end with the context.

    tls: else they speak plain HTTP. direct: past the proxy. serve, client: further words of their commands.
    environments: variables of the process of that name.
    """

    folder: Path
    plan: Plan
    faults: Faults = field(default_factory=Faults)
    seed: int = 0
    tls: bool = True
    direct: bool = False
    serve: Sequence[str] = ()
    client: Sequence[str] = ()
    environments: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        scenario, names = str(self.plan.write(self.folder)), self.plan.names
        keys = {name: keyfile.make_key(self.folder / name).public for name in names}
        server = keyfile.make_key(self.folder / "server").public
        write_trust(self.folder / "roster.toml", Trust.of_roster(keys, server))
        self._stack = ExitStack()
        port = self._stack.enter_context(reserved())
        self.proxy = FaultProxy(port, self.faults, self.seed)
        self.address = f"http{'s' * self.tls}://127.0.0.1:{port if self.direct else self.proxy.port}"
        more = [] if self.tls else ["--insecure-http"]
        words = ["serve", scenario, "--address", f"127.0.0.1:{port}", "--dir", "server", "--lease", "2"]
        given = self.environments
        self.server = Party(self.folder, "server", [*words, *more, *self.serve], given.get("server"))
        words = ["client", self.address, scenario, *more, *self.client]
        self.clients = {
            name: Party(self.folder, name, [*words, "--dir", name], given.get(name)) for name in names
        }

    def __enter__(self) -> Deployment:
        self.proxy.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for party in self.parties:
            party.end()
        self.proxy.__exit__(kind, error, at)
        self._stack.close()
        if error is not None:
            error.add_note(self.story())

    @property
    def parties(self) -> list[Party]:
        """The server first."""
        return [self.server, *self.clients.values()]

    def start(self) -> None:
        """Everybody."""
        for party in self.parties:
            party.start()

    def rounds_done(self) -> int:
        """Rounds whose record is written."""
        path = self.folder / "server" / "run" / "rounds.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def until(self, what: Callable[[], bool], seconds: float = LIMIT) -> None:
        """Wait for something; AssertionError if it does not come, or the server ends before."""
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, "it takes too long"
            assert self.server.ended() in (None, 0), "the server has ended"
            time.sleep(0.01)

    def finish(self, seconds: float = LIMIT) -> None:
        """Wait for the end of the run."""
        self.until(lambda: self.server.ended() is not None, seconds)
        assert self.server.ended() == 0, f"the server ended with {self.server.ended()}"

    def check(self) -> None:
        """Nobody's work was lost, and the model is that of the simulation, bit for bit."""
        run = self.folder / "server" / "run"
        got, wanted = json.loads((run / "summary.json").read_text()), simulated(self.plan, self.folder)
        rounds = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
        assert len(rounds) == self.plan.rounds
        assert got["clients_counted"] == self.plan.rounds * self.plan.clients
        assert got["model_sha256"] == wanted["model_sha256"]
        assert got["metrics"] == wanted["metrics"]
        for name, client in self.clients.items():
            self._check_log(name, client.logs())
            left = [p for stage in ("tasks", "finished") for p in (self.folder / name).glob(f"*/{stage}/*")]
            assert not left, f"{name} still has {left}"

    def _check_log(self, name: str, lines: Sequence[str]) -> None:
        """What the aggregator has acknowledged is never trained again."""
        safe = set[str]()
        for number, what in (found.groups() for line in lines if (found := _LOGGED.search(line))):
            assert what != "train done" or number not in safe, f"{name}: round {number} was lost"
            if what != "train done":
                safe.add(number)
        assert len(safe) <= self.plan.rounds

    def story(self) -> str:
        """The end of each log."""
        tails = [(party.name, party.lives, party.logs()[-25:]) for party in self.parties]
        return "\n".join(f"== {name}, life {lives}\n" + "\n".join(tail) for name, lives, tail in tails)


@cache
def simulated(plan: Plan, folder: Path) -> dict[str, object]:
    """The summary of the run without processes, links and kills."""
    return dict(run_scenario(read(str(plan.write(folder)), ())).summary)
