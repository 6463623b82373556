"""Secure aggregation as a job asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedkit.errors import ConfigError, shown
from fedkit.secagg.parameters import Parameters, Policy, by_hand, choose
from fedkit.secagg.primitives.suite import Suite

SUITES: Mapping[str, Suite] = {"aes": Suite.AES, "chacha": Suite.CHACHA}
"""Ciphers by their names in settings."""
MOST_RETRIES = 100


@dataclass(frozen=True)
class SecAgg:
    """What the server asks of a secure session, and clients hold against their own floors.

    width: bits of a lane of the exact encoder, 32 or 64. explicit: neighbours and threshold; None: chosen
    by the policy. retries: further sessions for a round whose first aborted. verify: in simulation, compare
    each secure sum with the plain one. ConfigError, naming the key, for anything else.
    """

    policy: Policy = field(default_factory=Policy)
    width: int = 32
    explicit: tuple[int, int] | None = None
    suite: Suite = Suite.AES
    retries: int = 2
    verify: bool = False

    def __post_init__(self) -> None:
        pair = self.explicit is None or (
            isinstance(self.explicit, tuple) and len(self.explicit) == 2 and all(map(_counts, self.explicit))
        )
        for key, holds, must in (
            ("policy", isinstance(self.policy, Policy), "a Policy(...)"),
            ("width", _counts(self.width) and self.width in (32, 64), "32 or 64"),
            ("explicit", pair, "None, or a tuple of neighbours and threshold"),
            ("suite", isinstance(self.suite, Suite), f"one of {', '.join(map(str, Suite))}"),
            ("retries", _counts(self.retries) and 0 <= self.retries <= MOST_RETRIES, "from 0 to 100"),
            ("verify", isinstance(self.verify, bool), "true or false"),
        ):
            if not holds:
                raise ConfigError(f"secagg.{key} = {shown(getattr(self, key))}: must be {must}")

    def parameters(self, clients: int) -> Parameters:
        """Graph and threshold for so many clients, as a session has them. ConfigError: none will do."""
        return by_hand(clients, self.explicit, self.policy) if self.explicit else choose(clients, self.policy)


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
