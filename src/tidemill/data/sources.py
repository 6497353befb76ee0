"""Finds the files meant and reads each as a stream of batches in constant memory.

What a file is, its first bytes say, not its name: CSV (plain, gzip, zip; see ``csv_source``) or
Parquet. Every row comes out once: in a batch's table, or among its unreadable rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.data.batches import Batch, Progress, SourceFile, check_names, plain_values, written_to
from tidemill.data.csv_records import Ints
from tidemill.data.csv_source import read_csv
from tidemill.data.records import Anomaly, DatasetOptions, SourceRecord
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.files import sha256_file
from tidemill.foundation.names import storable

PARQUET_ROWS = 1 << 16
_SUFFIXES = (".csv", ".csv.gz", ".csv.zip", ".gz", ".zip", ".parquet")


def locate(sources: Sequence[Path | str]) -> tuple[list[SourceFile], list[Anomaly]]:
    """Returns the files meant, each content once, in the order given; a folder means its files.

    Raises:
        NotFound: a path does not exist.
        InvalidInput: nothing was named, or a folder holds no file that can be read, or a path is
            a URL or not a file.
    """
    notes: list[Anomaly] = []
    found: dict[str, SourceFile] = {}
    for source in sources:
        for path in _expand(source, notes):
            file = _look(path)
            if file.record.sha256 in found:
                notes.append(_same_content(file, found[file.record.sha256]))
            found.setdefault(file.record.sha256, file)
    if not found:
        raise InvalidInput("no file was named", remedy="Name at least one CSV or Parquet file.")
    return list(found.values()), notes


def read(file: SourceFile, options: DatasetOptions, progress: Progress) -> Iterator[Batch]:
    """Yields the rows of a file in batches; at least one batch, so that its columns are known.

    Args:
        file: from ``locate``.
        options: how text is written.
        progress: told the bytes read so far and the file's size.

    Raises:
        InvalidInput: the file is empty, truncated, not what its name says, or has no header.
        Conflict: somebody wrote to it while it was read.
    """
    try:
        if _is_parquet(file):
            yield from _read_parquet(file, progress)
        else:
            yield from read_csv(file, options, progress)
    except OSError as error:
        raise InvalidInput(
            f"{file.path} cannot be read: {error.strerror or error}", remedy="Check the file."
        ) from error
    if _stamp(file.path) != file.stamp:
        raise written_to(file.path)


# --- which files -----------------------------------------------------------------------------


def _expand(source: Path | str, notes: list[Anomaly]) -> list[Path]:
    if "://" in str(source):
        raise InvalidInput(
            f"source {str(source)[:200]!r} is a URL", remedy="Download it and give its path."
        )
    path = Path(source)
    if not path.is_dir():
        return [path]
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in inside if entry.name.lower().endswith(_SUFFIXES)]
    if not files:
        raise InvalidInput(
            f"folder {path} holds no data file",
            remedy=f"Put files there that end with {', '.join(_SUFFIXES)}.",
        )
    notes += [
        Anomaly(
            kind="ignored_file",
            severity="info",
            message=f"{storable(entry)} is not a data file: not read",
        )
        for entry in inside
        if entry not in files
    ]
    return files


def _look(path: Path) -> SourceFile:
    try:
        stamp = _stamp(path)
        if not path.is_file():
            raise InvalidInput(f"{path} is not a file", remedy="Give a file or a folder.")
        record = SourceRecord(path=storable(path), sha256=sha256_file(path), bytes=stamp[0])
    except FileNotFoundError as error:
        raise NotFound(f"{path} does not exist", remedy="Check the path.") from error
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {error.strerror}", remedy="Check its permissions."
        ) from error
    return SourceFile(path=path, record=record, stamp=stamp)


def _stamp(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _same_content(file: SourceFile, first: SourceFile) -> Anomaly:
    return Anomaly(
        kind="repeated_source",
        severity="info",
        message=f"{file.record.path} has the same content as {first.record.path}: read once",
    )


# --- Parquet ---------------------------------------------------------------------------------


def _is_parquet(file: SourceFile) -> bool:
    with file.path.open("rb") as raw:
        magic = raw.read(4)
    named = file.path.suffix.lower() == ".parquet"
    if named and magic != b"PAR1":
        raise InvalidInput(
            f"{file.path} is not Parquet" if magic else f"{file.path} is empty",
            remedy="Write it again; a CSV file must not be named .parquet.",
        )
    return magic == b"PAR1"


def _read_parquet(file: SourceFile, progress: Progress) -> Iterator[Batch]:
    try:
        with pq.ParquetFile(file.path) as parquet:
            rows = max(parquet.metadata.num_rows, 1)
            done = 0
            empty = pa.Table.from_batches([], parquet.schema_arrow)
            check_names(file.path, empty.column_names)
            yield _typed_batch(empty, done)
            for piece in parquet.iter_batches(PARQUET_ROWS):
                yield _typed_batch(pa.Table.from_batches([piece]), done)
                done += piece.num_rows
                progress(file.record.bytes * done // rows, file.record.bytes)
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidInput(
            f"{file.path} is a broken Parquet file: {str(error)[:200]}",
            remedy="It was probably cut while it was copied: copy or write it again.",
        ) from error


def _typed_batch(table: pa.Table, before: int) -> Batch:
    def texts(indices: Ints) -> list[str]:
        rows = table.take(pa.array(indices))
        columns = [plain_values(column) for column in rows.columns]
        return [
            json.dumps(dict(zip(table.column_names, row, strict=True)), ensure_ascii=False)
            for row in zip(*columns, strict=True)
        ]

    lines = np.arange(before + 1, before + 1 + table.num_rows, dtype=np.int64)
    return Batch(table=table, lines=lines, texts=texts)
