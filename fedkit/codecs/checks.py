"""What each use of a codec demands of it; a ConfigError says what to use instead."""

from __future__ import annotations

from typing import Literal

from fedkit.codecs.codec import Codec
from fedkit.errors import ConfigError

AUTO = {"up": "ecsq:delta=4,mode=stoch", "down": "ecsq:delta=2,mode=near"}
"""What `auto` stands for in each direction."""


def require_uplink(codec: Codec, feedback: bool = False) -> None:
    """ConfigError unless clients can send with the codec, with error feedback if `feedback`."""
    if not feedback:
        return
    if codec.unbiased:
        raise ConfigError(
            f"codec.feedback = 'on': codec.up = {codec.id!r} is unbiased, and error feedback with an "
            "unbiased scale diverges: set it to 'off' or 'auto', this codec does not need it"
        )
    if not codec.contractive:
        raise ConfigError(
            f"codec.up = {codec.id!r} is not contractive, so error feedback would not converge: "
            "use 'ecsq:mode=near' or 'eden:scale=min', or turn error feedback off"
        )


def require_downlink(codec: Codec, base: Literal["last", "first"] = "last") -> None:
    """ConfigError unless every client decodes the same bits, and the codec keeps no state.

    Where frames lead from the last version, its errors must die out too: each is part of the next difference.
    """
    if codec.id == "adaptive":
        raise ConfigError(
            "codec.down = 'adaptive' chooses for the link of each client, but one encoding of a round serves "
            f"them all: use {AUTO['down']!r}"
        )
    if not codec.deterministic_decode:
        raise ConfigError(
            f"codec.down = {codec.id!r} does not decode to the same bits on every platform, so clients and "
            f"server would drift apart: use {AUTO['down']!r}"
        )
    if codec.stateful:
        raise ConfigError(
            f"codec.down = {codec.id!r} keeps state of its own; the downlink has error feedback already: "
            f"use {AUTO['down']!r}"
        )
    bound = codec.worst_nmse
    if base == "last" and not codec.contractive and (bound is None or bound >= 1):
        raise ConfigError(
            f"codec.down = {codec.id!r} may be off by more than the whole difference that it tells, and with "
            "codec.down_base = 'last' the error is part of the next one, so it would grow without end: "
            f"use {AUTO['down']!r}"
        )


def require_ring(codec: Codec) -> None:
    """ConfigError unless encodings can be added under secure aggregation."""
    if not codec.ring:
        raise ConfigError(
            f"codec.up = {codec.id!r} cannot be added under secure aggregation: "
            "use 'ring-rotq' or 'ring-srht'"
        )
