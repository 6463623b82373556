"""What a codec is: a pure pair of functions with declared traits and bounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import ClassVar

from fedkit.errors import WireError
from fedkit.seeds import derive
from fedkit.tensors import Layout, Tensors


@dataclass(frozen=True, slots=True)
class CodecContext:
    """Seeds and scale that both ends know.

    seed: private to the client and the server. shared_seed: common to the cohort. scale: public
    estimate of the root mean square of the sum, 0 when unknown. budget: bytes that the link has
    room for, 0 when unknown; only an adaptive codec looks at it, and only to encode. clients: the
    most encodings that may be added, for ring codecs.
    """

    seed: int = 0
    shared_seed: int = 0
    scale: float = 0.0
    budget: int = 0
    clients: int = 1

    def at(self, *path: str | int) -> CodecContext:
        """The context of one part of a codec: both seeds are derived along `path`."""
        seed, shared_seed = derive(self.seed, *path), derive(self.shared_seed, *path)
        return replace(self, seed=seed, shared_seed=shared_seed)


class Described(ABC):
    """What codecs and the stages of a pipeline declare. A class may override a property by a plain
    attribute. `id` is for life; `version` goes up when the bytes or their meaning change."""

    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""

    @property
    @abstractmethod
    def id(self) -> str:
        """The registered name."""

    @property
    @abstractmethod
    def unbiased(self) -> bool:
        """Whether the expectation of decode(encode(x)) over the seed is x."""

    @property
    def contractive(self) -> bool:
        """Whether |x - decode(encode(x))| <= |x| for every x: what error feedback needs."""
        return False

    @property
    def worst_nmse(self) -> float | None:
        """Bound of the expected |x - decode(encode(x))|^2 / |x|^2 for every x; None where none is known."""
        return 1.0 if self.contractive else None

    @property
    def ring(self) -> bool:
        """Whether encodings can be added under secure aggregation."""
        return False

    @property
    def fixed_size(self) -> bool:
        """Whether the length in bytes depends on the layout alone."""
        return True

    @property
    def deterministic_decode(self) -> bool:
        """Whether decoding gives the same bits on every platform: what the downlink needs."""
        return True

    @property
    def stateful(self) -> bool:
        """Whether encoding remembers earlier rounds."""
        return False

    @property
    def spec(self) -> str:
        """Id, version and all parameters: equal exactly when two encodings mean the same."""
        names: list[str] = [f.name for f in fields(self)] if is_dataclass(self) else []
        given = ",".join(f"{name}={word(getattr(self, name))}" for name in names)
        return f"{self.id}/{self.version}" + (f":{given}" if given else "")


def word(value: object) -> str:
    """A parameter as a spec string writes it.

    >>> word(4.0), word(0.1), word("near"), word(True)
    ('4', '0.1', 'near', 'true')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return str(value)


class Codec(Described):
    """A delta into bytes and back. One file per codec."""

    @abstractmethod
    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        """The payload; LayoutError, naming the tensor, if delta does not fit or is not finite."""

    @abstractmethod
    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        """The delta; WireError on any payload that `encode` cannot have made."""

    def relative(self, payload: bytes, held: bytes, layout: Layout) -> bytes | None:
        """What tells `payload` to one who holds the payload `held`; None where a codec has no way to.

        Both are of this codec and layout, from whatever context.
        """
        return None

    def absolute(self, data: bytes, held: bytes, layout: Layout) -> bytes:
        """A payload that decodes as the one that `relative` told; WireError on what it cannot have made."""
        raise WireError(f"codec {self.id!r} tells no payload by another")

    @abstractmethod
    def max_len(self, layout: Layout) -> int:
        """Upper bound of the payload's length in bytes."""

    def min_len(self, layout: Layout) -> int:
        """Lower bound of the payload's length in bytes."""
        return self.max_len(layout) if self.fixed_size else 0

    def size_estimate(self, layout: Layout) -> float:
        """Expected length of the payload in bytes for a heavy-tailed delta."""
        return float(self.max_len(layout))
