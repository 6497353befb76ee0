"""The warehouse in SQL: what was predicted beforehand, and the snapshots, as DuckDB's tables.

    predictions.APP            the answers of the application's newest table
    predictions_history.APP    those of all its tables, each with its id
    snapshots.DATASET          all accepted rows

A name with other characters than letters, digits and _ is written in quotes, or with _ for them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.data.catalog import find_snapshots, list_datasets
from tidemill.data.queries import literal, spilling
from tidemill.data.snapshots import snapshot_paths
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.home import Home
from tidemill.recipes.keyed_rows import KeyedRows
from tidemill.recipes.refresh import DIGEST
from tidemill.tables.catalog import list_tables
from tidemill.tables.predictions import list_parts
from tidemill.tables.table import TableInfo

_WORD = re.compile(r"\W")
_MEMORY = "1GB"


@contextmanager
def open_warehouse(home: Home, query: str) -> Iterator[Any]:
    """Gives a DuckDB connection with what a query names, while the block runs.

    The views are of files that never change: what a query creates is gone with the connection.

    Args:
        home: the installation.
        query: only what is named in it is fetched.
    """
    with home.scratch("sql") as work, spilling(work, memory=_MEMORY) as connection:
        connection.execute("set preserve_insertion_order = true")  # as people expect of files
        for schema in ("predictions", "predictions_history", "snapshots"):
            connection.execute(f"create schema {schema}")
        tables: dict[str, list[TableInfo]] = {}
        for info in list_tables(home.store):
            tables.setdefault(info.application, []).append(info)
        for name, infos in tables.items():
            if _names(query, name):
                _show_predictions(home, connection, name, infos)
        for name in (dataset.name for dataset in list_datasets(home)):
            if _names(query, name):
                paths = snapshot_paths(home, find_snapshots(home, dataset=name), verify=False)
                if paths:
                    _view(connection, "snapshots", name, f"from read_parquet({_list(paths)})")
        yield connection


def run_sql(home: Home, query: str, *, limit: int) -> tuple[pa.Table, bool]:
    """Returns the first rows of a query's result, and whether there are more.

    Raises:
        InvalidInput: the query is wrong, or is none.
    """
    import duckdb  # noqa: PLC0415

    with open_warehouse(home, query) as connection:
        try:
            found = connection.sql(query)
            if found is None:
                raise InvalidInput("the SQL asks for nothing", remedy="Give a select.")
            rows: pa.Table = pa.table(found.limit(limit + 1))
        except duckdb.Error as error:
            raise _wrong(error) from error
    return rows.slice(0, limit), rows.num_rows > limit


def export_sql(home: Home, query: str, target: Path) -> int:
    """Writes a query's whole result as Parquet, or CSV by the target's name; returns its rows.

    Raises:
        InvalidInput: the query is wrong, or the target cannot be written.
    """
    import duckdb  # noqa: PLC0415

    kind = "csv, header true" if target.suffix.lower() == ".csv" else "parquet, compression zstd"
    with open_warehouse(home, query) as connection:
        try:
            connection.sql(query).create_view("result")
            (rows,) = connection.execute(
                f"copy result to {literal(str(target))} (format {kind})"
            ).fetchone()
        except (duckdb.Error, AttributeError) as error:
            raise _wrong(error) from error
    return int(rows)


def plain_rows(found: pa.Table) -> list[list[Any]]:
    """Returns rows of values that JSON has; times as ISO 8601, others as text."""
    columns = [column.to_pylist() for column in found.columns]
    return [[_plain(value) for value in row] for row in zip(*columns, strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | float | bool | list | dict) or value is None:
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def rows_of_sql(home: Home, query: str) -> KeyedRows:
    """Returns the result of a query as a table's source; the same query of the same files is one.

    Raises:
        InvalidInput: when it is read, if the query is wrong.
    """

    def batches() -> Iterator[pa.RecordBatch]:
        import duckdb  # noqa: PLC0415

        with open_warehouse(home, query) as connection:
            try:
                yield from pa.RecordBatchReader.from_stream(connection.sql(query))
            except (duckdb.Error, pa.ArrowException, OSError, TypeError) as error:
                raise _wrong(error) from error

    name = " ".join(query.split())[:200]
    return KeyedRows(name=name, batches=batches, identity=_identity(home, query))


def _identity(home: Home, query: str) -> str:
    tables = [info.id for info in list_tables(home.store) if _names(query, info.application)]
    named = (each.name for each in list_datasets(home) if _names(query, each.name))
    snapshots = [one.id for name in named for one in find_snapshots(home, dataset=name)]
    return hashlib.sha256(repr((query, tables, snapshots)).encode()).hexdigest()


def _show_predictions(home: Home, connection: Any, name: str, infos: list[TableInfo]) -> None:
    selects = []
    for info in infos:
        paths = [home.files.fetch(part.file_key) for part in list_parts(home, info.id)]
        if paths:
            selects.append(
                f"select {_shown(paths[0])}, {literal(info.model)} as model, "  # noqa: S608 - quoted
                f"{info.version} as version, "
                f"{literal(info.id)} as table_id, to_timestamp({info.built_at}) as built_at "
                f"from read_parquet({_list(paths)})"
            )
    if selects:
        _view(connection, "predictions", name, f"from ({selects[0]})")
        everything = " union all by name ".join(selects)
        _view(connection, "predictions_history", name, f"from ({everything})")


def _shown(path: Path) -> str:
    """Returns what people see of a build's files."""
    return f"* exclude ({DIGEST})" if DIGEST in pq.read_schema(path).names else "*"


def _view(connection: Any, schema: str, name: str, source: str) -> None:
    for each in dict.fromkeys((name, _WORD.sub("_", name))):
        connection.execute(f'create view if not exists {schema}."{each}" as {source}')


def _names(query: str, name: str) -> bool:
    return name in query or _WORD.sub("_", name).lower() in query.lower()


def _list(paths: list[Path]) -> str:
    return "[" + ", ".join(literal(str(path)) for path in paths) + "]"


def _wrong(error: Exception) -> InvalidInput:
    nothing = isinstance(error, AttributeError | TypeError)
    said = "the SQL asks for nothing" if nothing else str(error)
    return InvalidInput(
        f"the SQL cannot be answered: {said[:500]}",
        remedy="Ask of predictions.APP, predictions_history.APP or snapshots.DATASET.",
    )
