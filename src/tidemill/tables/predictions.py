"""The warehouse: what was predicted beforehand, as Parquet, known by the table that it was for."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tidemill.foundation.errors import Conflict
from tidemill.foundation.home import Home

PREDICTIONS = sa.MetaData()

_part = sa.Table(
    "prediction_part",
    PREDICTIONS,
    sa.Column("table_id", sa.String(16), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("file_key", sa.String(300), nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
)


class PredictionPart(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file of a build: its key in ``files``, and its rows: key columns and outputs."""

    file_key: str
    rows: int


def keep_parts(home: Home, table: str, parts: Sequence[PredictionPart]) -> None:
    """Makes the files of a build known, all or none; doing so twice does it once.

    Args:
        home: the installation.
        table: the id of the table that was built with them.
        parts: in order; their content is in the files.

    Raises:
        Conflict: it is no longer: a table with the same content was removed meanwhile.
    """
    rows = [
        {"table_id": table, "number": number, "file_key": each.file_key, "rows": each.rows}
        for number, each in enumerate(parts)
    ]
    with home.store.write(PREDICTIONS) as conn:
        drop_parts(conn, table)
        if rows:
            conn.execute(_part.insert(), rows)
    # What is named is not removed any more. In a bucket, looking takes long: others may write.
    for each in parts:
        if not home.files.exists(each.file_key):
            with home.store.write(PREDICTIONS) as conn:
                drop_parts(conn, table)
            raise Conflict(
                f"{each.file_key} of table {table} was removed while it was built",
                remedy="Build the table again.",
            )


def drop_parts(conn: Connection, table: str) -> list[str]:
    """Forgets the files of a build; returns their keys, whose content stays in the files.

    Args:
        conn: an open write transaction on ``PREDICTIONS``.
        table: the id of the table that was built with them.
    """
    query = sa.select(_part.c.file_key).where(_part.c.table_id == table)
    found = list(conn.execute(query).scalars())
    conn.execute(_part.delete().where(_part.c.table_id == table))
    return found


def check_parts(home: Home, table: str, count: int) -> None:
    """Does nothing where all files of a table that has just become known are known still.

    Raises:
        Conflict: some are not: a pruning took them for those of a build that was given up.
    """
    if len(list_parts(home, table)) != count:
        raise Conflict(
            f"the files of table {table} were removed while it was built",
            remedy="Build the table again.",
        )


def tables_with_parts(conn: Connection) -> list[str]:
    """Returns the ids of all tables, known or not, that files were kept for."""
    return list(conn.execute(sa.select(_part.c.table_id).distinct()).scalars())


def named_files(conn: Connection) -> set[str]:
    """Returns the keys of all files of all builds."""
    return set(conn.execute(sa.select(_part.c.file_key).distinct()).scalars())


def names_file(conn: Connection, key: str) -> bool:
    """Says whether a build has this file."""
    found = conn.execute(sa.select(_part.c.number).where(_part.c.file_key == key).limit(1))
    return found.first() is not None


def list_parts(home: Home, table: str) -> list[PredictionPart]:
    """Returns the files of a build, in order; none for a table without predictions."""
    query = sa.select(_part.c.file_key, _part.c.rows).where(_part.c.table_id == table)
    with home.store.read(PREDICTIONS) as conn:
        found = conn.execute(query.order_by(_part.c.number)).all()
    return [PredictionPart(file_key=row.file_key, rows=row.rows) for row in found]
