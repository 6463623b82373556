"""Reading a payload: every length is checked against what the caller knows, before anything is made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import WireError


def varint(value: int) -> bytes:
    """LEB128: 7 bits a byte, low bits first, the high bit set on all but the last.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """Takes a payload apart from left to right."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        if count > len(self._data) - self._at:
            raise WireError(f"payload: {count} bytes wanted, {len(self._data) - self._at} left")
        self._at += count
        return self._data[self._at - count : self._at]

    def varint(self, limit: int) -> int:
        """The next LEB128 number, in its shortest form; WireError above `limit`."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                if byte == 0 and shift:
                    raise WireError("payload: a number has needless zero bytes")
                if value > limit:
                    raise WireError(f"payload: {value} where at most {limit} is possible")
                return value
        raise WireError("payload: a number of more than 9 bytes")

    def uint16(self, count: int) -> NDArray[np.uint16]:
        """The next `count` little-endian 16-bit numbers."""
        return np.frombuffer(self.take(2 * count), "<u2").astype(np.uint16, copy=False)

    def rest(self) -> memoryview:
        """All that is left."""
        return self.take(len(self._data) - self._at)

    def done(self) -> None:
        """WireError if anything is left."""
        if self._at != len(self._data):
            raise WireError(f"payload: {len(self._data) - self._at} bytes too many")
