"""CPU seconds, bytes and memory of secure sums, beside their floors and beside Flower's SecAgg+.

    python -m tests.bench.secagg [table] [targets] [memory] [flower] [--clients N ...] [--sizes D ...]
                                 [--widths W ...] [--lost SHARE ...] [--turns N] [--threads N]

All clients and a server that may lie take turns in one process, a hundred messages at a time: pinned keys,
signed survivors. Each sum is checked. time.process_time of all threads: least and median, of the server over
turns, of a client over some in each turn, which compute graph and parameters anew. What is masked are
integers: encoding is not in it. "wall": the server's least time on the clock. "plan": what `fedkit secagg
plan` says; "floor": secagg_floors.py. "mask": the least time of one mask of that size in the same run, on one
thread; a million lanes of 32 bits take .30 ms on the machine of docs/benchmarks.md when it is quiet. All
that a row says is to be read beside that. `targets`: the rows of the table that have one. Flower is left out
where `flwr` is absent. Rows are printed as they are done; a row of 1000 clients takes one to five minutes:
the options choose some of them.
"""

from __future__ import annotations

import argparse
import os
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import product
from statistics import median

from fedkit.secagg.estimate import cost
from tests.bench.secagg_floors import floor
from tests.bench.secagg_flower import flower_sum
from tests.bench.secagg_session import (
    BATCH,
    Cohort,
    Found,
    Remote,
    Session,
    Shape,
    Watch,
    mask_seconds,
    serve,
)

HEAD = (
    f"{'n':>5}{'d':>9}{'bits':>5}{'lost':>6}{'k':>5}{'t':>5}"
    f"{'client ms':>11}{'median':>8}{'plan':>8}{'floor':>8}"
    f"{'server s':>10}{'median':>8}{'wall':>8}{'plan':>8}{'floor':>8}{'mask ms':>9}"
    f"{'up kB':>9}{'x vector':>9}{'down kB':>9}{'load':>6}"
)
TARGETS = (
    Shape(100, 1_000_000, explicit=(28, 18)),
    Shape(100, 1_000_000),
    Shape(100, 1_000_000, 8, explicit=(28, 18)),
    Shape(1000, 1_000_000),
    Shape(1000, 1_000_000, 8),
)


def fedkit_sum(shape: Shape, found: Found, threads: int = 1) -> None:
    """One sum, measured."""
    session, watch = Session(shape, threads), Watch()
    cohort = Cohort(session)
    serve(session, cohort.answer, watch, BATCH)
    found.up, found.down = cohort.up, cohort.down
    found.server.append(watch.seconds)
    found.wall.append(watch.wall)
    found.mask += [mask_seconds(shape) for _ in range(3)]
    found.client += [watch.seconds for watch in cohort.watches.values()]


def shapes(
    clients: Sequence[int], sizes: Sequence[int], widths: Sequence[int], shares: Sequence[float]
) -> Iterator[Shape]:
    """The table. Of 100 clients a sparse graph that the policy allows, beside the complete one."""
    for n, size, width, lost in product(clients, sizes, widths, shares):
        if n == 100:
            yield Shape(n, size, width, lost, (68, 38) if lost > 0.1 else (28, 18))
        yield Shape(n, size, width, lost)


def show_table(chosen: Iterable[Shape], turns: int, threads: int) -> None:
    """A row for each shape; of more than 100 clients one turn is enough, as each has many."""
    print(HEAD, flush=True)
    for shape in chosen:
        found = Found()
        for _ in range(turns if shape.clients <= 100 else 1):
            fedkit_sum(shape, found, threads)
        print(row(shape, found), flush=True)


