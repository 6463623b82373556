"""Secure aggregation as a job asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedkit.secagg.parameters import Policy
from fedkit.secagg.primitives.suite import Suite


@dataclass(frozen=True)
class SecAgg:
    """What the server asks of a secure session, and clients hold against their own floors.

    width: bits of a lane of the exact encoder, 32 or 64. explicit: neighbours and threshold; None: chosen
    by the policy. retries: further sessions for a round whose first aborted. verify: in simulation, compare
    each secure sum with the plain one.
    """

    policy: Policy = field(default_factory=Policy)
    width: int = 32
    explicit: tuple[int, int] | None = None
    suite: Suite = Suite.AES
    retries: int = 2
    verify: bool = False
