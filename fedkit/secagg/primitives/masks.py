"""Masks: the key stream of a cipher as unsigned little-endian lanes, added to vectors modulo 2^width.

AES-128: block i is AES(i) xor (i + 1), numbers of 128 bits, the highest byte first: what CTR (SP 800-38A)
from counter 0 makes of the text 1, 2, 3, and so on. CFB takes the same text for a ciphertext and gives the
same, which OpenSSL does twice as fast where it knows VAES. ChaCha20 (RFC 8439): counter and nonce from 0. A
key makes one stream; what is masked together lies in it part after part, each from a multiple of 64 bytes
on. It can be entered anywhere, so threads take slices of the coordinates. Chunks of a part stay in cache
while mask after mask is added to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from fedkit.secagg.primitives.suite import Suite

Lanes: TypeAlias = NDArray[np.unsignedinteger[Any]]
Update: TypeAlias = Callable[[memoryview, memoryview], int]


class Combine(Protocol):
    """np.add or np.subtract."""

    def __call__(self, a: Lanes, b: Lanes, /, *, out: Lanes) -> object: ...


CHUNK = 3 << 16  # vector, text and key stream of a chunk fit a second-level cache of 1 MiB
BLOCK = 16  # of AES
ALIGNMENT = 64  # a block of ChaCha20, four of AES; a line of the cache
LIMIT = (1 << 36) - ALIGNMENT  # bytes of a stream: blocks of AES are numbered in 32 bits
GROUP = 256  # masks whose ciphers are open at once
CFB_SINCE = 0x30600000  # OpenSSL 3.6


@dataclass(frozen=True, slots=True)
class Mask:
    """A key and whether its stream is added (sign 1) or subtracted (sign -1)."""

    key: bytes = field(repr=False)
    sign: int

    def __post_init__(self) -> None:
        if self.sign not in (-1, 1):
            raise ValueError(f"the sign of a mask is 1 or -1, not {self.sign}")


class Slice(NamedTuple):
    """Parts, and the byte of the streams that meets the first of their lanes, a multiple of 64."""

    start: int
    parts: Sequence[Lanes]


def add_masks(parts: Sequence[Lanes], masks: Iterable[Mask], suite: Suite, *, threads: int = 1) -> None:
    """Add masks to `parts` in place, modulo 2^w.

    parts: at least one; uint8, uint16, uint32 or uint64, one axis, contiguous, each with its own w. threads:
    how many share the coordinates of the last part. ValueError: none of these.
    """
    _check(parts)
    first, *others = _slices(parts, threads)
    waiting = iter(masks)
    while group := list(islice(waiting, GROUP)):
        if not others:
            _add(first, group, suite)
            continue
        with ThreadPoolExecutor(len(others)) as pool:
            running = [pool.submit(_add, some, group, suite) for some in others]
            _add(first, group, suite)
            for one in running:
                one.result()


def _check(parts: Sequence[Lanes]) -> None:
    if not parts:
        raise ValueError("nothing to mask")
    for lanes in parts:
        if lanes.dtype not in (np.uint8, np.uint16, np.uint32, np.uint64) or not lanes.dtype.isnative:
            raise ValueError(
                f"a masked vector holds unsigned lanes of 8, 16, 32 or 64 bits, not {lanes.dtype}"
            )
        if lanes.ndim != 1 or not lanes.flags.c_contiguous or not lanes.flags.writeable:
            raise ValueError("a masked vector has one axis, is contiguous and can be written to")
    _check_end(sum(_padded(lanes.nbytes) for lanes in parts))


def _check_end(size: int) -> None:
    if size > LIMIT:
        raise ValueError(f"a key stream ends after {LIMIT} bytes")


def _padded(size: int) -> int:
    return size + -size % ALIGNMENT


def _slices(parts: Sequence[Lanes], threads: int) -> Iterator[Slice]:
    """What each thread does: slices of the last part; the parts before it go with the first."""
    *before, last = parts
    at = sum(_padded(lanes.nbytes) for lanes in before)
    for low, high in _cuts(last.nbytes, threads):
        lanes = last[low // last.itemsize : high // last.itemsize]
        yield Slice(at + low, [lanes]) if low else Slice(0, [*before, lanes])


def _cuts(size: int, threads: int) -> Iterator[tuple[int, int]]:
    """(from, to) in bytes, at least once: a slice for each thread that has at least a chunk to do."""
    if threads < 1:
        raise ValueError(f"at least one thread is needed, not {threads}")
    each = _padded(-(-size // min(threads, max(1, size // CHUNK))))
    for low in range(0, max(size, 1), max(each, 1)):
        yield low, min(low + each, size)


def _add(there: Slice, masks: Sequence[Mask], suite: Suite) -> None:
    """Add what the streams have for a slice."""
    at, streams = there.start, _open(there.start, masks, suite)
    text, made = _aligned(CHUNK), _aligned(CHUNK)
    target = made.data
    for lanes in there.parts:
        little, per = lanes.dtype.newbyteorder("<"), CHUNK // lanes.itemsize
        for low in range(0, lanes.size, per):
            part = lanes[low : low + per]
            size = _padded(part.nbytes)
            if suite is Suite.AES:
                _number(text[:size], at // BLOCK + 1)
            source, fresh = text[:size].data, made[: part.nbytes].view(little)
            for combine, update in streams:
                update(source, target)
                combine(part, fresh, out=part)
            at += size


def _aligned(size: int) -> NDArray[np.uint8]:
    """Zero bytes from the start of a line of the cache on: others take the ciphers a twentieth longer."""
    made = np.zeros(size + ALIGNMENT, np.uint8)
    start = -made.ctypes.data % ALIGNMENT
    return made[start : start + size]


def _number(text: NDArray[np.uint8], first: int) -> None:
    """Write blocks that count from `first` on; their upper 96 bits are zero already."""
    text.view(">u4")[3::4] = np.arange(first, first + len(text) // BLOCK, dtype=np.uint32)


def _open(start: int, masks: Sequence[Mask], suite: Suite) -> list[tuple[Combine, Update]]:
    """Of each mask how it goes in, and what turns text into its stream, from byte `start` on."""
    ways: list[Combine] = [np.add if mask.sign > 0 else np.subtract for mask in masks]
    opened = [_stream(suite, mask.key, start).update_into for mask in masks]
    return list(zip(ways, opened, strict=True))


def _stream(suite: Suite, key: bytes, start: int) -> CipherContext:
    """What turns the text of a stream into it, from byte `start` on, a multiple of 64."""
    if len(key) != suite.mask_bytes:
        raise ValueError(f"the key of a mask has {suite.mask_bytes} bytes here, not {len(key)}")
    if suite is Suite.CHACHA:
        nonce = (start // ALIGNMENT).to_bytes(4, "little") + bytes(12)
        return Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor()
    counter = (start // BLOCK).to_bytes(BLOCK, "big")
    return Cipher(algorithms.AES(key), fastest_mode()(counter)).decryptor()  # in CTR encrypts as well


@cache
def fastest_mode() -> Callable[[bytes], modes.ModeWithNonce | modes.ModeWithInitializationVector]:
    """CTR; CFB where OpenSSL decrypts it with the instructions of VAES, which it has not for CTR, up to 4.0.

    It does since 3.6, where the processor has them; numpy names their group. `cryptography` keeps CFB among
    its decrepit modes, which it may drop.
    """
    config: Any = np.show_config(mode="dicts")
    found = config.get("SIMD Extensions", {}).get("found", ())
    if "AVX512_ICL" not in found or backend.openssl_version_number() < CFB_SINCE:
        return modes.CTR
    try:
        from cryptography.hazmat.decrepit.ciphers.modes import CFB
    except ImportError:
        return modes.CTR
    return CFB
