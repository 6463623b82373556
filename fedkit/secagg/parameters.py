"""How many neighbours (k) and how many shares (t), and with which probability that fails.

Each of n clients deals shares to its k neighbours and itself: h = k + 1 holders, any t of whom rebuild. The
choice holds while at most a share `corrupt` of all clients works with the server and at most a share
`dropout` is lost; what remains are three probabilities over the random graph (Bell et al., CCS 2020,
section 3), bounded by a union over clients of hypergeometric tails:

    disconnected   without the corrupt and the lost, the graph falls apart: parts of the sum show
    privacy        some client has more than c corrupt neighbours: its vector shows
    correctness    some client keeps fewer than t neighbours: the round aborts

docs/secagg-parameters.md explains them and shows what is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from math import ceil, exp, floor, inf, lgamma, log, log2

from fedkit.errors import ConfigError, shown

COMPLETE_UP_TO = 128
SMALLEST = 3  # of two clients, each knows the other's vector from the sum
MOST = 65_535  # a client is an x of GF(2^16)
CORRECTNESS_BITS = 20
DENSEST = 0.7  # of all pairs; a denser graph is as good as complete
MOST_ENTRIES = (
    1 << 26
)  # of the table of neighbours, 256 MB: every client computes it, whatever a server asks for


class Mode(StrEnum):
    """Whom secrecy holds against, beside the corrupt clients."""

    LYING_SERVER = "lying_server"
    """A server that tells different clients different things: 2 t > h + c."""
    HONEST_SERVER = "honest_server"
    """A server that follows the protocol and is curious: t > c."""


SIGMA: Mapping[Mode, int] = {Mode.LYING_SERVER: 80, Mode.HONEST_SERVER: 40}
"""Where none is given."""


@dataclass(frozen=True)
class Policy:
    """What a client insists on.

    corrupt, dropout: shares of all clients that may work with the server, or be lost. sigma: secrecy fails
    with at most 2^-sigma; 0: 40, and 80 if the server may lie, which can try graphs until one suits it (who
    is in the roster is part of the graph's seed). smallest: the fewest clients of a session and of its sum;
    0: not chosen yet, and no fewer than 3. A server can keep back whom it likes, so what holds of all has to
    hold of these.
    """

    corrupt: float = 0.05
    dropout: float = 0.1
    sigma: int = 0
    mode: Mode = Mode.LYING_SERVER
    smallest: int = 0

    def __post_init__(self) -> None:
        for name in ("corrupt", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is a share of all clients, 0 <= {name} < 1: {getattr(self, name)}")
        if not 0 <= self.sigma <= 128:
            raise ConfigError(f"sigma is from 1 to 128, or 0 for that of the mode, not {self.sigma}")
        if self.mode not in tuple(Mode):
            raise ConfigError(f"mode is one of {', '.join(Mode)}: {shown(self.mode)}")
        object.__setattr__(self, "mode", Mode(self.mode))
        if not self.sigma:
            object.__setattr__(self, "sigma", SIGMA[self.mode])
        if self.smallest != 0 and self.smallest < SMALLEST:
            raise ConfigError(
                f"a sum of fewer than {SMALLEST} clients hides nobody: smallest={self.smallest}"
            )

    @property
    def least(self) -> int:
        """The fewest clients in a sum."""
        return max(SMALLEST, self.smallest)

    def settled(self, invited: int, wanted: int) -> Policy:
        """With `smallest` chosen, if it is not: those of `invited` who stay at least, or who are `wanted`."""
        return (
            self
            if self.smallest
            else replace(self, smallest=max(SMALLEST, min(wanted, self.alive_of(invited))))
        )

    def corrupt_of(self, clients: int) -> int:
        """How many of `clients` may be corrupt."""
        return _part(self.corrupt, clients)

    def alive_of(self, clients: int) -> int:
        """How many of `clients` stay at least: with fewer than `smallest` there is no sum to open."""
        return max(clients - self.lost_of(clients), min(clients, self.smallest))

    def lost_of(self, clients: int) -> int:
        """How many of `clients` may be lost."""
        return _part(self.dropout, clients)


@dataclass(frozen=True)
class Parameters:
    """A graph and a threshold, with log2 of the probabilities that they fail (-inf: cannot happen).

    clients: n. neighbours: k; n - 1 is the complete graph. threshold: t.
    """

    clients: int
    neighbours: int
    threshold: int
    mode: Mode
    disconnected: float
    privacy: float
    correctness: float

    @property
    def complete(self) -> bool:
        """Whether everyone is everyone's neighbour."""
        return self.neighbours == self.clients - 1

    @property
    def holders(self) -> int:
        """h: who holds shares of one client, itself included."""
        return self.neighbours + 1

    @property
    def colluding(self) -> int:
        """c: how many corrupt neighbours a client can have and stay secret."""
        return _colluding(self.neighbours, self.threshold, self.mode)

    def meets(self, policy: Policy) -> bool:
        """Whether the probabilities are as small as `policy` asks."""
        return self.hides(policy) and self.correctness <= -CORRECTNESS_BITS

    def hides(self, policy: Policy) -> bool:
        """Whether those of secrecy are."""
        return max(self.disconnected, self.privacy) <= -(policy.sigma + 1)


@lru_cache(maxsize=64)
def choose(clients: int, policy: Policy) -> Parameters:
    """The parameters of a session: complete up to 128 clients, above the sparsest graph that will do.

    ConfigError, with a way out: too few clients or too many, or no graph meets the policy.
    """
    _check_clients(clients, policy)
    complete = _complete(clients, policy)  # where it cannot be had, a search of minutes finds nothing either
    return complete if clients <= COMPLETE_UP_TO else _small(sparsest(clients, policy) or complete)


def assess(clients: int, neighbours: int, threshold: int, policy: Policy) -> Parameters:
    """What explicit k and t are worth under `policy`; `meets` tells whether that is enough.

    ConfigError: k is not even (or n - 1), or t does not go with k.
    """
    n, k, t = clients, neighbours, threshold
    _check_clients(n, policy)
    if k != n - 1 and not (2 <= k <= DENSEST * n and k % 2 == 0):
        raise ConfigError(f"neighbours={k}: with {n} clients, {n - 1}, or even and up to {int(DENSEST * n)}")
    lowest = _threshold(k + 1, 0, policy.mode)
    if not lowest <= t <= k + 1:
        raise ConfigError(f"threshold={t}: {policy.mode} with {k} neighbours takes {lowest} to {k + 1}")
    corrupt, alive, c = policy.corrupt_of(n), policy.alive_of(n), _colluding(k, t, policy.mode)
    if k == n - 1:  # nothing is left to chance
        failures = (-inf, -inf if corrupt <= c else 0.0, -inf if alive >= t else 0.0)
    else:
        lost = policy.lost_of(n)
        failures = (_disconnected(n, k, corrupt + lost), _above(n, corrupt, k, c), _below(n, n - lost, k, t))
    return Parameters(n, k, t, policy.mode, *failures)


def by_hand(clients: int, explicit: tuple[int, int], policy: Policy) -> Parameters:
    """k and t that somebody set, for those who came: the complete graph where k neighbours are nearly all.

    They may lose more rounds than the policy allows, not more secrets. ConfigError: they would, or they are
    none.
    """
    (k, t), n = explicit, clients
    if policy.corrupt and n > SMALLEST:  # a share that rounds to nobody would allow any t
        policy = replace(policy, corrupt=max(policy.corrupt, 1 / n))
    made = _small(assess(n, k if k <= DENSEST * n else n - 1, t, policy))
    if not made.hides(policy):
        raise ConfigError(
            f"k={k}, t={t} for {n} clients: secrecy fails with 2^{max(made.disconnected, made.privacy):.1f}, "
            f"the policy allows 2^-{policy.sigma + 1}: take a larger k and t, or let them be chosen"
        )
    return made


def _small(made: Parameters) -> Parameters:
    """The same. ConfigError: a graph that is too large for every client to compute."""
    n, k = made.clients, made.neighbours
    if n * k > MOST_ENTRIES:
        raise ConfigError(f"{n} clients with {k} neighbours each are too many: invite fewer, or allow less")
    return made


def sparsest(clients: int, policy: Policy) -> Parameters | None:
    """The fewest neighbours that meet the policy, or None. For few clients the policy may mean "nobody"."""
    n, c, secret = clients, 0, -(policy.sigma + 1)
    _check_clients(n, policy)
    corrupt, gone = policy.corrupt_of(n), policy.corrupt_of(n) + policy.lost_of(n)
    for k in range(2, min(int(DENSEST * n), MOST_ENTRIES // n) + 1, 2):
        if _disconnected(n, k, gone) > secret:
            continue
        while _above(n, corrupt, k, c) > secret:  # c grows with k: no need to start from zero
            c += 1
        t = _threshold(k + 1, c, policy.mode)
        if t <= k and (found := assess(n, k, t, policy)).meets(policy):
            return found
    return None


def _complete(n: int, policy: Policy) -> Parameters:
    """All are neighbours: nearly a third may collude, fewer where so many could not stay."""
    corrupt, alive = policy.corrupt_of(n), policy.alive_of(n)
    needed = _threshold(n, corrupt, policy.mode)
    wished = _threshold(n, max(ceil(n / 3) - 1, corrupt), policy.mode)
    if alive < max(needed, policy.least):
        raise ConfigError(_no_way(n, max(needed, policy.least), alive, policy))
    return assess(n, n - 1, min(wished, alive), policy)


def _no_way(n: int, needed: int, alive: int, policy: Policy) -> str:
    lying, stay = policy.mode is Mode.LYING_SERVER, 1 - policy.dropout
    rule = "2 (1 - dropout) > 1 + corrupt" if lying else "1 - dropout > corrupt"
    holds = 2 * stay > 1 + policy.corrupt if lying else stay > policy.corrupt
    ways = ["invite more clients" if holds else f"allow less of both: {rule}"]
    if lying and stay > policy.corrupt:
        ways.append("trust the server to follow the protocol (mode honest_server)")
    return (
        f"no parameters for {n} clients, corrupt={policy.corrupt:g}, dropout={policy.dropout:g}, "
        f"{policy.mode}: {needed} clients must stay and {alive} are sure to; {', or '.join(ways)}"
    )


def _check_clients(n: int, policy: Policy) -> None:
    if n < policy.least:
        raise ConfigError(f"{n} clients: a secure sum takes at least {policy.least}; invite more")
    if n > MOST:
        raise ConfigError(f"{n} clients: a secure sum takes up to {MOST}; ask fewer in a round")


def _part(share: float, n: int) -> int:
    """floor(share n); 0.29 of 100 is 29, though floating point falls short of it."""
    return floor(round(share * n, 9))


def _threshold(holders: int, c: int, mode: Mode) -> int:
    return max((holders + c) // 2 + 1 if mode is Mode.LYING_SERVER else c + 1, 2)


def _colluding(k: int, t: int, mode: Mode) -> int:
    """The largest c with 2 t > k + 1 + c, or with t > c."""
    return 2 * t - k - 2 if mode is Mode.LYING_SERVER else t - 1


def _disconnected(n: int, k: int, gone: int) -> float:
    """log2 of n (n - k - 1) / 2 times the chance that k neighbours are all among the `gone`; at most 0."""
    if k > gone:
        return -inf
    chance = lgamma(gone + 1) + lgamma(n - k + 1) - lgamma(n + 1) - lgamma(gone - k + 1)
    return min(0.0, (log(n) + log(n - k - 1) - log(2) + chance) / log(2))


def _above(n: int, special: int, k: int, most: int) -> float:
    """log2 of n P[more than `most` of k neighbours are special], of whom there are `special`; at most 0."""
    return _tail(n, special, k, range(most + 1, min(special, k) + 1))


def _below(n: int, special: int, k: int, least: int) -> float:
    """log2 of n P[fewer than `least` of k neighbours are special]; at most 0."""
    return _tail(n, special, k, range(least - 1, max(0, k - (n - special)) - 1, -1))


def _tail(n: int, special: int, k: int, counts: range) -> float:
    """log2 of n times the probability that the special ones among k of n are one of `counts`; at most 0."""
    logs: list[float] = []
    top = -inf
    for x in counts:
        logs.append(_choices(special, x) + _choices(n - special, k - x) - _choices(n, k))
        top = max(top, logs[-1])
        if logs[-1] < top - 50:  # what follows is below the last bit of the sum
            break
    if top == -inf:
        return -inf
    return min(0.0, log2(n) + (top + log(sum(exp(x - top) for x in logs))) / log(2))


def _choices(n: int, k: int) -> float:
    """ln of n over k."""
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) if 0 <= k <= n else -inf
