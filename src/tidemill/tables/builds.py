"""What each build of a table came to: its keys by what became of them, and what it took."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from tidemill.foundation.home import Home
from tidemill.foundation.store import Store

BUILDS = sa.MetaData()

_build = sa.Table(
    "table_build",
    BUILDS,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("table_id", sa.String(16), nullable=False, index=True),
    sa.Column("document", sa.Text, nullable=False),
)


class KeyCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the keys, beside those of the table that answers were taken over from.

    Args:
        new: keys that it lacks; all, where nothing was taken over.
        changed: keys whose other inputs changed.
        unchanged: keys whose answers were taken over.
        kept: keys that the source lacks, kept all the same.
        dropped: keys that the source lacks, left out.
    """

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    kept: int = 0
    dropped: int = 0

    @property
    def scored(self) -> int:
        """The keys that were given to the model."""
        return self.new + self.changed


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """One build.

    Args:
        table: the id of what was built.
        keys: what became of them.
        at: when it was done, in seconds since the epoch.
        seconds: that it took.
        cpu_s: seconds of a core that its process used meanwhile.
        resumed: it went on with what one before it had done: it took less than the whole.
        base: the table that answers were taken over from; None if all were made anew.
        part: it is the head of a source only; the whole is to follow.
        features: the id of the features that were stored with it.
        damaged: the table that answers were to be taken over from, and whose files of answers were
            not what was stored, so that all were made anew.
    """

    table: str
    keys: KeyCounts
    at: float = 0.0
    seconds: float = 0.0
    cpu_s: float = 0.0
    resumed: bool = False
    base: str | None = None
    part: bool = False
    features: str | None = None
    damaged: str | None = None


def keep_build(home: Home, build: Build) -> None:
    """Makes a build known; a table that came out of several has several."""
    with home.store.write(BUILDS) as conn:
        document = msgspec.json.encode(build).decode()
        conn.execute(_build.insert().values(table_id=build.table, document=document))


def list_builds(store: Store, table: str) -> list[Build]:
    """Returns the builds of a table, the newest first; none of one older than such records."""
    query = sa.select(_build.c.document).where(_build.c.table_id == table)
    with store.read(BUILDS) as conn:
        found = conn.execute(query.order_by(_build.c.number.desc())).scalars().all()
    return [msgspec.json.decode(each, type=Build) for each in found]
