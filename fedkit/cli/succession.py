"""How an aggregator's folder learns of the CA that takes over from its own."""

from __future__ import annotations

import time
from pathlib import Path

from fedkit.ca.mailbox import WITHIN, Mailbox
from fedkit.ca.succession import FILE, Succession, believed
from fedkit.errors import ConfigError, CryptoError
from fedkit.secagg.identity import Trust
from fedkit.secagg.rosterfile import read_trust, write_trust

KEPT = "trust.toml"
"""Whom an aggregator believes, in its folder."""


def succeeded(directory: Path, trust: Trust) -> Trust:
    """What is believed now that a new CA was announced, if one was. ConfigError: the file is damaged."""
    return believed(directory / WITHIN / FILE, trust, time.time())


def hand_over(directory: Path, made: Succession) -> None:
    """Leave an announcement for the aggregator of a folder. ConfigError: it is not of the CA believed there.

    The CA that has itself taken over is written down first: the announcement of it goes.
    """
    kept = directory / KEPT
    if kept.exists():
        trust = succeeded(directory, read_trust(kept))
        try:
            made.applied(trust, time.time())
        except CryptoError as error:
            raise ConfigError(
                f"{error}: {kept} names another; while one CA takes over, the next has to wait"
            ) from None
        write_trust(kept, Trust.of_ca(trust.ca, trust.server))
    Mailbox(directory / WITHIN).put(FILE, made.data())
