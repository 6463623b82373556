"""What a codec would do to one model that its user should know before the first round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from fedkit.codecs.adaptive import Adaptive
from fedkit.codecs.codec import Codec
from fedkit.codecs.pipeline import Pipeline
from fedkit.codecs.powersgd import PowerSgd
from fedkit.codecs.ring import RingCodec
from fedkit.codecs.rules import TensorRules, split
from fedkit.errors import ConfigError, nearest
from fedkit.tensors import Layout

BELOW = 64
"""The size that is advised for tensors that stay out of a codec: smaller ones are a few blocks' scales."""
WORTH = 0.75
"""Advice on small tensors has to save a quarter of the bytes."""
_HARMLESS = ("bfloat16", "clip")
"""Biased stages whose bias is too small to matter, or is what the user asked for."""
_SHOWN = 12


def demand_matches(codec: Codec, layout: Layout, where: str) -> None:
    """ConfigError if a pattern of the codec's `exempt` matches no tensor of the layout.

    where: the setting that names the codec, for the error.
    """
    rules = rules_of(codec)
    for pattern in rules.patterns if rules is not None else ():
        if not any(fnmatchcase(name, pattern) for name in layout.names):
            more = f" and {len(layout.names) - _SHOWN} more" if len(layout.names) > _SHOWN else ""
            hint = nearest(pattern, layout.names[:_SHOWN])
            raise ConfigError(
                f"{where}: exempt: {pattern!r} matches no tensor; {hint}{more if 'known' in hint else ''}; "
                "join patterns with '+', as in '*.bias+head.*'"
            )


def notices(up: Codec, down: Codec, layout: Layout, feedback: bool) -> Iterator[str]:
    """Sentences on what is lost for no good reason. feedback: whether clients keep residuals."""
    for where, codec in (("codec.up", up), ("codec.down", down)):
        yield from _small(codec, layout, where)
        yield from _sampled(codec, where)
    biased = [name for name, unbiased in _parts(up) if not unbiased and name not in _HARMLESS]
    if biased and not feedback:
        yield (
            f"codec.up: {biased[0]!r} is biased and there is no error feedback, which 'auto' turns on only "
            "where all clients take part in every round: accuracy may suffer; 'ecsq' and 'eden' are unbiased"
        )


def rules_of(codec: Codec) -> TensorRules | None:
    """Which tensors go around a codec; None where it has no such rules."""
    if isinstance(codec, RingCodec):
        return TensorRules(exempt=codec.exempt)
    return codec.rules if isinstance(codec, Pipeline | PowerSgd | Adaptive) else None


def _parts(codec: Codec) -> Sequence[tuple[str, bool]]:
    """(id, whether it is unbiased) of each stage."""
    whole: Sequence[Codec] = (codec,)
    return [(part.id, part.unbiased) for part in (codec.stages if isinstance(codec, Pipeline) else whole)]


def _small(codec: Codec, layout: Layout, where: str) -> Iterator[str]:
    rules = rules_of(codec)
    if rules is None or not rules.below:
        return
    whole = codec.size_estimate(layout)
    named = replace(rules, below=0)
    sizes = split(rules, layout).small.size - split(named, layout).small.size
    width = 4 if isinstance(codec, RingCodec) else rules.width
    share = (
        f"{where}: {width * sizes / whole:.0%} of the bytes are tensors of fewer than {rules.below} entries"
    )
    if isinstance(codec, RingCodec):
        if 2 * width * sizes >= whole:
            yield f"{share}, which {codec.id!r} sends in 32 bits: a model this small gains little from it"
        return
    better = _lowered(codec, rules)
    if better.size_estimate(layout) <= WORTH * whole:
        form = "'tensors:below=64|' before it" if isinstance(codec, Pipeline) else f"'{codec.id}:below=64'"
        yield (
            f"{share}, sent as {rules.small}: {form} codes most of them too, in "
            f"{better.size_estimate(layout):,.0f} bytes in place of {whole:,.0f}"
        )


def _lowered(codec: Codec, rules: TensorRules) -> Codec:
    """The codec with only the smallest tensors kept out of it."""
    below = min(rules.below, BELOW)
    if isinstance(codec, Pipeline):
        return replace(codec, rules=replace(rules, below=below))
    return replace(codec, below=below) if isinstance(codec, PowerSgd | Adaptive) else codec


def _sampled(codec: Codec, where: str) -> Iterator[str]:
    names = [name for name, _ in _parts(codec)]
    if "sample" in names and "rotate" not in names[: names.index("sample")]:
        yield (
            f"{where}: 'sample' draws from raw entries, of which a few carry most of a change, and training "
            "suffers: use 'rotate|sample'"
        )
