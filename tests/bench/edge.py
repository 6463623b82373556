"""What a deployment bears and costs, in real processes over TLS on loopback.

    python -m tests.bench.edge [client] [start] [traffic] [idle] [uploads] [memory]

client: time of a round with one client and a 1 MB model, and memory of the client. start: seconds from the
command to the first task. traffic: bytes a day of a client that waits. idle: 1,000 clients that wait.
uploads: 100 results of 4 MB in one round. memory: the aggregator's at its peak, 25 MB model, 10 and 100
clients. The many devices of the last three are threads of this program with the edge client's own transport:
it takes a part of the two cores.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from fedkit import keyfile, wire
from fedkit.messages import EncodedUpdate, Key
from fedkit.secagg.rosterfile import read_trust
from fedkit_clients.edge.answers import Unreachable
from fedkit_clients.edge.transport import Transport
from tests.faults.deployment import PLAIN, Deployment, Party, Plan, simulated

MEGABYTE = 3495
"""Width of a perceptron whose weights take a megabyte."""
LONG = 1800.0
DAY = 86_400
FOREVER = ("--patience", "1000000")


def main() -> None:
    """The parts that are named, or all."""
    for name in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder, "deployment"))
        print(f"{'':40s}load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)


def show(what: str, figure: str, wanted: str) -> None:
    """One line of the table."""
    print(f"{what:40s}{figure:>24s}   wanted: {wanted}", flush=True)


def one_client(folder: Path) -> None:
    """A hundred rounds with one client."""
    plan = Plan(102, clients=1, hidden=MEGABYTE, codecs=PLAIN)
    with Deployment(folder, plan, direct=True) as one:
        one.start()
        client = one.clients["c000"]
        one.until(lambda: one.rounds_done() >= 2, LONG)
        before, done = cpu(one.server) + cpu(client), one.rounds_done()
        one.until(lambda: one.rounds_done() >= plan.rounds - 1, LONG)
        used = (cpu(one.server) + cpu(client) - before) / (one.rounds_done() - done)
        resident, peak = client.megabytes(), client.megabytes("VmHWM")
        one.finish(LONG)
        one.check()
        deployed = seconds(one.folder / "server" / "run")
        undisturbed = simulated(plan, folder)["wall_seconds"]
    assert isinstance(undisturbed, float)
    alone = undisturbed / plan.rounds
    show("round, 1 client, 1 MB, median of 100", f"{1e3 * deployed:.1f} ms", "<= 50 ms beside training")
    show("  CPU time of both, mean", f"{1e3 * used:.1f} ms", "-")
    show("  the same round in a simulation", f"{1e3 * alone:.1f} ms", "-")
    show("client, resident (at its peak)", f"{resident:.1f} MB ({peak:.1f} MB)", "<= 60 MB")


def seconds(run: Path) -> float:
    """Median seconds of a round, without the first two."""
    lines = (run / "rounds.jsonl").read_text().splitlines()
    return float(median(json.loads(line)["wall_seconds"] for line in lines[2:]))


def start(folder: Path, times: int = 5) -> None:
    """From the command until a task that waits at the aggregator has been trained."""
    found: list[tuple[float, float]] = []
    with Deployment(folder, Plan(1000, clients=1), direct=True) as one:
        one.start()
        client = one.clients["c000"]
        for _ in range(times):
            before = one.rounds_done()
            one.until(lambda before=before: one.rounds_done() > before)  # type: ignore[misc]
            client.kill()
            time.sleep(3)  # the lease of what it had is over
            begun, lines = time.perf_counter(), len(client.logs())
            client.start()
            one.until(lambda lines=lines: told(client, "train done", lines))  # type: ignore[misc]
            found.append((time.perf_counter() - begun, cpu(client)))
    wall, used = min(found)
    show("start to the first task, best of 5", f"{wall:.2f} s ({used:.2f} s of CPU)", "<= 1 s")


def told(party: Party, words: str, after: int = 0) -> bool:
    """Whether it has said that, after so many lines."""
    return any(words in line for line in party.logs()[after:])


def traffic(folder: Path, length: float = 485.0) -> None:
    """Bytes through the proxy while a client waits."""
    plan = Plan(1, clients=2)
    with Deployment(folder, plan, serve=["--wait-for", "2", *FOREVER]) as one:
        one.server.start()
        client = one.clients["c000"]
        client.start()
        one.until(lambda: told(client, "joined"))
        time.sleep(300)  # until its polls are as long as they get
        before = one.proxy.passed
        time.sleep(length)
        day = (one.proxy.passed - before) * DAY / length
    show("client that waits, bytes of TLS a day", f"{day / 1e6:.2f} MB", "< 1 MB")


def idle(folder: Path, count: int = 1000, length: float = 60.0) -> None:
    """Long polls of many clients, none of which gets anything."""
    plan = Plan(1, clients=count + 1)
    with Deployment(folder, plan, direct=True, serve=["--wait-for", str(count + 1), *FOREVER]) as one:
        one.server.start()
        one.until(lambda: listening(one.server))
        before, fleet = one.server.megabytes(), Fleet(one)
        over, begun, polls, failures = threading.Event(), time.monotonic(), [0] * count, list[str]()

        def wait(number: int) -> None:
            with fleet.transport(number) as transport:
                while not over.is_set():
                    try:
                        transport.news(0 if not polls[number] else 30)
                        polls[number] += 1
                    except Unreachable as error:
                        failures.append(str(error))
                        time.sleep(1)

        threads = [threading.Thread(target=wait, args=(number,), daemon=True) for number in range(count)]
        for thread in threads:
            thread.start()
        one.until(lambda: all(polls), LONG)
        connected, used = time.monotonic() - begun, cpu(one.server)
        failures.clear()
        time.sleep(length)
        share = (cpu(one.server) - used) / length
        after, failed, whole = one.server.megabytes(), Counter(failures), sum(polls) - count
        over.set()
    show(f"{count} clients connected after", f"{connected:.1f} s", "-")
    show("  the aggregator's share of a core", f"{100 * share:.1f} %", "holds")
    show("  its memory (before)", f"{after:.0f} MB ({before:.0f} MB)", "holds")
    show("  polls that failed, beside the others", f"{failed.total()}, {whole}", "0")
    for reason, times in failed.most_common(3):
        print(f"    {times} times: {reason}")


def uploads(folder: Path) -> None:
    """A round of 100 results of 4 MB."""
    took, used, _ = one_round(folder, 100, 13_333)
    show("100 uploads of 4 MB until recorded", f"{took:.1f} s", "<= 10 s")
    show("  CPU: the aggregator's, these clients'", f"{used[0]:.1f} s, {used[1]:.1f} s", "-")


def memory(folder: Path) -> None:
    """Peaks of the aggregator."""
    peaks = [one_round(folder / str(count), count, 83_333)[2] for count in (10, 100)]
    show("aggregator's peak, 25 MB, 10 clients", f"{peaks[0]:.0f} MB", "<= 300 MB")
    show("aggregator's peak, 25 MB, 100 clients", f"{peaks[1]:.0f} MB", "<= 300 MB, within 10 %")


def one_round(folder: Path, count: int, hidden: int) -> tuple[float, tuple[float, float], float]:
    """Seconds until the round is recorded, of CPU of the aggregator and here, and the former's peak in MB."""
    plan = Plan(1, clients=count, hidden=hidden, codecs=PLAIN, tested=16)  # or it evaluates for gigabytes
    size = 4 * (75 * hidden + 10)
    with Deployment(folder, plan, direct=True, serve=["--lease", "600"]) as one:
        one.server.start()
        one.until(lambda: listening(one.server), LONG)
        fleet, gate = Fleet(one), threading.Barrier(count + 1)

        def work(number: int) -> None:
            with fleet.transport(number) as transport:
                key = first_task(transport, folder / f"part-{number}")
                update = EncodedUpdate(key, "none", bytes(size), 40.0, {"loss": 1.0}, 1.0)
                frame = wire.encode(update)
                gate.wait(LONG)
                while not uploaded(transport, key, frame):
                    time.sleep(0.5)

        with ThreadPoolExecutor(count) as pool:
            done = [pool.submit(work, number) for number in range(count)]
            gate.wait(LONG)
            begun, before, here = time.monotonic(), cpu(one.server), time.process_time()
            for one_done in done:
                one_done.result()
            one.until(lambda: one.rounds_done() == 1, LONG)
            took, used = time.monotonic() - begun, (cpu(one.server) - before, time.process_time() - here)
            peak = one.server.megabytes("VmHWM")
    return took, used, peak


