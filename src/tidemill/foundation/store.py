"""The store: small facts in transactions, in SQLite (WAL) by default or PostgreSQL by URL.

Rooms declare their tables in a ``MetaData`` of their own and open a transaction with it:

    with store.write(TABLES) as conn:
        conn.execute(versions.insert().values(...))

What several rooms change together (an alias, a deployment, its audit row) they change on one
connection, so that it is seen whole or not at all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url

from tidemill.foundation.errors import InvalidSettings, NotReady, Unavailable

SCHEMA_VERSION = 1
"""The layout of the tables; a store written by a newer one is refused."""

_meta = sa.MetaData()
_schema = sa.Table(
    "tidemill_schema",
    _meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)


class Store:
    """Transactions over one database; safe to share between threads.

    Nothing is opened before the first transaction; ``close`` gives the connections back.

    Args:
        url: a SQLAlchemy URL, ``sqlite:///PATH`` or ``postgresql+psycopg://…``.

    Example:
        >>> with Store("sqlite://") as store, store.read() as conn:
        ...     conn.execute(sa.text("select 1")).scalar_one()
        1
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: Engine | None = None
        self._known: set[int] = set()
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({make_url(self._url).render_as_string(hide_password=True)!r})"

    @contextmanager
    def read(self, *tables: sa.MetaData) -> Iterator[Connection]:
        """Opens a transaction for reading; what it sees is consistent."""
        with self._ready(tables).connect() as conn:
            yield conn

    @contextmanager
    def write(self, *tables: sa.MetaData) -> Iterator[Connection]:
        """Opens a transaction that is durable when the block ends and undone if it raises.

        Raises:
            NotReady: another process held the store's write lock for longer than 30 seconds.
        """
        engine = self._ready(tables).execution_options(tidemill_write=True)
        try:
            with engine.begin() as conn:
                yield conn
        except sa.exc.OperationalError as error:
            if "locked" in str(error):
                raise NotReady(
                    "the store is locked by another writer", remedy="Retry in a moment."
                ) from error
            raise

    def close(self) -> None:
        """Gives every connection back."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None
                self._known.clear()

    def _ready(self, tables: tuple[sa.MetaData, ...]) -> Engine:
        with self._lock:
            if self._engine is None:
                engine = _open(self._url)
                _check_schema(engine)
                self._engine = engine
            for metadata in tables:
                if id(metadata) not in self._known:
                    _create(self._engine, metadata)
                    self._known.add(id(metadata))
            return self._engine


def _open(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError as error:
        raise InvalidSettings(
            "the store's URL cannot be read",
            remedy="Use sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE.",
        ) from error
    if parsed.get_backend_name() == "sqlite":
        return _open_sqlite(parsed)
    try:
        return sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=5
        )
    except ModuleNotFoundError as error:
        raise Unavailable(
            "PostgreSQL needs a driver", remedy="pip install 'tidemill[postgres]'."
        ) from error


def _open_sqlite(url: sa.URL) -> Engine:
    memory = url.database in (None, "", ":memory:")
    if not memory:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        url,
        connect_args={"timeout": 30, "check_same_thread": False},
        poolclass=sa.pool.StaticPool if memory else sa.pool.QueuePool,
    )

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: object, _: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]

    @sa.event.listens_for(engine, "begin")
    def _begin(conn: Connection) -> None:
        # A writer takes the lock at once: upgrading later fails where another writer was faster.
        writing = conn.get_execution_options().get("tidemill_write")
        conn.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _create(engine: Engine, metadata: sa.MetaData) -> None:
    with engine.execution_options(tidemill_write=True).begin() as conn:
        _one_creator_at_a_time(conn)
        metadata.create_all(conn)


def _check_schema(engine: Engine) -> None:
    with engine.execution_options(tidemill_write=True).begin() as conn:
        _one_creator_at_a_time(conn)
        _meta.create_all(conn)
        found = conn.execute(sa.select(_schema.c.version)).scalar_one_or_none()
        if found is None:
            conn.execute(_schema.insert().values(id=1, version=SCHEMA_VERSION))
        elif found > SCHEMA_VERSION:
            raise InvalidSettings(
                f"the store has schema {found}, newer than {SCHEMA_VERSION} known here",
                remedy="Upgrade Tidemill on this machine.",
            )


def _one_creator_at_a_time(conn: Connection) -> None:
    if conn.dialect.name == "postgresql":
        conn.execute(sa.text("select pg_advisory_xact_lock(8403257)"))
