"""Pipelines: transforms, then one quantizer, as a codec that derives its traits from its parts.

A spec string joins stages by `|`: `rotate|ecsq:delta=4`, `tensors:exempt=*.bias|eden:bits=1`.
The body of the frame, after the small tensors (bfloat16 or float32, in the order of the layout), is

    side bytes       of each transform in turn, after a varint of their length unless it is fixed
    int8 e           the quantizer saw its vector times 2^(-8 e); 0 unless the peak is outside 2^-40 .. 2^40
    the rest         what the quantizer made

and empty if there are no large tensors. The seeds of a stage are derived from those of the context by
the path "large", then (its id, its number among the transforms), or (its id) for the quantizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NoReturn

from fedkit.codecs import bits
from fedkit.codecs.codec import Codec, CodecContext
from fedkit.codecs.framed import Framed
from fedkit.codecs.reader import Reader, varint
from fedkit.codecs.rules import TensorRules
from fedkit.codecs.stage import Quantizer, Stage, Transform, Vector
from fedkit.errors import ConfigError, WireError, shown
from fedkit.tensors import Layout


@dataclass(frozen=True)
class Pipeline(Framed):
    """`transforms` in turn, then `quantizer`; tensors that `rules` set apart bypass both."""

    quantizer: Quantizer
    transforms: tuple[Transform, ...] = ()
    rules: TensorRules = field(default_factory=TensorRules)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages in the order of encoding."""
        return (*self.transforms, self.quantizer)

    @property
    def id(self) -> str:
        return "|".join(stage.id for stage in self.stages)

    @property
    def spec(self) -> str:
        return "|".join((self.rules.spec, *(stage.spec for stage in self.stages)))

    @property
    def unbiased(self) -> bool:
        return all(stage.unbiased for stage in self.stages)

    @property
    def contractive(self) -> bool:
        return all(stage.contractive for stage in self.stages)

    @property
    def fixed_size(self) -> bool:
        return all(stage.fixed_size for stage in self.stages)

    @property
    def deterministic_decode(self) -> bool:
        return all(stage.deterministic_decode for stage in self.stages)

    @property
    def stateful(self) -> bool:
        return any(stage.stateful for stage in self.stages)

    def nmse(self, d: int) -> float | None:
        """Expected |decoded - x|^2 / |x|^2 of d entries, where every stage is unbiased and has a formula."""
        total = 1.0
        for stage, size in zip(self.stages, self._sizes(d), strict=True):
            own = stage.nmse(size)
            if own is None or not stage.unbiased:
                return None
            total *= 1.0 + own
        return total - 1.0

    @property
    def worst_nmse(self) -> float | None:
        """Bound for large tensors: errors of unbiased stages multiply; a projection passes what it keeps."""
        total, unbiased = self.quantizer.worst_nmse, self.quantizer.unbiased
        for stage in reversed(self.transforms):
            own = stage.worst_nmse
            if own is None or total is None:
                return None
            if stage.unbiased and (unbiased or not own):
                total = (1 + own) * (1 + total) - 1
            elif stage.contractive and not stage.unbiased:
                total = max(total, own + (1 - own) * total)
            else:
                return None
            unbiased = unbiased and stage.unbiased
        return total

    def pack(self, vector: Vector, large: Layout, ctx: CodecContext) -> Sequence[bytes]:
        sides = []
        for number, stage in enumerate(self.transforms):
            vector, side = stage.forward(vector, ctx.at(stage.id, number))
            sides.append(side if stage.fixed_size else varint(len(side)) + side)
        e = bits.exponent(vector)
        body = self.quantizer.encode(bits.scaled(vector, -e), ctx.at(self.quantizer.id))
        return [*sides, e.to_bytes(1, "little", signed=True), body]

    def unpack(self, data: memoryview, large: Layout, ctx: CodecContext) -> Vector:
        reader, sizes = Reader(data), self._sizes(large.size)
        sides = [self._side(reader, stage, d) for stage, d in zip(self.transforms, sizes, strict=False)]
        e = int.from_bytes(reader.take(1), "little", signed=True)
        if not -20 <= e <= 16:
            raise WireError(f"payload: exponent {e} is out of range")
        vector = bits.scaled(self.quantizer.decode(reader.rest(), sizes[-1], ctx.at(self.quantizer.id)), e)
        for number in reversed(range(len(self.transforms))):
            stage = self.transforms[number]
            vector = stage.inverse(vector, sides[number], sizes[number], ctx.at(stage.id, number))
        return vector

    def tell(self, data: memoryview, held: memoryview, large: Layout) -> bytes | None:
        cut, known = self._cut(data, large), self._cut(held, large)
        told = self.quantizer.relative(data[cut:], held[known:], self._sizes(large.size)[-1])
        return None if told is None else bytes(data[:cut]) + told

    def heard(self, data: memoryview, held: memoryview, large: Layout) -> bytes:
        cut, known = self._cut(data, large), self._cut(held, large)
        return bytes(data[:cut]) + self.quantizer.absolute(
            data[cut:], held[known:], self._sizes(large.size)[-1]
        )

    def _cut(self, data: memoryview, large: Layout) -> int:
        """Where the quantizer's bytes begin."""
        reader = Reader(data)
        for stage, d in zip(self.transforms, self._sizes(large.size), strict=False):
            self._side(reader, stage, d)
        reader.take(1)
        return len(data) - len(reader.rest())

    def bounds(self, large: Layout) -> tuple[int, int]:
        sized = list(zip(self.stages, self._sizes(large.size), strict=True))
        low = sum(stage.min_len(d) + (not self._plain(stage)) for stage, d in sized)
        high = sum(stage.max_len(d) + self._prefix(stage, d) for stage, d in sized)
        return 1 + low, 1 + high

    def estimate(self, large: Layout) -> float:
        return 1.0 + sum(
            stage.size_estimate(d) for stage, d in zip(self.stages, self._sizes(large.size), strict=True)
        )

    def _sizes(self, d: int) -> list[int]:
        """The length of the vector before each stage."""
        sizes = [d]
        for stage in self.transforms:
            sizes.append(stage.out_len(sizes[-1]))
        return sizes

    def _plain(self, stage: Stage) -> bool:
        """Whether the stage's bytes need no length before them."""
        return stage.fixed_size or stage is self.quantizer

    def _prefix(self, stage: Stage, d: int) -> int:
        return 0 if self._plain(stage) else len(varint(stage.max_len(d)))

    @staticmethod
    def _side(reader: Reader, stage: Transform, d: int) -> memoryview:
        low, high = stage.min_len(d), stage.max_len(d)
        length = high if stage.fixed_size else reader.varint(high)
        if length < low:
            raise WireError(f"payload: {length} side bytes of {stage.id!r}, at least {low} are needed")
        return reader.take(length)


