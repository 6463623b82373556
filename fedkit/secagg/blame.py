"""Who broke the protocol, as far as it can be known.

A wrong share is its holder's lie, or its owner dealt it so: the holder cannot tell a bad share from a good
one. With many wrong shares it is known who, unless others have bent the shares together: liars can make true
shares look wrong, if they are more than those they blame and hold enough of them. How many that takes is
said where a session stands so many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from fedkit.messages import ClientId

WRONG_SHARES: Final = "wrong shares"
WRONG_SHARE: Final = "a wrong share"


class Offence(NamedTuple):
    """One of `clients` did this; where they are two, it is not known which.

    >>> print(Offence(("alice", "bob"), "a wrong share"))
    alice or bob: a wrong share
    """

    clients: tuple[ClientId, ...]
    why: str

    def __str__(self) -> str:
        return f"{' or '.join(self.clients)}: {self.why}"


def known(pairs: Iterable[tuple[int, int]], colluding: int) -> set[int]:
    """Who must have lied. pairs: owner and holder of each wrong share; colluding: most liars near a client.

    One that held a wrong share of its own, or has to do with those of more than `colluding` others: honest,
    it would have that many liars near it.
    """
    found = set(pairs)
    bad = {owner for owner, holder in found if owner == holder}
    for side in (0, 1):
        counts = Counter(pair[side] for pair in found)
        bad |= {client for client, count in counts.items() if count > colluding}
    return bad


def wrong_shares(
    pairs: Iterable[tuple[int, int]], colluding: int, clients: Sequence[ClientId], bending: int
) -> tuple[Offence, ...]:
    """What wrong shares tell: who is known to have lied; and of the others either the owner or the holder.

    bending: the fewest others who could have made true shares look like these.
    """
    found = set(pairs)
    bad = known(found, colluding)
    doubt = f", unless {bending} others lied" if bending <= colluding else ""
    sure = [Offence((clients[client],), WRONG_SHARES + doubt) for client in sorted(bad)]
    doubtful = sorted({(min(pair), max(pair)) for pair in found if bad.isdisjoint(pair)})
    return (*sure, *(Offence((clients[a], clients[b]), WRONG_SHARE + doubt) for a, b in doubtful))
