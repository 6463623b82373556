"""What a codec is: a pure pair of functions with declared traits and bounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from fedkit.tensors import Layout, Tensors


@dataclass(frozen=True, slots=True)
class CodecContext:
    """Seeds and scale that both ends know.

    seed: private to the client and the server. shared_seed: common to the cohort. scale: public
    estimate of the root mean square of the sum, 0 when unknown.
    """

    seed: int = 0
    shared_seed: int = 0
    scale: float = 0.0


class Codec(ABC):
    """One file per codec; `id` is for life, `version` goes up when the bytes change."""

    id: ClassVar[str]
    version: ClassVar[int] = 1
    unbiased: ClassVar[bool]
    """The expectation of decode(encode(x)) over the seed is x."""
    ring: ClassVar[bool] = False
    """Encodings can be added under secure aggregation."""
    paper: ClassVar[str] = ""

    @property
    def fixed_size(self) -> bool:
        """Whether the payload's length depends on the layout alone."""
        return True

    @abstractmethod
    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        """The payload; LayoutError, naming the tensor, if delta does not fit or is not finite."""

    @abstractmethod
    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        """The delta; WireError on any payload that `encode` cannot have made."""

    @abstractmethod
    def max_len(self, layout: Layout) -> int:
        """Upper bound of the payload's length in bytes."""

    def min_len(self, layout: Layout) -> int:
        """Lower bound of the payload's length in bytes."""
        return self.max_len(layout) if self.fixed_size else 0