def build(parts: Sequence[object], spec: str) -> Codec:
    """The codec of the parts of a spec string, in its order.

    ConfigError, saying what to use instead, on parts that make no sense together.
    """
    if len(parts) == 1 and isinstance(parts[0], Codec):
        return parts[0]
    for part in parts:
        if isinstance(part, Codec):
            _refuse_whole(spec, part, parts)
    rules = [part for part in parts if isinstance(part, TensorRules)]
    quantizers = [part for part in parts if isinstance(part, Quantizer)]
    transforms = tuple(part for part in parts if isinstance(part, Transform))
    _one_quantizer(spec, quantizers)
    if len(rules) > 1:
        raise ConfigError(f"codec {shown(spec)}: 'tensors' stands twice: give all its options at once")
    if parts[-1] is not quantizers[0]:
        last = getattr(parts[-1], "id", parts[-1])
        raise ConfigError(f"codec {shown(spec)}: {last!r} comes after {quantizers[0].id!r}: put it before")
    _demand_sense(spec, [stage.id for stage in (*transforms, quantizers[0])])
    return Pipeline(quantizers[0], transforms, rules[0] if rules else TensorRules())


def _demand_sense(spec: str, ids: Sequence[str]) -> None:
    """ConfigError for a stage that repeats or spoils what another one does."""
    for early, late in combinations(ids, 2):
        if early == late:
            raise ConfigError(f"codec {shown(spec)}: {early!r} stands twice: keep one of them")
        if (early, late) == ("topk", "stc"):
            raise ConfigError(
                f"codec {shown(spec)}: 'stc' takes the largest entries itself: leave 'topk' out and give "
                "the share to 'stc', as in 'stc:share=0.01'"
            )
        if early == "sample" and late in ("topk", "stc"):
            raise ConfigError(
                f"codec {shown(spec)}: {late!r} would look for the largest entries among those that 'sample' "
                f"drew at random: leave 'sample' out and give {late!r} a smaller share"
            )


def _refuse_whole(spec: str, codec: Codec, parts: Sequence[object]) -> NoReturn:
    rules = next((part for part in parts if isinstance(part, TensorRules)), None)
    hint = "use it alone"
    if rules is not None and getattr(codec, "exempt", None) is not None:
        hint += f", with rules of its own, such as '{codec.id}:exempt={rules.exempt or '*.bias'}'"
    raise ConfigError(f"codec {shown(spec)}: {codec.id!r} is whole and takes no other stages: {hint}")


def _one_quantizer(spec: str, quantizers: Sequence[Quantizer]) -> None:
    if not quantizers:
        raise ConfigError(
            f"codec {shown(spec)} has no quantizer: end it with one, such as '|bfloat16' or '|int8'"
        )
    if len(quantizers) > 1:
        names = " and ".join(repr(q.id) for q in quantizers)
        raise ConfigError(f"codec {shown(spec)} has the quantizers {names}: keep one of them")
