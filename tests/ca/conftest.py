"""A CA at a fixed time, and what devices ask of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedkit.ca.authority import Authority, make_authority
from fedkit.ca.invites import Invite
from fedkit.ca.requests import Request, make_request
from fedkit.secagg.identity import SigningKey

SERVER = SigningKey(bytes(range(32)))
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@dataclass
class Office:
    """A CA whose clock is set by hand."""

    directory: Path
    now: datetime = NOW

    def __post_init__(self) -> None:
        make_authority(self.directory, lambda: self.now)
        self.authority = Authority(self.directory, lambda: self.now)

    def again(self) -> Authority:
        self.authority.__exit__(None, None, None)
        self.authority = Authority(self.directory, lambda: self.now)
        return self.authority

    def later(self, days: float) -> None:
        self.now += timedelta(days=days)

    def invite(self, client: str = "ward 7") -> Invite:
        return self.authority.invite(client, "https://h:1", SERVER.public)

    def request(self, invite: Invite, key: SigningKey) -> Request:
        return make_request(invite.client, key, invite.once, invite.expires, invite.sanction)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path / "ca")
    yield made
    made.authority.__exit__(None, None, None)
