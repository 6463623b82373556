"""Ring codecs: the sum of encodings is the encoding of the sum, for whoever survives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkit import plugins
from fedkit.codecs import CodecContext, frame, lanes
from fedkit.codecs.dealing import deal
from fedkit.codecs.hadamard import Rotation
from fedkit.codecs.lanes import Words
from fedkit.codecs.ring import LARGEST, RingCodec
from fedkit.codecs.ring_rotq import RingRotQ
from fedkit.codecs.ring_srht import RingSrht
from fedkit.errors import ConfigError, LayoutError, WireError
from fedkit.seeds import stream
from fedkit.tensors import Layout

Heavy = Callable[..., NDArray[np.float32]]
LAYOUT = Layout(("a", "bias", "b", "scale"), ((40, 100), (30,), (1200,), ()), ("float32",) * 4)
CODECS = [RingRotQ(8), RingRotQ(4, 1.0), RingRotQ(16), RingSrht(0.1, 6), RingSrht(0.5, 8), RingRotQ(5)]


def context(clients: int, scale: float) -> CodecContext:
    return CodecContext(shared_seed=99, scale=scale, clients=clients)


def encoded(
    codec: RingCodec, deltas: Sequence[NDArray[np.float32]], layout: Layout, ctx: CodecContext
) -> list[Words]:
    """One vector for each delta; client k has the seed 1000 + k."""
    return [
        codec.to_ring(layout.view(delta), layout, replace(ctx, seed=1000 + k))
        for k, delta in enumerate(deltas)
    ]


def added(vectors: Sequence[Words]) -> Words:
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
    return total


def plain_sum(deltas: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    total = np.zeros(deltas[0].size)
    for delta in deltas:
        total += delta
    return total


def root_mean_square(x: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


@given(st.sampled_from(CODECS), st.sets(st.integers(0, 4), min_size=1), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_the_sum_of_any_survivors_is_the_sum_of_their_decoded_updates(
    codec: RingCodec, survivors: set[int], seed: int
) -> None:
    deltas = [(0.01 * stream(seed, "delta", k).normal(LAYOUT.size)).astype(np.float32) for k in range(5)]
    ctx = context(5, 0.03)
    vectors = encoded(codec, deltas, LAYOUT, ctx)
    members = sorted(survivors)
    total = added([vectors[k] for k in members])
    made = codec.from_ring(total, [1000 + k for k in members], LAYOUT, ctx).vector
    alone = [codec.from_ring(vectors[k], [1000 + k], LAYOUT, ctx).vector for k in members]
    assert np.abs(made - plain_sum(alone)).max() <= 1e-5


@pytest.mark.parametrize("codec", CODECS)
def test_integers_add_up_exactly(codec: RingCodec) -> None:
    deltas = [(0.01 * stream(k, "delta").normal(LAYOUT.size)).astype(np.float32) for k in range(5)]
    vectors = encoded(codec, deltas, LAYOUT, context(5, 0.03))
    small = lanes.words(31, 32)
    for cut, width in ((slice(0, -small), codec.width), (slice(-small, None), 32)):
        count = len(vectors[0][cut]) * (64 // width)
        plain = np.sum([lanes.unpack(v[cut], count, width) for v in vectors], axis=0)
        assert np.array_equal(lanes.unpack(added(vectors)[cut], count, width), plain)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("clients", [1, 6])
def test_an_update_travels_as_bytes_like_any_other(codec: RingCodec, clients: int) -> None:
    delta = LAYOUT.view((0.01 * stream(1, "delta").normal(LAYOUT.size)).astype(np.float32))
    ctx = replace(context(clients, 0.02), seed=4)
    payload = codec.encode(delta, LAYOUT, ctx)
    made = codec.decode(payload, LAYOUT, ctx)
    direct = codec.from_ring(codec.to_ring(delta, LAYOUT, ctx), [4], LAYOUT, ctx)
    assert all(np.array_equal(made[name], direct[name]) for name in LAYOUT.names)
    assert len(payload) == frame.OVERHEAD + 8 * codec.words(LAYOUT, ctx) == codec.min_len(LAYOUT)
    wide = replace(ctx, scale=0.0)
    assert len(codec.encode(delta, LAYOUT, wide)) == codec.max_len(LAYOUT)
    for other in (payload[:-1], payload + b"\0", codec.encode(delta, LAYOUT, wide)):
        with pytest.raises(WireError):
            codec.decode(other, LAYOUT, ctx)


@pytest.mark.parametrize("clients", [1, 10, 50])
@pytest.mark.parametrize("codec", [RingRotQ(8), RingRotQ(10, 2.0), RingSrht(0.1, 6), RingSrht(0.25, 8)])
def test_the_error_of_a_sum_is_the_formula(codec: RingCodec, clients: int, heavy: Heavy) -> None:
    d = 30_000 if codec.keep == 1 else 120_000
    layout = Layout(("w",), ((d,),), ("float32",))
    deltas = [heavy(d, seed) + heavy(d, 77) for seed in range(clients)]
    true = plain_sum(deltas)
    ctx = context(clients, root_mean_square(true))
    total = added(encoded(codec, deltas, layout, ctx))
    made = codec.from_ring(total, [1000 + k for k in range(clients)], layout, ctx)
    error = made.vector - true
    relative = float(error @ error) / float(true @ true)
    assert relative == pytest.approx(codec.nmse(clients), rel=0.05)
    assert codec.next_scale(made, clients, layout, ctx) == pytest.approx(ctx.scale, rel=0.05)


def test_the_formulas_are_those_of_the_design() -> None:
    """13.5 n / 4^w for stochastic rounding; subtractive dither halves it."""
    assert RingRotQ(8, 1.0).nmse(10) == pytest.approx(13.5 / 2 * 10 / 4**8, rel=0.01)
    assert RingRotQ(10, 1.0).nmse(1000) == pytest.approx(13.5 / 2 * 1000 / 4**10, rel=0.01)
    assert RingSrht(0.1, 16).nmse(1) == pytest.approx(9, rel=1e-4)


def wrapped(codec: RingRotQ, clients: int, spread: float, d: int = 1 << 18) -> int:
    """How many of d coordinates wrap, in a sum whose parts differ in scale by `spread`."""
    layout, ctx = Layout(("w",), ((d,),), ("float32",)), context(clients, 1.0)
    true = stream(1, "sum").normal(d)
    true[: d // 8] *= spread
    true /= root_mean_square(true)
    delta = (true / clients).astype(np.float32)
    total = added(encoded(codec, [delta] * clients, layout, ctx))
    made = codec.from_ring(total, [1000 + k for k in range(clients)], layout, ctx).vector
    error = (made - true).astype(np.float32)
    half = codec.ruler(ctx).step * 2 ** (codec.width - 1)
    rotated = Rotation(d, ctx.shared_seed).rows(deal(error))
    return sum(int(np.count_nonzero(np.abs(rows) > half)) for rows in rotated)


def test_few_coordinates_wrap_and_none_with_a_margin() -> None:
    assert wrapped(RingRotQ(8, 1.0), 8, 1.0) <= 8  # 1.8 are expected beyond 4.5 deviations
    assert wrapped(RingRotQ(4, 1.0), 8, 30.0) <= 16
    assert wrapped(RingRotQ(8, 1.5), 8, 30.0) == 0
    assert wrapped(RingRotQ(8, 1.0), 2, 1.0, 1 << 14) == 0


def test_a_step_that_is_too_small_does_wrap() -> None:
    """The count above can fail."""
    layout, ctx = Layout(("w",), ((4096,),), ("float32",)), context(4, 0.02)
    delta = (0.02 * stream(1, "x").normal(4096)).astype(np.float32)
    made = RingRotQ(8).from_ring(
        added(encoded(RingRotQ(8), [delta] * 4, layout, ctx)), range(1000, 1004), layout, ctx
    )
    assert float(np.square(made.vector - 4 * delta).sum()) > 0.1 * float(np.square(4 * delta).sum())


def test_the_scale_follows_a_sum_that_grows_and_shrinks() -> None:
    layout, codec = Layout(("w",), ((40_000,),), ("float32",)), RingSrht(0.1, 6)
    scale, sizes = 0.0, [1e-2] * 3 + [1.4e-2, 2e-2, 2e-2] + [1e-4] * 9
    for number, size in enumerate(sizes):
        deltas = [(size * stream(number, "x", k).normal(40_000)).astype(np.float32) for k in range(8)]
        ctx = replace(context(8, scale), shared_seed=number)
        seeds = [1000 + k for k in range(8)]
        made = codec.from_ring(added(encoded(codec, deltas, layout, ctx)), seeds, layout, ctx)
        scale = codec.next_scale(made, 8, layout, ctx)
        if number in (0, 2, 5, 14):
            assert scale == pytest.approx(size * 8**0.5, rel=0.1)


def test_the_scale_is_that_of_a_sum_without_losses(heavy: Heavy) -> None:
    layout, codec = Layout(("w",), ((9000,),), ("float32",)), RingRotQ(10)
    ctx, delta = context(10, 0.2), heavy(9000)
    vectors = encoded(codec, [delta] * 6, layout, ctx)
    made = codec.from_ring(added(vectors), range(1000, 1006), layout, ctx)
    size = root_mean_square(delta.astype(np.float64))
    assert codec.next_scale(made, 6, layout, ctx) == pytest.approx(10 * size, rel=0.01)
    nothing = Layout(("s",), ((5,),), ("float32",))
    assert codec.next_scale({"s": np.ones(5, np.float32)}, 6, nothing, ctx) == 0.0


def test_the_first_round_is_wide_and_precise(heavy: Heavy) -> None:
    layout = Layout(("w",), ((9000,),), ("float32",))
    for codec in (RingRotQ(4, 1.0), RingRotQ()):
        ctx = context(8, 0.0)
        deltas = [heavy(9000, k) for k in range(8)]
        made = codec.from_ring(added(encoded(codec, deltas, layout, ctx)), range(1000, 1008), layout, ctx)
        error = made.vector - plain_sum(deltas)
        assert root_mean_square(error) <= 1e-6
        assert codec.next_scale(made, 8, layout, ctx) == pytest.approx(
            root_mean_square(plain_sum(deltas)), rel=1e-3
        )
        assert codec.ruler(replace(ctx, scale=1e-30)) == codec.ruler(ctx)


def test_small_and_exempt_tensors_are_precise_and_never_wrap() -> None:
    layout = Layout(("w", "mean", "var"), ((5000,), (40,), (2000,)), ("float32",) * 3)
    codec, ctx = RingRotQ(4, 1.0, exempt="v*"), context(8, 1e-3)
    x = np.concatenate([np.zeros(5000), np.full(40, 3e-3), np.full(2000, 255.9)]).astype(np.float32)
    made = codec.from_ring(added(encoded(codec, [x] * 8, layout, ctx)), range(1000, 1008), layout, ctx)
    assert np.abs(made["mean"] - 8 * 3e-3).max() <= 8 * LARGEST * 8 / 2**31
    assert np.abs(made["var"] - 8 * 255.9).max() <= 1e-3
    beyond = np.where(np.arange(7040) < 5000, 0, -1e6).astype(np.float32)
    cut = codec.from_ring(added(encoded(codec, [beyond] * 8, layout, ctx)), range(1000, 1008), layout, ctx)
    assert np.abs(cut["var"] + 8 * LARGEST).max() <= 1e-3


def test_one_client_far_beyond_the_scale_does_not_wreck_the_sum(heavy: Heavy) -> None:
    layout, codec = Layout(("w",), ((9000,),), ("float32",)), RingRotQ()
    good = [heavy(9000, k) for k in range(7)]
    true = plain_sum(good)
    ctx = context(8, root_mean_square(true))
    vectors = encoded(codec, [*good, np.full(9000, 1e30, np.float32)], layout, ctx)
    made = codec.from_ring(added(vectors), range(1000, 1008), layout, ctx).vector
    assert root_mean_square(made - true) == pytest.approx(codec.margin * ctx.scale, rel=0.1)


def test_clients_that_disagree_on_the_public_seed_do_not_add_up(heavy: Heavy) -> None:
    layout, ctx = Layout(("w",), ((9000,),), ("float32",)), context(1, 0.05)
    vector = encoded(RingRotQ(), [heavy(9000)], layout, ctx)[0]
    for other, seed in ((replace(ctx, shared_seed=98), 1000), (ctx, 1001)):
        right = RingRotQ().from_ring(vector, [1000], layout, ctx).vector
        assert root_mean_square(RingRotQ().from_ring(vector, [seed], layout, other).vector - right) > 1e-4


def test_what_is_refused() -> None:
    ctx, delta = context(2, 0.1), LAYOUT.view(np.zeros(LAYOUT.size, np.float32))
    vector = RingRotQ().to_ring(delta, LAYOUT, ctx)
    with pytest.raises(WireError, match=f"{len(vector) - 1} words in the ring, {len(vector)} are due"):
        RingRotQ().from_ring(vector[:-1], [1], LAYOUT, ctx)
    with pytest.raises(ConfigError, match="a sum of 3 updates; the context allows 2"):
        RingRotQ().from_ring(vector, [1, 2, 3], LAYOUT, ctx)
    with pytest.raises(ConfigError, match="width = 4 is too small for sums of 100 clients: use width=6"):
        RingRotQ(4).to_ring(delta, LAYOUT, context(100, 0.1))
    RingRotQ(6).to_ring(delta, LAYOUT, context(100, 0.1))
    bad = LAYOUT.view(np.full(LAYOUT.size, np.nan, np.float32))
    with pytest.raises(LayoutError, match="'a': holds nan"):
        RingRotQ().to_ring(bad, LAYOUT, ctx)


def test_layouts_without_large_or_small_tensors_and_float64() -> None:
    for layout in (
        Layout((), (), ()),
        Layout(("s",), ((3,),), ("float64",)),
        Layout(("w",), ((2000,),), ("float64",)),
    ):
        ctx = context(3, 0.3)
        vectors = encoded(RingRotQ(16), [np.full(layout.size, 0.1, layout.dtype)] * 3, layout, ctx)
        made = RingRotQ(16).from_ring(added(vectors), range(1000, 1003), layout, ctx).vector
        assert made.dtype == layout.dtype
        assert np.allclose(made, 0.3, atol=1e-3)


@pytest.mark.parametrize("name", ["ring-rotq", "ring-srht"])
def test_traits(name: str) -> None:
    codec = plugins.codec(name)
    assert isinstance(codec, RingCodec)
    assert codec.ring
    assert codec.unbiased
    assert not any((codec.contractive, codec.fixed_size, codec.deterministic_decode))
    assert plugins.codec(codec.spec) == codec
