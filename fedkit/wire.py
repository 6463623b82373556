"""Messages as bytes and back: one frame each, described to the byte in docs/wire.md.

The kinds are a closed list, every length is checked before anything is read, and no number in a
frame decides an allocation beyond the bytes that are there. Bad bytes raise WireError, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from fedkit import fields, packing
from fedkit.errors import WireError, shown
from fedkit.fields import Fields
from fedkit.messages import EncodedUpdate, Failure, Key, Task
from fedkit.packing import TABLE_LIMIT, Groups, layout_of
from fedkit.secagg.messages import FromClient, FromServer, Stage
from fedkit.tensors import Layout

Message: TypeAlias = Task | EncodedUpdate | Failure | FromServer | FromClient

MAGIC = b"FK"
VERSION = 1
HEADER_LIMIT = 1 << 14
BODY_LIMIT = 1 << 32

_PREFIX = struct.Struct("<2sBBIIQ")  # magic, version, kind; lengths of header, table and body
_DIGEST = 16
PREFIX = _PREFIX.size
OVERHEAD = PREFIX + _DIGEST

_KINDS: Mapping[type[Message], int] = {Task: 1, EncodedUpdate: 2, Failure: 3, FromServer: 4, FromClient: 5}
_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def encode(message: Message) -> bytes:
    """The frame of `message`; WireError if a field cannot travel. Failure.detail never does."""
    header, table = _header(message), b""
    kind = _KINDS[type(message)]
    if len(header) > HEADER_LIMIT:
        raise WireError(f"the header needs {len(header)} bytes, the limit is {HEADER_LIMIT}")
    _READERS[kind](_object(header))  # what the other side would refuse is refused here
    body = [_bytes(message)]
    if isinstance(message, Task):
        table = packing.table(_layouts(message))
        context = (message.context[name] for name in sorted(message.context))
        body = [part for tensors in (message.model, *context) for part in packing.raw(tensors)]
    prefix = _PREFIX.pack(MAGIC, VERSION, kind, len(header), len(table), sum(map(len, body)))
    parts = [prefix, header, table, *body]
    return b"".join([*parts, _checksum(*parts)])


def size(message: Message) -> int:
    """len(encode(message)), without touching the tensors."""
    length = OVERHEAD + len(_header(message)) + len(_bytes(message))
    if isinstance(message, Task):
        groups = _layouts(message)
        return length + len(packing.table(groups)) + sum(packing.nbytes(layout) for _, layout in groups)
    return length


def frame_length(prefix: bytes, *, body_limit: int = BODY_LIMIT) -> int:
    """Length of the frame that starts with these PREFIX bytes; WireError if it is over a limit.

    For readers of a stream: nothing beyond the prefix need be read before this has passed.
    """
    if len(prefix) < PREFIX:
        raise WireError(f"{len(prefix)} bytes are too few for a frame")
    magic, version, kind, header, table, body = _PREFIX.unpack_from(prefix)
    if magic != MAGIC:
        raise WireError("not a fedkit frame: wrong magic")
    if version != VERSION:
        raise WireError(f"frame has version {version}, this side speaks version {VERSION}")
    if kind not in _READERS:
        raise WireError(f"unknown kind {kind}")
    limits = (("header", header, HEADER_LIMIT), ("table", table, TABLE_LIMIT), ("body", body, body_limit))
    for name, length, limit in limits:
        if length > limit:
            raise WireError(f"{name} of {length} bytes is over the limit of {limit}")
    return int(OVERHEAD + header + table + body)


def decode(data: bytes, *, body_limit: int = BODY_LIMIT, layout: Layout | None = None) -> Message:
    """The message in `data`; WireError on anything that `encode` cannot have made.

    body_limit: most bytes of tensors or payload. layout: what the model of a Task must have.
    """
    if len(data) != (length := frame_length(data[:PREFIX], body_limit=body_limit)):
        raise WireError(f"frame has {len(data)} bytes, its lengths add up to {length}")
    view = memoryview(data)
    if _checksum(view[:-_DIGEST]) != data[-_DIGEST:]:
        raise WireError("checksum does not match")
    kind, header, table = _PREFIX.unpack_from(data)[2:5]
    message = _READERS[kind](_object(data[PREFIX : PREFIX + header]))
    start = PREFIX + header + table
    body = view[start:-_DIGEST]
    if isinstance(message, Task):
        return _with_tensors(message, data[PREFIX + header : start], body, layout)
    if table or (isinstance(message, Failure) and len(body)):
        raise WireError(f"{type(message).__name__} has sections that its kind has not")
    if isinstance(message, EncodedUpdate):
        return replace(message, payload=bytes(body))
    return message if isinstance(message, Failure) else replace(message, body=bytes(body))


def _bytes(message: Message) -> bytes:
    """The body of a message that is not made of tensors."""
    if isinstance(message, EncodedUpdate):
        return message.payload
    return message.body if isinstance(message, FromServer | FromClient) else b""


def _checksum(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _object(data: bytes) -> Fields:
    return fields.mapping(fields.parse(data, "header"), "header")


# The header of each kind


def _header(message: Message) -> bytes:
    content: dict[str, object] = {"key": key_row(message.key)}
    if isinstance(message, EncodedUpdate):
        content["codec"] = message.codec
        content["metrics"] = dict(message.metrics)
        content["weight"] = message.weight
        content["work"] = message.work
    elif isinstance(message, Task):
        content["deadline"] = message.deadline
        content["expires"] = message.expires
        content["seed"] = f"{message.seed:016x}"
        content["session"] = message.session
        content["settings"] = dict(message.settings)
        content["version"] = message.version
        content["work"] = message.work
    elif isinstance(message, Failure):
        content |= {"code": message.code, "exception": message.exception, "subject": message.subject}
    try:
        return _json(content).encode("ascii")
    except (ValueError, TypeError) as error:
        raise WireError(
            f"{type(message).__name__} of client {message.key.client!r} cannot travel: {error}"
        ) from error


def key_row(key: Key) -> list[str | int]:
    """A key as JSON."""
    return [key.job, key.round, key.kind, key.stage, key.attempt, key.client]


def name_of(key: Key) -> str:
    """What the upload for a key is called: 32 hex digits of the SHA-256 of its row, without spaces."""
    return hashlib.sha256(_json(key_row(key)).encode("ascii")).hexdigest()[:32]


def read_key(value: object) -> Key:
    """The key in such a row; WireError if it is none."""
    job, number, kind, stage, attempt, client = fields.items(value, "key", 6)
    if kind not in ("train", "evaluate"):
        raise WireError("key: kind is neither train nor evaluate")
    return Key(
        job=fields.text(job, "key: job"),
        round=fields.integer(number, "key: round"),
        kind="train" if kind == "train" else "evaluate",
        stage=fields.text(stage, "key: stage"),
        attempt=fields.integer(attempt, "key: attempt"),
        client=fields.text(client, "key: client"),
    )


def _read_task(header: Fields) -> Task:
    names = ("deadline", "expires", "key", "seed", "session", "settings", "version", "work")
    fields.exactly(header, *names)
    seed = fields.text(header["seed"], "seed")
    if len(seed) != 16 or set(seed) - set("0123456789abcdef"):
        raise WireError("seed is not 16 hex digits")
    settings = fields.mapping(header["settings"], "settings")
    return Task(
        key=read_key(header["key"]),
        version=fields.integer(header["version"], "version"),
        model={},
        context={},
        settings={fields.text(n, "setting"): fields.scalar(v, f"setting {n}") for n, v in settings.items()},
        seed=int(seed, 16),
        work=_work(header["work"]),
        expires=fields.number(header["expires"], "expires"),
        session=fields.text(header["session"], "session"),
        deadline=fields.number(header["deadline"], "deadline"),
    )


def _work(value: object) -> float:
    return fields.number(value, "work", math.ulp(0.0), 1.0)


def _read_update(header: Fields) -> EncodedUpdate:
    fields.exactly(header, "codec", "key", "metrics", "weight", "work")
    metrics = fields.mapping(header["metrics"], "metrics")
    return EncodedUpdate(
        key=read_key(header["key"]),
        codec=fields.text(header["codec"], "codec"),
        payload=b"",
        weight=fields.number(header["weight"], "weight"),
        metrics={fields.text(n, "metric"): fields.number(v, f"metric {n}") for n, v in metrics.items()},
        work=_work(header["work"]),
    )


def _read_failure(header: Fields) -> Failure:
    fields.exactly(header, "code", "exception", "key", "subject")
    code, exception, subject = (fields.text(header[n], n) for n in ("code", "exception", "subject"))
    return Failure(read_key(header["key"]), code, exception, subject)


def _read_from_server(header: Fields) -> FromServer:
    return FromServer(_session_key(header), b"")


def _read_from_client(header: Fields) -> FromClient:
    return FromClient(_session_key(header), b"")


def _session_key(header: Fields) -> Key:
    fields.exactly(header, "key")
    key = read_key(header["key"])
    if key.stage not in Stage.__members__:
        raise WireError(f"key: stage {shown(key.stage)} is none of a secure session's")
    return key


_READERS: Mapping[int, Callable[[Fields], Message]] = {
    1: _read_task,
    2: _read_update,
    3: _read_failure,
    4: _read_from_server,
    5: _read_from_client,
}


# The tensors of a task


def _layouts(task: Task) -> Groups:
    context = ((name, layout_of(tensors)) for name, tensors in sorted(task.context.items()))
    return (("model", layout_of(task.model)), *context)


def _with_tensors(task: Task, table: bytes, body: memoryview, agreed: Layout | None) -> Task:
    groups = packing.parse_table(table)
    names = [name for name, _ in groups]
    if names[:1] != ["model"] or names[1:] != sorted(set(names[1:])):
        raise WireError("the table is not the model and then the context, sorted, each name once")
    if agreed is not None and groups[0][1] != agreed:
        raise WireError("the model does not have the layout agreed at join")
    model, *context = packing.read([layout for _, layout in groups], body)
    return replace(task, model=model, context=dict(zip(names[1:], context, strict=True)))
