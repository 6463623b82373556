"""The operator's door: health, metrics and status for who has the token, and nobody else."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fedkit.aggregator import desk as desk_module
from fedkit.aggregator.backup import ADDRESS, TOKEN
from fedkit.aggregator.connections import Places
from fedkit.aggregator.desk import Desk, make_token, opened
from fedkit.aggregator.journal import Journal
from fedkit.aggregator.meters import Meters
from fedkit.aggregator.progress import Progress
from fedkit.aggregator.registry import Roster
from fedkit.errors import ConfigError
from fedkit.secagg.identity import SigningKey, Trust


@pytest.fixture
def asked(site: Any) -> Iterator[httpx.Client]:
    """A client of the open door of a site at which three clients are known, one of which was asked."""
    site.federation.send([site.task("alice", 3), site.task("bob", 3)])
    site.leases.news("alice")
    desk, home = make(site), site.directory.parent
    with opened(desk, "127.0.0.1", 0, home) as url, httpx.Client(base_url=url, timeout=120.0) as client:
        assert (home / ADDRESS).read_text().strip() == url
        yield client
    assert not (home / ADDRESS).exists()


def make(site: Any) -> Desk:
    keys = {name: SigningKey(name.encode().ljust(32)).public for name in ("alice", "bob", "ward 7")}
    registry = Roster(Trust.of_roster(keys, SigningKey(bytes(32)).public))
    return Desk(site.journal, registry, Meters(), Progress(), Places(), site.directory.parent)


def token(site: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {(site.directory.parent / TOKEN).read_text().strip()}"}


@pytest.mark.parametrize(("method", "target"), [("GET", "/metrics"), ("GET", "/status"), ("POST", "/backup")])
def test_without_the_token_nothing_is_told(asked: httpx.Client, method: str, target: str) -> None:
    for told in ("", "Bearer", "Bearer x", "Basic eDp4", "bearer \xff"):
        got = asked.request(method, target, headers=[(b"Authorization", told.encode("latin-1"))])
        assert (got.status_code, got.json()) == (401, {"error": "the token is missing or wrong"})
    assert asked.request(method, target).status_code == 401


def test_the_token_is_its_owners_alone_and_stays(tmp_path: Path) -> None:
    made = make_token(tmp_path)
    assert len(made) >= 32
    assert (tmp_path / TOKEN).stat().st_mode & 0o777 == 0o600
    assert make_token(tmp_path) == made
    (tmp_path / TOKEN).write_text("")
    assert len(make_token(tmp_path)) >= 32, "what a crash left empty is made anew"
    (tmp_path / "other").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        make_token(tmp_path / "other")


def test_off_this_machine_it_is_not_opened(site: Any) -> None:
    with pytest.raises(ConfigError, match="this machine only"), opened(make(site), "0.0.0.0", 0, Path()):
        pass


def test_status_tells_of_clients_and_tasks(site: Any, asked: httpx.Client) -> None:
    told = asked.get("/status", headers=token(site)).json()
    assert told["job"] == site.job.id
    assert told["tasks"] == {
        **{"waiting": 1, "offered": 1, "training": 0},
        **{"uploading": 0, "arrived": 0, "untold": 0},
    }
    rows = {row["client"]: row for row in told["clients"]}
    assert sorted(rows) == ["alice", "bob", "ward 7"]
    assert rows["alice"]["tasks"] == ["round 4 offered"]
    assert rows["bob"] == {
        **{"client": "bob", "seen": None, "protocol": None, "certificate": None},
        **{"revoked": False, "tasks": ["round 4 waiting"], "uplink": None},
    }
    assert told["connections"] == {"devices": 0, "strangers": 0}
    assert told["disk"]["journal"] > 0
    assert told["protocols"] == [1]
    assert json.dumps(told)


def test_metrics_are_those_of_the_page(site: Any, asked: httpx.Client) -> None:
    got = asked.get("/metrics", headers=token(site))
    assert got.headers["content-type"].startswith("text/plain")
    found = {family.name: family for family in text_string_to_metric_families(got.text)}
    page = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()
    told = {name for name in found if name.startswith("fedkit_")}
    assert {name for name in told if f"`{name}" not in page} == set()
    states = {sample.labels["state"]: sample.value for sample in found["fedkit_tasks"].samples}
    assert states["offered"] == states["waiting"] == 1


def test_health_says_whether_the_journal_can_be_written(
    asked: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (asked.get("/healthz").status_code, asked.get("/healthz").json()) == (200, {"ok": True})

    def full(journal: Journal) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "beat", full)
        got = asked.get("/healthz")
        assert got.status_code == 503
        assert "disk is full" in got.json()["reason"]
    with monkeypatch.context() as patch:  # the row of `beat` is there already, and needs no room
        patch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=4096))
        got = asked.get("/healthz")
        told = {"ok": False, "reason": "the disk is full: 4096 bytes are free"}
        assert (got.status_code, got.json()) == (503, told)
    assert asked.get("/healthz").status_code == 200


def test_a_copy_that_fails_says_why(site: Any, asked: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(home: Path, db: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(desk_module, "stage", full)
    got = asked.post("/backup", headers=token(site))
    assert (got.status_code, "No space left" in got.json()["error"]) == (503, True)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def test_pending_enrolments_and_certificates_are_told(site: Any, asked: httpx.Client) -> None:
    with site.journal.transaction() as db:
        db.execute("INSERT INTO enrolments (id, client, request, at) VALUES ('1', 'carol', x'00', 1.0)")
        db.execute("INSERT INTO enrolments VALUES ('2', 'dave', NULL, x'00', 1.0, x'00')")
        db.execute("INSERT INTO members VALUES (1, 's', 'alice', x'00', 1, 1800000000, 1, x'00')")
        db.execute("INSERT INTO members VALUES (2, 'old', 'bob', x'00', 1, 1900000000, 1, x'00')")
        db.execute("INSERT INTO members VALUES (3, 'new', 'bob', x'01', 1, 1800000001, 1, x'00')")
        db.execute("INSERT INTO members VALUES (4, 'sold', 'ward 7', x'02', 1, 1800000002, 1, x'00')")
    site.journal.put(**{"revoked 00": "old,sold", "revoked 01": ""})
    told = asked.get("/status", headers=token(site)).json()
    assert told["enrolments"] == ["carol"]
    assert {row["client"]: (row["certificate"], row["revoked"]) for row in told["clients"]} == {
        **{"alice": (1800000000, False), "bob": (1800000001, False), "ward 7": (1800000002, True)}
    }
