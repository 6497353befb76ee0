"""Makes, lists and revokes API keys: each change one transaction with its audit row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from sqlalchemy.engine import Connection

from tidemill.control import audit
from tidemill.foundation.clock import iso
from tidemill.foundation.errors import Conflict, InvalidInput, NotFound
from tidemill.foundation.home import Home
from tidemill.foundation.names import check_name
from tidemill.serving import key_store
from tidemill.serving.keys import SCOPES, KeyRecord, Scope, new_key

METADATA = (key_store.TABLES, audit.TABLES)
MAX_KEYS = 1000
"""Keys that are not revoked, at most: every gateway holds them all."""

MAX_EXPIRES_S = 100 * 366 * 86_400.0

State = Literal["in force", "expired", "revoked"]


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One key as people are shown it: everything but the key; times are ISO 8601.

    ``last_used`` is known to about a minute.
    """

    name: str
    state: State
    scopes: tuple[Scope, ...]
    applications: tuple[str, ...] | None
    created: str
    by: str
    expires: str | None
    revoked: str | None
    last_used: str | None


class MadeKey(msgspec.Struct, frozen=True, kw_only=True):
    """A new key, shown this once: only its SHA-256 is kept."""

    name: str
    key: str
    scopes: tuple[Scope, ...]
    applications: tuple[str, ...] | None
    expires: str | None


def create_key(
    home: Home,
    name: str,
    *,
    scopes: Sequence[str],
    applications: Sequence[str] | None = None,
    expires_s: float | None = None,
    by: str,
    reason: str = "made",
) -> MadeKey:
    """Makes a key of 256 random bits.

    Args:
        home: the installation.
        name: what it is called from now on, in the audit, the metrics and the ledger.
        scopes: what it may do.
        applications: the only ones that it is for; None for any.
        expires_s: how long it counts; None for ever.
        by: who makes it.
        reason: why.

    Raises:
        InvalidInput: the name, a scope, an application or the time is not one.
        Conflict: there is or was a key of that name, or there are too many.
    """
    check_name("key", name)
    now = home.clock.now()
    key, digest = new_key()
    record = KeyRecord(
        name=name,
        digest=digest,
        scopes=_scopes(scopes),
        applications=_applications(applications),
        expires_at=None if expires_s is None else now + _lasting(expires_s),
    )
    with home.store.write(*METADATA) as conn:
        known = key_store.stored_keys(conn)
        if name in {each.record.name for each in known}:
            raise Conflict(
                f"there is or was a key named {name!r}",
                remedy="Choose another name: a key's name stays its own, even revoked.",
            )
        if sum(each.revoked_at is None for each in known) >= MAX_KEYS:
            raise Conflict(
                f"there are {MAX_KEYS} keys already", remedy="Revoke those that nobody uses."
            )
        key_store.insert_key(conn, record, at=now, by=by)
        _audit(conn, record, verb="key-create", by=by, reason=reason, at=now)
    return MadeKey(
        name=name,
        key=key,
        scopes=record.scopes,
        applications=record.applications,
        expires=_iso(record.expires_at),
    )


def list_keys(home: Home) -> tuple[KeyRow, ...]:
    """Returns every key, revoked ones too, the oldest first."""
    now = home.clock.now()
    with home.store.read(key_store.TABLES) as conn:
        return tuple(_row(each, now) for each in key_store.stored_keys(conn))


def revoke_key(home: Home, name: str, *, by: str, reason: str) -> KeyRow:
    """Ends a key; a running server knows it within a second.

    Raises:
        NotFound: there is no such key.
        Conflict: it is revoked already.
    """
    now = home.clock.now()
    with home.store.write(*METADATA) as conn:
        found = {each.record.name: each for each in key_store.stored_keys(conn)}.get(name)
        if found is None:
            raise NotFound(
                f"key {name[:100]!r} does not exist", remedy="tidemill keys list shows them."
            )
        if found.revoked_at is not None:
            raise Conflict(f"key {name!r} was revoked at {iso(found.revoked_at)}")
        key_store.mark_revoked(conn, name, at=now)
        _audit(conn, found.record, verb="key-revoke", by=by, reason=reason, at=now)
    return _row(msgspec.structs.replace(found, revoked_at=now), now)


def _scopes(given: Sequence[str]) -> tuple[Scope, ...]:
    wrong = [each for each in given if each not in SCOPES]
    if wrong or not given:
        raise InvalidInput(
            f"{wrong[0][:100]!r} is not a scope" if wrong else "the key has no scope",
            remedy=f"Scopes are {', '.join(SCOPES)}.",
        )
    return tuple(each for each in SCOPES if each in given)


def _applications(given: Sequence[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not given:
        raise InvalidInput(
            "the key is for no application", remedy="Name some, or leave them out for any."
        )
    return tuple(dict.fromkeys(check_name("application", each) for each in given))


def _lasting(expires_s: float) -> float:
    if not 0.0 < expires_s <= MAX_EXPIRES_S:
        raise InvalidInput(
            f"a key cannot count for {expires_s:g} seconds",
            remedy="Give a positive time of at most 100 years, or none.",
        )
    return expires_s


def _audit(
    conn: Connection, record: KeyRecord, *, verb: str, by: str, reason: str, at: float
) -> None:
    audit.write_audit(
        conn,
        at=at,
        by=by,
        verb=verb,
        subject=f"key {record.name}",
        reason=reason,
        detail={
            "scopes": record.scopes,
            "applications": record.applications,
            "expires_at": record.expires_at,
        },
    )


def _row(each: key_store.StoredKey, now: float) -> KeyRow:
    record = each.record
    state: State = "in force"
    if each.revoked_at is not None:
        state = "revoked"
    elif record.expires_at is not None and now >= record.expires_at:
        state = "expired"
    return KeyRow(
        name=record.name,
        state=state,
        scopes=record.scopes,
        applications=record.applications,
        created=iso(each.created_at),
        by=each.by,
        expires=_iso(record.expires_at),
        revoked=_iso(each.revoked_at),
        last_used=_iso(each.last_used_at),
    )


def _iso(at: float | None) -> str | None:
    return None if at is None else iso(at)
