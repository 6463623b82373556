"""How a data set is divided among clients: `partition` and one function per way of dividing.

Every way depends on the labels, the population and the seed only, and uses every example exactly
once (except "natural", which may leave whole clients out).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit.config import Population
from fedkit.errors import ConfigError, nearest
from fedkit.messages import ClientId
from fedkit.seeds import Stream, stream
from fedkit_simulations.dirichlet import dirichlet

Indices: TypeAlias = NDArray[np.int64]
MADE = ("iid", "dirichlet", "shards", "quantity")


def partition(
    labels: NDArray[Any], population: Population, seed: int, natural: NDArray[Any] | None = None
) -> dict[ClientId, Indices]:
    """Sorted indices of the examples of each client, in the order of client ids.

    labels: one per example (only "dirichlet" and "shards" look at their values). natural: each
    example's own client id. Made clients are "c000", "c001", ... Raises ConfigError, naming the key
    of [population], when the division is impossible.
    """
    if labels.ndim != 1:
        raise ConfigError(f"labels must be one per example, not of shape {labels.shape}")
    if natural is not None and len(natural) != len(labels):
        raise ConfigError(f"{len(natural)} client ids for {len(labels)} examples")
    way = population.partition
    if way == "natural":
        return natural_clients(natural, population, seed)
    if way not in MADE:
        raise ConfigError(f"population.partition = {way!r}: {nearest(way, ('natural', *MADE))}")
    clients = _count(population, natural, len(labels))
    draws = stream(seed, "population", way)
    if way == "iid":
        parts = iid(len(labels), clients, draws)
    elif way == "dirichlet":
        parts = dirichlet_labels(labels, clients, population.alpha, draws)
    elif way == "shards":
        parts = shards(labels, clients, population.shards, draws)
    else:
        parts = quantity(len(labels), clients, population.alpha, population.min_examples, draws)
    _check_sizes(parts, population)
    return {name: np.sort(part) for name, part in zip(client_names(clients), parts, strict=True)}


def client_names(count: int) -> list[ClientId]:
    """Names of made clients, sorted.

    >>> client_names(2)
    ['c000', 'c001']
    """
    width = max(3, len(str(count - 1)))
    return [f"c{number:0{width}d}" for number in range(count)]


def _count(population: Population, natural: NDArray[Any] | None, examples: int) -> int:
    """The number of clients to make: as given, else as many as the data has of its own."""
    count = population.clients
    if count is None and natural is not None:
        count = len(np.unique(natural))
    if count is None:
        raise ConfigError(
            f"population.clients is not set: partition = {population.partition!r} needs a number of clients"
        )
    if count < 1:
        raise ConfigError(f"population.clients = {count}: must be at least 1")
    if population.min_examples < 0:
        raise ConfigError(f"population.min_examples = {population.min_examples}: must not be negative")
    if count * population.min_examples > examples:
        raise ConfigError(
            f"population.clients = {count}: {examples} examples do not give each client "
            f"population.min_examples = {population.min_examples}"
        )
    return count


def _check_sizes(parts: Sequence[Indices], population: Population) -> None:
    smallest = min(len(part) for part in parts)
    if smallest < population.min_examples:
        raise ConfigError(
            f"population.min_examples = {population.min_examples}: partition = {population.partition!r} "
            f"gives a client only {smallest}; take fewer clients or shards, or lower it"
        )


def natural_clients(
    natural: NDArray[Any] | None, population: Population, seed: int
) -> dict[ClientId, Indices]:
    """The clients of the data themselves, under their own ids.

    Those with fewer than min_examples are left out; of the rest `clients` are drawn by the seed
    (all of them if it is None).
    """
    if natural is None:
        ways = ", ".join(repr(way) for way in MADE)
        raise ConfigError(
            f"population.partition = 'natural': the data names no clients; take one of {ways} "
            "and set population.clients"
        )
    ids, owner = np.unique(natural, return_inverse=True)
    order = np.argsort(owner, kind="stable").astype(np.int64)
    groups = np.split(order, np.cumsum(np.bincount(owner, minlength=len(ids)))[:-1])
    found = {str(name): group for name, group in zip(ids.tolist(), groups, strict=True)}
    kept = sorted(name for name, group in found.items() if len(group) >= population.min_examples)
    wanted = len(kept) if population.clients is None else population.clients
    if not 1 <= wanted <= len(kept):
        raise ConfigError(
            f"population.clients = {population.clients}: the data has {len(kept)} clients with at least "
            f"population.min_examples = {population.min_examples} examples"
        )
    chosen = stream(seed, "population", "natural").choice(len(kept), wanted) if wanted < len(kept) else None
    names = kept if chosen is None else [kept[i] for i in sorted(chosen.tolist())]
    return {name: found[name] for name in names}


def iid(examples: int, clients: int, draws: Stream) -> list[Indices]:
    """A random permutation cut into parts whose sizes differ by at most one."""
    return np.array_split(draws.permutation(examples), clients)


def shards(labels: NDArray[Any], clients: int, pieces: int, draws: Stream) -> list[Indices]:
    """Examples sorted by label and cut into clients * pieces shards; each client gets `pieces`.

    Source: McMahan et al. 2017 (arXiv:1602.05629), section 3, with pieces = 2.
    """
    if pieces < 1:
        raise ConfigError(f"population.shards = {pieces}: must be at least 1")
    if clients * pieces > len(labels):
        raise ConfigError(
            f"population.shards = {pieces}: {clients} clients times {pieces} shards are more than "
            f"the {len(labels)} examples"
        )
    cuts = np.array_split(np.argsort(labels, kind="stable").astype(np.int64), clients * pieces)
    dealt = draws.permutation(len(cuts)).reshape(clients, pieces)
    return [np.concatenate([cuts[i] for i in row]) for row in dealt.tolist()]


def quantity(examples: int, clients: int, alpha: float, least: int, draws: Stream) -> list[Indices]:
    """Sizes ~ Dir(alpha), labels iid (Li et al. 2022, arXiv:2102.02079, "quantity skew").

    Clients below `least` are raised to it; the others give in proportion to what they have above it.
    """
    _check_alpha(alpha)
    share = dirichlet(draws, np.full(clients, alpha), 1)[0]
    sizes = _apportion(share, examples)
    missing = int(np.maximum(least - sizes, 0).sum())
    surplus = np.maximum(sizes - least, 0)
    sizes = np.maximum(sizes, least) - _apportion(surplus / max(1, surplus.sum()), missing)
    return np.split(draws.permutation(examples), np.cumsum(sizes)[:-1])


def _apportion(share: NDArray[np.float64], total: int) -> Indices:
    """Whole numbers that sum to `total`, nearest to share * total (largest remainders)."""
    exact = share * total
    whole = np.floor(exact).astype(np.int64)
    rest = total - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:rest]] += 1
    return whole


def dirichlet_labels(labels: NDArray[Any], clients: int, alpha: float, draws: Stream) -> list[Indices]:
    """Clients of equal size (to within one) whose label proportions q ~ Dir(alpha L p).

    p is the label distribution of all data and L the number of labels: with balanced labels every
    one has concentration alpha, as in Yurochkin et al. 2019 (arXiv:1905.12022); the concentration of
    Hsu, Qi, Brown 2019 (arXiv:1909.06335), Dir(a p), is a = alpha L. Clients take turns to draw one
    example from their q, so when a label runs out all of them go without, not only the last ones.
    """
    _check_alpha(alpha)
    kinds, label = np.unique(labels, return_inverse=True)
    left = np.bincount(label, minlength=len(kinds))
    wish = dirichlet(draws, alpha * len(kinds) * left / len(labels), clients)
    sizes = np.full(clients, len(labels) // clients)
    sizes[draws.permutation(clients)[: len(labels) % clients]] += 1
    counts = np.zeros((clients, len(kinds)), np.int64)
    for turn in range(int(sizes.max())):
        _one_turn(wish, np.flatnonzero(sizes > turn), left, counts, draws)
    return _hand_out(label, counts, draws)


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < np.inf:
        raise ConfigError(f"population.alpha = {alpha}: must be a positive number")


def _one_turn(
    wish: NDArray[np.float64], clients: Indices, left: Indices, counts: Indices, draws: Stream
) -> None:
    """Each of `clients` draws one label from its wish among those left; changes `left` and `counts`."""
    waiting = clients[draws.permutation(len(clients))]
    while len(waiting):
        weight = wish[waiting] * (left > 0)
        # A wish that is spent, or too small to divide by, falls back on whatever is left.
        weight[weight.sum(axis=1) < 1e-290] = left
        level = np.cumsum(weight, axis=1)
        point = draws.uniform(len(waiting)) * level[:, -1]
        drawn = (level <= point[:, None]).sum(axis=1)
        rank = _rank_within(drawn, len(left))
        served = rank < left[drawn]
        np.add.at(counts, (waiting[served], drawn[served]), 1)
        left -= np.bincount(drawn[served], minlength=len(left))
        waiting = waiting[~served]


def _rank_within(group: Indices, groups: int) -> Indices:
    """For each entry, how many earlier entries are of the same group."""
    order = np.argsort(group, kind="stable")
    starts = np.cumsum(np.bincount(group, minlength=groups)) - np.bincount(group, minlength=groups)
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - starts[group[order]]
    return rank


def _hand_out(label: Indices, counts: Indices, draws: Stream) -> list[Indices]:
    """Random examples of each label to the clients, as many as `counts` (clients, labels) says."""
    owner = np.empty(len(label), np.int64)
    for kind in range(counts.shape[1]):
        examples = np.flatnonzero(label == kind)
        owner[examples[draws.permutation(len(examples))]] = np.repeat(np.arange(len(counts)), counts[:, kind])
    order = np.argsort(owner, kind="stable").astype(np.int64)
    return np.split(order, np.cumsum(counts.sum(axis=1))[:-1])
