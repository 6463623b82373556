"""What lies in the files of a spool: frames, and before them memory that waits for a verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkit import fields, packing, wire
from fedkit.errors import WireError
from fedkit.messages import Task
from fedkit.tensors import Memory

Streams: TypeAlias = Mapping[str, Memory]
_LENGTH = 8


def read_task(frame: bytes) -> Task:
    """The task in a frame; WireError if it is another message, or brings a model."""
    message = wire.decode(frame)
    if not isinstance(message, Task) or message.model:
        raise WireError("not the frame of a task without its model")
    return message


def joined(packed: bytes, frame: bytes) -> tuple[bytes, bytes, bytes]:
    """Packed memory and a frame, as they are written end to end."""
    return len(packed).to_bytes(_LENGTH, "little"), packed, frame


def parts(data: bytes) -> tuple[bytes, bytes]:
    """Packed memory and the frame that follows."""
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    return data[_LENGTH:end], data[end:]


def pack(memory: Streams) -> bytes:
    """Memory as bytes; none if there is nothing."""
    if not memory:
        return b""
    names = {stream: list(groups) for stream, groups in memory.items()}
    tensors = {f"{stream}/{group}": memory[stream][group] for stream in names for group in names[stream]}
    return packing.pack({"": {"json": as_json(names)}, **tensors})


def unpack(data: bytes) -> Streams:
    """What was packed; WireError."""
    if not data:
        return {}
    state = packing.unpack(data)
    try:
        names = fields.mapping(fields.parse(state[""]["json"].tobytes(), "streams"), "streams")
        return {
            stream: {str(g): state[f"{stream}/{g}"] for g in fields.items(groups, stream)}
            for stream, groups in names.items()
        }
    except KeyError as error:
        raise WireError(f"client memory lacks {error}") from error


def as_json(value: object) -> NDArray[np.uint8]:
    """A value that JSON has, as an array that can be packed."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)
