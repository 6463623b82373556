"""A subsampled transform in a ring: its bits, and the same coordinates for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedkit import plugins
from fedkit.codecs import CodecContext, lanes
from fedkit.codecs.ring_rotq import RingRotQ
from fedkit.codecs.ring_srht import RingSrht
from fedkit.errors import ConfigError
from fedkit.seeds import stream
from fedkit.tensors import Layout

LAYOUT = Layout(("w",), ((50 * 4096 + 1000,),), ("float32",))
CTX = CodecContext(seed=1, shared_seed=2, scale=0.1, clients=10)


@pytest.mark.parametrize(("keep", "width", "bits"), [(0.1, 5, 0.1 * 64 / 12), (0.1, 6, 0.64), (0.05, 8, 0.4)])
def test_under_a_bit_an_entry(keep: float, width: int, bits: float) -> None:
    assert 64 * RingSrht(keep, width).words(LAYOUT, CTX) / LAYOUT.size == pytest.approx(bits, rel=0.01)


def test_all_clients_keep_the_same_coordinates() -> None:
    """Two clients with opposite deltas cancel: what is left is rounding, not sampling."""
    codec, x = RingSrht(), (0.1 * stream(3, "x").normal(LAYOUT.size)).astype(np.float32)
    total = codec.to_ring(LAYOUT.view(x), LAYOUT, CTX) + codec.to_ring(
        LAYOUT.view(-x), LAYOUT, replace(CTX, seed=9)
    )
    left = codec.from_ring(total, [1, 9], LAYOUT, CTX).vector
    step = codec.ruler(CTX).step
    assert float(np.square(left).mean()) == pytest.approx(2 * step**2 / 12 / 0.1, rel=0.05)


def test_the_coordinates_change_with_the_public_seed() -> None:
    codec, spike = RingSrht(), np.zeros(LAYOUT.size, np.float32)
    spike[5] = 100.0
    seen = set()
    for seed in range(4):
        vector = codec.to_ring(LAYOUT.view(spike), LAYOUT, replace(CTX, shared_seed=seed))
        seen.add(lanes.unpack(vector, 100, 6).tobytes())
    assert len(seen) == 4


def test_keeping_all_is_rotated_quantisation() -> None:
    x = LAYOUT.view((0.1 * stream(3, "x").normal(LAYOUT.size)).astype(np.float32))
    assert np.array_equal(RingSrht(1.0).to_ring(x, LAYOUT, CTX), RingRotQ(6).to_ring(x, LAYOUT, CTX))


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"keep = 0\.0 must be in \[0\.000976562, 1\]"):
        RingSrht(0.0)
    with pytest.raises(ConfigError, match=r"keep = 2\.0 must be"):
        plugins.codec("ring-srht:keep=2")
