"""Reads Parquet and Arrow IPC (files, also Feather's, and streams) as batches of typed rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.data.batches import Batch, Progress, SourceFile, check_names, typed_batch
from tidemill.foundation.errors import InvalidInput

ROWS = 1 << 16
MAGIC = {b"PAR1": "Parquet", b"ARRO": "Arrow", b"\xff\xff\xff\xff": "Arrow stream"}
"""What the first four bytes of such a file say."""

_DAMAGED = (pa.ArrowException, OSError, MemoryError, OverflowError, UnicodeDecodeError)
"""What reading a damaged file ends with: the last where the name of a column is no UTF-8."""


def read_parquet(file: SourceFile, progress: Progress) -> Iterator[Batch]:
    """Yields the rows of a Parquet file, at least one batch, each checked whole.

    Raises:
        InvalidInput: it is broken, a page is not that of its checksum, or a text is no UTF-8.
    """
    try:
        with pq.ParquetFile(file.path, page_checksum_verification=True) as parquet:
            rows = max(parquet.metadata.num_rows, 1)
            done = 0
            yield _first(file, parquet.schema_arrow)
            for piece in parquet.iter_batches(ROWS):
                piece.validate(full=True)
                yield typed_batch(pa.Table.from_batches([piece]), done)
                done += piece.num_rows
                progress(file.record.bytes * done // rows, file.record.bytes)
    except _DAMAGED as error:
        raise _broken(file, "Parquet", error) from error


def read_arrow(file: SourceFile, kind: str, progress: Progress) -> Iterator[Batch]:
    """Yields the rows of an Arrow IPC file or stream, at least one batch, each checked whole.

    Raises:
        InvalidInput: it is broken, or was cut.
    """
    try:
        with file.path.open("rb") as raw:
            pieces = _pieces(raw, kind)
            done = 0
            yield _first(file, next(pieces))
            for piece in pieces:
                piece.validate(full=True)
                for start in range(0, piece.num_rows, ROWS):
                    rows = pa.Table.from_batches([piece.slice(start, ROWS)])
                    yield typed_batch(rows, done)
                    done += rows.num_rows
                progress(min(raw.tell(), file.record.bytes), file.record.bytes)
    except _DAMAGED as error:
        raise _broken(file, kind, error) from error


def _pieces(raw: IO[bytes], kind: str) -> Iterator[pa.RecordBatch]:
    """Yields an empty batch, which has the columns, and those that are there."""
    if kind == "Arrow":
        with pa.ipc.open_file(raw) as reader:
            yield pa.RecordBatch.from_pylist([], schema=reader.schema)
            for index in range(reader.num_record_batches):
                yield reader.get_batch(index)
        return
    more = True
    while more:  # streams may stand one after the other
        with pa.ipc.open_stream(raw) as reader:
            yield pa.RecordBatch.from_pylist([], schema=reader.schema)
            yield from reader
        more = bool(raw.read(1))
        if more:
            raw.seek(-1, 1)


def _first(file: SourceFile, schema: pa.Schema | pa.RecordBatch) -> Batch:
    empty = pa.Table.from_batches([], schema if isinstance(schema, pa.Schema) else schema.schema)
    check_names(file.name, empty.column_names)
    return typed_batch(empty, 0)


def _broken(file: SourceFile, kind: str, error: Exception) -> InvalidInput:
    return InvalidInput(
        f"{file.name} is a broken {kind} file: {str(error)[:200]}",
        remedy="It was probably cut while it was copied: copy or write it again.",
    )
