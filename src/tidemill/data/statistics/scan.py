"""One pass over rows, on several cores: tables, frames and Parquet files of any size.

Statistics of columns that have nothing to do with each other are made column by column, each by one
core, piece by piece: what was read is still near when it is worked on. Others take whole rows.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.data.frames import as_table
from tidemill.data.statistics.association import Associations, Correlations
from tidemill.data.statistics.slices import Slices
from tidemill.data.statistics.table import ColumnPieces, Statistics
from tidemill.data.summaries import TableStatistics
from tidemill.foundation.errors import InvalidInput

BATCH_ROWS = 1 << 17
SPAN_ROWS = 1 << 21
"""So many rows of each column are done before the next ones are begun."""

THREADS = 2
DICTIONARY_BYTES = 1 << 17
"""Of a larger one, as it is stored, not all texts may be in it."""

PLAIN_BYTES = 1 << 20
CODE_BYTES = 3
"""A dictionary has at most so many bytes, and its code so many: writers go on with plain texts."""

Piece = TypeVar("Piece")
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
        progress: told the rows done so far and in all, about batch by batch; columns that are at
            different rows count as many as their values make together. From any thread, but never
            from two at a time.

    Raises:
        InvalidInput: it can't be read, a column is of a type that can't be kept, or a weight is
            missing, negative or not finite.

    Example:
        >>> describe(pa.table({"x": [1.0, 2.0, 9.0]})).result().column("x").median
        2.0
    """
    found = Statistics(weight=weight)
    if weight is not None:
        _feed(found, data, threads, progress)
        return found
    done = 0
    with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(1) as reader:
        for total, rows, columns in _ahead(_spans(data), reader):
            span = range(done, done + rows)
            watched = _watched(columns, span, total, progress) if progress else columns
            found.update_columns(rows, watched, pool=pool)
            done += rows
            if progress is not None:
                progress(done, total)
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


def _ahead(pieces: Iterator[Piece], reader: Executor) -> Iterator[Piece]:
    """Reads the next piece while one is worked on."""
    waiting = reader.submit(next, pieces, None)
    while (piece := waiting.result()) is not None:
        waiting = reader.submit(next, pieces, None)
        yield piece


def _pieces(data: Any) -> Iterator[tuple[int, pa.Table]]:
    """Yields pieces of rows, each with the number of rows in all."""
    if (paths := _paths(data)) is None:
        table = as_table(data)
        for start in range(0, max(table.num_rows, 1), BATCH_ROWS):
            yield table.num_rows, table.slice(start, BATCH_ROWS)
        return
    with _reading(), closing(_groups(paths)) as spans:
        for total, file, groups in spans:
            yield from ((total, piece) for piece in file.pieces(groups))


def _spans(data: Any) -> Iterator[tuple[int, int, list[ColumnPieces]]]:
    """Yields the columns of some rows, with the number of rows in all and of these."""
    if (paths := _paths(data)) is None:
        table = as_table(data)
        yield (
            table.num_rows,
            table.num_rows,
            [_sliced(table, at) for at in range(table.num_columns)],
        )
        return
    with _reading(), closing(_groups(paths)) as spans:
        for total, file, groups in spans:
            yield total, *file.columns(groups)


def _groups(paths: Sequence[Path]) -> Generator[tuple[int, _File, list[int]], None, None]:
    """Yields row groups that follow each other, with their file and the number of rows in all."""
    total = sum(pq.read_metadata(path).num_rows for path in paths)
    for path in paths:
        with _File(path) as file:
            for groups in file.spans():
                yield total, file, groups


def _sliced(table: pa.Table, at: int) -> ColumnPieces:
    column, starts = table.column(at), range(0, max(table.num_rows, 1), BATCH_ROWS)
    return ColumnPieces(
        name=table.field(at).name,
        type=column.type,
        size_bytes=column.get_total_buffer_size(),
        pieces=(column.slice(start, BATCH_ROWS) for start in starts),
    )


def _watched(
    columns: Sequence[ColumnPieces], rows: range, total: int, progress: Progress
) -> list[ColumnPieces]:
    """Returns columns of some rows that tell, batch by batch, how many are done, but not all."""
    lock, values, told = Lock(), 0, rows.start

    def watched(pieces: Iterable[pa.ChunkedArray]) -> Iterator[pa.ChunkedArray]:
        nonlocal values, told
        for piece in pieces:
            yield piece
            with lock:
                values += len(piece)
                done = rows.start + values // len(columns)
                if told + BATCH_ROWS <= done < rows.stop:
                    told = done
                    progress(done, total)

    return [replace(column, pieces=watched(column.pieces)) for column in columns]


