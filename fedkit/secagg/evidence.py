"""What each client said, to tell a copy from a contradiction; and proof of the contradiction for others.

A client signs its advert and, for its masked vector, a statement: the session, whom it masked with, the
masked tail, the vector's tag. It says each once, so two signed ones of one session that differ are its own
doing, as nobody else can sign. Boxes and shares carry tags alone, which the server could make as well: of
two different ones the server knows, and cannot show it to anybody.

The server takes a vector by its tag and looks at the signature of the statement only where a second one
comes: what was signed wrongly proves nothing then, and the client is caught all the same. Vectors of one tag
are one statement: who has the key can find such vectors, and the first one counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from fedkit import fields
from fedkit.errors import ConfigError, DataError, WireError, shown
from fedkit.messages import ClientId
from fedkit.secagg.blame import Offence
from fedkit.secagg.frames import PROTOCOL, client_bytes, parts_of
from fedkit.secagg.identity import Trust
from fedkit.secagg.messages import Advert, Stage
from fedkit.secagg.primitives.signatures import verify

LIMIT: Final = 1 << 16
FORMAT: Final = "fedkit-evidence/1"
ONCE: Final = (b"advert", b"mask")
"""Purposes of statements that a client signs once in a session."""


class Said(NamedTuple):
    """What tells an answer from another one; its signature, empty where that cannot be shown to others."""

    text: bytes
    signature: bytes = b""


@dataclass(frozen=True)
class Evidence:
    """Two statements of one client. public: its Ed25519 key; voucher: the CA's signature, or empty."""

    client: ClientId
    public: bytes
    voucher: bytes
    first: Said
    second: Said

    def proves(self, trust: Trust) -> bool:
        """Whether the client contradicted itself, for one who has `trust` and nothing else."""
        both = (self.first, self.second)
        voucher = self.voucher if trust.kind == "ca" else b""  # to a roster it makes no difference
        if trust.kind == "none" or not trust.vouches(self.client, self.public, voucher):
            return False
        return _contradict(*both) and all(verify(self.public, *said) for said in both)

    @property
    def purpose(self) -> str:
        """What the statements are about: `advert` or `mask`. WireError: they are none."""
        return parts_of(self.first.text)[1].decode()

    def to_json(self) -> dict[str, object]:
        """As plain data; bytes are hexadecimal."""
        return {
            "format": FORMAT,
            "client": self.client,
            "public": self.public.hex(),
            "voucher": self.voucher.hex(),
            "statements": [[said.text.hex(), said.signature.hex()] for said in (self.first, self.second)],
        }

    @classmethod
    def from_json(cls, data: bytes) -> Evidence:
        """What `to_json` gave, as JSON. WireError: it is none."""
        told = fields.mapping(fields.parse(data, "evidence"), "evidence")
        fields.exactly(told, "format", "client", "public", "voucher", "statements")
        if told["format"] != FORMAT:
            raise WireError(f"format is {shown(told['format'])}; this fedkit reads {FORMAT!r}")
        pairs = [
            fields.items(pair, "statements", 2) for pair in fields.items(told["statements"], "statements", 2)
        ]
        first, second = (Said(_bytes(text, "a statement"), _bytes(by, "a signature")) for text, by in pairs)
        public, voucher = (_bytes(told[name], name) for name in ("public", "voucher"))
        client = fields.text(told["client"], "client")
        client_bytes(client)
        return cls(client, public, voucher, first, second)


def read_evidence(path: Path) -> Evidence:
    """The evidence of a file. DataError: there is no such file; ConfigError: it holds something else."""
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; a run folder has evidence-*.json") from None
    try:
        if len(data) > LIMIT:
            raise WireError(f"more than {LIMIT} bytes")
        return Evidence.from_json(data)
    except WireError as error:
        raise ConfigError(f"{path} is no evidence: {error}") from None


def _bytes(value: object, name: str) -> bytes:
    try:
        return bytes.fromhex(fields.text(value, name))
    except ValueError:
        raise WireError(f"{name} is not hexadecimal") from None


def _contradict(first: Said, second: Said) -> bool:
    """Whether both are of one purpose and one session, and not the same."""
    try:
        one, two = parts_of(first.text), parts_of(second.text)
    except WireError:
        return False
    return len(one) > 3 and one[0] == PROTOCOL and one[1] in ONCE and one[:3] == two[:3] and one != two


class Answers:
    """What the clients of one session said, by stage. trust: who has to be convinced by evidence."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._said: dict[Stage, dict[ClientId, Said]] = {stage: {} for stage in Stage}
        self._caught: dict[ClientId, Stage] = {}
        self._evidence: dict[tuple[ClientId, Stage], Evidence] = {}

    def of(self, stage: Stage) -> Set[ClientId]:
        """Who has answered a stage."""
        return self._said[stage].keys()

    def take(self, stage: Stage, client: ClientId, said: Said) -> None:
        """The first answer of a client."""
        self._said[stage][client] = said

    def repeats(self, stage: Stage, advert: Advert, said: Said) -> bool:
        """Whether this later answer is a copy; a contradiction is noted, and proof of it kept."""
        client, first = advert.client, self._said[stage][advert.client]
        if first.text == said.text:
            return True
        self._caught.setdefault(client, stage)
        found = Evidence(client, advert.public, advert.voucher, first, said)
        if (client, stage) not in self._evidence and found.proves(self._trust):
            self._evidence[client, stage] = found
        return False

    @property
    def caught(self) -> Mapping[ClientId, str]:
        """Who contradicted itself, and where first."""
        return {client: f"two different {stage} messages" for client, stage in self._caught.items()}

    @property
    def offences(self) -> tuple[Offence, ...]:
        """The same, as offences."""
        return tuple(Offence((client,), why) for client, why in self.caught.items())

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Of those contradictions that can be shown to others."""
        return tuple(self._evidence.values())
