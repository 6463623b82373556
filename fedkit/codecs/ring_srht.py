"""A subsampled randomised Hadamard transform in a ring: under a bit an entry under secure aggregation.

Ailon and Chazelle 2009, doi:10.1137/060673096 (the transform); Konecny et al. 2016, arXiv:1610.05492
(random rotation and subsampling of updates). All clients keep the same public random coordinates, so
that encodings add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedkit.codecs.ring import RingCodec


@dataclass(frozen=True)
class RingSrht(RingCodec):
    """`width` bits for a share `keep` of the rotated coordinates.

    The error of a mean is (1 - keep) / keep of its square norm, however many clients: unbiased, and
    averaged out over rounds. margin, exempt: as in `ring-rotq`.
    """

    id: ClassVar[str] = "ring-srht"
    paper: ClassVar[str] = "Ailon and Chazelle 2009, doi:10.1137/060673096"
    keep: float = 0.1
    width: int = 6
    margin: float = 1.5
    exempt: str = ""