def row(shape: Shape, found: Found) -> str:
    """What stands under HEAD."""
    made = shape.parameters
    given = made, shape.size, shape.width, shape.lost
    plan, least = cost(*given), floor(*given)
    return (
        f"{shape.clients:5}{shape.size:9}{shape.width:5}{shape.lost:6.0%}"
        f"{made.neighbours:5}{made.threshold:5}"
        f"{1e3 * min(found.client):11.2f}{1e3 * median(found.client):8.2f}"
        f"{1e3 * plan.client_seconds:8.2f}{1e3 * least.client:8.2f}"
        f"{min(found.server):10.3f}{median(found.server):8.3f}{min(found.wall):8.3f}"
        f"{plan.server_seconds:8.3f}{least.server:8.3f}{1e3 * min(found.mask):9.3f}"
        f"{found.up / 1e3:9.1f}{found.up / plan.vector:9.4f}{found.down / 1e3:9.1f}{os.getloadavg()[0]:6.1f}"
    )


def show_memory() -> None:
    """The most that the server holds, in bytes and in vectors."""
    print(f"{'n':>5}{'d':>10}{'vector MB':>11}{'server MB':>11}{'vectors':>9}")
    for n, size in ((100, 100_000), (100, 1_000_000), (100, 10_000_000), (1000, 1_000_000)):
        peak = memory(Shape(n, size, explicit=(28, 18) if n == 100 else None))
        print(f"{n:5}{size:10}{4e-6 * size:11.1f}{1e-6 * peak:11.1f}{peak / (4 * size):9.2f}", flush=True)


def memory(shape: Shape) -> int:
    """The most bytes that the server holds at a time, the message that it reads included.

    Clients are in another process. tracemalloc does not see what OpenSSL allocates.
    """
    session, peak = Session(shape), 0
    remote = Remote(Cohort(session))

    @contextmanager
    def watch() -> Iterator[None]:
        nonlocal peak
        tracemalloc.reset_peak()
        yield
        peak = max(peak, tracemalloc.get_traced_memory()[1])

    tracemalloc.start()
    serve(session, remote.answer, watch, 1)
    tracemalloc.stop()
    remote.end()
    return peak


def show_flower(turns: int) -> None:
    """Both with k=26 and t=16, ten of 100 clients lost after sharing; they take turns."""
    print(
        f"{'d':>9}{'':>8}{'client ms':>11}{'median':>8}{'server s':>10}{'median':>8}{'up kB':>9}{'load':>6}"
    )
    for size in (100_000, 1_000_000):
        # our policy's share of corrupt clients, .05, would take k=28 and t=18
        shape, ours, theirs = Shape(100, size, explicit=(26, 16), corrupt=0.04), Found(), Found()
        for _ in range(turns):
            fedkit_sum(shape, ours)
            flower_sum(shape, theirs)
        for name, found in (("fedkit", ours), ("Flower", theirs)):
            print(
                f"{size:9}{name:>8}{1e3 * min(found.client):11.2f}{1e3 * median(found.client):8.2f}"
                f"{min(found.server):10.3f}{median(found.server):8.3f}{found.up / 1e3:9.1f}"
                f"{os.getloadavg()[0]:6.1f}",
                flush=True,
            )
        client, server = (
            min(t) / min(o) for o, t in ((ours.client, theirs.client), (ours.server, theirs.server))
        )
        print(f"{size:9}{'ratio':>8}{client:11.1f}{'':8}{server:10.1f}")


def main() -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("parts", nargs="*", default=["table", "memory", "flower"])
    parser.add_argument("--clients", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 8])
    parser.add_argument("--lost", type=float, nargs="+", default=[0.0, 0.1, 0.3], help="shares of clients")
    parser.add_argument("--turns", type=int, default=3, help="of 100 clients; of more there is one")
    parser.add_argument("--threads", type=int, default=1, help="that remove masks at the server")
    given = parser.parse_args()
    if "table" in given.parts:
        show_table(shapes(given.clients, given.sizes, given.widths, given.lost), given.turns, given.threads)
    if "targets" in given.parts:
        show_table(TARGETS, given.turns, given.threads)
    if "memory" in given.parts:
        show_memory()
    if "flower" in given.parts and find_spec("flwr") is None:
        print("flwr is not installed: there is nothing to compare with")
    elif "flower" in given.parts:
        show_flower(given.turns)


if __name__ == "__main__":
    main()
