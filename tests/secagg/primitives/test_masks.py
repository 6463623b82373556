"""Mask streams: published key streams, seeking, widths, signs, threads."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.secagg.primitives import masks
from fedkit.secagg.primitives.masks import CHUNK, GROUP, LIMIT, Lanes, Mask, Slice, add_masks
from fedkit.secagg.primitives.suite import Suite
from fedkit.seeds import stream

WIDTHS = (np.uint8, np.uint16, np.uint32, np.uint64)


def key(suite: Suite, number: int = 0) -> bytes:
    return stream(number, "mask key").bytes(suite.mask_bytes)


def key_stream(suite: Suite, secret: bytes, count: int, start: int = 0) -> bytes:
    """So many bytes of a stream, from any multiple of 64 on."""
    vector = np.zeros(count, np.uint8)
    masks._add(Slice(start, [vector]), [Mask(secret, 1)], suite)
    return vector.tobytes()


def vector_of(dtype: type[np.unsignedinteger[Any]], count: int, number: int = 0) -> Lanes:
    made: Lanes = np.frombuffer(
        stream(number, "vector").bytes(count * np.dtype(dtype).itemsize), dtype
    ).copy()
    return made


@pytest.mark.parametrize(
    ("secret", "start", "expected"),
    [
        (
            "00" * 32,
            0,
            "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
            "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
        ),
        (
            "00" * 32,
            64,
            "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
            "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
        ),
        (
            "00" * 31 + "01",
            64,
            "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a"
            "8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0",
        ),
        (
            "00ff" + "00" * 30,
            128,
            "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca"
            "13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096",
        ),
    ],
    ids=["A.1 #1", "A.1 #2", "A.1 #3", "A.1 #4"],
)
def test_chacha20_of_rfc_8439(secret: str, start: int, expected: str) -> None:
    """Section A.1: counters 0, 1, 1 and 2 under the nonce zero, which is ours."""
    assert key_stream(Suite.CHACHA, bytes.fromhex(secret), 64, start).hex() == expected


def test_the_layout_of_the_chacha20_nonce_is_that_of_rfc_8439_section_2_4_2() -> None:
    """Four bytes of counter, lowest first, then the nonce: what `_stream` relies on to start anywhere."""
    nonce = (1).to_bytes(4, "little") + bytes.fromhex("000000000000004a00000000")
    cipher = Cipher(algorithms.ChaCha20(bytes(range(32)), nonce), mode=None).encryptor()
    assert cipher.update(b"Ladies and Gentl").hex() == "6e2e359a2568f98041ba0728dd0d6981"


@pytest.fixture(params=[modes.CTR, CFB], ids=["CTR", "CFB"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to a stream of AES, whatever the processor."""
    monkeypatch.setattr(masks, "fastest_mode", lambda: request.param)


def test_aes_ctr_of_sp_800_38a(monkeypatch: pytest.MonkeyPatch) -> None:
    """F.5.1: its counter blocks encrypted one by one, as we can start at any of them."""
    secret = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    expected = bytes.fromhex(
        "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"
        "5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
    )
    counter = int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16)
    monkeypatch.setattr(masks, "fastest_mode", lambda: modes.CTR)
    made = masks._stream(Suite.AES, secret, 16 * counter).update(plain)
    assert made == expected


@pytest.mark.usefixtures("either")
def test_aes_of_fips_197_is_the_first_block_of_a_stream() -> None:
    """AES-128 of the zero block under the zero key (GCM test case 1 calls it H), xor 1."""
    assert key_stream(Suite.AES, bytes(16), 16).hex() == "66e94bd4ef8a2c3b884cfa59ca342b2f"


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("start", [0, 64, 16 * (2**16 - 4), LIMIT - 3 * 64])
def test_a_block_of_aes_is_that_of_its_number_xor_the_next_one(start: int) -> None:
    """Each block by itself, also where the number takes another byte, and at the very end."""
    secret, first = key(Suite.AES), start // 16
    expected = b""
    for number in range(first, first + 12):
        block = Cipher(algorithms.AES(secret), modes.ECB()).encryptor().update(number.to_bytes(16, "big"))
        expected += bytes(a ^ b for a, b in zip(block, (number + 1).to_bytes(16, "big"), strict=True))
    assert key_stream(Suite.AES, secret, 12 * 16, start) == expected


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("dtype", WIDTHS)
def test_lanes_are_the_little_endian_words_of_the_stream(suite: Suite, dtype: Any) -> None:
    vector = vector_of(dtype, 50)
    expected = added(vector, key_stream(suite, key(suite), vector.nbytes))
    add_masks([vector], [Mask(key(suite), 1)], suite)
    assert vector.tolist() == expected


