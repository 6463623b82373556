"""What the server and a client of a secure session say to each other.

FromServer and FromClient carry one stage message each as their body: a frame (see `frames`) of the kind
that stands with each class below, little-endian. `from_bytes` takes what the session knows (how many
clients, neighbours, lanes) and raises WireError for anything `to_bytes` would not have made of it.

    advertise   Opening  -> Advert
    share       Roster   -> Boxes
    mask        Inbox    -> Masked
    agree       Survivors -> Agreed
    unmask      Quorum -> Opened         with an honest server: Survivors -> Opened, as nothing was agreed

Those from Masked on are in `closing`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from typing import ClassVar

from fedkit.errors import WireError
from fedkit.messages import ClientId, Key
from fedkit.secagg.frames import Flags, Reader, client_bytes, exactly, frame, packed, sized
from fedkit.secagg.primitives.boxes import TAG_BYTES
from fedkit.secagg.primitives.digests import DIGEST_BYTES
from fedkit.secagg.primitives.keys import KEY_BYTES
from fedkit.secagg.primitives.signatures import SIGNATURE_BYTES
from fedkit.secagg.primitives.suite import SECRET_BYTES

HEADER_LIMIT = 1 << 17
ADVERT_LIMIT = 1 << 10
PAIR_BYTES = 2 * SECRET_BYTES  # a share of the masking secret, then one of the self-mask
BOX_BYTES = PAIR_BYTES + TAG_BYTES


class Stage(StrEnum):
    """The stages of a session, in their order; with an honest server `agree` is left out."""

    advertise = "advertise"
    share = "share"
    mask = "mask"
    agree = "agree"
    unmask = "unmask"


@dataclass(frozen=True, slots=True)
class FromServer:
    """A message to one client; key.stage says which. Only `fedkit.secagg` reads the body."""

    key: Key
    body: bytes


@dataclass(frozen=True, slots=True)
class FromClient:
    """A client's answer to the message of the same key."""

    key: Key
    body: bytes


@dataclass(frozen=True, slots=True)
class Opening:
    """Kind 1: u32 length and the header; the server's signature of it, 64 bytes or none."""

    header: bytes
    signature: bytes
    kind: ClassVar[int] = 1

    def to_bytes(self) -> bytes:
        return frame(self.kind, sized(self.header, 4), _signature(self.signature))

    @classmethod
    def from_bytes(cls, data: bytes) -> Opening:
        reader = Reader(data, cls.kind)
        header = reader.sized(4, HEADER_LIMIT)
        return cls(header, _signature(reader.take(reader.left)))


@dataclass(frozen=True, slots=True)
class Certificate:
    """The CA's word that `public` (Ed25519) is the key of `client`."""

    client: ClientId
    public: bytes
    signature: bytes


