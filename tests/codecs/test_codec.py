"""Spec strings, contexts and traits."""

from __future__ import annotations

from fedkit.codecs import CodecContext
from fedkit.codecs.bfloat16 import BFloat16
from fedkit.codecs.codec import word
from fedkit.codecs.ecsq import Ecsq
from fedkit.codecs.none import Plain
from fedkit.codecs.rotate import Rotate


def test_a_spec_names_id_version_and_every_parameter() -> None:
    assert Plain().spec == "none/1"
    assert Ecsq().spec == "ecsq/1:delta=4,mode=stoch,block=4096"
    assert Ecsq(0.1, "near", 64).spec == "ecsq/1:delta=0.1,mode=near,block=64"
    assert Rotate(shared=True).spec == "rotate/1:shared=true"


def test_numbers_are_written_so_that_they_come_back() -> None:
    for value in (0.1, 1e-7, 3.0, 1e300, 2.0**60, -1.5):
        assert float(word(value)) == value


def test_contexts_of_parts_are_apart_and_repeatable() -> None:
    ctx = CodecContext(1, 2, 0.5)
    made = [ctx.at("rotate", 0), ctx.at("rotate", 1), ctx.at("ecsq")]
    assert len({m.seed for m in made} | {m.shared_seed for m in made}) == 6
    assert all(m.scale == 0.5 for m in made)
    assert ctx.at("ecsq") == made[2]
    assert CodecContext(9, 2).at("ecsq").shared_seed == made[2].shared_seed


def test_traits_follow_the_parameters() -> None:
    assert Ecsq().unbiased
    assert not Ecsq().contractive
    assert not Ecsq(mode="near").unbiased
    assert Ecsq(mode="near").contractive
    assert BFloat16("stoch").unbiased
    assert not BFloat16().unbiased
    assert not Rotate().deterministic_decode
    assert Ecsq().deterministic_decode
