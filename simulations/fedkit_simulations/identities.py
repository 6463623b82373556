"""Identities of simulated clients and their server: keys that follow from the seed, and a roster of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from fedkit.federation import ServerTrust
from fedkit.job import Job
from fedkit.messages import ClientId, Key, Kind
from fedkit.secagg.identity import Floors, Identity, Random, SigningKey, Trust
from fedkit.secagg.memory import MemorySessions
from fedkit.secureclient import Credentials
from fedkit.seeds import stream


class Identities:
    """Ed25519 keys of everybody, made when first asked for; secrets of sessions are drawn from the seed too.

    So a run that is resumed is the same to the bit. Outside a simulation such keys would be no secret.
    """

    def __init__(self, clients: Sequence[ClientId], seed: int) -> None:
        self._clients, self._seed = clients, seed

    def trust(self) -> ServerTrust:
        """What the server has."""
        return ServerTrust(self._trust, self._server, self._server_random)

    def credentials(self, job: Job) -> Credentials | None:
        """What the clients have: they insist on what the scenario says. None without secure aggregation."""
        if job.secagg is None:
            return None
        remembered: dict[ClientId, MemorySessions] = {}
        return Credentials(
            trust=self._trust,
            floors=Floors(job.secagg.policy, job.secagg.explicit),
            identity=lambda client: Identity(client, self._keys[client]),
            random=self._client_random,
            sessions=lambda client: remembered.setdefault(client, MemorySessions()),
            witnessed=True,
        )

    @cached_property
    def _server(self) -> SigningKey:
        return SigningKey.new(stream(self._seed, "identity", "server").bytes)

    @cached_property
    def _keys(self) -> dict[ClientId, SigningKey]:
        return {c: SigningKey.new(stream(self._seed, "identity", "client", c).bytes) for c in self._clients}

    @cached_property
    def _trust(self) -> Trust:
        return Trust.of_roster({c: key.public for c, key in self._keys.items()}, self._server.public)

    def _server_random(self, kind: Kind, round: int, attempt: int) -> Random:
        return stream(self._seed, "session", "server", kind, round, attempt).bytes

    def _client_random(self, key: Key) -> Random:
        return stream(self._seed, "session", "client", key.kind, key.round, key.attempt, key.client).bytes
