"""The store: small facts in transactions, in SQLite (WAL) by default or PostgreSQL by URL.

Rooms declare their tables in a ``MetaData`` of their own and open a transaction with it:

    with store.write(TABLES) as conn:
        conn.execute(versions.insert().values(...))

What several rooms change together (an alias, a deployment, its audit row) they change on one
connection, so that it is seen whole or not at all.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Generic, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url

from tidemill.foundation.errors import (
    Corrupted,
    InvalidInput,
    InvalidSettings,
    NotReady,
    Unavailable,
)
from tidemill.foundation.settings import mask_url

T = TypeVar("T")

SCHEMA_VERSION = 1
"""The layout of the tables; a store written by a newer one is refused."""

_WRITERS = 8403257
"""The advisory lock of PostgreSQL that writers take in turn."""

_UNWRITABLE = ("disk is full", "disk I/O error", "readonly database", "No space left on device")
_DAMAGED = ("file is not a database", "database disk image is malformed")

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
        wait_s: how long a writer waits for its turn.

    Example:
        >>> with Store("sqlite://") as store, store.read() as conn:
        ...     conn.execute(sa.text("select 1")).scalar_one()
        1
    """

    def __init__(self, url: str, *, wait_s: float = 30.0) -> None:
        self._url = url
        self._wait_s = wait_s
        self._engine: Engine | None = None
        self._witness: sa.PoolProxiedConnection | None = None
        self._known: set[int] = set()
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({mask_url(self._url)!r})"

    @contextmanager
    def read(self, *tables: sa.MetaData) -> Iterator[Connection]:
        """Opens a transaction for reading; all that it sees is of one moment.

        Raises:
            Unavailable: the database cannot be reached.
            Corrupted: the database is damaged.
        """
        with self._explained(), self._ready(tables).connect() as conn:
            yield conn

    @contextmanager
    def write(self, *tables: sa.MetaData) -> Iterator[Connection]:
        """Opens a transaction that is durable when the block ends and undone if it raises.

        Writers take turns, in every process: what one reads in its block stays true until it ends.

        Raises:
            NotReady: another writer held the store for longer than ``wait_s``.
            Unavailable: the database cannot be reached.
            Corrupted: the database is damaged.
        """
        with self._explained(), _writing(self._ready(tables)) as conn:
            yield conn

    def stamp(self) -> int | None:
        """Returns what changes with every commit that can be seen; asking costs microseconds.

        None where that cannot be told: for PostgreSQL, in memory, and before anything was read.
        """
        if not self._in_a_file:
            return None
        with self._lock, suppress(sqlite3.Error, sa.exc.SQLAlchemyError):
            if self._engine is None:
                return None
            if self._witness is None:
                # It never writes: SQLite tells a connection of the commits of all others.
                self._witness = self._engine.raw_connection()
            asked = self._witness.cursor()
            asked.execute("PRAGMA data_version")
            return int(asked.fetchall()[0][0])
        return None

    @cached_property
    def _in_a_file(self) -> bool:
        url = make_url(self._url)
        return url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")

    def close(self) -> None:
        """Gives every connection back."""
        with self._lock:
            if self._witness is not None:
                self._witness.close()
                self._witness = None
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None
                self._known.clear()

    def _ready(self, tables: tuple[sa.MetaData, ...]) -> Engine:
        with self._lock:
            if self._engine is None:
                engine = _open(self._url, self._wait_s)
                try:
                    _check_schema(engine)
                except BaseException:
                    engine.dispose()
                    raise
                self._engine = engine
            for metadata in tables:
                if id(metadata) not in self._known:
                    _create(self._engine, metadata)
                    self._known.add(id(metadata))
            return self._engine

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.OperationalError as error:
            reason = str(error.orig)
            if "locked" in reason or "lock timeout" in reason:
                raise NotReady(
                    "the store is locked by another writer", remedy="Retry in a moment."
                ) from error
            if any(words in reason for words in _UNWRITABLE):
                raise Unavailable(
                    f"the store cannot be written: {reason.splitlines()[0]}",
                    remedy=f"Free space on its disk, and see that it is yours to write: {self!r}.",
                ) from error
            if error.statement is None or "unable to open" in reason:
                raise Unavailable(
                    f"the store cannot be reached: {reason.splitlines()[0]}",
                    remedy=f"Start the database, or correct its URL: {self!r}.",
                ) from error
            raise
        except (sa.exc.DataError, UnicodeEncodeError) as error:
            reason = str(getattr(error, "orig", error)).splitlines()[0]
            raise InvalidInput(
                f"the store cannot hold a value: {reason}",
                remedy="Leave out what is no text, such as NUL, and what is too large.",
            ) from error
        except sa.exc.DatabaseError as error:
            if any(words in str(error.orig) for words in _DAMAGED):
                raise Corrupted(
                    f"the store is damaged: {error.orig}",
                    remedy=f"Restore it from a backup: {self!r}.",
                ) from error
            raise


