"""Masks: the key stream of a cipher as unsigned little-endian lanes, added to a vector modulo 2^width.

AES-128-CTR (SP 800-38A) or ChaCha20 (RFC 8439), from counter 0: a key makes one stream. Both can be
entered anywhere, so threads take slices of the coordinates. Chunks of the vector stay in cache while
mask after mask is added to them. Which cipher of OpenSSL gives a stream is a matter of speed alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from fedkit.secagg.primitives.suite import Suite

Lanes: TypeAlias = NDArray[np.unsignedinteger[Any]]

CHUNK = 1 << 18  # vector, zeros and key stream of a chunk fit a second-level cache of 1 MiB
ALIGNMENT = 64  # a block of ChaCha20, four of AES
CHACHA_LIMIT = ALIGNMENT << 32  # its block counter has 32 bits
HEAD = 32  # bytes of a stream that GCM does not give: it starts to encrypt at counter 2
GCM_FROM = 1 << 19  # fewer bytes do not pay for a second cipher
GCM_LIMIT = 1 << 35  # GCM's own is 2^36 - 32
GROUP = 256  # masks whose ciphers are open at once
_ZEROS = memoryview(bytes(CHUNK))


@dataclass(frozen=True, slots=True)
class Mask:
    """A key and whether its stream is added (sign 1) or subtracted (sign -1)."""

    key: bytes = field(repr=False)
    sign: int

    def __post_init__(self) -> None:
        if self.sign not in (-1, 1):
            raise ValueError(f"the sign of a mask is 1 or -1, not {self.sign}")


def add_masks(
    vector: Lanes, masks: Iterable[Mask], suite: Suite, *, start: int = 0, threads: int = 1
) -> None:
    """Add masks to `vector` in place, modulo 2^w.

    vector: uint8, uint16, uint32 or uint64, one axis, contiguous. start: the byte of the streams that meets
    vector[0], a multiple of 64. threads: how many share the coordinates. ValueError: none of these.
    """
    _check(vector, suite, start)
    cuts = list(_cuts(vector.nbytes, threads))
    waiting = iter(masks)
    while group := list(islice(waiting, GROUP)):
        work = partial(_add_to_slice, vector.view(np.uint8), vector.dtype, group, suite, start)
        if len(cuts) == 1:
            work(*cuts[0])
            continue
        with ThreadPoolExecutor(len(cuts) - 1) as pool:
            others = [pool.submit(work, *cut) for cut in cuts[1:]]
            work(*cuts[0])
            for other in others:
                other.result()


def _check(vector: Lanes, suite: Suite, start: int) -> None:
    if vector.dtype not in (np.uint8, np.uint16, np.uint32, np.uint64) or not vector.dtype.isnative:
        raise ValueError(f"a masked vector holds unsigned lanes of 8, 16, 32 or 64 bits, not {vector.dtype}")
    if vector.ndim != 1 or not vector.flags.c_contiguous or not vector.flags.writeable:
        raise ValueError("a masked vector has one axis, is contiguous and can be written to")
    if start < 0 or start % ALIGNMENT:
        raise ValueError(f"a stream is entered at a multiple of {ALIGNMENT} bytes, not at {start}")
    if suite is Suite.CHACHA and start + vector.nbytes > CHACHA_LIMIT:
        raise ValueError(f"a ChaCha20 stream ends after {CHACHA_LIMIT} bytes")


def _cuts(size: int, threads: int) -> Iterator[tuple[int, int]]:
    """(from, to) in bytes, at least once: a slice for each thread that has at least a chunk to do."""
    if threads < 1:
        raise ValueError(f"at least one thread is needed, not {threads}")
    each = -(-size // min(threads, max(1, size // CHUNK)))
    each += -each % ALIGNMENT
    for low in range(0, max(size, 1), max(each, 1)):
        yield low, min(low + each, size)


def _add_to_slice(
    data: NDArray[np.uint8],
    dtype: np.dtype[np.unsignedinteger[Any]],
    masks: list[Mask],
    suite: Suite,
    start: int,
    low: int,
    high: int,
) -> None:
    """Add `masks` to the bytes low..high of `data`, seen as lanes of `dtype`."""
    head = low + HEAD if _takes_gcm(suite, start + low, high - low) else high
    _add_streams(data[low:head], dtype, masks, [_stream(suite, mask.key, start + low) for mask in masks])
    if head < high:
        _add_streams(data[head:high], dtype, masks, [_rest_stream(mask.key) for mask in masks])


def _add_streams(
    data: NDArray[np.uint8],
    dtype: np.dtype[np.unsignedinteger[Any]],
    masks: list[Mask],
    streams: list[CipherContext],
) -> None:
    """Add the next bytes of each mask's stream to `data`."""
    filled = bytearray(min(CHUNK, len(data)) + 15)  # a cipher may ask for the rest of a block of 16
    little = dtype.newbyteorder("<")
    pairs = [(np.add if m.sign > 0 else np.subtract, s) for m, s in zip(masks, streams, strict=True)]
    for at in range(0, len(data), CHUNK):
        part = data[at : at + CHUNK].view(dtype)
        zeros, lanes = _ZEROS[: part.nbytes], np.frombuffer(filled, little, part.size)
        for combine, stream in pairs:
            stream.update_into(zeros, filled)
            combine(part, lanes, out=part)


def _stream(suite: Suite, key: bytes, start: int) -> CipherContext:
    """The key stream of `key` from byte `start` on."""
    if len(key) != suite.mask_bytes:
        raise ValueError(f"the key of a mask has {suite.mask_bytes} bytes here, not {len(key)}")
    if suite is Suite.AES:
        return Cipher(algorithms.AES(key), modes.CTR((start // 16).to_bytes(16, "big"))).encryptor()
    nonce = (start // ALIGNMENT).to_bytes(4, "little") + bytes(12)
    return Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor()


def _takes_gcm(suite: Suite, at: int, size: int) -> bool:
    """Whether all but the head of a stream is had from AES-GCM."""
    return suite is Suite.AES and at == 0 and GCM_FROM <= size <= GCM_LIMIT and gcm_is_faster()


@cache
def gcm_is_faster() -> bool:
    """Whether this processor has the instructions (VAES, VPCLMULQDQ) that OpenSSL uses in GCM, not in CTR.

    With them GCM is a third faster, though it authenticates; without, slower. numpy names the group.
    """
    config: Any = np.show_config(mode="dicts")
    return "AVX512_ICL" in config.get("SIMD Extensions", {}).get("found", ())


def _rest_stream(key: bytes) -> CipherContext:
    """The same stream from byte HEAD on: GCM with the zero nonce counts on from 2 (SP 800-38D, 7.1)."""
    return Cipher(algorithms.AES(key), modes.GCM(bytes(12))).encryptor()
