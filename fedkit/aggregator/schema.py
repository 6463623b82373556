"""The tables of the journal, and how those of an older fedkit become today's.

A migration is SQL that leads from the version before it to its own; PRAGMA user_version says how many a
journal has been through. What was released is never edited: a change of the tables is a further entry.
"""

from __future__ import annotations

import sqlite3

from fedkit.errors import CheckpointError

FIRST = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE clients (client TEXT PRIMARY KEY, seen REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE nonces (
    nonce TEXT, client TEXT, time INTEGER NOT NULL, PRIMARY KEY (nonce, client)) WITHOUT ROWID;
CREATE INDEX nonces_by_time ON nonces (time);
CREATE TABLE releases (
    version INTEGER PRIMARY KEY, model TEXT NOT NULL, bytes INTEGER NOT NULL,
    base INTEGER NOT NULL, frame TEXT, frame_bytes INTEGER NOT NULL);
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, client TEXT NOT NULL,
    version INTEGER NOT NULL, frame TEXT NOT NULL, bytes INTEGER NOT NULL, expires REAL NOT NULL,
    leased REAL, acked REAL, verdict TEXT);
CREATE INDEX tasks_by_client ON tasks (client);
CREATE TABLE uploads (
    task INTEGER PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE, name TEXT NOT NULL UNIQUE,
    bytes INTEGER NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE replies (
    turn INTEGER PRIMARY KEY AUTOINCREMENT, accepted REAL NOT NULL,
    task INTEGER NOT NULL UNIQUE REFERENCES uploads (task) ON DELETE CASCADE);
"""

SESSIONS = "ALTER TABLE tasks ADD COLUMN sort TEXT NOT NULL DEFAULT 'task'"
"""What a row is (leases.Sort): secure sessions have rows of other kinds than tasks."""

PROTOCOL = "ALTER TABLE clients ADD COLUMN version INTEGER"
"""Which version of the protocol a client spoke last."""

ENROLMENT = """
CREATE TABLE enrolments (
    id TEXT PRIMARY KEY, client TEXT NOT NULL, once TEXT UNIQUE, request BLOB NOT NULL, at REAL NOT NULL,
    answer BLOB) WITHOUT ROWID;
CREATE TABLE members (
    turn INTEGER PRIMARY KEY AUTOINCREMENT, serial TEXT NOT NULL UNIQUE, client TEXT NOT NULL,
    key BLOB NOT NULL, begins INTEGER NOT NULL, ends INTEGER NOT NULL, active INTEGER NOT NULL);
"""

TELLINGS = """
CREATE TABLE tellings (
    version INTEGER, told_by INTEGER, frame TEXT NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (version, told_by)) WITHOUT ROWID
"""
"""Differences told by that of another version; frame: their blob, empty where there is no such way."""

ISSUER = "ALTER TABLE members ADD COLUMN ca BLOB NOT NULL DEFAULT x''"
"""Who signed a certificate: it is good while that CA is believed."""

MIGRATIONS: tuple[str, ...] = (FIRST, SESSIONS, PROTOCOL, ENROLMENT, TELLINGS, ISSUER)
"""In order; add to the end."""


def migrate(db: sqlite3.Connection, migrations: tuple[str, ...] = MIGRATIONS) -> None:
    """Bring the tables of `db` to the latest version, each step whole or not at all.

    CheckpointError: they are of a newer fedkit. sqlite3.Error: a step failed, and changed nothing.
    """
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise CheckpointError(
            f"its tables have version {version}, this fedkit knows versions up to {len(migrations)}: it was "
            "written by a newer fedkit, install that one"
        )
    for number, step in enumerate(migrations[version:], version + 1):
        try:
            db.executescript(f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT;")
        except sqlite3.Error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
