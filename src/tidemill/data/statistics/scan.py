"""One pass over rows, on several cores: tables, frames and Parquet files of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.data.frames import as_table
from tidemill.data.statistics.association import Associations, Correlations
from tidemill.data.statistics.slices import Slices
from tidemill.data.statistics.table import Statistics
from tidemill.data.summaries import TableStatistics
from tidemill.foundation.errors import InvalidInput

BATCH_ROWS = 1 << 17
THREADS = 2
DICTIONARY_BYTES = 1 << 17
"""Of a larger one not all texts may be in it."""

Progress = Callable[[int, int], None]
"""Told how many rows were read, and how many there are."""


def describe(
    data: Any,
    *,
    weight: str | None = None,
    threads: int = THREADS,
    progress: Progress | None = None,
) -> Statistics:
    """Returns the statistics of rows.

    Args:
        data: an Arrow table, a Polars or pandas frame, or paths of Parquet files, which are read
            piece by piece: memory does not grow with their rows.
        weight: a column that says how much a row counts.
        threads: columns that are worked on at the same time.
        progress: told the rows read so far and in all.

    Raises:
        InvalidInput: it can't be read, a column is of a type that can't be kept, or a weight is
            missing, negative or not finite.

    Example:
        >>> describe(pa.table({"x": [1.0, 2.0, 9.0]})).result().column("x").median
        2.0
    """
    found = Statistics(weight=weight)
    _feed(found, data, threads, progress)
    return found


def describe_slices(
    data: Any,
    by: str,
    *,
    weight: str | None = None,
    threads: int = THREADS,
    progress: Progress | None = None,
) -> Slices:
    """Returns the statistics of rows by the values of a column; else as ``describe``."""
    found = Slices(by, weight=weight)
    _feed(found, data, threads, progress)
    return found


def correlate(
    data: Any, *, threads: int = THREADS, progress: Progress | None = None
) -> Correlations:
    """Returns the correlations of each two columns of numbers; else as ``describe``."""
    found = Correlations()
    _feed(found, data, threads, progress)
    return found


def associate(
    data: Any,
    label: str,
    statistics: TableStatistics,
    *,
    threads: int = THREADS,
    progress: Progress | None = None,
) -> Associations:
    """Returns what each column tells of a label, cut by the rows' statistics.

    Raises:
        InvalidInput: as for ``describe``; or there is no such column, or it holds lists.

    Example:
        >>> rows = pa.table({"x": [1, 1, 2, 2] * 50, "y": ["a", "a", "b", "b"] * 50})
        >>> found = associate(rows, "y", describe(rows).result()).result()
        >>> found[0].column, round(found[0].share, 2)
        ('x', 1.0)
    """
    found = Associations(statistics, label)
    _feed(found, data, threads, progress)
    return found


def _feed(
    into: Statistics | Slices | Correlations | Associations,
    data: Any,
    threads: int,
    progress: Progress | None,
) -> None:
    with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(1) as reader:
        done = 0
        for total, table in _ahead(_pieces(data), reader):
            into.update(table, pool=pool)
            done += table.num_rows
            if progress is not None:
                progress(done, total)


def _ahead(
    pieces: Iterator[tuple[int, pa.Table]], reader: Executor
) -> Iterator[tuple[int, pa.Table]]:
    """Reads the next piece while one is worked on."""
    waiting = reader.submit(next, pieces, None)
    while (piece := waiting.result()) is not None:
        waiting = reader.submit(next, pieces, None)
        yield piece


def _pieces(data: Any) -> Iterator[tuple[int, pa.Table]]:
    """Yields pieces of rows, each with the number of rows in all."""
    if isinstance(data, str | Path):
        data = [data]
    if isinstance(data, Sequence) and data and all(isinstance(one, str | Path) for one in data):
        yield from _parquet([Path(one) for one in data])
        return
    table = as_table(data)
    for start in range(0, max(table.num_rows, 1), BATCH_ROWS):
        yield table.num_rows, table.slice(start, BATCH_ROWS)


def _parquet(paths: Sequence[Path]) -> Iterator[tuple[int, pa.Table]]:
    try:
        total = sum(pq.read_metadata(path).num_rows for path in paths)
        for path in paths:
            with pq.ParquetFile(path) as found:
                metadata, texts = found.metadata, _coded(found)
            with pq.ParquetFile(path, metadata=metadata, read_dictionary=texts) as file:
                if not file.metadata.num_rows:
                    yield total, file.schema_arrow.empty_table()
                # One row group at a time: else all that was read of the file stays in memory.
                for group in range(file.num_row_groups):
                    for batch in file.iter_batches(BATCH_ROWS, row_groups=[group]):
                        yield total, pa.Table.from_batches([batch])
    except (OSError, pa.ArrowException) as error:
        raise InvalidInput(
            f"the rows cannot be read: {error}", remedy="Give Parquet files that are whole."
        ) from error


def _coded(file: pq.ParquetFile) -> list[str]:
    """Returns the columns of texts that are written as those of a small dictionary.

    They are read as such. It is looked up in the first rows, and only decides how long it takes.
    """
    if not file.num_row_groups:
        return []
    group = file.metadata.row_group(0)
    columns = (group.column(place) for place in range(group.num_columns))
    return [
        one.path_in_schema
        for one in columns
        if one.physical_type == "BYTE_ARRAY"
        and one.has_dictionary_page
        and one.data_page_offset - one.dictionary_page_offset <= DICTIONARY_BYTES
    ]
