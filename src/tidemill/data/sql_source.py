"""Databases as sources: one query, read in one transaction, copied row by row to this machine.

The copy is what is read: rows of a query can't be asked for twice and be the same. It is written
in batches of bounded size as the database gives them, from a cursor on its side where it has one,
and hashed: the same rows in the same order are the same content.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url

from tidemill.data.batches import check_names
from tidemill.data.spool import Copy
from tidemill.data.sql_values import declared_types, record_batch
from tidemill.foundation.errors import InvalidInput, NotFound, Unavailable
from tidemill.foundation.settings import mask_url

ROWS = 1 << 14
BYTES = 16 << 20
"""A batch is full once it has so many rows, or so many characters and bytes."""
_FIRST_ROWS = 32
_CONNECT_S = 30
_MAX_QUERY = 1 << 20
_LONG = (str, bytes, bytearray, memoryview, dict, list, tuple)
"""Classes of values that may be of any length."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SqlSource:
    """What a database is asked: a query, or a whole table. No text of it shows a password.

    Args:
        url: SQLAlchemy's, ``postgresql+psycopg://USER@HOST/DATABASE`` or ``sqlite:///PATH``.
        query: one statement that reads rows.
        table: in place of a query: a name, perhaps with that of its schema.

    Example:
        >>> SqlSource(url="postgresql://tide:secret@db/shop", table="orders")
        SqlSource('postgresql://tide@db/shop#orders')
    """

    url: str
    query: str | None = None
    table: str | None = None

    def __repr__(self) -> str:
        return f"SqlSource({self.name!r})"

    @property
    def name(self) -> str:
        """The database without a password, and which query; for people and records."""
        what = self.table or f"query-{_digest(self.query or '')[:12]}"
        return f"{shown_url(self.url)}#{what}"

    def check(self) -> None:
        """Raises InvalidInput where it is not one query of one database."""
        if (self.query is None) == (self.table is None):
            raise InvalidInput(
                f"database {shown_url(self.url)} is to be asked "
                + ("nothing" if self.query is None else "a query and for a table"),
                remedy="Give --query or --table.",
            )
        text = self.query if self.table is None else self.table
        if not (text or "").strip() or len(text or "") > _MAX_QUERY:
            raise InvalidInput(
                f"the query of {self.name} has {len(text or ''):,} characters",
                remedy=f"Give one statement of 1 to {_MAX_QUERY:,}.",
            )


def is_database(text: str) -> bool:
    """Tells whether a text is the URL of a database of a kind that is known.

    Example:
        >>> is_database("sqlite:///a.db"), is_database("s3://lake/a.csv"), is_database("a.csv")
        (True, False, False)
    """
    if "://" not in text:
        return False
    try:
        make_url(text).get_dialect()
    except (sa.exc.ArgumentError, ModuleNotFoundError, ValueError):
        return False
    return True


def shown_url(text: str) -> str:
    """Returns a path or a URL without the secrets in it.

    Example:
        >>> shown_url("postgresql://tide:se/cret@db/shop"), shown_url("a.csv")
        ('postgresql://tide@db/shop', 'a.csv')
    """
    if not is_database(text):
        return mask_url(text)
    return mask_url(_without_password(make_url(text)).render_as_string())


def spool_query(
    source: SqlSource, copy: Copy, *, password: str, told: Callable[[int], None]
) -> str:
    """Writes all rows of a query as Arrow streams, one for each change of its columns' types.

    The transaction reads only, and sees one moment where the database can do so.

    Args:
        source: what is asked.
        copy: where to.
        password: used where the URL has none; "" for what the driver finds itself.
        told: the bytes written so far.

    Returns:
        The sha256 of the statement.

    Raises:
        InvalidInput: the database refuses the statement, or it gives no rows, or bytes.
        NotFound: there is no such file of SQLite.
        Unavailable: the database or its driver can't be had.
    """
    source.check()
    engine = _engine(source, password)
    try:
        with _reading(engine, source) as connection:
            statement = source.query or _whole_table(engine, source.table or "")
            with _explained(source):
                _write(connection, statement, source, copy, told)
    finally:
        engine.dispose()
    return _digest(statement)


