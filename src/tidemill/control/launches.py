"""Launches: one row for each file that ever came, so that none is lost and none is run twice."""

from __future__ import annotations

from typing import Literal

import msgspec
import sqlalchemy as sa

from tidemill.foundation.store import Store

TABLES = sa.MetaData()
_launch = sa.Table(
    "launch",
    TABLES,
    sa.Column("recipe", sa.String(100), primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("run", sa.String(40), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("began_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
)

Status = Literal["begun", "live", "not blessed", "refused", "failed"]


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A file's launch: ``begun`` until it has ended one way or the other."""

    recipe: str
    sha256: str
    path: str
    status: Status
    run: str
    attempts: int
    message: str
    began_at: float
    ended_at: float | None


def begin(store: Store, *, recipe: str, sha256: str, path: str, run: str, at: float) -> Launch:
    """Begins a file's launch, or returns the one that it had; a begun one counts one more try."""
    where = sa.and_(_launch.c.recipe == recipe, _launch.c.sha256 == sha256)
    with store.write(TABLES) as conn:
        found = conn.execute(sa.select(_launch).where(where)).mappings().one_or_none()
        if found is None:
            conn.execute(
                _launch.insert().values(
                    recipe=recipe,
                    sha256=sha256,
                    path=path,
                    status="begun",
                    run=run,
                    attempts=1,
                    message="",
                    began_at=at,
                )
            )
        elif found["status"] == "begun":
            conn.execute(_launch.update().where(where).values(attempts=found["attempts"] + 1))
        row = conn.execute(sa.select(_launch).where(where)).mappings().one()
    return Launch(**row)


def end(store: Store, launch: Launch, *, status: Status, message: str, at: float) -> Launch:
    """Ends a launch."""
    where = sa.and_(_launch.c.recipe == launch.recipe, _launch.c.sha256 == launch.sha256)
    with store.write(TABLES) as conn:
        conn.execute(
            _launch.update().where(where).values(status=status, message=message, ended_at=at)
        )
    return msgspec.structs.replace(launch, status=status, message=message, ended_at=at)


def list_launches(store: Store, recipe: str | None = None) -> list[Launch]:
    """Returns launches, the newest first."""
    query = sa.select(_launch).order_by(_launch.c.began_at.desc())
    if recipe is not None:
        query = query.where(_launch.c.recipe == recipe)
    with store.read(TABLES) as conn:
        return [Launch(**row) for row in conn.execute(query).mappings()]