def added(vector: Lanes, stream: bytes) -> list[int]:
    """By Python's integers."""
    width = vector.itemsize
    words = [stream[i : i + width] for i in range(0, len(stream), width)]
    both = zip(vector.tolist(), words, strict=True)
    return [(lane + int.from_bytes(word, "little")) % 256**width for lane, word in both]


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("sizes", [(6, 1000), (8, 0), (0, 7), (1, 1, 1), (9, CHUNK + 5, 3), (6, 2 * CHUNK)])
def test_parts_lie_in_the_stream_one_after_another(
    suite: Suite, sizes: tuple[int, ...], threads: int
) -> None:
    """Each from a multiple of 64 on, whatever its lanes are, and whoever adds them."""
    lanes: tuple[type[np.unsignedinteger[Any]], ...] = (np.uint64, np.uint8, np.uint16)
    types = itertools.cycle(lanes)
    parts = [vector_of(dtype, size, size) for dtype, size in zip(types, sizes, strict=False)]
    expected, at = [], 0
    for part in parts:
        expected.append(added(part, key_stream(suite, key(suite), part.nbytes, at)))
        at += 64 * -(-part.nbytes // 64)
    add_masks(parts, [Mask(key(suite), 1)], suite, threads=threads)
    assert [part.tolist() for part in parts] == expected


@pytest.mark.parametrize("suite", Suite)
@settings(max_examples=25, deadline=None)
@given(
    width=st.sampled_from(WIDTHS),
    count=st.integers(0, 3000) | st.just(CHUNK // 2 + 37),
    signs=st.lists(st.sampled_from([-1, 1]), max_size=5),
    threads=st.integers(1, 3),
)
def test_what_is_added_is_taken_away_again(
    suite: Suite, width: Any, count: int, signs: list[int], threads: int
) -> None:
    before = vector_of(width, count)
    after = before.copy()
    there = [Mask(key(suite, i), sign) for i, sign in enumerate(signs)]
    add_masks([after], there, suite, threads=threads)
    if len(set(signs)) == 1 and count >= 100:
        assert (after != before).any()
    add_masks([after], [Mask(m.key, -m.sign) for m in reversed(there)], suite)
    assert np.array_equal(before, after)


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("dtype", WIDTHS)
def test_a_slice_is_masked_as_it_would_be_in_the_whole(suite: Suite, dtype: Any) -> None:
    """From any multiple of 64 bytes on, across chunks."""
    whole = vector_of(dtype, 2 * CHUNK // np.dtype(dtype).itemsize + 11)
    parts = whole.copy()
    there = [Mask(key(suite, i), 1 - 2 * (i % 2)) for i in range(3)]
    add_masks([whole], there, suite)
    per = 64 // np.dtype(dtype).itemsize
    cuts = [0, per, 7 * per, CHUNK // 64 * per + per, len(parts)]
    for low, high in itertools.pairwise(cuts):
        masks._add(Slice(low // per * 64, [parts[low:high]]), there, suite)
    assert np.array_equal(whole, parts)


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("extra", [-3, 0, 5])
def test_threads_make_no_difference(suite: Suite, threads: int, extra: int) -> None:
    alone = vector_of(np.uint16, 4 * CHUNK // 2 + extra)
    shared = alone.copy()
    there = [Mask(key(suite, i), 1) for i in range(2)]
    add_masks([alone], there, suite)
    add_masks([shared], there, suite, threads=threads)
    assert np.array_equal(alone, shared)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [CHUNK - 8, CHUNK, 3 * CHUNK + 40])
def test_a_long_stream_is_that_of_ctr_by_either_cipher(size: int, threads: int) -> None:
    """CTR of the numbers from 1 on, in one go."""
    text = b"".join(number.to_bytes(16, "big") for number in range(1, size // 16 + 2))[:size]
    expected, found = np.zeros(size // 8, np.uint64), np.zeros(size // 8, np.uint64)
    for number, combine in ((0, np.add), (1, np.subtract)):
        made = Cipher(algorithms.AES(key(Suite.AES, number)), modes.CTR(bytes(16))).encryptor()
        combine(expected, np.frombuffer(made.update(text), "<u8"), out=expected)
    there = [Mask(key(Suite.AES, number), 1 - 2 * number) for number in (0, 1)]
    add_masks([found], there, Suite.AES, threads=threads)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize(
    ("found", "version", "mode"),
    [
        (["AVX2", "AVX512_ICL"], 0x30600000, CFB),
        (["AVX2", "AVX512_ICL"], 0x40000030, CFB),
        (["AVX2", "AVX512_ICL"], 0x30500040, modes.CTR),
        (["AVX2"], 0x40000030, modes.CTR),
    ],
)
def test_cfb_is_taken_where_openssl_and_processor_have_vaes(
    monkeypatch: pytest.MonkeyPatch, found: list[str], version: int, mode: object, dropped: bool
) -> None:
    """And where `cryptography` still has it."""
    config = {"SIMD Extensions": {"found": found}}
    monkeypatch.setattr(np, "show_config", lambda mode: config)
    where = "fedkit.secagg.primitives.masks.backend.openssl_version_number"
    monkeypatch.setattr(where, lambda: version)
    if dropped:
        monkeypatch.setitem(sys.modules, "cryptography.hazmat.decrepit.ciphers.modes", None)
    assert masks.fastest_mode.__wrapped__() is (modes.CTR if dropped else mode)


def test_threads_share_all_bytes_and_small_vectors_stay_whole() -> None:
    assert list(masks._cuts(CHUNK, 8)) == [(0, CHUNK)]
    assert list(masks._cuts(0, 2)) == [(0, 0)]
    for size in (2 * CHUNK + 1, 5 * CHUNK + 63, 9 * CHUNK):
        cuts = list(masks._cuts(size, 3))
        assert cuts[0][0] == 0
        assert cuts[-1][1] == size
        assert all(a[1] == b[0] and b[0] % 64 == 0 for a, b in itertools.pairwise(cuts))
        assert 1 < len(cuts) <= 3


def test_more_masks_than_are_open_at_once_all_count() -> None:
    many, twice = np.zeros(8, np.uint32), np.zeros(8, np.uint32)
    there = [Mask(key(Suite.AES, i), 1) for i in range(2 * GROUP + 3)]
    add_masks([many], iter(there), Suite.AES)
    for mask in there:
        add_masks([twice], [mask], Suite.AES)
    assert np.array_equal(many, twice)


def test_an_error_in_a_thread_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any slice, not of the first alone."""

    def fails(there: Slice, *_: object) -> None:
        if there.start:
            raise MemoryError("for a test")

    monkeypatch.setattr(masks, "_add", fails)
    with pytest.raises(MemoryError, match="for a test"):
        add_masks([np.zeros(4 * CHUNK, np.uint8)], [Mask(bytes(16), 1)], Suite.AES, threads=2)


def test_no_stream_is_asked_for_more_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """All parts together, and what lies between them."""
    monkeypatch.setattr(masks, "LIMIT", 128)
    there, first = [Mask(bytes(16), 1)], np.zeros(1, np.uint8)
    with pytest.raises(ValueError, match="ends after 128 bytes"):
        add_masks([first, np.zeros(65, np.uint8)], there, Suite.AES)
    assert not first.any()
    add_masks([first, np.zeros(64, np.uint8)], there, Suite.AES)
    assert first.any()


def test_a_masked_zero_vector_is_uniform() -> None:
    """Chi-square over bytes: 255 degrees of freedom, 6 standard deviations; a plain vector fails it."""

    def statistic(data: bytes) -> float:
        counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
        return float(((counts - counts.mean()) ** 2 / counts.mean()).sum())

    far = 255 + 6 * (2 * 255) ** 0.5
    for suite in Suite:
        assert statistic(key_stream(suite, key(suite), 1 << 18)) < far
    assert statistic(bytes(1 << 18)) > far


@pytest.mark.parametrize("number", range(4))
def test_streams_of_different_keys_are_not_correlated(number: int) -> None:
    a, b = (
        np.frombuffer(key_stream(Suite.AES, key(Suite.AES, 2 * number + i), 1 << 16), "<i2") for i in (0, 1)
    )
    assert abs(np.corrcoef(a, b)[0, 1]) < 6 / len(a) ** 0.5


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(8, np.int32),
        np.zeros(8, np.float32),
        np.zeros(8, ">u4"),
        np.zeros((2, 4), np.uint32),
        np.zeros(16, np.uint32)[::2],
        np.frombuffer(bytes(32), np.uint32),
    ],
    ids=["signed", "float", "big-endian", "two axes", "strided", "read-only"],
)
def test_vectors_that_cannot_be_masked(vector: Any) -> None:
    with pytest.raises(ValueError, match="a masked vector"):
        add_masks([np.zeros(1, np.uint64), vector], [], Suite.AES)


def test_wrong_sizes_threads_keys_and_signs() -> None:
    vector = np.zeros(64, np.uint8)
    masks._check_end(LIMIT)
    with pytest.raises(ValueError, match="ends after"):
        masks._check_end(LIMIT + 1)
    with pytest.raises(ValueError, match="nothing"):
        add_masks([], [], Suite.AES)
    with pytest.raises(ValueError, match="thread"):
        add_masks([vector], [], Suite.AES, threads=0)
    with pytest.raises(ValueError, match="32 bytes here, not 16"):
        add_masks([vector], [Mask(bytes(16), 1)], Suite.CHACHA)
    with pytest.raises(ValueError, match="sign"):
        Mask(bytes(16), 0)


def test_a_mask_does_not_print_its_key() -> None:
    secret = b"sixteen letters!"
    assert "letters" not in repr(Mask(secret, 1))