def uploaded(transport: Transport, key: Key, frame: bytes) -> bool:
    """Whether the aggregator has it; on a busy machine it may take several attempts."""
    try:
        transport.upload(key, frame)
    except Unreachable:
        return False
    return True


def first_task(transport: Transport, part: Path) -> Key:
    """The key of the first task that comes."""
    while True:
        try:
            news = transport.news(30)
        except Unreachable:
            time.sleep(0.5)
            continue
        for offer in news.offers:
            frame = offer.frame.data
            return wire.decode(transport.blob(offer.frame, part) if frame is None else frame).key


class Fleet:
    """The devices of a deployment as transports of this process."""

    def __init__(self, one: Deployment) -> None:
        self._server = read_trust(one.folder / "roster.toml").server
        self._one, self._keys = one, [keyfile.read_key(one.folder / name) for name in one.plan.names]

    def transport(self, number: int) -> _Closing:
        """Of one device."""
        name, key = self._one.plan.names[number], self._keys[number]
        return _Closing(self._one.address, name, key, server=self._server)


class _Closing(Transport):
    def __enter__(self) -> _Closing:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def listening(server: Party) -> bool:
    """Whether it takes requests."""
    return told(server, "listening on")


def cpu(party: Party) -> float:
    """Seconds of CPU time so far."""
    words = Path(f"/proc/{party.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


PARTS: dict[str, Callable[[Path], None]] = {
    "client": one_client,
    "start": start,
    "traffic": traffic,
    "idle": idle,
    "uploads": uploads,
    "memory": memory,
}


if __name__ == "__main__":
    main()
