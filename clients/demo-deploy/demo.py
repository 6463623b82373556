"""Five devices and an aggregator as real processes over TLS; one device and the aggregator are killed.

    python clients/demo-deploy/demo.py          (or: make demo-deploy)

What you would type on six machines is done here on one. The same run is first made in a simulation, which
nothing disturbs; at the end both models are compared, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

DEVICES = ["c000", "c001", "c002", "c003", "c004"]
SETTINGS = [
    "population.clients=5", "rounds.cohort=5", "rounds.over_select=1", "rounds.quorum=5", "devices.drop=0",
    "rounds.deadline=600", "train.lr=0.1", "codec.up=int8",
]  # fmt: skip
FEDKIT = [sys.executable, "-c", "import sys; from fedkit.cli import main; sys.exit(main())"]
LONGEST = 1800
"""Seconds that the demo may take."""
began = time.monotonic()


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)


def fedkit(folder: Path, *words: str) -> str:
    """The output of a command of fedkit."""
    done = subprocess.run([*FEDKIT, *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"fedkit {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


class Process:
    """A command of fedkit that runs until it is killed; its output goes to NAME.log."""

    def __init__(self, folder: Path, name: str, *words: str) -> None:
        self.name, self.folder, self.words = name, folder, words
        self.start()

    def start(self) -> None:
        """Start it, for the first time or again."""
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen([*FEDKIT, *self.words], cwd=self.folder, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.process.kill()
        self.process.wait()


def make_identities(folder: Path) -> None:
    """A key for each party; the public ones make the roster that all of them know."""
    server = fedkit(folder, "identity", "server", "--name", "server").split("roster line: ")[1]
    lines = [fedkit(folder, "identity", name).split("roster line: ")[1] for name in DEVICES]
    (folder / "roster.toml").write_text(f"{server}\n[clients]\n{''.join(lines)}")


def rounds_done(folder: Path) -> list[dict[str, Any]]:
    """The records of the rounds so far."""
    path = folder / "server" / "run" / "rounds.jsonl"
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def watch(folder: Path, server: Process, wanted: int) -> None:
    """Tell of each round, until so many are done."""
    shown = len(rounds_done(folder))
    while shown < wanted:
        if time.monotonic() - began > LONGEST or server.process.poll() not in (None, 0):
            sys.exit(f"the run does not go on: see the logs in {folder}")
        for record in rounds_done(folder)[shown:]:
            shown += 1
            counted = sum(fate["outcome"] == "counted" for fate in record["fates"].values())
            accuracy = record["metrics"]["accuracy"]
            say(f"round {shown:2d}: {counted} of {len(DEVICES)} devices counted, accuracy {accuracy:.3f}")
        time.sleep(0.05)


def disturbed(folder: Path, rounds: int) -> None:
    """The deployment, with two deaths on the way."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = [*SETTINGS, f"rounds.count={rounds}"]
    server = Process(folder, "server", "serve", "digits", *settings, "--dir", "server", "--address", address)
    devices = [
        Process(folder, name, "client", f"https://{address}", "digits", *settings, "--dir", name)
        for name in DEVICES
    ]
    try:
        say(f"an aggregator on https://{address}, {len(devices)} devices, each a process")
        watch(folder, server, rounds // 3)
        devices[2].kill()
        say(f"*** kill -9 of device {devices[2].name}: the round waits for it")
        time.sleep(1)
        devices[2].start()
        say(f"    {devices[2].name} is started again and goes on from its disk")
        watch(folder, server, 2 * rounds // 3)
        server.kill()
        say("*** kill -9 of the aggregator: the devices keep what they have, and try again")
        time.sleep(1)
        server.start()
        say("    the aggregator is started again and goes on with the same round")
        watch(folder, server, rounds)
        server.process.wait(60)
    finally:
        for process in (server, *devices):
            process.kill()


def main() -> None:
    """Exits with 1 unless both models are the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="where the folder of this run is made"
    )
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    number = next(n for n in range(1, 10**6) if not (given.runs / f"deploy-{n}").exists())
    folder = (given.runs / f"deploy-{number}").resolve()
    folder.mkdir(parents=True)

    say("the run without processes, links and kills: a simulation")
    fedkit(folder, "run", "digits", *SETTINGS, f"rounds.count={given.rounds}", "--out", "simulation")
    say("keys: each party makes its own, the roster names the public ones")
    make_identities(folder)
    disturbed(folder, given.rounds)

    undisturbed = json.loads((folder / "simulation" / "summary.json").read_text())
    deployed = json.loads((folder / "server" / "run" / "summary.json").read_text())
    say("done\n")
    for name, summary in (("simulated, undisturbed", undisturbed), ("deployed, killed twice", deployed)):
        accuracy = summary["metrics"]["accuracy"]
        print(f"  {name:24s}accuracy {accuracy:.4f}   model {summary['model_sha256'][:32]}")
    same = undisturbed["model_sha256"] == deployed["model_sha256"]
    print(f"\n  {'the same model, bit for bit' if same else 'THE MODELS DIFFER'}")
    print(f"  report: {folder / 'server' / 'run' / 'report.html'}\n  logs:   {folder}/*.log")
    sys.exit(not same)


if __name__ == "__main__":
    main()