def _write(
    connection: Connection,
    statement: str,
    source: SqlSource,
    copy: Copy,
    told: Callable[[int], None],
) -> None:
    with connection.exec_driver_sql(statement) as result:
        if not result.returns_rows or result.cursor is None:
            raise InvalidInput(f"{source.name} asks for no rows", remedy="Give a select.")
        description = result.cursor.description
        names = [str(column[0]) for column in description]
        check_names(source.name, names)
        types = declared_types(connection.dialect.driver, description)
        writer = _Writer(copy)
        for rows in _batches(result.fetchmany):
            writer.write(record_batch(names, types, rows))
            told(copy.bytes)
        if not copy.bytes:
            writer.write(record_batch(names, types, []))
        writer.close()


class _Writer:
    """Writes batches into a copy as Arrow streams: one after another, as their types change."""

    def __init__(self, copy: Copy) -> None:
        self._sink = _Sink(copy)
        self._schema: pa.Schema | None = None
        self._stream: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.schema != self._schema:
            self.close()
            self._stream = pa.ipc.new_stream(pa.PythonFile(self._sink, mode="w"), batch.schema)
            self._schema = batch.schema
        self._stream.write_batch(batch)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


class _Sink:
    """What Arrow writes into; closing a stream does not close the copy."""

    closed = False

    def __init__(self, copy: Copy) -> None:
        self._copy = copy

    def write(self, data: Any) -> int:
        return self._copy.write(bytes(data))

    def tell(self) -> int:
        return self._copy.bytes

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _batches(fetch: Callable[[int], Sequence[Any]]) -> Iterator[list[Any]]:
    """Yields rows in batches that depend on the rows alone, asked for in steps that fit them."""
    rows: list[Any] = []
    size, step = 0, _FIRST_ROWS
    while some := fetch(min(step, ROWS - len(rows))):
        more = sum(_length(value) for row in some for value in row if isinstance(value, _LONG))
        rows += some
        size += more
        step = max(1, min(ROWS, BYTES // 4 * len(some) // max(more, 1), 4 * step))
        if len(rows) >= ROWS or size >= BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _length(value: Any) -> int:
    """Returns about how many characters a value has; a document has those of all that is in it."""
    if isinstance(value, dict):
        return len(value) + sum(_length(each) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple):
        return len(value) + sum(map(_length, value))
    return len(value) if isinstance(value, _LONG) else 1


# --- connecting ------------------------------------------------------------------------------


def _engine(source: SqlSource, password: str) -> Engine:
    url = make_url(source.url)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    given: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        url = _only_reading(url)
    elif url.password is None and password:
        url = url.set(password=password)
    if url.drivername == "postgresql+psycopg" and "connect_timeout" not in url.query:
        given = {"connect_timeout": _CONNECT_S, "application_name": "tidemill"}
    try:
        return sa.create_engine(url, poolclass=sa.pool.NullPool, connect_args=given)
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"{source.name} needs the driver {error.name!r}",
            remedy="pip install 'tidemill[postgres]' for PostgreSQL, else the driver.",
        ) from error


def _only_reading(url: sa.URL) -> sa.URL:
    """Returns the URL of a file of SQLite so that it is opened for reading, and never made."""
    if url.database in (None, "", ":memory:"):
        raise InvalidInput("a database in memory has no rows", remedy="Use sqlite:///PATH.")
    path = Path(str(url.database))
    if str(path).startswith("file:"):
        raise InvalidInput(
            "the URL of a file of SQLite has a URL within it", remedy="Use sqlite:///PATH."
        )
    try:
        found = path.is_file()
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {error.strerror}", remedy="Check its permissions."
        ) from error
    if not found:
        raise NotFound(f"{path} does not exist", remedy="Check the path.")
    return url.set(
        database=f"file:{quote(str(path.absolute()))}", query={"mode": "ro", "uri": "true"}
    )


