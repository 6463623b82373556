"""The long proofs of a deployment, with their figures: kills, a real outage, a thousand rounds.

    python -m tests.faults.soak kills [--kills 200] [--seed 0] [--rounds N]
    python -m tests.faults.soak outage [--seconds 80]
    python -m tests.faults.soak leak [--rounds 1000]
    python -m tests.faults.soak run [--rounds 3]

Real processes over TLS. Each ends with an error unless the model is that of the simulation, bit for bit, and
nothing acknowledged was lost. `kills`: kill -9 of server and clients at seeded instants, on a link that cuts,
resets, truncates and answers 502, with outages. `leak`: nobody is killed, and memory does not grow. `run`:
nothing is done to it (by this program).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from tests.faults.deployment import Deployment, Plan
from tests.faults.faultproxy import Faults
from tests.faults.reaper import Reaper

LONG = 7200.0
MIX = Faults(cut=60_000, reset=0.3, truncate=0.3, delay=0.001, twice=0.002, gateway=0.03)
GROWTH = 6.0
"""Megabytes that a process may grow between a fifth of its rounds and the last."""


def kills(folder: Path, wanted: int, seed: int, rounds: int) -> None:
    """So many kills behind a bad link; every twentieth is followed by an outage."""
    with Deployment(folder, Plan(rounds or wanted), MIX, seed) as one:
        one.start()
        reaper, outages = Reaper(one, seed, every=12_000), 0
        while sum(reaper.kills.values()) < wanted and one.server.ended() is None:
            reaper.reap()
            done = sum(reaper.kills.values())
            if done % 20 == 0:
                outages += 1
                one.proxy.darken()
                time.sleep(3)
                one.proxy.lighten()
                print(f"{done:5d} kills, {one.rounds_done()} rounds, {memory(one)}", flush=True)
        one.finish(LONG)
        one.check()
        by_name = ", ".join(f"{count} of {name}" for name, count in reaper.kills.items())
        print(f"{sum(reaper.kills.values())} kills: {by_name}; {outages} outages of 3 s")
        told(one)
        assert sum(reaper.kills.values()) >= wanted, "the run was over before: give it more --rounds"


def outage(folder: Path, seconds: float) -> None:
    """The link is gone for that long, in the middle of a round."""
    with Deployment(folder, Plan(8)) as one:
        one.start()
        one.until(lambda: one.rounds_done() >= 3)
        one.proxy.darken()
        time.sleep(seconds)
        one.proxy.lighten()
        back = time.monotonic()
        before = one.rounds_done()
        one.until(lambda: one.rounds_done() > before, LONG)
        print(
            f"{seconds:.0f} s without a link; the next round ended {time.monotonic() - back:.1f} s after it"
        )
        one.finish(LONG)
        one.check()
        told(one)


def leak(folder: Path, rounds: int) -> None:
    """Resident memory over many rounds."""
    with Deployment(folder, Plan(rounds, clients=2, hidden=4)) as one:
        one.start()
        seen: list[list[float]] = []
        for done in range(rounds // 5, rounds, rounds // 5):
            one.until(lambda done=done: one.rounds_done() >= done, LONG)  # type: ignore[misc]
            seen.append([party.megabytes() for party in one.parties])
            print(f"{one.rounds_done():5d} rounds, {memory(one)}", flush=True)
        one.finish(LONG)
        one.check()
        told(one)
        grown = [last - first for first, last in zip(seen[0], seen[-1], strict=True)]
        print(f"growth from round {rounds // 5}: " + ", ".join(f"{one:.1f} MB" for one in grown))
        assert max(grown) < GROWTH, "memory grows"


def undisturbed(folder: Path, rounds: int) -> None:
    """As the machine has it."""
    with Deployment(folder, Plan(rounds)) as one:
        one.start()
        one.finish(LONG)
        one.check()
        told(one)


def memory(one: Deployment) -> str:
    """Resident memory of all."""
    return ", ".join(f"{party.name} {party.megabytes():.0f} MB" for party in one.parties)


def told(one: Deployment) -> None:
    """What happened on the link."""
    met = ", ".join(f"{count} {name}" for name, count in sorted(one.proxy.met.items()) if count)
    print(
        f"{one.plan.rounds} rounds, {one.plan.clients} clients, {one.proxy.passed / 1e6:.1f} MB on the link"
    )
    print(f"on the link: {met or 'nothing'}\nthe model is that of the simulation, nothing was lost")


def main() -> None:
    """One proof."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["kills", "outage", "leak", "run"])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=80)
    given, began = parser.parse_args(), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "deployment")
        if given.what == "kills":
            kills(folder, given.kills, given.seed, given.rounds)
        elif given.what == "outage":
            outage(folder, given.seconds)
        elif given.what == "leak":
            leak(folder, given.rounds or 1000)
        else:
            undisturbed(folder, given.rounds or 3)
    load = os.getloadavg()[1]
    print(f"{given.what}: {time.monotonic() - began:.0f} s, load {load:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
