"""Symbols and payloads told by earlier ones: nothing lost, fewer bytes, and no crash on bad ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedkit import plugins
from fedkit.codecs import CodecContext, entropy, relative
from fedkit.errors import WireError
from fedkit.seeds import stream
from fedkit.tensors import Layout

LAYOUT = Layout(("w", "b"), ((200, 150), (150,)), ("float32", "float32"))


@given(st.data(), st.integers(0, 300), st.sampled_from(["int8", "int16"]))
def test_what_is_told_is_what_is_heard(data: st.DataObject, n: int, kind: str) -> None:
    most = min(np.iinfo(kind).max, relative.LARGEST)
    one = arrays(np.dtype(kind), n, elements=st.one_of(st.integers(-2, 2), st.integers(-most, most)))
    symbols, held = data.draw(one), data.draw(one)
    told = relative.encode(symbols, held)
    assert np.array_equal(relative.decode(memoryview(told), held, symbols.dtype), symbols)


def walk(rounds: int, seed: int) -> list[NDArray[np.float32]]:
    """A model that moves ever less from where it began."""
    made = [np.zeros(LAYOUT.size, np.float32)]
    for number in range(rounds):
        step = stream(seed, "walk", number).normal(LAYOUT.size) ** 3 / (number + 1)
        made.append((made[-1] + step).astype(np.float32))
    return made


def test_a_payload_told_by_an_earlier_one_is_shorter_and_decodes_the_same() -> None:
    codec, ctx = plugins.codec("tensors:below=64|ecsq:delta=3,mode=near,block=65536"), CodecContext(7, 8)
    early, late = (codec.encode(LAYOUT.view(walk(n, 1)[-1]), LAYOUT, ctx) for n in (10, 16))
    told = codec.relative(late, early, LAYOUT)
    assert told is not None
    assert len(told) < 0.8 * len(late)
    heard = codec.absolute(told, early, LAYOUT)
    there, here = (LAYOUT.flatten(codec.decode(p, LAYOUT, ctx)).tobytes() for p in (late, heard))
    assert there == here


@pytest.mark.parametrize("spec", ["rotate|ecsq:delta=2", "ecsq:delta=1,mode=dither", "topk|ecsq:delta=.1"])
def test_every_pipeline_that_ends_in_ecsq_can(spec: str) -> None:
    codec, ctx = plugins.codec(spec), CodecContext(7, 8)
    early, late = (codec.encode(LAYOUT.view(x), LAYOUT, ctx) for x in walk(2, 2)[1:])
    told = codec.relative(late, early, LAYOUT)
    assert told is not None
    heard = codec.absolute(told, early, LAYOUT)
    assert codec.decode(heard, LAYOUT, ctx)["w"].tobytes() == codec.decode(late, LAYOUT, ctx)["w"].tobytes()


@pytest.mark.parametrize("spec", ["none", "int8", "eden:bits=1", "ring-rotq"])
def test_other_codecs_tell_nothing(spec: str) -> None:
    codec, ctx = plugins.codec(spec), CodecContext(7, 8)
    early, late = (codec.encode(LAYOUT.view(x), LAYOUT, ctx) for x in walk(2, 2)[1:])
    assert codec.relative(late, early, LAYOUT) is None
    with pytest.raises(WireError):
        codec.absolute(late, early, LAYOUT)


def test_damage_is_a_wire_error_or_another_payload() -> None:
    codec, ctx = plugins.codec("ecsq:delta=2,mode=near"), CodecContext(7, 8)
    early, late = (codec.encode(LAYOUT.view(x), LAYOUT, ctx) for x in walk(2, 3)[1:])
    told = codec.relative(late, early, LAYOUT)
    assert told is not None
    draws, refused = stream(5, "damage"), 0
    for _ in range(400):
        bad = bytearray(
            told[: int(draws.integers(0, len(told) + 1, 1)[0])] if draws.uniform(1)[0] < 0.3 else told
        )
        for _ in range(2):
            if bad:
                bad[int(draws.integers(0, len(bad), 1)[0])] = int(draws.integers(0, 256, 1)[0])
        try:
            codec.decode(codec.absolute(bytes(bad), early, LAYOUT), LAYOUT, ctx)
        except WireError:
            refused += 1
    assert refused > 100


def test_a_symbol_out_of_range_is_refused() -> None:
    held = np.array([120, -120], np.int8)
    told = [entropy.encode(np.empty(0, np.int16))] * 2 + [entropy.encode(np.array([100, 100], np.int16))]
    data = b"".join(bytes([len(part)]) + part for part in told)
    with pytest.raises(WireError, match="out of range"):
        relative.decode(memoryview(data), held, np.dtype(np.int8))
