"""The audit: one row for each change of what is live, in the change's own transaction."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from tidemill.control.records import AuditEntry
from tidemill.foundation.store import Store

TABLES = sa.MetaData()
_audit = sa.Table(
    "audit",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("verb", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)


def write_audit(
    conn: sa.Connection,
    *,
    at: float,
    by: str,
    verb: str,
    subject: str,
    reason: str,
    detail: dict[str, Any],
) -> None:
    """Adds one row on the caller's connection: durable with the change, or not at all."""
    conn.execute(
        _audit.insert().values(
            at=at,
            by=by,
            verb=verb,
            subject=subject,
            reason=reason,
            detail=msgspec.json.encode(detail).decode(),
        )
    )


def read_audit(store: Store, *, subject: str | None = None, limit: int = 100) -> list[AuditEntry]:
    """Returns the newest changes first, of one subject if given."""
    query = sa.select(_audit).order_by(_audit.c.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(_audit.c.subject == subject)
    with store.read(TABLES) as conn:
        rows = conn.execute(query).mappings().all()
    return [
        AuditEntry(**{**row, "detail": msgspec.json.decode(row["detail"], type=dict[str, Any])})
        for row in rows
    ]
