"""The laws of codecs for everything that is registered."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkit import plugins
from fedkit.codecs import Codec, CodecContext, Quantizer
from fedkit.conformance import check_codec
from fedkit.tensors import Layout

Heavy = Callable[..., NDArray[np.float32]]
VARIANTS = [
    "bfloat16:mode=stoch",
    "eden:bits=2",
    "eden:bits=3,keep=.3",
    "eden:bits=4",
    "eden:keep=.1",
    "eden:scale=min",
    "ecsq:delta=16",
    "ecsq:delta=2,mode=near",
    "ecsq:delta=1,mode=dither",
    "ecsq:delta=.05,block=65536",
    "rotate|ecsq:delta=2",
    "rotate|sample:keep=.2|int8",
    "tensors:small=float32,below=0|ecsq",
    "tensors:below=0|eden:bits=2",
    "tensors:exempt=m*|int8",
    "topk:share=.1|bfloat16",
    "int4:block=32",
    "qsgd:levels=7,bucket=64",
    "powersgd:rank=1",
    "ring-srht:keep=.3,exempt=v*",
]


def registered() -> list[str]:
    """A spec for each entry point: transforms before int8, `tensors` too."""
    specs = []
    for name in plugins.names("fedkit.codecs"):
        kind = plugins.load("fedkit.codecs", name)
        whole = isinstance(kind, type) and issubclass(kind, Codec | Quantizer)
        specs.append(name if whole else f"{name}|int8")
    return specs


def test_every_registered_name_is_the_id_of_its_class() -> None:
    for name in plugins.names("fedkit.codecs"):
        assert getattr(plugins.load("fedkit.codecs", name), "id", None) == name


@pytest.mark.parametrize("spec", [*registered(), *VARIANTS])
def test_it_keeps_the_laws(spec: str) -> None:
    assert "is unbiased if it says so" in check_codec(plugins.codec(spec))


@pytest.mark.parametrize("spec", [*registered(), *VARIANTS])
def test_every_block_is_unbiased(spec: str, heavy: Heavy) -> None:
    """Blocks of very different scales: the bias of the small one must not hide behind the large one."""
    codec = plugins.codec(spec)
    if not codec.unbiased:
        pytest.skip(f"{spec} is biased")
    x = heavy(4096 + 4096 + 2000)
    x[4096:8192] *= np.float32(1e-3)
    layout = Layout(("w",), ((x.size,),), ("float32",))
    errors = []
    for seed in range(256):
        ctx = CodecContext(seed=seed, shared_seed=seed)
        errors.append(
            codec.decode(codec.encode({"w": x}, layout, ctx), layout, ctx)["w"].astype(np.float64) - x
        )
    for part in (slice(0, 4096), slice(4096, 8192), slice(8192, None)):
        bias = np.mean([e[part] for e in errors], axis=0)
        size = np.mean([float(e[part] @ e[part]) for e in errors])
        rounding = (1e-6 * float(np.linalg.norm(x[part]))) ** 2
        assert float(bias @ bias) <= 2 * size / 256 + rounding


@pytest.mark.parametrize("spec", [*registered(), *VARIANTS])
def test_a_contractive_codec_never_grows_the_error(spec: str, heavy: Heavy) -> None:
    codec = plugins.codec(spec)
    if not codec.contractive:
        pytest.skip(f"{spec} is not contractive")
    spike = np.zeros(5000, np.float32)
    spike[3] = 1.0
    for x in (heavy(5000), np.ones(5000, np.float32), spike):
        layout = Layout(("w",), ((x.size,),), ("float32",))
        ctx = CodecContext(seed=5, shared_seed=6)
        made = codec.decode(codec.encode({"w": x}, layout, ctx), layout, ctx)["w"]
        assert np.linalg.norm(made - x) <= (1 + 1e-6) * np.linalg.norm(x)


@pytest.mark.parametrize(
    "spec", ["ecsq", "ecsq:delta=1,mode=near", "eden", "eden:keep=.05", "int8", "bfloat16"]
)
def test_memory_beyond_the_delta_is_at_most_twice_the_delta(spec: str, heavy: Heavy) -> None:
    codec, x = plugins.codec(spec), heavy(1 << 21)
    layout = Layout(("w",), ((x.size,),), ("float32",))
    delta, ctx = layout.view(x), CodecContext()
    tracemalloc.start()
    try:
        payload = codec.encode(delta, layout, ctx)
        assert tracemalloc.get_traced_memory()[1] <= 2 * x.nbytes
        tracemalloc.reset_peak()
        codec.decode(payload, layout, ctx)
        assert tracemalloc.get_traced_memory()[1] <= 3 * x.nbytes  # the decoded delta is one of the three
    finally:
        tracemalloc.stop()
