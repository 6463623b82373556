"""Streams are those of AES-CTR, named by their path, uniform, and the same on every platform."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from fedkit.seeds import Stream, derive, stream

paths = st.lists(st.integers(0, 99) | st.text(max_size=6), max_size=4).map(tuple)

GOLDEN_DERIVE = 8154342800226738204
GOLDEN_BYTES = "f4628a4258724ed1632b0da725138d30"
GOLDEN_INTEGERS = [11020409233487348166, 14972479349890159175]
GOLDEN_UNIFORM = [0.461034388209952, 0.48111160470587455]
GOLDEN_PERMUTATION = [6, 2, 4, 7, 0, 1, 5, 3]


def test_aes_is_that_of_sp_800_38a() -> None:
    """NIST SP 800-38A, F.5.1: the primitive under Stream."""
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    made = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    assert (
        made.update(bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")).hex()
        == "874d6191b620e3261bef6864990db6ce"
    )


def test_golden_vectors() -> None:
    assert derive(0, "train", 1, "a") == GOLDEN_DERIVE
    made = stream(0, "golden")
    assert made.bytes(16).hex() == GOLDEN_BYTES
    assert made.uint64(2).tolist() == GOLDEN_INTEGERS
    assert made.uniform(2).tolist() == GOLDEN_UNIFORM
    assert made.permutation(8).tolist() == GOLDEN_PERMUTATION


def test_a_stream_is_the_key_stream_of_its_seed() -> None:
    key = hashlib.sha256(b"fedkit/stream/1" + (7).to_bytes(16, "little")).digest()
    expected = Cipher(algorithms.AES(key[:16]), modes.CTR(key[16:])).encryptor().update(bytes(100))
    made = Stream(7)
    assert made.bytes(33) + made.bytes(67) == expected


@given(paths, paths)
def test_different_paths_have_different_seeds(a: tuple[str | int, ...], b: tuple[str | int, ...]) -> None:
    types = [[type(part) for part in path] for path in (a, b)]
    assert (derive(0, *a) == derive(0, *b)) == (a == b and types[0] == types[1])


def test_paths_cannot_be_forged_with_separators() -> None:
    seeds = {
        derive(0, *path)
        for path in [("a", "b"), ("a|s1:b",), ("a|b",), ("ab",), ("a", "b", ""), (1,), ("1",)]
    }
    assert len(seeds) == 7
    assert derive(1, 2) != derive(12)


def test_seeds_are_64_bits_and_depend_on_the_root() -> None:
    seeds = [derive(root, "x") for root in range(200)]
    assert len(set(seeds)) == 200
    assert 2**60 < max(seeds) < 2**64


def test_the_same_in_another_process() -> None:
    code = "from fedkit.seeds import stream; print(stream(3, 'a', 1).integers(0, 10**6, 5).tolist())"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == str(stream(3, "a", 1).integers(0, 10**6, 5).tolist())


def test_uniform_values_are_uniform() -> None:
    values = stream(0, "uniform").uniform(100_000)
    assert values.min() >= 0.0
    assert values.max() < 1.0
    counts = np.histogram(values, bins=100, range=(0, 1))[0]
    chi2 = float(np.square(counts - 1000).sum() / 1000)
    assert 50 < chi2 < 150  # 99 degrees of freedom
    assert np.array_equal(values * 2**53, np.rint(values * 2**53))


def test_normal_values_are_normal() -> None:
    for count in (100_000, 100_001):
        values = stream(0, "normal").normal(count)
        assert values.size == count
        assert abs(values.mean()) < 0.015
        assert abs(values.std() - 1.0) < 0.01
        assert abs(float((np.abs(values) < 1).mean()) - 0.6827) < 0.01
    assert np.isfinite(stream(0, "normal").normal(10**6)).all()


def test_integers_cover_their_range() -> None:
    values = stream(0, "integers").integers(-3, 4, 7000)
    counts = np.bincount(values + 3)
    assert counts.size == 7
    assert counts.min() > 850
    with pytest.raises(ValueError, match="empty range"):
        stream(0).integers(2, 2, 1)


def test_permutations_are_permutations_and_fair() -> None:
    made = stream(0, "permutation")
    firsts = [0] * 4
    for _ in range(2000):
        permutation = made.permutation(4)
        assert sorted(permutation.tolist()) == [0, 1, 2, 3]
        firsts[int(permutation[0])] += 1
    assert min(firsts) > 420


@given(st.integers(0, 30), st.data())
def test_choice_takes_distinct_members(count: int, data: st.DataObject) -> None:
    take = data.draw(st.integers(0, count))
    chosen = stream(data.draw(st.integers(0, 99))).choice(count, take).tolist()
    assert len(chosen) == len(set(chosen)) == take
    assert set(chosen) <= set(range(count))


def test_choice_refuses_to_take_more_than_there_are() -> None:
    with pytest.raises(ValueError, match="cannot take 4 of 3"):
        stream(0).choice(3, 4)


def test_random_is_the_first_uniform() -> None:
    assert stream(0, "r").random() == stream(0, "r").uniform(1)[0]
