"""Bytes from outside: only WireError, within bounded memory and time.

A mutated body is sealed again, so that it gets past the checksum and into the stages.
"""

from __future__ import annotations

import os
import time
import tracemalloc

import numpy as np
import pytest

from fedkit import plugins
from fedkit.codecs import Codec, CodecContext, frame
from fedkit.codecs.reader import varint
from fedkit.errors import WireError
from fedkit.seeds import Stream, stream
from fedkit.tensors import Layout

SPECS = [
    "bfloat16", "int8", "eden:bits=1", "eden:bits=3,keep=.1", "ecsq:delta=.2", "ecsq:delta=1,mode=near",
    "ecsq:delta=4", "ecsq:delta=30", "ecsq:delta=.01,block=65536", "rotate|sample|ecsq:delta=2",
    "int4", "qsgd", "topk:share=.05|int8", "stc:share=.05", "sign", "powersgd", "ring-rotq", "ring-srht",
]  # fmt: skip
LAYOUT = Layout(("w", "b"), ((3000,), (20,)), ("float32", "float32"))
CTX = CodecContext(seed=1, shared_seed=2)
SECONDS = float(os.environ.get("FEDKIT_FUZZ_SECONDS", "1"))
LIMIT = 4 << 20


def body_of(codec: Codec) -> bytes:
    values = (stream(0, "fuzz").normal(LAYOUT.size) ** 3).astype(np.float32)
    return codec.encode(LAYOUT.view(values), LAYOUT, CTX)[frame.HEAD : -frame.TAIL]


def mutated(body: bytes, noise: Stream) -> bytes:
    """One of: flips, a cut, bytes put in, a number made huge, an end of noise."""
    kind, place = (int(n) for n in noise.integers(0, 5, 1)), int(noise.integers(0, len(body), 1)[0])
    match next(kind):
        case 0:
            out = bytearray(body)
            for at in noise.integers(0, len(body), 1 + place % 8):
                out[at] ^= 1 << place % 8
            return bytes(out)
        case 1:
            return body[:place]
        case 2:
            return body[:place] + noise.bytes(1 + place % 9) + body[place:]
        case 3:
            return body[:place] + varint(int(noise.integers(0, 2**50, 1)[0])) + body[place + 4 :]
        case _:
            return body[:place] + noise.bytes(len(body) - place)


@pytest.mark.parametrize("spec", SPECS)
def test_a_mutated_payload_is_refused_or_decodes_to_finite_values(spec: str) -> None:
    codec = plugins.codec(spec)
    body, agreed = body_of(codec), frame.contract(codec.spec, LAYOUT)
    refused, number, end = 0, 0, time.monotonic() + SECONDS
    tracemalloc.start()
    try:
        while number < 50 or time.monotonic() < end:
            payload = frame.seal(agreed, mutated(body, stream(7, spec, number)))
            number += 1
            try:
                made = codec.decode(payload, LAYOUT, CTX)
            except WireError:
                refused += 1
            else:
                assert np.isfinite(made["w"]).all()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    print(f"{spec}: {number} payloads, {refused} refused, at most {most / 1024:.0f} KiB")
    assert most < LIMIT
    assert refused


@pytest.mark.parametrize("spec", SPECS)
def test_every_cut_of_a_payload_is_refused(spec: str) -> None:
    codec = plugins.codec(spec)
    body, agreed = body_of(codec), frame.contract(codec.spec, LAYOUT)
    for cut in sorted({*range(50), *range(0, len(body), 1 + len(body) // 100), len(body) - 1}):
        with pytest.raises(WireError):
            codec.decode(frame.seal(agreed, body[:cut]), LAYOUT, CTX)
    with pytest.raises(WireError):
        codec.decode(frame.seal(agreed, body + b"\0"), LAYOUT, CTX)
