"""Masks: the key stream of a cipher as unsigned little-endian lanes, added to vectors modulo 2^width.

AES-128-CTR (SP 800-38A) or ChaCha20 (RFC 8439), from counter 0: a key makes one stream. Its first SKIP
bytes are not used, since GCM does not give the first 32; what is masked together lies in the rest, part
after part, each from a multiple of 64 bytes on. Both ciphers can be entered anywhere, so threads take
slices of the coordinates. Chunks of a part stay in cache while mask after mask is added to them. Which
cipher of OpenSSL gives a stream is a matter of speed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from fedkit.secagg.primitives.suite import Suite

Lanes: TypeAlias = NDArray[np.unsignedinteger[Any]]
Update: TypeAlias = Callable[[memoryview, memoryview], int]


class Combine(Protocol):
    """np.add or np.subtract."""

    def __call__(self, a: Lanes, b: Lanes, /, *, out: Lanes) -> object: ...


CHUNK = 1 << 18  # vector, zeros and key stream of a chunk fit a second-level cache of 1 MiB
ALIGNMENT = 64  # a block of ChaCha20, four of AES; a line of the cache
SKIP = ALIGNMENT  # bytes of a stream before the first part
CHACHA_LIMIT = ALIGNMENT << 32  # its block counter has 32 bits
GCM_HEAD = 32  # bytes of a stream that GCM does not give: it starts to encrypt at counter 2
GCM_FROM = 1 << 16  # fewer bytes are as fast without
GCM_LIMIT = 1 << 35  # GCM's own is 2^36 - 32
GROUP = 256  # masks whose ciphers are open at once


def _aligned(size: int) -> NDArray[np.uint8]:
    """Zero bytes from the start of a line of the cache on: others take the ciphers a twentieth longer."""
    made = np.zeros(size + ALIGNMENT, np.uint8)
    start = -made.ctypes.data % ALIGNMENT
    return made[start : start + size]


_ZEROS: Final = _aligned(ALIGNMENT + CHUNK).data.toreadonly()


@dataclass(frozen=True, slots=True)
class Mask:
    """A key and whether its stream is added (sign 1) or subtracted (sign -1)."""

    key: bytes = field(repr=False)
    sign: int

    def __post_init__(self) -> None:
        if self.sign not in (-1, 1):
            raise ValueError(f"the sign of a mask is 1 or -1, not {self.sign}")


class Place(NamedTuple):
    """Lanes, and the byte of the streams that meets the first of them, a multiple of 64."""

    start: int
    lanes: Lanes

    @property
    def end(self) -> int:
        return self.start + self.lanes.nbytes


def add_masks(parts: Sequence[Lanes], masks: Iterable[Mask], suite: Suite, *, threads: int = 1) -> None:
    """Add masks to `parts` in place, modulo 2^w.

    parts: at least one; uint8, uint16, uint32 or uint64, one axis, contiguous, each with its own w. threads:
    how many share the coordinates of the last part. ValueError: none of these.
    """
    places = list(_places(parts))
    _check(places, suite)
    slices = list(_slices(places, threads))
    waiting = iter(masks)
    while group := list(islice(waiting, GROUP)):
        if len(slices) == 1:
            _add(slices[0], group, suite)
            continue
        with ThreadPoolExecutor(len(slices) - 1) as pool:
            others = [pool.submit(_add, some, group, suite) for some in slices[1:]]
            _add(slices[0], group, suite)
            for other in others:
                other.result()


def _places(parts: Sequence[Lanes]) -> Iterator[Place]:
    at = SKIP
    for lanes in parts:
        yield Place(at, lanes)
        at += lanes.nbytes + -lanes.nbytes % ALIGNMENT


def _check(places: Sequence[Place], suite: Suite) -> None:
    if not places:
        raise ValueError("nothing to mask")
    for _, lanes in places:
        if lanes.dtype not in (np.uint8, np.uint16, np.uint32, np.uint64) or not lanes.dtype.isnative:
            raise ValueError(
                f"a masked vector holds unsigned lanes of 8, 16, 32 or 64 bits, not {lanes.dtype}"
            )
        if lanes.ndim != 1 or not lanes.flags.c_contiguous or not lanes.flags.writeable:
            raise ValueError("a masked vector has one axis, is contiguous and can be written to")
    if suite is Suite.CHACHA and places[-1].end > CHACHA_LIMIT:
        raise ValueError(f"a ChaCha20 stream ends after {CHACHA_LIMIT} bytes")


def _slices(places: Sequence[Place], threads: int) -> Iterator[list[Place]]:
    """What each thread does: slices of the last part; the parts before it go with the first."""
    *before, (start, lanes) = places
    for low, high in _cuts(lanes.nbytes, threads):
        yield [*before, Place(start + low, lanes[low // lanes.itemsize : high // lanes.itemsize])]
        before = []


def _cuts(size: int, threads: int) -> Iterator[tuple[int, int]]:
    """(from, to) in bytes, at least once: a slice for each thread that has at least a chunk to do."""
    if threads < 1:
        raise ValueError(f"at least one thread is needed, not {threads}")
    each = -(-size // min(threads, max(1, size // CHUNK)))
    each += -each % ALIGNMENT
    for low in range(0, max(size, 1), max(each, 1)):
        yield low, min(low + each, size)


def _add(places: Sequence[Place], masks: Sequence[Mask], suite: Suite) -> None:
    """Add what the streams have for `places`, which follow each other within 64 bytes."""
    at, streams = _open(places, masks, suite)
    filled = _aligned(ALIGNMENT + CHUNK + 15)  # a cipher may ask for the rest of a block of 16
    for start, lanes in places:
        little, per = lanes.dtype.newbyteorder("<"), CHUNK // lanes.itemsize
        for low in range(0, lanes.size, per):
            part = lanes[low : low + per]
            end = start + low * lanes.itemsize + part.nbytes
            gap = end - part.nbytes - at
            zeros, target = _ZEROS[: end - at], filled[ALIGNMENT - gap :].data
            fresh = filled[ALIGNMENT : ALIGNMENT + part.nbytes].view(little)
            for combine, update in streams:
                update(zeros, target)
                combine(part, fresh, out=part)
            at = end


def _open(
    places: Sequence[Place], masks: Sequence[Mask], suite: Suite
) -> tuple[int, list[tuple[Combine, Update]]]:
    """Where the streams are entered; of each mask how it goes in, and what gives its next bytes."""
    start = places[0].start
    if _takes_gcm(suite, start, places[-1].end):
        at, opened = GCM_HEAD, [_gcm_stream(mask.key) for mask in masks]
    else:
        at, opened = start, [_stream(suite, mask.key, start) for mask in masks]
    ways: list[Combine] = [np.add if mask.sign > 0 else np.subtract for mask in masks]
    return at, list(zip(ways, (stream.update_into for stream in opened), strict=True))


def _stream(suite: Suite, key: bytes, start: int) -> CipherContext:
    """The key stream of `key` from byte `start` on, a multiple of 64."""
    if len(key) != suite.mask_bytes:
        raise ValueError(f"the key of a mask has {suite.mask_bytes} bytes here, not {len(key)}")
    if suite is Suite.AES:
        return Cipher(algorithms.AES(key), modes.CTR((start // 16).to_bytes(16, "big"))).encryptor()
    nonce = (start // ALIGNMENT).to_bytes(4, "little") + bytes(12)
    return Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor()


def _takes_gcm(suite: Suite, start: int, end: int) -> bool:
    """Whether these bytes of a stream are had from AES-GCM, which has but one beginning."""
    return suite is Suite.AES and start == SKIP and GCM_FROM <= end <= GCM_LIMIT and gcm_is_faster()


@cache
def gcm_is_faster() -> bool:
    """Whether this processor has the instructions (VAES, VPCLMULQDQ) that OpenSSL uses in GCM, not in CTR.

    With them GCM is a third faster, though it authenticates; without, slower. numpy names the group.
    """
    config: Any = np.show_config(mode="dicts")
    return "AVX512_ICL" in config.get("SIMD Extensions", {}).get("found", ())


def _gcm_stream(key: bytes) -> CipherContext:
    """The same stream from byte GCM_HEAD on: GCM with the zero nonce counts on from 2 (SP 800-38D, 7.1)."""
    if len(key) != Suite.AES.mask_bytes:
        raise ValueError(f"the key of a mask has {Suite.AES.mask_bytes} bytes here, not {len(key)}")
    return Cipher(algorithms.AES(key), modes.GCM(bytes(12))).encryptor()
