"""Rotated quantisation in a ring: its bits."""

from __future__ import annotations

import pytest

from fedkit import plugins
from fedkit.codecs import CodecContext
from fedkit.codecs.ring_rotq import RingRotQ
from fedkit.errors import ConfigError
from fedkit.tensors import Layout

LAYOUT = Layout(("w", "b"), ((256 * 1024,), (256,)), ("float32",) * 2)
KNOWN = CodecContext(scale=0.1, clients=10)


@pytest.mark.parametrize(("width", "bits"), [(4, 4), (5, 64 / 12), (6, 6.4), (8, 8), (10, 64 / 6), (16, 16)])
def test_bits_an_entry(width: int, bits: float) -> None:
    few = CodecContext(scale=0.1, clients=2)
    large = RingRotQ(width).words(LAYOUT, few) - 128
    assert 64 * large / (256 * 1024) == pytest.approx(bits, rel=1e-4)


def test_the_first_round_takes_32_bits() -> None:
    assert RingRotQ().words(LAYOUT, CodecContext(clients=10)) == 128 * 1024 + 128


def test_a_wider_margin_is_a_coarser_step() -> None:
    narrow, wide = RingRotQ(8, 1.0).ruler(KNOWN), RingRotQ(8, 2.0).ruler(KNOWN)
    assert narrow.step == pytest.approx(2 * 4.5 * 0.1 / 256, rel=0.01)
    assert wide.step / narrow.step == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("ring-rotq:width=3", r"width = 3 must be in \[4, 16\]"),
        ("ring-rotq:width=17", r"width = 17 must be in \[4, 16\]"),
        ("ring-rotq:margin=.5", r"margin = 0\.5 must be in \[1, 8\]"),
        ("ring-rotq:keep=.1", "keep: unknown key"),
        ("rotate|ring-rotq", "'ring-rotq' is whole and takes no other stages"),
    ],
)
def test_bad_parameters_are_refused(spec: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        plugins.codec(spec)
