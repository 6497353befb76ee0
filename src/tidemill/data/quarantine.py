"""Held rows, with the reason, the place and the text of each: nothing that came in is lost.

Every ingest that held rows has one Parquet file of them, which never changes. What a person
decided about a row later (``reviews``) is kept beside it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.data.batches import Batch
from tidemill.data.records import Kind, SourceRecord

HELD_SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("ingest", pa.string()),
        ("kind", pa.string()),
        ("reason", pa.string()),
        ("rule", pa.string()),
        ("column", pa.string()),
        ("value", pa.string()),
        ("source", pa.string()),
        ("line", pa.int64()),
        ("row", pa.string()),
        ("sha256", pa.string()),
        ("header", pa.string()),
        ("delimiter", pa.string()),
    ]
)
"""``line`` counts lines in CSV and JSON Lines, rows elsewhere; ``row`` is the text, or the row as
JSON.

``sha256`` names the file by its content. For a CSV text, ``header`` has the file's column names as
JSON, and ``delimiter`` what is between its fields; for a JSON object it has them, too. For a typed
row as JSON, ``header`` has the Arrow schema of the file in base64. All three
are null for rows that were held before they were kept.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Rows to be held, column by column: why, what, where, and as they were."""

    reasons: Sequence[str]
    rules: Sequence[str]
    columns: Sequence[str | None]
    values: Sequence[str | None]
    lines: Sequence[int]
    rows: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where held rows came from, and how their texts are to be read."""

    source: SourceRecord
    header: str
    delimiter: str | None

    @classmethod
    def of(cls, source: SourceRecord, batch: Batch) -> Self:
        """Returns the origin of a batch of a file."""
        if batch.form == "typed":
            header = base64.b64encode(batch.table.schema.serialize()).decode()
        else:
            header = json.dumps(batch.table.column_names)
        return cls(source=source, header=header, delimiter=batch.delimiter)


class HeldWriter:
    """Writes the held rows of one ingest into a Parquet file; a context manager.

    The file appears with the first row.
    """

    def __init__(self, path: Path, dataset: str, ingest: str) -> None:
        self.path = path
        self._dataset = dataset
        self._ingest = ingest
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finishes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def put(self, kind: Kind, origin: Origin, held: Held) -> None:
        """Writes rows of one kind from one file."""
        count = len(held.lines)
        if not count:
            return
        table = pa.table(
            [
                pa.repeat(self._dataset, count),
                pa.repeat(self._ingest, count),
                pa.repeat(kind, count),
                held.reasons,
                held.rules,
                held.columns,
                held.values,
                pa.repeat(origin.source.path, count),
                held.lines,
                held.rows,
                pa.repeat(origin.source.sha256, count),
                pa.repeat(origin.header, count),
                pa.repeat(pa.scalar(origin.delimiter, pa.string()), count),
            ],
            schema=HELD_SCHEMA,
        )
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, HELD_SCHEMA, compression="zstd")
        self._writer.write_table(table)
