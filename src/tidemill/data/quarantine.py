"""Held rows, with the reason, the place and the text of each: nothing that came in is lost.

Every ingest that held rows has one Parquet file of them. Rows of a refused file that a later
ingest took are not listed any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidemill.data.catalog import find_ingests, find_sources, get_dataset
from tidemill.data.records import HeldGroup, Kind
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.home import Home

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
    ]
)
"""``line`` counts lines in CSV, rows in Parquet; ``row`` is the CSV text, or the row as JSON."""


def list_held(home: Home, name: str, *, ingest: str | None = None) -> list[HeldGroup]:
    """Returns the held rows of a dataset in groups, oldest ingest first, largest group first.

    Rows of files that were accepted later, under other rules, are not held any more.

    Args:
        home: the installation.
        name: the dataset.
        ingest: only those of one ingest.

    Raises:
        NotFound: there is no such dataset.
    """
    get_dataset(home, name)
    merged: dict[tuple[str, str, str, str, str | None], HeldGroup] = {}
    for source in find_sources(home, name):
        for group in source.groups if ingest in (None, source.ingest) else ():
            key = (group.ingest, group.kind, group.reason, group.rule, group.column)
            old = merged.get(key)
            merged[key] = replace(group, rows=group.rows + old.rows) if old else group
    return sorted(merged.values(), key=lambda group: (group.held_at, group.ingest, -group.rows))


def show_held(
    home: Home,
    name: str,
    *,
    reason: str | None = None,
    kind: Kind | None = None,
    ingest: str | None = None,
    limit: int = 50,
) -> pa.Table:
    """Returns held rows of a dataset, newest ingest first, in the order of their files.

    Args:
        home: the installation.
        name: the dataset.
        reason: only those held for it.
        kind: only ``quarantined``, ``duplicate`` or ``late`` ones.
        ingest: only those of one ingest.
        limit: at most so many.

    Returns:
        A table of ``HELD_SCHEMA``.

    Raises:
        NotFound: there is no such dataset.
        InvalidInput: the limit is negative.
    """
    if limit < 0:
        raise InvalidInput(f"limit {limit} is negative", remedy="Give 0 or more.")
    get_dataset(home, name)
    wanted = [(key, value) for key, value in (("reason", reason), ("kind", kind)) if value]
    paths: dict[str, list[str]] = {}
    for source in find_sources(home, name):
        paths.setdefault(source.ingest, []).append(source.record.path)
    found: list[pa.Table] = [HELD_SCHEMA.empty_table()]
    for row in reversed(find_ingests(home, name, ids=None if ingest is None else [ingest])):
        left = limit - sum(table.num_rows for table in found)
        if left > 0 and row.held_key is not None and row.id in paths:
            held = home.files.fetch(row.held_key)
            found.append(_first(held, paths[row.id], wanted, left))
    return pa.concat_tables(found)


def _first(path: Path, sources: list[str], wanted: list[tuple[str, str]], limit: int) -> pa.Table:
    found: list[pa.RecordBatch] = []
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(batch_size=1 << 14):
            rows = batch.filter(pc.is_in(batch.column("source"), pa.array(sources)))
            for key, value in wanted:
                rows = rows.filter(pc.equal(rows.column(key), value))
            found.append(rows.slice(0, limit - sum(one.num_rows for one in found)))
            if sum(one.num_rows for one in found) >= limit:
                break
    return pa.Table.from_batches(found, HELD_SCHEMA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Rows to be held, column by column: why, what, where, and as they were."""

    reasons: Sequence[str]
    rules: Sequence[str]
    columns: Sequence[str | None]
    values: Sequence[str | None]
    lines: Sequence[int]
    rows: Sequence[str]


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

    def put(self, kind: Kind, source: str, held: Held) -> None:
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
                pa.repeat(source, count),
                held.lines,
                held.rows,
            ],
            schema=HELD_SCHEMA,
        )
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, HELD_SCHEMA, compression="zstd")
        self._writer.write_table(table)
