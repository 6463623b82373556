"""Rotated uniform quantisation in a ring: the dense encoder for secure aggregation.

Suresh, Yu, Kumar, McMahan 2017, arXiv:1611.00429, with subtractive dither and a common step in place of
each client's own scale, so that encodings add up modulo 2^width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedkit.codecs.ring import RingCodec


@dataclass(frozen=True)
class RingRotQ(RingCodec):
    """`width` bits an entry. The error of a mean of n: (reach^2 / 3) n / 4^width of its square norm.

    reach = 4.5 margin; margin: how much the sum may grow over the previous round's before it wraps.
    exempt: patterns of names, joined by +, of tensors that go as 32-bit numbers.
    """

    id: ClassVar[str] = "ring-rotq"
    paper: ClassVar[str] = "Suresh et al. 2017, arXiv:1611.00429"
    keep = 1.0
    width: int = 8
    margin: float = 1.5
    exempt: str = ""
