"""The header of a session: all that must be the same for everyone, signed by the server.

Its hash salts every key and is in every signature: clients who were shown different headers have no key
in common, and their vectors add up to noise.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Final, Literal, TypeAlias, get_args

from fedkit.errors import ConfigError, WireError
from fedkit.messages import MOST_ID_BYTES, Kind
from fedkit.secagg.frames import Reader, frame, sized
from fedkit.secagg.parameters import MOST, Mode, Parameters, Policy, by_hand, choose
from fedkit.secagg.primitives.digests import DIGEST_BYTES
from fedkit.secagg.primitives.keys import KEY_BYTES
from fedkit.secagg.primitives.suite import Suite

Identities: TypeAlias = Literal["roster", "ca", "none"]

SID_BYTES: Final = 32
STAGES: Final = 5
WIDTHS: Final = (8, 16, 32, 64)
MOST_WORDS: Final = 1 << 40
MOST_TAIL: Final = 1 << 12
SPEC_LIMIT: Final = 1 << 16
KIND: Final = 11  # of its frame

_KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_IDENTITIES: Final[tuple[Identities, ...]] = get_args(Identities)
_MODES: Final = tuple(Mode)
_POLICY = struct.Struct("<ddBBI")
_DEADLINES = struct.Struct(f"<{STAGES}d")


@dataclass(frozen=True)
class Encoding:
    """What the masked vector is: `words` lanes of `width` bits, and a tail of 64-bit lanes.

    words: 0 where only the tail counts. tail: at least 1; its lane 0 is the constant 1. spec: canonical text
    of the rest (encoder, scale, seeds, bounds ...), which every client compares with its own. ConfigError.
    """

    words: int
    width: int
    tail: int
    spec: str

    def __post_init__(self) -> None:
        if not 0 <= self.words <= MOST_WORDS or not 1 <= self.tail <= MOST_TAIL:
            raise ConfigError(f"a masked vector of {self.words} lanes and a tail of {self.tail}")
        if self.width not in WIDTHS:
            raise ConfigError(f"lanes of {self.width} bits: they have {', '.join(map(str, WIDTHS))}")
        if len(self.spec.encode()) >= SPEC_LIMIT:
            raise ConfigError(f"the description of an encoding is shorter than {SPEC_LIMIT} bytes")

    @property
    def vector_bytes(self) -> int:
        """Of the lanes, without the tail."""
        return self.words * self.width // 8


@dataclass(frozen=True)
class Header:
    """One session. model: SHA-256 of what all clients are given alike. clients: invited, at most.

    explicit: k and t given by hand; None: chosen by the policy for those who advertise. deadlines: one for
    each stage, on the federation's clock. server: the X25519 key of this session that authenticates what
    clients send. ConfigError: a field that no header can have.

    Kind 11: u8 suite, kind, identities; sid 32; model 32; server 32; u8 length and job; u32 round, attempt,
    clients; u64 words; u8 width; u16 tail; u16 length and spec; f64 corrupt, dropout; u8 sigma, mode;
    u32 smallest; u32 k, t (both 0: chosen); f64 deadlines, five of them.
    """

    suite: Suite
    sid: bytes
    job: str
    round: int
    kind: Kind
    attempt: int
    model: bytes
    encoding: Encoding
    policy: Policy
    clients: int
    explicit: tuple[int, int] | None
    deadlines: tuple[float, ...]
    identities: Identities
    server: bytes

    def __post_init__(self) -> None:
        for name, length in (("sid", SID_BYTES), ("model", DIGEST_BYTES), ("server", KEY_BYTES)):
            if len(getattr(self, name)) != length:
                raise ConfigError(f"{name} has {length} bytes, not {len(getattr(self, name))}")
        if not 0 < len(self.job.encode()) <= MOST_ID_BYTES:
            raise ConfigError(f"the name of a job has 1 to {MOST_ID_BYTES} bytes")
        if not (0 <= self.round < 1 << 32 and 0 <= self.attempt < 1 << 32 and 1 <= self.clients <= MOST):
            raise ConfigError(f"round {self.round}, attempt {self.attempt}, {self.clients} clients")
        if self.explicit is not None and not all(1 <= value <= MOST for value in self.explicit):
            raise ConfigError(f"neighbours and threshold given by hand: {self.explicit}")
        if self.kind not in _KINDS or self.identities not in _IDENTITIES:
            raise ConfigError(f"a session of kind {self.kind!r} with identities {self.identities!r}")
        ordered = sorted(self.deadlines) == list(self.deadlines)
        if len(self.deadlines) != STAGES or not ordered or not all(map(math.isfinite, self.deadlines)):
            raise ConfigError(f"a session has {STAGES} finite deadlines, in order: {self.deadlines}")

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the bytes."""
        return sha256(self.to_bytes()).digest()

    @property
    def agrees(self) -> bool:
        """Whether survivors are signed before anything is opened: the server may lie."""
        return self.policy.mode is Mode.LYING_SERVER

    def parameters(self, clients: int) -> Parameters:
        """Graph and threshold for those who advertised. ConfigError: none that keep the policy's secrecy."""
        return by_hand(clients, self.explicit, self.policy) if self.explicit else choose(clients, self.policy)

    def to_bytes(self) -> bytes:
        """The frame that is hashed and signed."""
        codes = bytes((self.suite, _KINDS.index(self.kind), _IDENTITIES.index(self.identities)))
        numbers = (self.round, self.attempt, self.clients)
        k, t = self.explicit or (0, 0)
        return frame(
            KIND,
            codes + self.sid + self.model + self.server + sized(self.job.encode(), 1),
            b"".join(number.to_bytes(4, "little") for number in numbers),
            _encoding_bytes(self.encoding),
            _policy_bytes(self.policy),
            k.to_bytes(4, "little") + t.to_bytes(4, "little"),
            _DEADLINES.pack(*self.deadlines),
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Header:
        """WireError: anything that `to_bytes` does not make."""
        try:
            made = cls._read(Reader(data, KIND))
        except (ConfigError, ValueError, IndexError) as error:
            raise WireError(f"a header that no session has: {error}") from None
        if made.to_bytes() != data:
            raise WireError("a header in a form that this side would not write")
        return made

    @classmethod
    def _read(cls, reader: Reader) -> Header:
        suite, kind, identities = (reader.number(1) for _ in range(3))
        sid, model, server = (reader.take(32) for _ in range(3))
        job = reader.text(1, MOST_ID_BYTES)
        numbers = [reader.number(4) for _ in range(3)]
        encoding, policy = _read_encoding(reader), _read_policy(reader)
        explicit = (reader.number(4), reader.number(4))
        deadlines = _DEADLINES.unpack(reader.take(_DEADLINES.size))
        reader.end()
        return cls(
            *(Suite(suite), sid, job, numbers[0], _KINDS[kind], numbers[1], model, encoding, policy),
            *(
                numbers[2],
                None if explicit == (0, 0) else explicit,
                deadlines,
                _IDENTITIES[identities],
                server,
            ),
        )


def _encoding_bytes(encoding: Encoding) -> bytes:
    fixed = struct.pack("<QBH", encoding.words, encoding.width, encoding.tail)
    return fixed + sized(encoding.spec.encode(), 2)


def _read_encoding(reader: Reader) -> Encoding:
    words, width, tail = reader.number(8), reader.number(1), reader.number(2)
    return Encoding(words, width, tail, reader.text(2, SPEC_LIMIT))


def _policy_bytes(policy: Policy) -> bytes:
    mode = _MODES.index(policy.mode)
    return _POLICY.pack(policy.corrupt, policy.dropout, policy.sigma, mode, policy.smallest)


def _read_policy(reader: Reader) -> Policy:
    corrupt, dropout, sigma, mode, smallest = _POLICY.unpack(reader.take(_POLICY.size))
    return Policy(corrupt, dropout, sigma, _MODES[mode], smallest)
