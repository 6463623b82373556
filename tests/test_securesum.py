"""Secure vectors: what is packed, added and unpacked is the plain sum of the same updates."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkit.aggregate import Grid, WeightedSum
from fedkit.codecs import CodecContext
from fedkit.codecs.none import Plain
from fedkit.codecs.ring import RingCodec
from fedkit.codecs.ring_rotq import RingRotQ
from fedkit.codecs.ring_srht import RingSrht
from fedkit.dressing import codec_context, next_scale, shared_seed
from fedkit.errors import ClientFailed, ConfigError, SecAggAborted
from fedkit.job import Job
from fedkit.messages import Key, Task, Update
from fedkit.secagg.settings import SecAgg
from fedkit.securesum import Lanes, Tail, encoding_of, given_to_all, pack, unpack
from fedkit.seeds import stream
from fedkit.tensors import Layout
from fedkit_strategies import FedAvg, FedProx

W, R = 20.0, 8.0
SMALL = Layout(("w", "b"), ((2, 2), (3,)), ("float32",) * 2)
EXTRAS = Layout(("c",), ((2,),), ("float32",))
NONE = Layout((), (), ())
ROUND = 5
NAMES = ("loss", "accuracy")


def job(width: int = 64, dtype: str = "float32", extras: bool = True, **changes: Any) -> Job:
    layouts = [Layout(x.names, x.shapes, (dtype,) * len(x.names)) for x in (SMALL, EXTRAS)]
    made = Job(FedAvg(), Plain(), Plain(), layouts[0], layouts[1] if extras else NONE, Grid(W, R), {}, 3)
    return replace(made, cohort=6, secagg=SecAgg(width=width), metrics=NAMES, **changes)


def update(values: Sequence[float], weight: float = 1.0, **metrics: float) -> Update:
    """Nine numbers: seven of the delta, two of the extras."""
    v = np.array(values, np.float64)
    return Update({"w": v[:4].reshape(2, 2), "b": v[4:7]}, weight, metrics, {"c": v[7:]})


def typed(made: Update, dtype: str) -> Update:
    delta, extras = ({n: a.astype(dtype) for n, a in t.items()} for t in (made.delta, made.extras))
    return replace(made, delta=delta, extras=extras)


def summed(
    of: Job, updates: Sequence[Update], seeds: Sequence[int] | None = None, scale: float = 0.0
) -> WeightedSum:
    """Packed, added lane by lane modulo 2^width, unpacked."""
    seeds = seeds if seeds is not None else range(100, 100 + len(updates))
    packed = [
        pack(of, "train", u, codec_context(of, ROUND, s, scale)) for u, s in zip(updates, seeds, strict=True)
    ]
    encoding = encoding_of(of, "train", ROUND, scale)
    total: Lanes = np.zeros(encoding.words, f"uint{encoding.width}")
    tail: Tail = np.zeros(encoding.tail, np.uint64)
    for vector, figures in packed:
        assert (vector.dtype, vector.shape) == (total.dtype, total.shape)
        total += vector
        tail += figures
    return unpack(of, "train", total, tail, seeds, codec_context(of, ROUND, 0, scale))


def plain(of: Job, updates: Sequence[Update]) -> WeightedSum:
    total = of.zero()
    for number, made in enumerate(updates):
        total.add(f"c{number}", made)
    return total


def contents(total: WeightedSum) -> tuple[object, ...]:
    """Every bit of a sum that anybody can read."""
    return (
        total.total.tobytes(),
        total.extras.vector.tobytes(),
        total.weight_integer,
        total.clients,
        total.metrics,
        total.mean().vector.tobytes() if total.weight else None,
        (total.layout, total.extras_layout, total.grid),
    )


size = st.floats(-R, R, width=32) | st.sampled_from([R, -R, 0.0, np.nextafter(R, 0), 2.0**-40])
metric = st.floats(-(2.0**20), 2.0**20)
updates = st.lists(
    st.builds(
        lambda values, weight, told: update(values, weight, **told),
        st.lists(size, min_size=9, max_size=9),
        st.floats(0, W, width=32) | st.sampled_from([0.0, W]),
        st.dictionaries(st.sampled_from(NAMES), metric),
    ),
    min_size=1,
    max_size=6,
)


@given(updates, st.sampled_from(["float32", "float64"]), st.booleans())
@settings(deadline=None)
def test_with_64_bits_the_secure_sum_is_the_plain_one_to_the_bit(
    given_updates: list[Update], dtype: str, extras: bool
) -> None:
    made = [typed(u, dtype) for u in given_updates]
    made = made if extras else [replace(u, extras={}) for u in made]
    of = job(64, dtype, extras)
    assert contents(summed(of, made)) == contents(plain(of, made))


@given(updates, st.sampled_from(["float32", "float64"]))
@settings(deadline=None)
def test_with_32_bits_it_is_the_sum_of_what_was_encoded(given_updates: list[Update], dtype: str) -> None:
    of, made = job(32, dtype), [typed(u, dtype) for u in given_updates]
    both, alone = summed(of, made), [summed(of, [u], [100 + k]) for k, u in enumerate(made)]
    merged = of.zero()
    for one in alone:
        merged.merge(one)
    assert contents(both) == contents(merged)
    exact = plain(of, made)
    assert (both.weight_integer, both.metrics) == (exact.weight_integer, exact.metrics)
    if both.weight:
        unit = 2.0**-25 * 1.01  # (2^31 - 1) // 6 / 160 has 21 bits after the point, extras have 25
        off = np.abs(both.extras.vector.astype(float) - exact.extras.vector).max()
        assert off <= len(made) * (unit + 2.0**-21 * (dtype == "float32"))
        limit = len(made) * 2.0**-21 / both.weight + 1e-6 * R * (dtype == "float32")
        assert np.abs(both.mean().vector.astype(float) - exact.mean().vector).max() <= limit


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_whole_cohort_at_the_extremes_does_not_wrap(width: int, sign: int) -> None:
    of = job(width)
    made = [typed(update([sign * R] * 9, W, loss=sign * 2.0**20), "float32")] * 6
    total = summed(of, made)
    assert total.mean().vector == pytest.approx(np.full(7, sign * R), rel=1e-6)
    assert total.extras.vector == pytest.approx(np.full(2, 6 * sign * R), rel=1e-6)
    assert total.metrics == {"loss": sign * 2.0**20}
    assert total.weight == 6 * W


def test_what_the_job_does_not_name_stays_behind() -> None:
    total = summed(job(), [typed(update([1] * 9, 2.0, loss=0.5, secret=3.0), "float32")])
    assert total.metrics == {"loss": 0.5}


def test_evaluation_is_a_tail_alone() -> None:
    of, total = job(32), np.zeros(6, np.uint64)
    for weight, loss in ((3.0, 1.0), (1.0, 5.0)):
        vector, tail = pack(of, "evaluate", Update({}, weight, {"loss": loss}), CodecContext())
        assert vector.size == encoding_of(of, "evaluate", ROUND, 0.0).words == 0
        total += tail
    assert total.size == encoding_of(of, "evaluate", ROUND, 0.0).tail
    made = unpack(of, "evaluate", np.zeros(0, np.uint64), total, [1, 2], CodecContext())
    assert (made.metrics, made.weight, made.clients, made.layout.size) == ({"loss": 2.0}, 4.0, 2, 0)


BAD: list[tuple[Callable[[Update], Update], str, str]] = [
    (lambda u: typed(update([1, 1, math.nan, *[1] * 6]), "float32"), "diverged", "w"),
    (lambda u: typed(update([1] * 4 + [math.inf] + [1] * 4), "float32"), "diverged", "b"),
    (lambda u: typed(update([1] * 8 + [-math.inf]), "float32"), "diverged", "c"),
    (lambda u: typed(update([1] * 6 + [8.5, 1, 1]), "float32"), "diverged", "b"),
    (lambda u: replace(u, delta={"w": u.delta["w"]}), "update", "b"),
    (lambda u: replace(u, delta={**u.delta, "b": np.zeros(4, np.float32)}), "update", "b"),
    (lambda u: replace(u, extras={}), "update", "c"),
    (lambda u: replace(u, delta={**u.delta, "b": np.zeros(3, np.int64)}), "update", "b"),
    (lambda u: replace(u, weight=-1.0), "update", "weight"),
    (lambda u: replace(u, weight=W + 0.01), "update", "weight"),
    (lambda u: replace(u, weight=math.nan), "diverged", "weight"),
    (lambda u: replace(u, metrics={"loss": math.nan}), "diverged", "loss"),
    (lambda u: replace(u, metrics={"loss": -math.inf}), "diverged", "loss"),
    (lambda u: replace(u, metrics={"accuracy": 2.0**20 + 1}), "diverged", "accuracy"),
    (lambda u: replace(u, work=0.5), "update", "work"),
]


@pytest.mark.parametrize(("spoil", "code", "subject"), BAD)
@pytest.mark.parametrize("codec", [Plain(), RingRotQ()])
def test_what_cannot_be_added_is_refused_by_its_name(
    spoil: Callable[[Update], Update], code: str, subject: str, codec: Any
) -> None:
    good = typed(update([1] * 9, 1.0, loss=1.0), "float32")
    of = job(32, codec_up=codec)
    pack(of, "train", good, codec_context(of, ROUND, 1))
    with pytest.raises(ClientFailed) as caught:
        pack(of, "train", spoil(good), codec_context(of, ROUND, 1))
    assert (caught.value.code, caught.value.subject) == (code, subject)


def test_a_metric_at_the_limit_and_partial_work_pass_where_they_may() -> None:
    good = typed(update([1] * 9, W, loss=2.0**20), "float32")
    of = job(32, strategy=FedProx(mu=0.1))
    assert pack(of, "train", replace(good, work=0.5), codec_context(of, ROUND, 1))[1].size == 6


@pytest.mark.parametrize(
    ("lane", "value", "text"),
    [
        (0, 3, "the sum is of 3 updates, not 2"),
        (1, -1, "the weights"),
        (1, 2 * 2**50 + 1, "the weights"),
        (3, 2**50, "the weights"),
        (5, -1, "the weights"),
    ],
)
def test_a_tail_that_no_honest_clients_make_aborts(lane: int, value: int, text: str) -> None:
    of = job(64)
    vector, tail = pack(of, "train", typed(update([1] * 9, 1.0, loss=1.0), "float32"), CodecContext(1))
    tail[0] = 2
    unpack(of, "train", vector, tail, [1, 2], CodecContext())
    tail[lane] = np.array(value, np.int64).view(np.uint64)
    with pytest.raises(SecAggAborted, match=text) as caught:
        unpack(of, "train", vector, tail, [1, 2], CodecContext())
    assert not caught.value.retry


CHANGES: list[dict[str, Any]] = [
    {"layout": Layout(("w", "b"), ((4, 1), (3,)), ("float32",) * 2)},
    {"extras": NONE},
    {"grid": Grid(W / 2, R)},
    {"grid": Grid(W, R / 2)},
    {"grid": Grid(W, R, 2**20)},
    {"cohort": 5},
    {"metrics": ("accuracy", "loss")},
    {"metrics": ("loss",)},
    {"secagg": SecAgg(width=32)},
    {"codec_up": RingRotQ()},
]


def test_every_part_of_an_encoding_is_in_its_spec() -> None:
    of = job(64)
    specs = [encoding_of(replace(of, **change), "train", ROUND, 0.0).spec for change in CHANGES]
    specs += [encoding_of(of, kind, ROUND, 0.0).spec for kind in ("train", "evaluate")]
    ring = replace(of, codec_up=RingRotQ())
    specs += [encoding_of(ring, "train", ROUND + 1, 0.0).spec, encoding_of(ring, "train", ROUND, 1.0).spec]
    specs += [encoding_of(replace(ring, codec_up=RingRotQ(9)), "train", ROUND, 0.0).spec]
    assert len(set(specs)) == len(specs)
    for spec in specs:
        assert json.dumps(json.loads(spec), sort_keys=True, separators=(",", ":")) == spec
    assert encoding_of(of, "train", ROUND, 0.0) == encoding_of(job(64), "train", ROUND + 1, 0.0)


def test_lanes_that_are_too_coarse_are_said_so_before_anything_is_packed() -> None:
    coarse = replace(job(32), grid=Grid(2.0**20, 2.0**8))
    with pytest.raises(ConfigError, match=r"secagg\.width = 32 .* set aggregate\.max_delta"):
        encoding_of(coarse, "train", 0, 0.0)


LARGE = Layout(("a", "bias", "b"), ((40, 100), (30,), (1200,)), ("float32",) * 3)
RINGS = [RingRotQ(10), RingRotQ(8), RingSrht(0.1, 8), RingSrht(0.5, 10)]


def ring_job(codec: RingCodec, **changes: Any) -> Job:
    made = Job(FedAvg(), codec, Plain(), LARGE, EXTRAS, Grid(W, R), {}, 3, cohort=6, secagg=SecAgg())
    return replace(made, **changes)


def ring_updates(seed: int = 0, size: float = 0.01, clients: int = 6) -> list[Update]:
    """Uneven weights, from 1 to W."""
    made = []
    for k in range(clients):
        delta = (size * stream(seed, "delta", k).normal(LARGE.size)).astype(np.float32)
        extras = {"c": np.full(2, 0.25 * k, np.float32)}
        weight = 1.0 + 19.0 * k / (clients - 1)
        made.append(Update(LARGE.view(delta), weight, {"loss": k}, extras))
    return made


def exact_scale(of: Job, made: Sequence[Update]) -> float:
    """The root mean square of a coordinate of the sum that the ring sees."""
    total = plain(of, made)
    return float(np.sqrt(np.mean(np.square(total.mean().vector * total.weight / W))))


def off(total: WeightedSum, true: WeightedSum) -> NDArray[np.float64]:
    gap: NDArray[np.float64] = total.mean().vector.astype(float) - true.mean().vector
    return gap


@pytest.mark.parametrize("codec", RINGS)
@pytest.mark.parametrize("survivors", [range(6), (1, 2, 5), (4,)])
def test_a_ring_sum_is_the_weighted_mean_of_the_survivors(codec: RingCodec, survivors: Sequence[int]) -> None:
    of, everyone = ring_job(codec), ring_updates()
    made, seeds = [everyone[k] for k in survivors], [100 + k for k in survivors]
    scale = exact_scale(of, everyone)
    total, true = summed(of, made, seeds, scale), plain(of, made)
    assert contents(total)[1:5] == contents(true)[1:5]  # extras, weight, clients, metrics: exact
    step = codec.ruler(CodecContext(scale=scale, clients=6)).step * W / true.weight
    noise = len(made) * step**2 / 12
    lost = (1 - codec.keep) / codec.keep
    energy = float(np.square(true.mean().vector).mean())
    expected = lost * energy + noise / codec.keep
    assert float(np.square(off(total, true)[:4000]).mean()) == pytest.approx(expected, rel=0.25)
    if len(made) == 6:
        assert expected == pytest.approx(codec.nmse(6) * energy, rel=0.05)


@pytest.mark.parametrize("codec", RINGS)
def test_a_ring_sum_is_what_the_codec_makes_of_the_sum_of_words(codec: RingCodec) -> None:
    of, made, seeds = ring_job(codec), ring_updates()[:4], [7, 8, 9, 10]
    total = summed(of, made, seeds, 0.01)
    ctx = CodecContext(shared_seed=shared_seed(of, ROUND), scale=0.01, clients=6)
    words = np.zeros(codec.words(LARGE, ctx), np.uint64)
    for u, seed in zip(made, seeds, strict=True):
        share = LARGE.view(LARGE.flatten(u.delta) * np.float32(u.weight / W))
        words += codec.to_ring(share, LARGE, replace(ctx, seed=seed))
    direct = codec.from_ring(words, seeds, LARGE, ctx).vector.astype(np.float64)
    assert np.array_equal(total.total, np.rint(direct * W * 2.0**of.grid.fraction).astype(np.int64))


def test_dithers_of_the_lost_must_not_be_taken_off() -> None:
    """That test can fail: with another client's seed the error is larger."""
    of, made = ring_job(RingRotQ(6)), ring_updates()
    scale = exact_scale(of, made)
    right, true = summed(of, made[:5], range(5), scale), plain(of, made[:5])
    packed = [pack(of, "train", u, codec_context(of, ROUND, s, scale)) for s, u in enumerate(made[:5])]
    total, tail = np.sum([v for v, _ in packed], axis=0), np.sum([t for _, t in packed], axis=0)
    wrong = unpack(of, "train", total, tail, [0, 1, 2, 3, 9], codec_context(of, ROUND, 0, scale))
    assert np.square(off(wrong, true)).mean() > 1.2 * np.square(off(right, true)).mean()


