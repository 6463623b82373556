"""A ladder of codecs: each client sends the best one that its link has room for.

Every rung is unbiased, so updates from different rungs may be summed. The rung is not negotiated:
the frame of a payload names the codec that made it, and only those of the ladder are let in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from fedkit.codecs import frame
from fedkit.codecs.bfloat16 import BFloat16
from fedkit.codecs.codec import Codec, CodecContext
from fedkit.codecs.ecsq import Ecsq
from fedkit.codecs.eden import Eden
from fedkit.codecs.pipeline import Pipeline
from fedkit.codecs.rules import TensorRules
from fedkit.errors import ConfigError, WireError
from fedkit.tensors import Layout, Tensors

LADDER = (
    "bfloat16:mode=stoch",
    "ecsq:delta=4",
    "ecsq:delta=16",
    "eden:bits=1,keep=0.1",
    "eden:bits=1,keep=0.05",
)


@dataclass(frozen=True)
class Adaptive(Codec):
    """The best codec of five that the client's link has time for before the deadline, else the shortest.

    Rungs from 0 (bfloat16) to 4 (eden at one bit for 5 % of the entries); `best` and `worst` bound
    the choice. Without a budget in the context the best rung is taken. small, below, exempt: which
    tensors go around the ladder, as in `tensors`.
    """

    id: ClassVar[str] = "adaptive"
    unbiased: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = False
    deterministic_decode: ClassVar[bool] = False
    best: int = 0
    worst: int = 4
    small: Literal["bfloat16", "float32"] = "bfloat16"
    below: int = 1024
    exempt: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.best <= self.worst < len(LADDER):
            raise ConfigError(
                f"codec 'adaptive': best = {self.best} and worst = {self.worst} must be rungs from 0 to "
                f"{len(LADDER) - 1}, best not above worst: {', '.join(LADDER)}"
            )
        _ = self.rules  # made now, so that bad ones are refused now

    @cached_property
    def rules(self) -> TensorRules:
        """Which tensors go around the ladder."""
        return TensorRules(self.small, self.below, self.exempt)

    @cached_property
    def rungs(self) -> tuple[Codec, ...]:
        """The codecs of the ladder, the longest first."""
        made = (BFloat16("stoch"), Ecsq(4.0), Ecsq(16.0), Eden(1, 0.1), Eden(1, 0.05))
        return tuple(Pipeline(part, (), self.rules) for part in made[self.best : self.worst + 1])

    def choose(self, layout: Layout, budget: int) -> Codec:
        """The rung for a link with room for `budget` bytes; 0 means that nothing is known."""
        if not budget:
            return self.rungs[0]
        fitting = (rung for rung in self.rungs if rung.size_estimate(layout) <= budget)
        return next(fitting, self.rungs[-1])

    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        return self.choose(layout, ctx.budget).encode(delta, layout, ctx)

    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        return self.rungs[self.rung(payload, layout) - self.best].decode(payload, layout, ctx)

    def rung(self, payload: bytes, layout: Layout) -> int:
        """Which rung of LADDER made a payload; WireError if none that is let in."""
        named = frame.peek(payload)
        for number, rung in enumerate(self.rungs, self.best):
            if frame.contract(rung.spec, layout) == named:
                return number
        raise WireError("payload: of a codec that is not on the ladder, or of another layout")

    def max_len(self, layout: Layout) -> int:
        return max(rung.max_len(layout) for rung in self.rungs)

    def min_len(self, layout: Layout) -> int:
        return min(rung.min_len(layout) for rung in self.rungs)

    def size_estimate(self, layout: Layout) -> float:
        return self.rungs[0].size_estimate(layout)
