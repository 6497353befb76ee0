"""Keys in the store, as digests, and where a server reads them from.

A key is never deleted, only revoked: its name stays the name of whoever brought what it brought.
Revisions grow with every change, so that one number says whether there is any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tidemill.foundation.home import Home
from tidemill.foundation.store import Remembered
from tidemill.serving.keys import KeyRecord, Scope

TABLES = sa.MetaData()

_key = sa.Table(
    "api_key",
    TABLES,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("applications", sa.Text),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
    sa.Column("last_used_at", sa.Double),
    sa.Column("revision", sa.Integer, nullable=False, unique=True),
)


class StoredKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key as it is kept; times are in seconds since the epoch."""

    record: KeyRecord
    created_at: float
    by: str
    revoked_at: float | None = None
    last_used_at: float | None = None


class KeySource(Protocol):
    """Tells a supervisor whose keys count. Methods block; they are called in threads."""

    def revision(self) -> int:
        """Returns a number that grows whenever a key is made or revoked; 0 before the first."""

    def keys(self) -> tuple[KeyRecord, ...]:
        """Returns every key that was not revoked."""

    def used(self, last: Mapping[str, float]) -> None:
        """Keeps when keys were last used, by name."""


class StoreKeys:
    """Reads the keys of an installation."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._revision = Remembered(home.store, TABLES, current_revision)

    def revision(self) -> int:  # noqa: D102 - promised by KeySource
        return self._revision.read()

    def keys(self) -> tuple[KeyRecord, ...]:  # noqa: D102
        with self._home.store.read(TABLES) as conn:
            return tuple(each.record for each in stored_keys(conn) if each.revoked_at is None)

    def used(self, last: Mapping[str, float]) -> None:  # noqa: D102
        with self._home.store.write(TABLES) as conn:
            for name, at in last.items():
                newer = sa.or_(_key.c.last_used_at.is_(None), _key.c.last_used_at < at)
                conn.execute(
                    _key.update().where(_key.c.name == name, newer).values(last_used_at=at)
                )


def current_revision(conn: Connection) -> int:
    """Returns the newest change's number; 0 before the first key."""
    newest: int | None = conn.execute(sa.select(sa.func.max(_key.c.revision))).scalar()
    return newest or 0


def stored_keys(conn: Connection) -> tuple[StoredKey, ...]:
    """Returns every key, revoked ones too, the oldest first."""
    rows = conn.execute(sa.select(_key).order_by(_key.c.created_at, _key.c.name))
    return tuple(
        StoredKey(
            record=KeyRecord(
                name=row.name,
                digest=bytes(row.digest),
                scopes=msgspec.json.decode(row.scopes, type=tuple[Scope, ...]),
                applications=None
                if row.applications is None
                else msgspec.json.decode(row.applications, type=tuple[str, ...]),
                expires_at=row.expires_at,
            ),
            created_at=row.created_at,
            by=row.by,
            revoked_at=row.revoked_at,
            last_used_at=row.last_used_at,
        )
        for row in rows
    )


def insert_key(conn: Connection, record: KeyRecord, *, at: float, by: str) -> None:
    """Adds a key, in the transaction that audits it."""
    applications = record.applications
    conn.execute(
        _key.insert().values(
            name=record.name,
            digest=record.digest,
            scopes=msgspec.json.encode(record.scopes).decode(),
            applications=None
            if applications is None
            else msgspec.json.encode(applications).decode(),
            created_at=at,
            by=by,
            expires_at=record.expires_at,
            revision=current_revision(conn) + 1,
        )
    )


def mark_revoked(conn: Connection, name: str, *, at: float) -> None:
    """Ends a key, in the transaction that audits it."""
    conn.execute(
        _key.update()
        .where(_key.c.name == name)
        .values(revoked_at=at, revision=current_revision(conn) + 1)
    )
