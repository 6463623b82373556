"""What a secure round costs, and how often it aborts: figures to plan by.

CPU seconds are an estimate: what whole sums took on one core of an AMD EPYC of 2023 (Zen 4) with VAES,
OpenSSL 4.0 and Python 3.11, messages, graph and Python included. tests/bench/secagg.py prints it beside
what it measures, docs/secagg-parameters.md has the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, lgamma, log, log1p

from fedkit.errors import ConfigError
from fedkit.secagg.parameters import COMPLETE_UP_TO, Mode, Parameters, Policy, by_hand, choose

WIDTHS = range(1, 65)
_NATIVE = (8, 16, 32, 64)

_MASK = 13.3e9  # bytes per second: made, and added to a vector
_SEND = 4e9  # of a client's vector: authenticated, put into a message
_TAKE = 9.3e9  # of a client's vector at the server: authenticated, added
_CLIENT = 1.2e-3  # seconds: own keys, signatures, the header
_PEER = 230e-6  # per neighbour: two agreements, its advert's signature, two keys, a box each way
_SIGNED = 125e-6  # per signature of survivors
_ENTRY_READ = 2.5e-6  # per entry of the roster
_SERVED = 380e-6  # per client: its advert's signature, an agreement, five messages each way
_SERVED_PEER = 1e-6  # per client and neighbour
_UNMASK = 52e-6  # per mask that is rebuilt: agreement and key
_CYCLES, _EDGE = 2.7e-6, 5e-8  # per square of k, as cycles must not repeat edges; per edge
_SHARE = 4.5e-9  # a product in GF(2^16)
_REBUILD = 3e-9
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
    """One round: bytes of a vector, those a client sends and receives beside tasks, CPU seconds, about."""

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
    n, k = parameters.clients, parameters.neighbours
    vector = vector_bytes(size, width)
    lying, bits = parameters.mode is Mode.LYING_SERVER, (n + 7) // 8
    each = _ADVERT + _BOX_BYTES + lying * _SIGNATURE
    return Cost(
        vector=vector,
        up=vector + k * (_BOX_BYTES + _ANSWER) + (k + 7) // 8 + _UP + lying * _AGREED,
        down=n * _ENTRY + k * each + (2 + lying) * bits + _DOWN + lying * _QUORUM,
        client_seconds=_client_seconds(parameters, vector),
        server_seconds=_server_seconds(parameters, vector, dropout),
    )


def _client_seconds(made: Parameters, vector: int) -> float:
    k, t = made.neighbours, made.threshold
    peers = k * _PEER + t * _SIGNED * (made.mode is Mode.LYING_SERVER)
    sharing = 2 * _SYMBOLS * made.holders * t * _SHARE
    known = _CLIENT + made.clients * _ENTRY_READ + _graph_seconds(made)
    return known + peers + sharing + (k + 1) * vector / _MASK + vector / _SEND


def _server_seconds(made: Parameters, vector: int, dropout: float) -> float:
    n, k, t = made.clients, made.neighbours, made.threshold
    dropped = round(n * dropout)
    living = n - dropped
    masks = dropped * k * (1 - dropout)  # those between the lost and the living
    served = n * (_SERVED + k * _SERVED_PEER) + living * _SIGNED * (made.mode is Mode.LYING_SERVER)
    rebuilt = n * _SYMBOLS * t * _REBUILD + masks * _UNMASK
    return (
        served + _graph_seconds(made) + rebuilt + living * vector / _TAKE + (living + masks) * vector / _MASK
    )


def _graph_seconds(made: Parameters) -> float:
    k = made.neighbours
    return 0.0 if made.complete else k * k * _CYCLES + made.clients * k * _EDGE


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