@contextmanager
def _reading(engine: Engine, source: SqlSource) -> Iterator[Connection]:
    """Opens a transaction that only reads; it is rolled back at the end."""
    options: dict[str, Any] = {"no_parameters": True, "stream_results": True}
    if engine.dialect.name == "postgresql":
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    try:
        connection = engine.connect()
    except sa.exc.DBAPIError as error:
        raise _unreachable(source, error) from error
    with connection:
        if engine.dialect.name not in ("postgresql", "sqlite"):
            with suppress(NotImplementedError):
                driver: Any = connection.connection.dbapi_connection
                if "REPEATABLE READ" in engine.dialect.get_isolation_level_values(driver):
                    options["isolation_level"] = "REPEATABLE READ"
        connection = connection.execution_options(**options)
        if engine.dialect.driver == "pysqlite":
            connection.connection.driver_connection.set_authorizer(_reads)  # type: ignore[union-attr]
        if engine.dialect.driver == "psycopg":
            _keep_texts_of_odd_times(connection.connection.driver_connection)
        yield connection


def _reads(action: int, *_: str | None) -> int:
    """Lets SQLite read, and nothing else: not even attach a file, which would make it."""
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


_READING = {
    *(sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION),
    *(sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_TRANSACTION),
}


def _keep_texts_of_odd_times(connection: Any) -> None:
    """Has PostgreSQL's times that Python has not (infinity, the year 10000) come as their texts."""
    from psycopg import DataError  # noqa: PLC0415 - an extra
    from psycopg.types.datetime import (  # noqa: PLC0415
        DateLoader,
        TimestampLoader,
        TimestamptzLoader,
    )

    def tolerant(loader: Any) -> Any:
        class Tolerant(loader):  # type: ignore[misc]
            def load(self, data: Any) -> Any:
                try:
                    return super().load(data)
                except DataError:
                    return bytes(data).decode()

        return Tolerant

    for name, loader in (
        ("date", DateLoader),
        ("timestamp", TimestampLoader),
        ("timestamptz", TimestamptzLoader),
    ):
        connection.adapters.register_loader(name, tolerant(loader))


def _whole_table(engine: Engine, table: str) -> str:
    parts = table.split(".")
    if len(parts) > 3 or not all(parts):
        raise InvalidInput(f"{table[:200]!r} names no table", remedy="Give NAME or SCHEMA.NAME.")
    quoted = ".".join(engine.dialect.identifier_preparer.quote(part) for part in parts)
    return f"select * from {quoted}"  # noqa: S608 - quoted


# --- errors ----------------------------------------------------------------------------------


@contextmanager
def _explained(source: SqlSource) -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated or _ended(error):
            raise Unavailable(
                f"{source.name} ended the query: {_said(error)}",
                remedy="Nothing was recorded. Try again.",
            ) from error
        raise InvalidInput(
            f"{source.name} refuses the query: {_said(error)}",
            remedy="Give one statement that reads rows.",
        ) from error
    except (sa.exc.SQLAlchemyError, UnicodeError) as error:
        raise InvalidInput(
            f"{source.name} cannot be asked so: {str(error)[:300]}", remedy="Check the query."
        ) from error


def _ended(error: sa.exc.DBAPIError) -> bool:
    """Tells whether the database gave up, rather than that it was asked wrongly."""
    kind = getattr(error.orig, "sqlite_errorname", None)
    if kind is not None:
        return bool(kind.startswith(_SQLITE_GAVE_UP))
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state[:2] in _STATES_GAVE_UP
    return isinstance(error, sa.exc.OperationalError)


_SQLITE_GAVE_UP = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_CANTOPEN")
_STATES_GAVE_UP = ("08", "40", "53", "55", "57", "58")
"""Classes of SQLSTATE: connections, conflicts, resources, states, operators, the system."""


def _unreachable(source: SqlSource, error: sa.exc.DBAPIError) -> Unavailable:
    return Unavailable(
        f"{source.name} cannot be reached: {_said(error)}",
        remedy="Check host, user and password: the driver's own places (PGPASSWORD, ~/.pgpass), "
        "or TIDEMILL_DATA_SQL_PASSWORD.",
    )


def _said(error: sa.exc.DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
    return mask_url(" ".join(line.strip() for line in lines[:3]))[:500]


def _without_password(url: sa.URL) -> sa.URL:
    return sa.URL.create(
        url.drivername,
        username=url.username,
        host=url.host,
        port=url.port,
        database=url.database,
        query=url.query,
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
