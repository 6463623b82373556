"""The server's door: what a client sent, read and checked, before it changes anything."""

from __future__ import annotations

from hashlib import sha256
from typing import TypeAlias

from fedkit.errors import PeerRefused, WireError
from fedkit.messages import ClientId
from fedkit.secagg import peer_rules
from fedkit.secagg.closing import Agreed, Masked, Opened
from fedkit.secagg.evidence import Said
from fedkit.secagg.frames import sized
from fedkit.secagg.identity import Trust
from fedkit.secagg.messages import Advert, Boxes, Stage, kind_of
from fedkit.secagg.outgoing import Board
from fedkit.secagg.primitives.keys import AgreementKey
from fedkit.secagg.session import Link, advert_text, mask_claims, mask_text

Answer: TypeAlias = Advert | Boxes | Masked | Agreed | Opened

STAGES = {
    Advert.kind: Stage.advertise,
    Boxes.kind: Stage.share,
    Masked.kind: Stage.mask,
    Agreed.kind: Stage.agree,
    Opened.kind: Stage.unmask,
}


def stage_of(client: ClientId, body: bytes) -> Stage:
    """The stage that a message belongs to. PeerRefused: to none."""
    stage = STAGES.get(kind_of(body))
    if stage is None:
        raise PeerRefused(client, "malformed", "it is no message of a client")
    return stage


class Intake:
    """Reads what clients send, in the light of what the board knows."""

    def __init__(self, board: Board, trust: Trust, agreement: AgreementKey) -> None:
        self._board, self._trust, self._agreement = board, trust, agreement
        self._used: dict[bytes, ClientId] = {board.header.server: "(the server)"}
        self._links: dict[ClientId, Link] = {}

    def advertised(self, advert: Advert) -> None:
        """Take an advert that was read."""
        self._board.adverts[advert.client] = advert
        self._board.frames[advert.client] = sized(advert.to_bytes(), 2)
        self._used.update(dict.fromkeys(peer_rules.keys_of(advert), advert.client))

    def read(self, stage: Stage, client: ClientId, body: bytes) -> tuple[Answer, Said]:
        """The message, and what it says. PeerRefused: anything is wrong with it."""
        try:
            return READ[stage](self, client, body)
        except WireError as error:
            raise PeerRefused(client, "malformed", str(error)) from error

    def _advert(self, client: ClientId, body: bytes) -> tuple[Answer, Said]:
        advert = Advert.from_bytes(body)
        peer_rules.check_owner(client, advert)
        peer_rules.check_certificate(advert, self._trust)
        peer_rules.check_one_key(advert, self._board.adverts.get(client))
        peer_rules.check_advert_signature(advert, self._board.header)
        peer_rules.check_keys(advert, self._used)
        return advert, Said(advert_text(self._board.header.digest, advert), advert.signature)

    def _boxes(self, client: ClientId, body: bytes) -> tuple[Answer, Said]:
        boxes = Boxes.from_bytes(body, self._board.session.parameters.neighbours)
        peer_rules.check_tag(self._link(client), Stage.share, boxes.claims, boxes.tag)
        return boxes, Said(sha256(body).digest())

    def _masked(self, client: ClientId, body: bytes) -> tuple[Answer, Said]:
        encoding = self._board.header.encoding
        masked = Masked.from_bytes(body, encoding.vector_bytes, encoding.tail)
        claims = mask_claims(self._board.sharers, masked.tail)
        peer_rules.check_tag(self._link(client), Stage.mask, masked.vector, masked.tag, claims)
        return masked, Said(mask_text(self._board.session.context, claims, masked.tag), masked.signature)

    def _agreed(self, client: ClientId, body: bytes) -> tuple[Answer, Said]:
        agreed, sets = Agreed.from_bytes(body), (self._board.sharers, self._board.survivors)
        peer_rules.check_agreed(self._board.session, self._board.adverts[client], sets, agreed)
        return agreed, Said(b"")  # whatever else it signs so, it signs these survivors

    def _opened(self, client: ClientId, body: bytes) -> tuple[Answer, Said]:
        session = self._board.session
        circle = session.circles[session.number[client]]
        opened = Opened.from_bytes(body, len(circle))
        peer_rules.check_tag(self._link(client), Stage.unmask, opened.claims, opened.tag)
        peer_rules.check_owners(client, opened, self._board.sharers[circle])
        return opened, Said(sha256(body).digest())

    def _link(self, client: ClientId) -> Link:
        if client not in self._links:
            box = self._board.adverts[client].box
            self._links[client] = Link.between(self._board.session, client, self._agreement, box)
        return self._links[client]


READ = {
    Stage.advertise: Intake._advert,
    Stage.share: Intake._boxes,
    Stage.mask: Intake._masked,
    Stage.agree: Intake._agreed,
    Stage.unmask: Intake._opened,
}
