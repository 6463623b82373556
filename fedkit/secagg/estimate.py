"""What a secure round costs, and how often it aborts: figures to plan by.

The constants were measured on one core with AES instructions: key streams, the additions of the server,
agreements, signatures, sharing. docs/secagg-parameters.md has the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, lgamma, log, log1p

from fedkit.errors import ConfigError
from fedkit.secagg.parameters import COMPLETE_UP_TO, Mode, Parameters, Policy, by_hand, choose

WIDTHS = range(1, 65)
_NATIVE = (8, 16, 32, 64)

_STREAM = 9e9  # bytes of key stream per second
_REMOVE = 9.2e9  # bytes added or unmasked per second
_AGREE = 50e-6  # seconds
_VERIFY = 68e-6
_BOX = 3e-6
_UNMASK = 30e-6  # per mask that is rebuilt: agreement and key
_HASH = 2e10  # bytes per second, for the signature on a vector
_SHARE = 4.5e-9  # a product in GF(2^16)
_REBUILD = 6.1e-9
_SYMBOLS = 16  # of a secret of 32 bytes

_ADVERT = 222  # bytes: frame, id of 10 bytes, two keys, commitment, public key, signature
_BOX_BYTES = 80  # two shares and a tag
_ANSWER = 32  # a share
_SIGNATURE = 64
_ENTRY = 43  # of the roster: id and hash
_UP, _AGREED = 853, 177  # what does not grow: own advert, tail, frames, keys of messages; with a lying server
_DOWN, _QUORUM = 1055, 110  # header, frames, keys of messages; with a lying server


@dataclass(frozen=True)
class Cost:
    """One round: bytes of an encoded vector, bytes a client sends and receives beside tasks, CPU seconds."""

    vector: int
    up: int
    down: int
    client_seconds: float
    server_seconds: float

    @property
    def overhead(self) -> float:
        """What a client sends, over the vector alone."""
        return self.up / self.vector


def cost(parameters: Parameters, size: int, width: int, dropout: float) -> Cost:
    """The cost of a sum of `size` numbers at `width` bits, a share `dropout` lost after sharing.

    ConfigError: a size below 1, a width that is not 1 to 64.
    """
    n, k, t = parameters.clients, parameters.neighbours, parameters.threshold
    vector = vector_bytes(size, width)
    dropped = round(n * dropout)
    masks = dropped * k * (1 - dropout)  # those between the lost and the living
    sharing = 2 * _SYMBOLS * parameters.holders * t * _SHARE
    client = (k + 1) * vector / _STREAM + k * (2 * _AGREE + 2 * _VERIFY + _BOX) + sharing
    server = (n - dropped + masks) * vector / _REMOVE + masks * _UNMASK + n * (_VERIFY + vector / _HASH)
    lying, bits = parameters.mode is Mode.LYING_SERVER, (n + 7) // 8
    each = _ADVERT + _BOX_BYTES + lying * _SIGNATURE
    return Cost(
        vector=vector,
        up=vector + k * (_BOX_BYTES + _ANSWER) + (k + 7) // 8 + _UP + lying * _AGREED,
        down=n * _ENTRY + k * each + (2 + lying) * bits + _DOWN + lying * _QUORUM,
        client_seconds=client,
        server_seconds=server + n * _SYMBOLS * t * _REBUILD,
    )


@dataclass(frozen=True)
class Cover:
    """What a server can bring the sum of a round down to, by leaving out whom it likes.

    smallest: the clients of that sum. helpers: so many of those invited may work with the server, and the
    secrecy of the others stands. hidden: among how many of the smallest sum each of these hides.
    """

    smallest: int
    helpers: int

    @property
    def hidden(self) -> int:
        return self.smallest - self.helpers


def cover(clients: int, policy: Policy, explicit: tuple[int, int] | None = None) -> Cover:
    """The worst of all sessions that so many invited clients accept, which have at least `policy.least`.

    The fewer are in a session, the fewer shares rebuild a secret. In one of the very least nobody can be
    declared lost, so that no honest client opens its share of a key, and helpers have their own alone.
    explicit: k and t by hand. ConfigError: as from `choose`, or `by_hand`.
    """
    if explicit:
        return _cover_by_hand(clients, policy, explicit)
    choose(clients, replace(policy, smallest=0))  # n_min alone would let fewer be lost than `dropout` says
    least = policy.least
    made = [choose(n, policy) for n in range(least, min(clients, COMPLETE_UP_TO) + 1)]
    stand = [found.threshold - 1 if found.clients == least else found.colluding for found in made]
    if clients > COMPLETE_UP_TO:
        stand.append(policy.corrupt_of(max(least, COMPLETE_UP_TO + 1)))
    return Cover(least, min(stand))


def _cover_by_hand(clients: int, policy: Policy, explicit: tuple[int, int]) -> Cover:
    """Sessions in which k and t do not keep the policy are refused, and need no cover."""
    by_hand(clients, explicit, policy)
    stand, least = list[int](), max(policy.least, explicit[1])  # t have to live
    for n in range(least, clients + 1):
        try:
            made = by_hand(n, explicit, policy)
        except ConfigError:
            continue
        if made.complete:
            stand.append(made.threshold - 1 if n == least else made.colluding)
        else:  # of more clients more may be corrupt
            stand.append(policy.corrupt_of(n))
            break
    return Cover(least, min(stand))


def vector_bytes(size: int, width: int) -> int:
    """Bytes of `size` lanes of `width` bits: native integers, or as many as fit in words of 64 bits."""
    if size < 1:
        raise ConfigError(f"a vector has at least one number, not {size}")
    if width not in WIDTHS:
        raise ConfigError(f"a width is from 1 to 64 bits, not {width}")
    return size * width // 8 if width in _NATIVE else -(-size // (64 // width)) * 8


def aborted(parameters: Parameters, loss: float, smallest: int) -> float:
    """The share of rounds that abort when each client is lost with probability `loss`, by itself.

    Exact for the complete graph; for a sparse one at most this (a union over all clients). A round needs
    `smallest` clients, and t of everyone's neighbours.
    """
    n, k, t = parameters.clients, parameters.neighbours, parameters.threshold
    if parameters.complete:
        return _fewer(n, 1 - loss, max(t, smallest))
    return min(1.0, _fewer(n, 1 - loss, smallest) + n * _fewer(k, 1 - loss, t))


def _fewer(n: int, chance: float, least: int) -> float:
    """P[Bin(n, chance) < least]."""
    if chance >= 1:
        return float(n < least)
    if chance <= 0:
        return float(least > 0)
    whole = lgamma(n + 1)
    logs = [
        whole - lgamma(x + 1) - lgamma(n - x + 1) + x * log(chance) + (n - x) * log1p(-chance)
        for x in range(min(least, n + 1))
    ]
    return min(1.0, sum(exp(value) for value in logs))
