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
from fedkit.codecs import Codec, CodecContext, Quantizer, Transform
from fedkit.codecs.rules import TensorRules
from fedkit.tensors import Layout

FOLDER = Path(__file__).parents[1] / "vectors" / "codecs"
INDEX = json.loads((FOLDER / "index.json").read_text())
LAYOUT = Layout(tuple(INDEX["layout"]), tuple((n,) for n in INDEX["layout"].values()), ("float32",) * 2)
CTX = CodecContext(**{name: INDEX[name] for name in ("seed", "shared_seed", "scale", "clients")})
NAMES = list(INDEX["vectors"])


def floats(name: str) -> NDArray[np.float32]:
    return np.fromfile(FOLDER / f"{name}.f4", "<f4").astype(np.float32)


def decoded(codec: Codec, payload: bytes) -> NDArray[np.float32]:
    return LAYOUT.flatten(codec.decode(payload, LAYOUT, CTX))


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_payload_decodes_to_its_vector(name: str) -> None:
    codec = plugins.codec(INDEX["vectors"][name])
    made, expected = decoded(codec, (FOLDER / f"{name}.bin").read_bytes()), floats(name)
    if codec.deterministic_decode:
        assert made.tobytes() == expected.tobytes()
    else:
        assert np.abs(made - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_the_encoder_still_says_the_same(name: str) -> None:
    """The bytes may differ where DEFLATE does (its format fixes the decoder only), their meaning not."""
    codec = plugins.codec(INDEX["vectors"][name])
    payload = codec.encode(LAYOUT.view(floats("input")), LAYOUT, CTX)
    golden = (FOLDER / f"{name}.bin").read_bytes()
    assert payload == golden or not codec.fixed_size
    assert len(payload) <= 1.01 * len(golden) + 16
    assert np.abs(decoded(codec, payload) - floats(name)).max() <= 1e-5 * np.abs(floats(name)).max()


def test_every_registered_id_and_version_has_a_golden_payload() -> None:
    """A new codec or version needs an entry in index.json and a run of make.py."""
    held = "|".join(INDEX["vectors"].values())
    for name in plugins.names("fedkit.codecs"):
        kind = plugins.load("fedkit.codecs", name)
        if isinstance(kind, type) and issubclass(kind, Codec | Quantizer | Transform | TensorRules):
            assert f"{name}/{kind.version}" in held, f"no golden payload of {name}/{kind.version}"


def test_the_golden_vectors_cover_every_way_of_coding() -> None:
    from fedkit.codecs.frame import HEAD

    ways = set()
    for name in [n for n in NAMES if n.startswith("ecsq")]:
        block = int(INDEX["vectors"][name].rpartition("=")[2])
        ways.add((FOLDER / f"{name}.bin").read_bytes()[HEAD + 60 + 1 + 2 * -(-1100 // block)])
    assert ways == {1, 2, 3, 4, 5}


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