@dataclass(frozen=True)
class Advert:
    """Kind 2: u8 length and id; keys mask and box (X25519), commitment to b, public (Ed25519), 32 bytes
    each; u8 length and voucher (the CA's signature, 64 bytes or none); signature, 64 bytes."""

    client: ClientId
    mask: bytes
    box: bytes
    commitment: bytes
    public: bytes
    voucher: bytes
    signature: bytes
    kind: ClassVar[int] = 2

    @cached_property
    def claims(self) -> bytes:
        """What is signed."""
        fixed = exactly((self.mask, self.box, self.commitment, self.public), KEY_BYTES, "a key")
        return client_bytes(self.client) + fixed + sized(_signature(self.voucher), 1)

    def to_bytes(self) -> bytes:
        return frame(self.kind, self.claims, exactly((self.signature,), SIGNATURE_BYTES, "a signature"))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the frame: how a roster names this advert."""
        return sha256(self.to_bytes()).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Advert:
        reader = Reader(data, cls.kind)
        client = reader.client()
        mask, box, commitment, public = reader.blocks(4, KEY_BYTES)
        voucher = _signature(reader.sized(1, SIGNATURE_BYTES))
        made = cls(client, mask, box, commitment, public, voucher, reader.take(SIGNATURE_BYTES))
        reader.end()
        return made


@dataclass(frozen=True, slots=True)
class Roster:
    """Kind 3: u16 n; u8 length and id of each client; SHA-256 of each advert, 32 bytes; u16 k, then u16
    length and advert of each neighbour. Both in the order of ids."""

    clients: tuple[ClientId, ...]
    digests: tuple[bytes, ...]
    adverts: tuple[Advert, ...]
    kind: ClassVar[int] = 3

    def to_bytes(self) -> bytes:
        return self.join(
            self.head(self.clients, self.digests), (sized(a.to_bytes(), 2) for a in self.adverts)
        )

    @staticmethod
    def head(clients: tuple[ClientId, ...], digests: tuple[bytes, ...]) -> bytes:
        """The part that is the same for all."""
        if len(clients) != len(digests) or len(clients) >= 1 << 16:
            raise WireError(f"a roster of {len(clients)} clients and {len(digests)} adverts")
        names = b"".join(client_bytes(client) for client in clients)
        return len(clients).to_bytes(2, "little") + names + exactly(digests, DIGEST_BYTES, "a hash")

    @classmethod
    def join(cls, head: bytes, adverts: Iterable[bytes]) -> bytes:
        """The frame of one client: the head and the adverts of its neighbours, each after its length."""
        parts = list(adverts)
        return frame(cls.kind, head, len(parts).to_bytes(2, "little"), *parts)

    @classmethod
    def from_bytes(cls, data: bytes, most: int) -> Roster:
        """most: clients that were invited."""
        reader = Reader(data, cls.kind)
        n = reader.number(2)
        if n > most:
            raise WireError(f"a roster of {n} clients where {most} were invited")
        clients = reader.clients(n)
        digests = reader.blocks(n, DIGEST_BYTES)
        k = reader.number(2)
        if k >= max(n, 1):
            raise WireError(f"{k} neighbours among {n} clients")
        adverts = tuple(Advert.from_bytes(reader.sized(2, ADVERT_LIMIT)) for _ in range(k))
        reader.end()
        return cls(clients, digests, adverts)


@dataclass(frozen=True, slots=True)
class Boxes:
    """Kind 4: a box of 80 bytes for each neighbour, in the order of ids; tag, 16 bytes."""

    boxes: tuple[bytes, ...]
    tag: bytes
    kind: ClassVar[int] = 4

    @property
    def claims(self) -> bytes:
        """What the tag authenticates."""
        return exactly(self.boxes, BOX_BYTES, "a box")

    def to_bytes(self) -> bytes:
        return frame(self.kind, self.claims, exactly((self.tag,), TAG_BYTES, "a tag"))

    @classmethod
    def from_bytes(cls, data: bytes, neighbours: int) -> Boxes:
        reader = Reader(data, cls.kind)
        made = cls(reader.blocks(neighbours, BOX_BYTES), reader.take(TAG_BYTES))
        reader.end()
        return made


@dataclass(frozen=True, slots=True)
class Inbox:
    """Kind 5: who shared, one bit for each client of the roster; then boxes, 80 bytes each.

    A client takes one box for each of its neighbours that shared, in the order of ids.
    """

    sharers: Flags
    boxes: tuple[bytes, ...]
    kind: ClassVar[int] = 5

    def to_bytes(self) -> bytes:
        return self.join(self.sharers, exactly(self.boxes, BOX_BYTES, "a box"))

    @classmethod
    def join(cls, sharers: Flags, boxes: bytes) -> bytes:
        """The frame of boxes that are joined already."""
        return frame(cls.kind, packed(sharers), boxes)

    @classmethod
    def from_bytes(cls, data: bytes, clients: int, neighbours: int) -> Inbox:
        reader = Reader(data, cls.kind)
        sharers = reader.flags(clients)
        count, rest = divmod(reader.left, BOX_BYTES)
        if rest or count > neighbours:
            raise WireError(f"an inbox of {reader.left} bytes for {neighbours} neighbours")
        return cls(sharers, reader.blocks(count, BOX_BYTES))


def kind_of(body: bytes) -> int:
    """The kind that a frame says it is, 0 where it is too short to say."""
    return body[3] if len(body) > 3 else 0


def _signature(data: bytes) -> bytes:
    if len(data) not in (0, SIGNATURE_BYTES):
        raise WireError(f"a signature of {len(data)} bytes, not {SIGNATURE_BYTES} or none")
    return data
