"""Secrets from shares, and masks from secrets: what the server does once the clients have opened the sum.

Of a survivor b is rebuilt and its self-mask removed; of a client that was lost after sharing, its masking
key and the masks towards those survivors that are its neighbours. Every secret is checked against what its
owner published, so a wrong share is noticed; then those that fit together are found. (m - t) / 2 wrong ones
of m are always worked round, among a dozen clients m - t.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedkit.secagg.blame import Offence, known, wrong_shares
from fedkit.secagg.closing import Opened
from fedkit.secagg.frames import Flags
from fedkit.secagg.messages import Advert
from fedkit.secagg.primitives.decode import misfits
from fedkit.secagg.primitives.digests import opens, same
from fedkit.secagg.primitives.keys import AgreementKey
from fedkit.secagg.primitives.masks import Lanes, Mask
from fedkit.secagg.primitives.shamir import rebuild, values
from fedkit.secagg.primitives.suite import SECRET_BYTES
from fedkit.secagg.session import Numbers, Session, mask_both, pair_mask, self_mask

SUBSETS: Final = 500  # so few choices of t shares are all tried: among few clients decoding tells little
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Held:
    """The shares of one owner that came: x of the holders (m,), bytes (m, 32)."""

    xs: Numbers
    rows: Bytes

    def take(self, chosen: Numbers) -> Held:
        """Some of them, by place."""
        return Held(self.xs[chosen], self.rows[chosen])


class Recovery:
    """The secrets of one session. adverts: by place. sharers, survivors: who shared, who is in the sum."""

    def __init__(self, session: Session, adverts: Sequence[Advert], sharers: Flags, survivors: Flags) -> None:
        self._session, self._adverts, self._survivors = session, adverts, survivors
        self.owners = needed(session, sharers, survivors)
        width = session.parameters.holders
        self._given = np.zeros((len(adverts), width), np.bool_)
        self._shares = np.zeros((len(adverts), width, SECRET_BYTES), np.uint8)
        self._wrong: set[tuple[int, int]] = set()  # owner, holder
        self._bending = len(adverts)  # the fewest who could have bent true shares so
        self._suspects: set[int] = set()  # holders whose shares did not fit, whoever made them so
        self._dealt: list[Offence] = []

    def take(self, holder: int, opened: Opened) -> None:
        """What one client opened."""
        self._given[holder] = opened.owners
        rows = np.frombuffer(b"".join(opened.shares), np.uint8).reshape(-1, SECRET_BYTES)
        self._shares[holder, opened.owners] = rows

    def short(self) -> list[int]:
        """Owners of whom fewer than t shares came; where t holders answered, that is noted."""
        found = [owner for owner in self.owners if len(self._held(owner).xs) < self._threshold]
        answered = np.count_nonzero(self._given, axis=1) > 0
        for owner in found:
            holders = int(np.count_nonzero(answered[self._session.circles[owner]]))
            without = holders - len(self._held(owner).xs)
            if holders >= self._threshold:
                why = f"no share of it with {without} of its holders"
                doubt = "unless they keep it back or the network spoilt it"
                self._dealt.append(Offence((self._session.clients[owner],), f"{why}, {doubt}"))
        return found

    def secrets(self) -> dict[int, bytes] | str:
        """The secret of each owner; or of which none can be had from these shares, and why."""
        held = {owner: self._held(owner) for owner in self.owners}
        found = dict(zip(held, self._rebuild(list(held.values())), strict=True))
        for owner, secret in found.items():
            if not self._holds(owner, secret):
                repaired = self._repair(owner, held[owner])
                if repaired is None:
                    return self._refusal(owner, held[owner])
                found[owner] = repaired
        return found

    @property
    def offences(self) -> tuple[Offence, ...]:
        """What wrong shares tell, and shares of other secrets than were published."""
        wrong = wrong_shares(self._wrong, self._colluding, self._session.clients, self._bending)
        return (*wrong, *self._dealt)

    @property
    def _threshold(self) -> int:
        return self._session.parameters.threshold

    @property
    def _colluding(self) -> int:
        return max(self._session.parameters.colluding, 1)

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
            believed = chosen[: self._threshold]
            secret = self._rebuild([held.take(believed)])[0]
            if self._holds(owner, secret):
                self._note(owner, held, believed)
                return secret
        return None

    def _choices(self, held: Held) -> Iterator[Numbers]:
        """Shares to believe: those of who gave no wrong one before; what decoding leaves; any, of a few."""
        t, count = self._threshold, len(held.xs)
        good = np.flatnonzero(~np.isin(held.xs - 1, list(self._suspects)))
        if t <= len(good) < count:
            yield good
        wrong = misfits(held.xs, held.rows, t)
        if wrong is not None:
            yield np.flatnonzero(~wrong)
        if comb(count, t) <= SUBSETS:
            yield from (np.array(chosen) for chosen in combinations(range(count), t))

    def _note(self, owner: int, held: Held, believed: Numbers) -> None:
        """Keep whose shares do not fit those `believed`, unless as few clients could have bent the others.

        To bend a polynomial and keep its secret takes so many liars that t - 2 true shares are left on it.
        """
        part, others = held.take(believed), held.take(np.setdiff1d(np.arange(len(held.xs)), believed))
        seen = self._suspects and self._suspects.isdisjoint(part.xs - 1)
        if seen and self._suspects <= known(self._wrong, self._colluding):
            return  # nothing new, and with a hundred clients it takes a second
        wrong = others.xs[(values(others.xs, part.xs, part.rows) != others.rows).any(axis=1)] - 1
        self._suspects |= set(wrong.tolist())
        bending = len(held.xs) - len(wrong) - (self._threshold - 2)
        if bending > len(wrong):
            self._wrong |= {(owner, holder) for holder in wrong.tolist()}
            self._bending = min(self._bending, bending)

    def _refusal(self, owner: int, held: Held) -> str:
        """Why there is no secret of this owner; if its shares are of another one, that is noted."""
        t, name, count = self._threshold, self._session.clients[owner], len(held.xs)
        wrong = misfits(held.xs, held.rows, t)
        # true shares give the true secret: at most t - 1 of those that fit another one are
        liars = 0 if wrong is None else int(np.count_nonzero(~wrong)) - (t - 1)
        if liars <= 1:
            return (
                f"too few right shares of {name}: {count} came, {t} are needed, and it is not known whose lie"
            )
        why = f"shares of another secret than it published, unless {liars} of its holders lied"
        self._dealt.append(Offence((name,), why))
        return str(self._dealt[-1])


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
    masks: list[Mask] = []
    for owner, secret in secrets.items():
        if survivors[owner]:
            masks.append(self_mask(session, secret, owner, sign=-1))
            continue
        key, near = AgreementKey(secret), session.graph[owner]
        # what the lost one would have added is what each neighbour's mask takes away
        peers = near[survivors[near]].tolist()
        masks += [pair_mask(session, key.agree(adverts[peer].mask), owner, peer) for peer in peers]
    mask_both(session, *total, masks, threads)


def miscounted(tail: NDArray[np.uint64], members: int) -> str:
    """What is wrong with a sum whose tail does not count its members; else nothing."""
    counted = int(tail[0])
    return (
        ""
        if counted == members
        else f"the sum counts {counted} clients, not {members}: somebody masked wrongly"
    )