def test_more_members_than_the_ring_has_room_for_abort() -> None:
    of, made = ring_job(RingRotQ(), cohort=6), ring_updates(clients=7)
    with pytest.raises(SecAggAborted, match="7 updates; the context allows 6"):
        summed(of, made)


@pytest.mark.parametrize("codec", [RingRotQ(8), RingSrht(0.25, 8)])
def test_the_scale_follows_the_weighted_sums(codec: RingCodec) -> None:
    """From an unknown scale on, while deltas shrink and some clients are lost."""
    of, scale, everyone = ring_job(codec), 0.0, list[Update]()
    for round_, size in enumerate((0.02, 0.02, 0.015, 0.01)):
        everyone = ring_updates(round_, size)
        made = everyone if round_ != 1 else everyone[1:]
        ctx = codec_context(of, ROUND, 0, scale)
        total = summed(of, made, range(len(made)), scale)
        scale = next_scale(of, total, ctx)
        wanted = exact_scale(of, everyone)
        assert 0.6 * wanted < scale < 1.6 * wanted
        assert next_scale(replace(of, secagg=None), total, ctx) > 1.5 * scale
    last = summed(of, everyone, range(6), exact_scale(of, everyone))
    error = np.square(off(last, plain(of, everyone))[:4000]).mean()
    assert error <= 1.5 * codec.nmse(6) * np.square(plain(of, everyone).mean().vector).mean()


