"""Golden payloads: what was written once is read for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedkit import plugins
from fedkit.codecs import Codec, CodecContext, Pipeline, Quantizer, Transform
from fedkit.codecs.ecsq import Ecsq
from fedkit.codecs.frame import HEAD
from fedkit.codecs.rules import TensorRules, split
from fedkit.downlink import Downlink, Follower
from fedkit.tensors import Flat, Layout

FOLDER = Path(__file__).parents[1] / "vectors" / "codecs"
INDEX = json.loads((FOLDER / "index.json").read_text())
LAYOUT = Layout(tuple(INDEX["layout"]), tuple((n,) for n in INDEX["layout"].values()), ("float32",) * 2)
CTX = CodecContext(**{name: INDEX[name] for name in ("seed", "shared_seed", "scale", "clients")})
NAMES = [*INDEX["vectors"], *INDEX["others"]]


def ramp(size: int) -> NDArray[np.float32]:
    """The input of the entries of "others"."""
    return (((np.arange(size) * 2654435761 // 65536 % 2001) - 1000) / 8192).astype(np.float32)


def case(name: str) -> tuple[Codec, Flat, int]:
    """Codec and input of a golden payload, and which entries of what it decodes to are kept."""
    if name in INDEX["vectors"]:
        return plugins.codec(INDEX["vectors"][name]), LAYOUT.view(floats("input")), 1
    told = INDEX["others"][name]
    shapes = told["layout"]
    layout = Layout(tuple(shapes), tuple(map(tuple, shapes.values())), ("float32",) * len(shapes))
    return plugins.codec(told["spec"]), layout.view(ramp(layout.size)), told["every"]


def floats(name: str) -> NDArray[np.float32]:
    return np.fromfile(FOLDER / f"{name}.f4", "<f4").astype(np.float32)


def decoded(codec: Codec, payload: bytes, layout: Layout) -> NDArray[np.float32]:
    return layout.flatten(codec.decode(payload, layout, CTX))


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_payload_decodes_to_its_vector(name: str) -> None:
    codec, delta, every = case(name)
    made = decoded(codec, (FOLDER / f"{name}.bin").read_bytes(), delta.layout)[::every]
    expected = floats(name)
    if codec.deterministic_decode:
        assert made.tobytes() == expected.tobytes()
    else:
        assert np.abs(made - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_the_encoder_still_says_the_same(name: str) -> None:
    """The bytes may differ where DEFLATE does (its format fixes the decoder only), their meaning not.

    In long vectors a rotation's last bits may move a value over an edge of the quantizer.
    """
    codec, delta, _ = case(name)
    payload, golden = codec.encode(delta, delta.layout, CTX), (FOLDER / f"{name}.bin").read_bytes()
    assert payload == golden or not codec.deterministic_decode or not codec.fixed_size
    assert len(payload) <= 1.01 * len(golden) + 16
    made, expected = (decoded(codec, data, delta.layout) for data in (payload, golden))
    if delta.vector.size < 100_000:
        assert np.abs(made - expected).max() <= 1e-5 * np.abs(expected).max()
    else:
        assert np.linalg.norm(made - expected) <= 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", list(INDEX["downlink"]))
def test_a_golden_frame_leads_from_the_first_model_to_the_second(name: str) -> None:
    codec = plugins.codec(INDEX["downlink"][name])
    follower = Follower(codec, LAYOUT, INDEX["seed"])
    follower.snapshot(1, LAYOUT.view(floats("input")))
    follower.follow(2, 1, (FOLDER / f"{name}.bin").read_bytes())
    assert LAYOUT.flatten(follower.model).tobytes() == floats(name).tobytes()


@pytest.mark.parametrize("name", list(INDEX["downlink"]))
def test_the_server_still_makes_that_frame(name: str) -> None:
    downlink = Downlink(plugins.codec(INDEX["downlink"][name]), LAYOUT, INDEX["seed"])
    downlink.publish(LAYOUT.view(floats("input")))
    release = downlink.publish(LAYOUT.view(floats("input") + ramp(LAYOUT.size)))
    assert release.version == 2
    assert LAYOUT.flatten(release.model).tobytes() == floats(name).tobytes()


def test_every_registered_id_and_version_has_a_golden_payload() -> None:
    """A new codec or version needs an entry in index.json and a run of make.py."""
    held = "|".join(INDEX["vectors"].values())
    for name in plugins.names("fedkit.codecs"):
        kind = plugins.load("fedkit.codecs", name)
        if isinstance(kind, type) and issubclass(kind, Codec | Quantizer | Transform | TensorRules):
            assert f"{name}/{kind.version}" in held, f"no golden payload of {name}/{kind.version}"


def test_the_golden_vectors_cover_every_way_of_coding() -> None:
    ways = set()
    for name in [n for n in NAMES if n.startswith("ecsq")]:
        codec, delta, _ = case(name)
        assert isinstance(codec, Pipeline)
        assert isinstance(codec.quantizer, Ecsq)
        parts = split(codec.rules, delta.layout)
        scales = 2 * -(-parts.large.size // codec.quantizer.block)
        ways.add((FOLDER / f"{name}.bin").read_bytes()[HEAD + 2 * parts.small.size + 1 + scales])
    assert ways == {0, 1, 2, 3, 4, 5}


def test_the_golden_vectors_have_long_ones() -> None:
    """Several blocks and draws of a rotation, several hands, more planes than one group."""
    long = [name for name in INDEX["others"] if case(name)[1].vector.size > 131_072 + 4096]
    assert {name.partition("-1-")[0] for name in long} == {"rotate", "eden", "ring-srht"}
    for name in long:
        assert len(floats(name)) == 141
        assert np.count_nonzero(floats(name)) > 100


DIGEST = """
import hashlib
import numpy as np
from fedkit import plugins
from fedkit.codecs import CodecContext
from fedkit.tensors import Layout
layout = Layout(("w",), ((300_000,),), ("float32",))
values = (np.arange(300_000) * 2654435761 % 1000 - 500).astype(np.float32) ** 3
sha = hashlib.sha256()
for spec in ("bfloat16", "int8", "int4", "qsgd", "stc", "sign", "topk|int8",
             "ecsq", "ecsq:delta=1,mode=dither", "ecsq:delta=2,mode=near"):
    codec, ctx = plugins.codec(spec), CodecContext(1, 2)
    assert codec.deterministic_decode
    sha.update(codec.decode(codec.encode({"w": values}, layout, ctx), layout, ctx)["w"].tobytes())
print(sha.hexdigest())
"""


def test_decoding_gives_the_same_bits_with_any_number_of_threads() -> None:
    made = set()
    for threads in ("1", "2", "4"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, threads)}
        code = DIGEST
        run = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        made.add(run.stdout.strip())
    assert len(made) == 1