def _paths(data: Any) -> list[Path] | None:
    """Returns the paths that are given, or None if it is something else."""
    if isinstance(data, str | Path):
        return [Path(data)]
    if isinstance(data, Sequence) and data and all(isinstance(one, str | Path) for one in data):
        return [Path(one) for one in data]
    return None


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InvalidInput(
            f"the rows cannot be read: {error}", remedy="Give Parquet files that are whole."
        ) from error


class _File:
    """A Parquet file that several threads read, each with a reader of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._metadata = pq.read_metadata(path)
        self._coded, self._sizes = _looked_up(self._metadata)
        self._idle: list[pq.ParquetFile] = []
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def spans(self) -> Iterator[list[int]]:
        """Yields row groups that follow each other; none of a file without rows."""
        groups: list[int] = []
        rows = 0
        for group in range(self._metadata.num_row_groups):
            groups.append(group)
            rows += self._metadata.row_group(group).num_rows
            if rows >= SPAN_ROWS:
                yield groups
                groups, rows = [], 0
        if groups or not self._metadata.num_row_groups:
            yield groups

    def pieces(self, groups: Sequence[int], *columns: str) -> Iterator[pa.Table]:
        """Yields pieces of row groups, of all columns or of those."""
        with self._reader() as reader:
            if not groups:
                yield reader.schema_arrow.empty_table()
            # One row group at a time: else all that was read of the file stays in memory.
            for group in groups:
                for batch in reader.iter_batches(
                    BATCH_ROWS, row_groups=[group], columns=columns or None, use_threads=not columns
                ):
                    yield pa.Table.from_batches([batch])

    def columns(self, groups: Sequence[int]) -> tuple[int, list[ColumnPieces]]:
        """Returns how many rows these are, and their columns, which are read as they are asked for.

        Few rows are read at once.
        """
        rows = sum(self._metadata.row_group(group).num_rows for group in groups)
        read = list(self.pieces(groups)) if rows <= BATCH_ROWS else None
        with self._reader() as reader:
            schema = reader.schema_arrow
        return rows, [
            ColumnPieces(
                name=field.name,
                type=field.type,
                size_bytes=self._sizes.get(field.name, 0),
                pieces=self._column(at, field.name, groups, read),
            )
            for at, field in enumerate(schema)
        ]

    def _column(
        self, at: int, name: str, groups: Sequence[int], read: Sequence[pa.Table] | None
    ) -> Iterator[pa.ChunkedArray]:
        if read is not None:
            yield from (piece.column(at) for piece in read)
            return
        with _reading():
            for piece in self.pieces(groups, name):
                yield piece.column(name)

    @contextmanager
    def _reader(self) -> Iterator[pq.ParquetFile]:
        try:
            reader = self._idle.pop()
        except IndexError:
            reader = pq.ParquetFile(
                self._path, metadata=self._metadata, read_dictionary=self._coded
            )
        yield reader
        if self._closed:
            reader.close()
        else:
            self._idle.append(reader)


def _looked_up(metadata: pq.FileMetaData) -> tuple[list[str], dict[str, int]]:
    """Returns the texts that are written as those of a small dictionary, and how large columns are.

    The first rows tell how large. Both decide only how long it takes to read.
    """
    if not metadata.num_row_groups:
        return [], {}
    group = metadata.row_group(0)
    coded: list[str] = []
    sizes: dict[str, int] = {}
    for place in range(group.num_columns):
        leaf, size = metadata.schema.column(place), group.column(place).total_uncompressed_size
        nested = leaf.path != leaf.name
        name = leaf.path.split(".")[0] if nested else leaf.path
        sizes[name] = sizes.get(name, 0) + size
        if leaf.physical_type == "BYTE_ARRAY" and not nested and _everywhere(metadata, place):
            coded.append(name)
            sizes[name] -= size
    return coded, sizes


def _everywhere(metadata: pq.FileMetaData, place: int) -> bool:
    """Tells whether all row groups have the texts of a column in a small dictionary."""
    groups = range(metadata.num_row_groups)
    return all(_in_dictionary(metadata.row_group(group).column(place)) for group in groups)


def _in_dictionary(chunk: pq.ColumnChunkMetaData) -> bool:
    if not chunk.has_dictionary_page:
        return False
    if chunk.data_page_offset - chunk.dictionary_page_offset > DICTIONARY_BYTES:
        return False
    if {"PLAIN_DICTIONARY", "PLAIN"} <= {*chunk.encodings}:  # newer files call both PLAIN
        return False
    most = PLAIN_BYTES + CODE_BYTES * chunk.num_values
    return bool(chunk.total_uncompressed_size <= most)
