"""SQL over rows, where nothing else is in reach: no files, no network, bounded memory and time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from tidemill.data.frames import as_table
from tidemill.foundation.errors import InvalidInput

MEMORY = "1GB"
TIME_S = 60.0
READ_AHEAD = 2
"""Pieces of a file that are read before they are wanted: else as many as memory has room for."""

_GLOB = re.compile(r"[*?\[]")
"""What stands for other paths in DuckDB's: files with such names are read through Arrow."""
_SELECT = re.compile(r"\s*(select|with|from|values)\b", re.IGNORECASE)


class Queries:
    """Answers SQL over a table ``rows``; open it with ``with``.

    Args:
        data: an Arrow table, a Polars or pandas frame, or the paths of Parquet files of the same
            columns, which are read as they are needed.
        memory: how much a query may use.
        time_s: how many seconds one may take.

    Example:
        >>> with Queries(pa.table({"x": [1, 2, 3]})) as queries:
        ...     queries.select("SELECT max(x) AS most FROM rows").to_pylist()
        [{'most': 3}]
    """

    def __init__(self, data: Any, *, memory: str = MEMORY, time_s: float = TIME_S) -> None:
        self._data = data
        self._memory = memory
        self._time_s = time_s
        self._connection: Any = None
        self.schema: pa.Schema = pa.schema([])

    def __enter__(self) -> Self:
        import duckdb  # noqa: PLC0415 - slow to import

        paths = _paths(self._data)
        table = _table(self._data, paths)
        self.schema = table.schema
        check_apart(self.schema.names)
        if not self.schema.names or "" in self.schema.names:
            raise InvalidInput("a column has no name, or there is none", remedy="Name each column.")
        self._connection = duckdb.connect(
            config={
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "python_enable_replacements": "false",
                "memory_limit": self._memory,
                "temp_directory": "",
                "threads": "2",
            }
        )
        try:
            self._open(table, paths)
        except (duckdb.Error, pa.ArrowException) as error:
            self._connection.close()
            first = str(error).partition("\n")[0][:300]
            raise InvalidInput(
                f"the rows cannot be queried: {first}", remedy="Give columns of other types."
            ) from error
        return self

    def _open(self, table: Any, paths: Sequence[str] | None) -> None:
        import duckdb  # noqa: PLC0415 - slow to import

        self._connection.execute("SET TimeZone = 'UTC'")
        with suppress(duckdb.CatalogException):  # before DuckDB 2 nothing is read ahead
            self._connection.execute(f"SET read_ahead_depth = {READ_AHEAD}")
        if paths and not _GLOB.search("".join(paths)):  # no other file is read, and none written
            listed = ", ".join(literal(path) for path in paths)
            self._connection.execute(f"SET allowed_paths = [{listed}]")
            self._connection.execute("SET enable_external_access = false")
            self._connection.execute(f"CREATE VIEW rows AS SELECT * FROM read_parquet([{listed}])")
        else:
            self._connection.execute("SET enable_external_access = false")
            self._connection.register("rows", table)
        self._connection.execute("SET lock_configuration = true")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def select(self, sql: str) -> pa.Table:
        """Returns what one query finds.

        Raises:
            InvalidInput: it isn't one query, it is wrong, or it takes too much memory or time.
        """
        with self._one(sql):
            return self._connection.sql(sql).to_arrow_table()

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """Yields what one query finds, as it is found; no other query may run meanwhile.

        Raises:
            InvalidInput: as for ``select``; the time includes what is done between batches.
        """
        with self._one(sql):
            yield from pa.RecordBatchReader.from_stream(self._connection.sql(sql))

    @contextmanager
    def _one(self, sql: str) -> Iterator[None]:
        import duckdb  # noqa: PLC0415 - slow to import

        timer = Timer(self._time_s, self._connection.interrupt)
        timer.daemon = True
        try:
            statements = self._connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise InvalidInput("it is not one query", remedy="Write one SELECT.")
            timer.start()
            yield
        except duckdb.InterruptException as error:
            raise InvalidInput(
                f"it took more than {self._time_s:g} s", remedy="Ask for less."
            ) from error
        except (duckdb.Error, pa.ArrowException, TypeError, RuntimeError) as error:
            first = str(error).partition("\n")[0][:300]
            raise InvalidInput(f"it cannot be run: {first}", remedy="Correct the SQL.") from error
        finally:
            timer.cancel()


@contextmanager
def spilling(folder: Path, *, memory: str) -> Iterator[Any]:
    """Gives a DuckDB connection that puts into a folder what is more than memory is to hold.

    Rows come in any order unless they are asked for in one.

    Args:
        folder: on a disk with room; what is spilled is gone with the connection.
        memory: as DuckDB has it, "500MB".
    """
    import duckdb  # noqa: PLC0415 - slow to import

    settings: dict[str, Any] = {
        "memory_limit": memory,
        "temp_directory": str(folder / "spill"),
        "preserve_insertion_order": "false",
        "python_enable_replacements": "false",
    }
    with duckdb.connect(config=settings) as connection:
        yield connection


def is_select(sql: str) -> bool:
    """Tells whether it is a whole query rather than a condition."""
    return _SELECT.match(sql) is not None


def quoted(name: str) -> str:
    """Returns a column's name as it stands in SQL.

    Example:
        >>> quoted('a"b')
        '"a""b"'
    """
    return '"' + name.replace('"', '""') + '"'


def literal(value: str | float | bool) -> str:  # noqa: FBT001 - a value
    """Returns a value as it stands in SQL.

    Example:
        >>> literal("it's"), literal(2), literal(0.5)
        ("'it''s'", '2', "'0.5'::DOUBLE")
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"'{value!r}'::DOUBLE"
    return "'" + value.replace("'", "''") + "'"


def check_apart(names: Sequence[str]) -> None:
    """Checks that SQL can tell the columns apart: it takes no notice of case.

    Raises:
        InvalidInput: it can't.
    """
    seen: dict[str, str] = {}
    for name in names:
        twin = seen.setdefault(name.lower(), name)
        if twin is not name:
            raise InvalidInput(
                f"columns {twin!r} and {name!r} are one in SQL, which takes no notice of case",
                remedy="Rename one.",
            )


def _paths(data: Any) -> list[str] | None:
    """Returns the absolute paths of files; None if the data is none."""
    if isinstance(data, str | Path):
        data = [data]
    if not (isinstance(data, Sequence) and data):
        return None
    if not all(isinstance(one, str | Path) for one in data):
        return None
    return [str(Path(one).resolve()) for one in data]


def _table(data: Any, paths: Sequence[str] | None) -> Any:
    """Returns the rows as Arrow has them: a table, or files that are read when they are needed."""
    if paths is None:
        return as_table(data)
    import pyarrow.dataset as pds  # noqa: PLC0415 - brings pandas with it

    try:
        return pds.dataset(list(paths), format="parquet")
    except (OSError, pa.ArrowException) as error:
        raise InvalidInput(
            f"{paths[0]} is no Parquet file that can be read: {error}", remedy="Check the path."
        ) from error