class Remembered(Generic[T]):
    """Something that is read again only once the store may have changed: cheap to ask often.

    Args:
        store: the store.
        tables: what is read from.
        query: reads it.
    """

    def __init__(self, store: Store, tables: sa.MetaData, query: Callable[[Connection], T]) -> None:
        self._store = store
        self._tables = tables
        self._query = query
        self._stamp: int | None = None
        self._found: tuple[T] | None = None

    def read(self) -> T:
        """Returns what the store holds now.

        Raises:
            Unavailable: the database cannot be reached.
            Corrupted: the database is damaged.
        """
        stamp = self._store.stamp()  # before the reading: what is committed meanwhile changes it
        if self._found is None or stamp is None or stamp != self._stamp:
            with self._store.read(self._tables) as conn:
                self._found = (self._query(conn),)
            self._stamp = stamp
        return self._found[0]


def _open(url: str, wait_s: float) -> Engine:
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError as error:
        raise InvalidSettings(
            "the store's URL cannot be read",
            remedy="Use sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE.",
        ) from error
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise InvalidSettings(
            f"the store cannot be kept in {backend!r}",
            remedy="Use sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE.",
        )
    return (_open_sqlite if backend == "sqlite" else _open_postgresql)(parsed, wait_s)


def _open_postgresql(url: sa.URL, wait_s: float) -> Engine:
    try:
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=5
        )
    except ModuleNotFoundError as error:
        raise Unavailable(
            "PostgreSQL needs a driver", remedy="pip install 'tidemill[postgres]'."
        ) from error

    @sa.event.listens_for(engine, "begin")
    def _begin(conn: Connection) -> None:
        if not conn.get_execution_options().get("tidemill_write"):
            conn.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return
        # One writer at a time, as in SQLite: a number read in a block is still true at its end.
        conn.exec_driver_sql(f"SET LOCAL lock_timeout = {round(wait_s * 1000)}")
        conn.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS})")

    return engine


def _open_sqlite(url: sa.URL, wait_s: float) -> Engine:
    memory = url.database in (None, "", ":memory:")
    if not memory:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        url,
        connect_args={"timeout": wait_s, "check_same_thread": False},
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


@contextmanager
def _writing(engine: Engine) -> Iterator[Connection]:
    with engine.execution_options(tidemill_write=True).begin() as conn:
        yield conn


def _create(engine: Engine, metadata: sa.MetaData) -> None:
    with _writing(engine) as conn:
        metadata.create_all(conn)


def _check_schema(engine: Engine) -> None:
    with _writing(engine) as conn:
        _meta.create_all(conn)
        found = conn.execute(sa.select(_schema.c.version)).scalar_one_or_none()
        if found is None:
            conn.execute(_schema.insert().values(id=1, version=SCHEMA_VERSION))
        elif found > SCHEMA_VERSION:
            raise InvalidSettings(
                f"the store has schema {found}, newer than {SCHEMA_VERSION} known here",
                remedy="Upgrade Tidemill on this machine.",
            )
