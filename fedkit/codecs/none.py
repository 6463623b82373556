"""No compression: the flat vector, little-endian, in the layout's dtype, without a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedkit.codecs.codec import Codec, CodecContext
from fedkit.errors import LayoutError, WireError
from fedkit.tensors import Layout, Tensors


@dataclass(frozen=True)
class Plain(Codec):
    """The identity: decode(encode(x)) equals x bit for bit."""

    id: ClassVar[str] = "none"
    unbiased: ClassVar[bool] = True
    contractive: ClassVar[bool] = True

    def encode(self, delta: Tensors, layout: Layout, ctx: CodecContext) -> bytes:
        vector = layout.flatten(delta)
        if not np.isfinite(vector).all():
            raise LayoutError(*_first_bad(layout, vector))
        return vector.astype(layout.dtype.newbyteorder("<"), copy=False).tobytes()

    def decode(self, payload: bytes, layout: Layout, ctx: CodecContext) -> Tensors:
        if len(payload) != layout.nbytes:
            raise WireError(f"payload has {len(payload)} bytes, the layout needs {layout.nbytes}")
        vector = np.frombuffer(payload, layout.dtype.newbyteorder("<"))
        if not np.isfinite(vector).all():
            raise WireError("payload: tensor {!r} {}".format(*_first_bad(layout, vector)))
        return layout.view(vector.astype(layout.dtype, copy=False))

    def max_len(self, layout: Layout) -> int:
        return layout.nbytes


def _first_bad(layout: Layout, vector: NDArray[Any]) -> tuple[str, str]:
    index = int(np.argmin(np.isfinite(vector)))
    return layout.locate(index), f"holds {vector[index]}"
