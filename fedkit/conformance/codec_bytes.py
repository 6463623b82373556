"""Laws of codecs on bytes from outside: only WireError, within bounded memory.

Damage is sealed again where a payload is a frame, or its checksum would keep it from the stages.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from fedkit.codecs import frame
from fedkit.codecs.reader import varint
from fedkit.conformance.codec_case import HUGE, LARGE, Case
from fedkit.conformance.laws import Broken, demand
from fedkit.errors import WireError
from fedkit.seeds import Stream, stream
from fedkit.tensors import Layout

_HEAD = 12
"""Bytes at the beginning of a body of which every bit is turned: lengths are there."""


def _other_lengths(case: Case) -> None:
    for delta in (case.delta(1), case.delta(1000), case.single(LARGE)):
        payload = case.codec.encode(delta, delta.layout, case.context())
        cuts = sorted({0, 1, len(payload) // 2, len(payload) - 1} - {len(payload)})
        for bad in [payload[:cut] for cut in cuts] + [payload + b"\0", payload + payload]:
            if _decodes(case, bad, delta.layout):
                raise Broken(f"a payload of {len(payload)} bytes still decodes when it has {len(bad)}")


def _garbage(case: Case) -> None:
    for delta, count, head in (
        (case.delta(1000), 64, 0),
        (case.single(LARGE), 64, _HEAD),
        (case.single(HUGE), 12, 0),
    ):
        layout = delta.layout
        payload = case.codec.encode(delta, layout, case.context())
        for bad in (stream(case.seed, "noise").bytes(len(payload)), b"\xff" * len(payload)):
            _decodes(case, bad, layout)
        for bad in _damaged(case, payload, count, head):
            _decodes(case, bad, layout)


def _damaged(case: Case, payload: bytes, count: int, head: int) -> Iterator[bytes]:
    """The payload with damage, raw and, if it is a frame, inside: there each bit of its head in turn."""
    framed = payload.startswith(frame.MAGIC) and len(payload) >= frame.OVERHEAD
    body = payload[frame.HEAD : -frame.TAIL] if framed else payload
    for number in range(count):
        yield _flipped(payload, stream(case.seed, "flip", number), 1 + number // 8)
    turned = (_turned(body, bit) for bit in range(8 * min(head, len(body))))
    mutated = (_mutated(body, number, stream(case.seed, "mutation", number)) for number in range(count))
    for bad in (*turned, *mutated):
        yield frame.seal(frame.peek(payload), bad) if framed else bad


def _turned(body: bytes, bit: int) -> bytes:
    out = bytearray(body)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def _mutated(body: bytes, number: int, noise: Stream) -> bytes:
    """Flips, cuts, bytes put in, huge numbers and noisy ends in turn."""
    at = int(noise.integers(0, len(body) + 1, 1)[0])
    match number % 5:
        case 0:
            return _flipped(body, noise, 1 + number % 7)
        case 1:
            return body[:at]
        case 2:
            return body[:at] + noise.bytes(1 + number % 9) + body[at:]
        case 3:
            return body[:at] + varint(int(noise.integers(0, 2**50, 1)[0])) + body[at + 4 :]
        case _:
            return body[:at] + noise.bytes(len(body) - at)


def _flipped(payload: bytes, noise: Stream, count: int) -> bytes:
    out = bytearray(payload)
    for place in noise.integers(0, max(1, len(out)), count if out else 0):
        out[place] ^= 1 << place % 8
    return bytes(out)


def _decodes(case: Case, payload: bytes, layout: Layout) -> bool:
    """Whether it decodes; any other error than WireError, and values not finite, break the law."""
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        made = case.codec.decode(payload, layout, case.context())
    except WireError:
        return False
    except (Exception, SystemExit) as error:
        raise Broken(f"bad bytes raise {type(error).__name__} ({error}), not WireError") from error
    finally:
        peak = tracemalloc.get_traced_memory()[1] - before
        if not tracing:
            tracemalloc.stop()
        most = 32 * layout.nbytes + (16 << 20)
        if peak > most:
            raise Broken(f"bad bytes take {peak} bytes of memory, for a delta of {layout.nbytes}")
    demand(bool(np.isfinite(layout.flatten(made)).all()), "bad bytes decode to values that are not finite")
    return True


BYTE_LAWS: Mapping[str, Callable[[Case], None]] = {
    "refuses payloads of another length": _other_lengths,
    "refuses garbage with WireError only": _garbage,
}
