"""Stages joined: traits, sizes, refusals."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedkit import plugins
from fedkit.codecs import CodecContext, Pipeline, TensorRules, Transform, Vector, frame
from fedkit.codecs.bfloat16 import BFloat16
from fedkit.codecs.ecsq import Ecsq
from fedkit.codecs.eden import Eden
from fedkit.codecs.int8 import Int8
from fedkit.codecs.rotate import Rotate
from fedkit.codecs.sample import Sample
from fedkit.errors import ConfigError, PluginError, WireError
from fedkit.tensors import Flat, Layout

Heavy = Callable[..., NDArray[np.float32]]
ALL = TensorRules(below=0)
CTX = CodecContext(seed=1, shared_seed=2)


def one(size: int, dtype: str = "float32") -> Layout:
    return Layout(("w",), ((size,),), (dtype,))


@dataclass(frozen=True)
class Even(Transform):
    """Keeps the entries that are not zero; where they are travels as side bytes."""

    id: ClassVar[str] = "even"
    unbiased: ClassVar[bool] = True
    fixed_size: ClassVar[bool] = False

    def max_len(self, d: int) -> int:
        return 4 * d

    def forward(self, vector: Vector, ctx: CodecContext) -> tuple[Vector, bytes]:
        places = np.flatnonzero(vector)
        out = np.zeros_like(vector)
        out[: len(places)] = vector[places]
        return out, places.astype("<u4").tobytes()

    def inverse(self, vector: Vector, side: memoryview, d: int, ctx: CodecContext) -> Vector:
        places = np.frombuffer(side, "<u4") if len(side) % 4 == 0 else np.array([d])
        if len(places) and places.max() >= d:
            raise WireError("a place out of range")
        out = np.zeros(d, np.float32)
        out[places] = vector[: len(places)]
        return out


def test_side_bytes_of_any_length_travel_with_the_vector() -> None:
    codec, layout = Pipeline(BFloat16(), (Even(),), ALL), one(300)
    for count in (0, 3, 300):
        x = np.zeros(300, np.float32)
        x[:count] = 2.0
        payload = codec.encode({"w": x}, layout, CTX)
        assert len(payload) == frame.OVERHEAD + (1 if 4 * count < 128 else 2) + 4 * count + 1 + 600
        assert np.array_equal(codec.decode(payload, layout, CTX)["w"], x)
    assert not codec.fixed_size


def test_side_bytes_past_their_bound_are_refused() -> None:
    codec, layout = Pipeline(BFloat16(), (Even(),), ALL), one(10)
    for body in (b"\x29" + bytes(41 + 1 + 20), b"\x04" + struct.pack("<I", 10) + bytes(21)):
        with pytest.raises(WireError):
            codec.decode(frame.seal(frame.contract(codec.spec, layout), body), layout, CTX)


@given(
    st.lists(
        st.sampled_from(["rotate", "rotate:shared=true", "sample:keep=0.5", "clip:norm=2"]), max_size=3,
        unique_by=lambda stage: stage.partition(":")[0],
    ),
    st.sampled_from(
        ["bfloat16", "int8:block=64", "eden:bits=2", "eden:bits=1,keep=.2", "ecsq:delta=.5", "ecsq:mode=near",
         "ecsq:mode=dither,delta=1"]
    ),
    st.integers(0, 6000),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e25]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_pipeline_comes_back_within_its_bounds(
    stages: list[str], quantizer: str, size: int, dtype: str, scale: float
) -> None:
    codec = plugins.codec("|".join(["tensors:below=10", *stages, quantizer]))
    assert plugins.codec(codec.spec) == codec
    layout = one(size, dtype)
    delta = layout.view((scale * np.cos(np.arange(size)) ** 5).astype(dtype))
    payload = codec.encode(delta, layout, CTX)
    assert codec.min_len(layout) <= len(payload) <= codec.max_len(layout)
    made = codec.decode(payload, layout, CTX)
    assert isinstance(made, Flat)
    assert made.vector.dtype == dtype
    assert np.isfinite(made.vector).all()
    if not stages and size:
        error = np.linalg.norm((made.vector / scale).astype(float) - delta.vector / scale)
        assert error <= 4 * np.linalg.norm(delta.vector / scale)


def test_traits_follow_from_the_parts() -> None:
    assert Pipeline(Ecsq(), (Rotate(), Sample())).unbiased
    assert not Pipeline(Ecsq(mode="near"), (Rotate(),)).unbiased
    assert Pipeline(Ecsq(mode="near"), (Rotate(),)).contractive
    assert not Pipeline(Ecsq(mode="near"), (Sample(),)).contractive
    assert not Pipeline(Int8(), (Rotate(),)).deterministic_decode
    assert Pipeline(Int8()).deterministic_decode
    assert Pipeline(Int8(), (Sample(),)).fixed_size
    assert not Pipeline(Ecsq(), (Sample(),)).fixed_size
    assert Pipeline(Int8(), (Rotate(), Sample())).id == "rotate|sample|int8"


def test_errors_of_unbiased_stages_compose(heavy: Heavy) -> None:
    d, layout = 1 << 16, one(1 << 16)
    codec = Pipeline(Ecsq(2.0, "dither"), (Rotate(), Sample(0.25)))
    x = heavy(d).astype(np.float64)
    made = codec.decode(codec.encode({"w": x.astype(np.float32)}, layout, CTX), layout, CTX)["w"]
    formula = codec.nmse(d)
    assert formula == pytest.approx((1 + 3) * (1 + 4 / 12) - 1)
    assert float(np.square(made - x).sum() / np.square(x).sum()) == pytest.approx(formula, rel=0.1)
    assert Pipeline(Ecsq()).nmse(d) is None
    assert Pipeline(Eden(1)).nmse(d) == pytest.approx(0.5708)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("int8|rotate", "'rotate' comes after 'int8': put it before"),
        ("int8|eden", "quantizers 'int8' and 'eden': keep one"),
        ("rotate", "no quantizer: end it with one"),
        ("rotate|none", "'none' is whole and takes no other stages: use it alone$"),
        ("tensors|none", "'none' is whole and takes no other stages: use it alone$"),
        (
            "tensors:exempt=*.b|powersgd",
            "use it alone, with rules of its own, such as 'powersgd:exempt=\\*.b'",
        ),
        ("tensors:below=4|adaptive", r"rules of its own, such as 'adaptive:exempt=\*\.bias'"),
        ("topk|topk:share=.5|int8", "'topk' stands twice: keep one"),
        ("rotate|clip|rotate|int8", "'rotate' stands twice: keep one"),
        ("clip|topk|stc", "'stc' takes the largest entries itself: leave 'topk' out"),
        ("sample|topk|int8", "leave 'sample' out and give 'topk' a smaller share"),
        ("rotate|sample|stc", "leave 'sample' out and give 'stc' a smaller share"),
        ("tensors|tensors|int8", "'tensors' stands twice"),
        ("int8|tensors", "'tensors' comes after 'int8'"),
        ("ecsq:delat=4", "delat: unknown key; did you mean 'delta'"),
        ("ecsq/7", "'ecsq' has version 1 here, not 7"),
        ("rotate|ecsq:delta=100", r"delta = 100\.0 must be in \[0\.01, 64\]"),
    ],
)
def test_specs_that_make_no_sense_are_refused(spec: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        plugins.codec(spec)


@pytest.mark.parametrize("spec", ["rotate|eden", "clip|topk|int8", "rotate|sample|int8", "clip|rotate|ecsq"])
def test_stages_that_help_each_other_are_not(spec: str) -> None:
    assert plugins.codec(spec).id == spec


def test_an_unknown_stage_names_the_nearest() -> None:
    with pytest.raises(PluginError, match="unknown codec 'rotat'; did you mean 'rotate'"):
        plugins.codec("rotat|int8")


def test_an_exponent_out_of_range_is_refused() -> None:
    codec, layout = Pipeline(BFloat16(), rules=ALL), one(4)
    agreed = frame.contract(codec.spec, layout)
    good = codec.encode({"w": np.full(4, 1e30, np.float32)}, layout, CTX)
    assert good[frame.HEAD] == 12
    for e in (17, -21, -128):
        body = e.to_bytes(1, "little", signed=True) + bytes(8)
        with pytest.raises(WireError, match="exponent"):
            codec.decode(frame.seal(agreed, body), layout, CTX)
    with pytest.raises(WireError, match="not finite"):
        codec.decode(frame.seal(agreed, b"\x10" + b"\x7f\x7f" * 4), layout, CTX)