def test_a_hostile_ring_sum_is_cut_to_what_clients_can_send() -> None:
    of = ring_job(RingRotQ(8))
    encoding = encoding_of(of, "train", ROUND, 2.0**60)
    vector, tail = np.full(encoding.words, 2**63 - 1, np.uint64), np.zeros(encoding.tail, np.uint64)
    tail[:2] = 1, 2**40
    total = unpack(of, "train", vector, tail, [1], codec_context(of, ROUND, 0, 2.0**60))
    assert np.abs(total.total).max() == of.grid.limit
    assert np.isfinite(total.mean().vector).all()


def test_what_all_are_given_is_told_apart_by_everything_in_it_and_by_nothing_else() -> None:
    one = {"w": np.ones(2, np.float32)}
    made = Task(Key("job", 1, "train", "", 0, "a"), 1, one, {"c": one}, {"mu": 0.5, "n": 1}, 3, 1.0, 9.0)
    alike = [replace(made, seed=4), replace(made, settings={"n": 1, "mu": 0.5})]
    zero = {"w": np.zeros(2, np.float32)}
    other = [
        replace(made, model=zero),
        replace(made, context={"c": zero}),
        replace(made, context={"d": one}),
        replace(made, context={}),
        replace(made, context={"c": one, "d": one}),
        replace(made, settings={"mu": 0.25, "n": 1}),
        replace(made, settings={"mu": 0.5}),
    ]
    assert {given_to_all(task) for task in alike} == {given_to_all(made)}
    assert len({given_to_all(task) for task in [made, *other]}) == len(other) + 1
