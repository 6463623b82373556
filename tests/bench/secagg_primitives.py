"""Speed of what secure aggregation is made of, beside the floors of its design.

    python tests/bench/secagg_primitives.py [--turns N]

One thread: the least CPU time (time.process_time) of N turns; two threads: the least wall time, which
means something on an idle machine only. Where many masks are added, time is per mask.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from fedkit.secagg.graph import neighbours
from fedkit.secagg.parameters import Policy, choose
from fedkit.secagg.primitives.boxes import Sealer
from fedkit.secagg.primitives.digests import merkle_root
from fedkit.secagg.primitives.keys import AgreementKey, mask_key
from fedkit.secagg.primitives.masks import Lanes, Mask, add_masks
from fedkit.secagg.primitives.shamir import rebuild, share
from fedkit.secagg.primitives.signatures import SigningKey, verify
from fedkit.secagg.primitives.suite import Suite
from fedkit.seeds import stream

SIZE = 1_000_000
MANY = 30


@dataclass(frozen=True)
class Row:
    """What is done, and the floor in milliseconds if the design names one.

    times: calls in a turn. share: what one call does so many times.
    """

    name: str
    call: Callable[[], object]
    floor: float | None = None
    times: int = 1
    share: int = 1
    wall: bool = False

    def least(self, turns: int) -> float:
        """Milliseconds of one."""
        clock = time.perf_counter if self.wall else time.process_time
        found = []
        for _ in range(turns):
            before = clock()
            for _ in range(self.times):
                self.call()
            found.append(clock() - before)
        return 1e3 * min(found) / self.times / self.share


def mask_rows() -> Iterator[Row]:
    """A vector of a million lanes: one mask, and many in one call."""
    floors = {("AES", 4): (0.55, 0.30), ("AES", 1): (0.119, None)}
    for suite in Suite:
        for dtype in (np.uint8, np.uint32, np.uint64):
            vector: Lanes = np.zeros(SIZE, dtype)
            one, two = floors.get((suite.name, vector.itemsize), (None, None))
            many = [Mask(stream(i, "mask").bytes(suite.mask_bytes), 1) for i in range(MANY)]
            name = f"{suite.name} mask of 1M {vector.dtype}"

            add = partial(add_masks, (vector,), suite=suite)
            yield Row(name, partial(add, many[:1]), one)
            yield Row(f"{name}, each of {MANY}", partial(add, many), one, share=MANY)
            yield Row(f"{name}, two threads", partial(add, many[:1], threads=2), two, wall=True)


def sharing_rows() -> Iterator[Row]:
    """Two secrets of 32 bytes dealt by one client; secrets of 1000 owners rebuilt."""
    for h, t, floor in ((10, 6, 0.05), (79, 52, None), (100, 67, 0.83), (1000, 667, 96.0)):
        yield Row(f"share h={h} t={t}", partial(share, bytes(64), range(1, h + 1), t), floor)
    rows = np.frombuffer(stream(0, "rows").bytes(667 * 1000 * 32), np.uint8).reshape(667, 1000, 32)
    yield Row("rebuild 1000 owners, t=667, same holders", lambda: rebuild(range(1, 668), rows, 667), 65.0)
    xs = np.stack([stream(i, "xs").permutation(1000)[:52] + 1 for i in range(1000)], axis=1)
    yield Row("rebuild 1000 owners, t=52, own holders", lambda: rebuild(xs, rows[:52], 52))


def other_rows() -> Iterator[Row]:
    """Once for a neighbour, once for a client."""
    mine, peer, signer = AgreementKey.new(), AgreementKey.new(), SigningKey.new()
    signature, agreed = signer.sign(b"survivors"), mine.agree(peer.public)
    yield Row("X25519 agreement", lambda: mine.agree(peer.public), 0.05, times=20)
    yield Row("X25519 key", AgreementKey.new, 0.05, times=20)
    yield Row("HKDF key", lambda: mask_key(bytes(32), agreed, "a", "b", 16), times=20)
    yield Row("box of 80 bytes", lambda: Sealer(Suite.AES, bytes(32)).seal(bytes(80), b"ij"), 0.003, times=20)
    yield Row("Ed25519 sign", lambda: signer.sign(b"survivors"), times=20)
    yield Row("Ed25519 verify", lambda: verify(signer.public, b"survivors", signature), 0.068, times=20)
    yield Row("Merkle root of 1000", lambda: merkle_root([bytes(32)] * 1000))
    for n in (1000, 10_000):
        k = choose(n, Policy()).neighbours
        yield Row(f"graph n={n} k={k}", partial(neighbours.__wrapped__, n, k, bytes(32)))
        yield Row(f"choose n={n}", partial(choose.__wrapped__, n, Policy()))


def main() -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("--turns", type=int, default=20)
    turns = parser.parse_args().turns
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; milliseconds")
    for rows in (mask_rows, sharing_rows, other_rows):
        for row in rows():
            floor = "" if row.floor is None else f"{row.floor:10.3f}"
            print(f"{row.name:42} {row.least(turns):10.4f} {floor}", flush=True)


if __name__ == "__main__":
    main()
