"""Secrets from shares, and masks from secrets: what the server does once the clients have opened the sum.

Of a survivor b is rebuilt and its self-mask removed; of a client that was lost after sharing, its masking
key and the masks towards those survivors that are its neighbours. Every secret is checked against what its
owner published, so a wrong share is noticed; then other shares are tried, and somebody is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import CryptoError
from fedkit.messages import ClientId
from fedkit.secagg.closing import Opened
from fedkit.secagg.frames import Flags
from fedkit.secagg.messages import Advert
from fedkit.secagg.primitives.digests import opens, same
from fedkit.secagg.primitives.keys import AgreementKey
from fedkit.secagg.primitives.masks import Lanes, Mask, add_masks
from fedkit.secagg.primitives.shamir import rebuild
from fedkit.secagg.primitives.suite import SECRET_BYTES
from fedkit.secagg.session import Numbers, Session, pair_masks, self_masks
from fedkit.seeds import Stream

TRIES: Final = 200  # further choices of shares for a secret that does not hold
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Held:
    """The shares of one owner that came: x of the holders (m,), bytes (m, 32)."""

    xs: Numbers
    rows: Bytes


class Recovery:
    """The secrets of one session. adverts: by place. sharers, survivors: who shared, who is in the sum."""

    def __init__(self, session: Session, adverts: Sequence[Advert], sharers: Flags, survivors: Flags) -> None:
        self._session, self._adverts, self._survivors = session, adverts, survivors
        self.owners = needed(session, sharers, survivors)
        width = session.parameters.holders
        self._given = np.zeros((len(adverts), width), np.bool_)
        self._shares = np.zeros((len(adverts), width, SECRET_BYTES), np.uint8)
        self._wrong: list[tuple[int, int]] = []  # owner, holder

    def take(self, holder: int, opened: Opened) -> None:
        """What one client opened."""
        self._given[holder] = opened.owners
        rows = np.frombuffer(b"".join(opened.shares), np.uint8).reshape(-1, SECRET_BYTES)
        self._shares[holder, opened.owners] = rows

    def short(self) -> list[int]:
        """Owners of whom fewer than t shares came."""
        return [owner for owner in self.owners if len(self._held(owner).xs) < self._threshold]

    def secrets(self) -> dict[int, bytes] | None:
        """The secret of each owner, or None if one cannot be had from these shares."""
        held = {owner: self._held(owner) for owner in self.owners}
        found = dict(zip(held, self._rebuild(list(held.values())), strict=True))
        for owner, secret in found.items():
            if not self._holds(owner, secret):
                repaired = self._repair(owner, held[owner])
                if repaired is None:
                    return None
                found[owner] = repaired
        return found

    @property
    def offenders(self) -> tuple[ClientId, ...]:
        """The fewest, about, who explain all wrong shares: a holder that lied or an owner that dealt badly.

        Of a single wrong share the holder, who could have dropped it.
        """
        left, blamed = set(self._wrong), set[int]()
        while left:
            counts = Counter(client for pair in left for client in set(pair))
            holders = {holder for _, holder in left}
            worst = max(counts, key=lambda client: (counts[client], client in holders, -client))
            blamed.add(worst)
            left = {pair for pair in left if worst not in pair}
        return tuple(self._session.clients[number] for number in sorted(blamed))

    @property
    def _threshold(self) -> int:
        return self._session.parameters.threshold

    def _held(self, owner: int) -> Held:
        routes = self._session.circle_routes[owner]
        given = self._given.reshape(-1)[routes]
        shares = self._shares.reshape(-1, SECRET_BYTES)[routes[given]]
        return Held(self._session.circles[owner][given] + 1, shares)

    def _rebuild(self, held: Sequence[Held]) -> list[bytes]:
        """From the first t shares of each; by one vector of weights where all have the same holders."""
        t = self._threshold
        xs = np.stack([one.xs[:t] for one in held], axis=1)
        rows = np.stack([one.rows[:t] for one in held], axis=1)
        common = bool((xs == xs[:, :1]).all())
        made = rebuild(xs[:, 0] if common else xs, rows, t)
        return [secret.tobytes() for secret in made]

    def _holds(self, owner: int, secret: bytes) -> bool:
        advert = self._adverts[owner]
        if self._survivors[owner]:
            return opens(advert.commitment, self._session.header.sid, secret)
        return same(AgreementKey(secret).public, advert.mask)

    def _repair(self, owner: int, held: Held) -> bytes | None:
        """The secret from other shares; whose share is wrong is noted."""
        for chosen in self._choices(held):
            part = Held(held.xs[chosen], held.rows[chosen])
            secret = self._rebuild([part])[0]
            if self._holds(owner, secret):
                wrong = [x for x, row in self._doubtful(part, held) if not self._fits(part, x, row)]
                self._wrong += [(owner, x - 1) for x in wrong]
                return secret
        if all(self._fits(held, x, row) for x, row in zip(held.xs, held.rows, strict=True)):
            self._wrong.append((owner, owner))  # all agree, but not with what the owner published
        return None

    def _choices(self, held: Held) -> Iterator[Numbers]:
        """Subsets of t: without those that were wrong elsewhere, in turn, then at random."""
        t, count = self._threshold, len(held.xs)
        suspects = {holder for _, holder in self._wrong}
        good = np.array([at for at, x in enumerate(held.xs.tolist()) if x - 1 not in suspects], np.int64)
        if len(good) >= t:
            yield good[:t]
        if count == t:
            return
        for start in range(count):
            yield np.sort((np.arange(t) + start) % count)
        random = Stream(int.from_bytes(self._session.context[:16], "little"))
        for _ in range(TRIES):
            yield np.sort(random.choice(count, t))

    def _doubtful(self, part: Held, held: Held) -> list[tuple[int, Bytes]]:
        """Shares to look at: of those who were wrong before, where leaving them out was enough; else all.

        One liar among a hundred would otherwise cost the server seconds.
        """
        suspects = {holder + 1 for _, holder in self._wrong}
        enough = suspects and suspects.isdisjoint(part.xs.tolist())
        both = zip(held.xs.tolist(), held.rows, strict=True)
        return [(x, row) for x, row in both if not enough or x in suspects]

    def _fits(self, part: Held, x: int, row: Bytes) -> bool:
        """Whether a share is on the polynomial of the first t of `part`."""
        t = self._threshold
        base, rows = part.xs[:t], part.rows[:t]
        if x in base:
            return bool((rows[base == x] == row).all())
        try:
            rebuild(np.append(base, x), np.concatenate([rows, row[None]]), t)
        except CryptoError:
            return False
        return True


def needed(session: Session, sharers: Flags, survivors: Flags) -> list[int]:
    """Whose secrets open the sum: survivors, and those lost with whom a survivor masked."""
    return [
        owner
        for owner in np.flatnonzero(sharers).tolist()
        if survivors[owner] or survivors[session.graph[owner]].any()
    ]


def remove_masks(
    session: Session,
    adverts: Sequence[Advert],
    survivors: Flags,
    secrets: Mapping[int, bytes],
    total: tuple[Lanes, NDArray[np.uint64]],
    threads: int,
) -> None:
    """Take all masks off the sum, in place. total: vector and tail."""
    pairs: list[tuple[Mask, Mask]] = []
    for owner, secret in secrets.items():
        if survivors[owner]:
            pairs.append(self_masks(session, secret, owner, sign=-1))
            continue
        key, near = AgreementKey(secret), session.graph[owner]
        # what the lost one would have added is what each neighbour's mask takes away
        peers = near[survivors[near]].tolist()
        pairs += [pair_masks(session, key.agree(adverts[peer].mask), owner, peer) for peer in peers]
    suite = session.header.suite
    add_masks(total[0], (vector for vector, _ in pairs), suite, threads=threads)
    add_masks(total[1], (tail for _, tail in pairs), suite)


def miscounted(tail: NDArray[np.uint64], members: int) -> str:
    """What is wrong with a sum whose tail does not count its members; else nothing."""
    counted = int(tail[0])
    return (
        ""
        if counted == members
        else f"the sum counts {counted} clients, not {members}: somebody masked wrongly"
    )
