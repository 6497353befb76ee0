"""The records that control gives out."""

from __future__ import annotations

from typing import Any

import msgspec


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Who changed what, when and why; ``at`` is in seconds since the epoch."""

    id: int
    at: float
    by: str
    verb: str
    subject: str
    reason: str
    detail: dict[str, Any]


class RolledBack(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollback changed: the version that went and the one that came back."""

    application: str
    from_version: int
    to_version: int
    table: str | None
    revision: int
