"""Codecs as they are called: what a plugin's code raises or returns by mistake is told, and where."""

from __future__ import annotations

from collections.abc import Mapping

from fedkit.codecs import Codec, CodecContext
from fedkit.codecs.ring import RingCodec
from fedkit.codecs.spec import MOST, writable
from fedkit.errors import ConfigError, LayoutError, WireError, shown
from fedkit.tensors import Layout, Tensors
from fedkit.usercode import called, described

TRAITS = (
    *("unbiased", "contractive", "ring", "fixed_size", "deterministic_decode", "stateful"),
    "worst_nmse",
)
_TEXTS = ("id", "spec")


def demand_traits(codec: Codec, where: str) -> None:
    """ConfigError unless the codec declares what every codec has to. where: "codec.up" or "codec.down"."""
    kind = type(codec).__name__
    with called(f"{where}: a trait of {kind}", ConfigError):
        texts = {name: getattr(codec, name) for name in _TEXTS}
        for name in TRAITS:
            getattr(codec, name)
    for name, text in texts.items():
        if not isinstance(text, str) or not writable(text) or not 0 < len(text) <= MOST:
            raise ConfigError(
                f"{where}: {kind}.{name} is {shown(text)}: a string of 1 to {MOST} characters is due"
            )


def demand_lengths(codec: Codec, where: str, layout: Layout, clients: int) -> None:
    """ConfigError unless the codec tells its lengths for the layout and, in a ring, has room for a sum."""
    kind = type(codec).__name__
    with called(f"{where}: a length of {kind}", ConfigError):
        low, high = codec.min_len(layout), codec.max_len(layout)
    if type(low) is not int or type(high) is not int or not 0 <= low <= high:
        raise ConfigError(
            f"{where}: {kind} says that its payloads have {shown(low)} to {shown(high)} bytes: "
            "whole numbers are due, the lower one from min_len, the higher one from max_len"
        )
    if high > most_bytes(layout):
        raise ConfigError(
            f"{where}: {kind}.max_len is {high} for a delta of {layout.nbytes} bytes: a bound above "
            f"{most_bytes(layout)} protects nobody"
        )
    if isinstance(codec, RingCodec):
        for scale in (0.0, 1.0):
            codec.ruler(CodecContext(scale=scale, clients=clients))


def most_bytes(layout: Layout) -> int:
    """What no bound of a payload's length may exceed: far more than any codec needs."""
    return 16 * layout.nbytes + 1024 * len(layout.names) + (1 << 20)


def odd_payload(codec: Codec, layout: Layout, payload: object) -> str:
    """What is wrong with what `encode` returned; else an empty string."""
    if not isinstance(payload, bytes):
        return f"made {type(payload).__name__}, not bytes"
    low, high = codec.min_len(layout), codec.max_len(layout)
    return "" if low <= len(payload) <= high else f"made {len(payload)} bytes, and says {low} to {high}"


def decoded(codec: Codec, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
    """The delta; WireError on a bad payload, and on whatever else the codec raises or returns."""
    try:
        made: object = codec.decode(payload, layout, ctx)
    except (WireError, LayoutError, ConfigError):
        raise
    except (Exception, SystemExit, GeneratorExit) as cause:
        raise WireError(f"codec {codec.id!r} raised {described(cause)}") from cause
    if not isinstance(made, Mapping):
        raise WireError(f"codec {codec.id!r} returned {shown(made)}, not a mapping from names to arrays")
    return made
