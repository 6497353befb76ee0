"""Rows on their way in: files to be read, and batches of their rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from tidemill.data.csv_records import Ints
from tidemill.data.records import Anomaly, SourceRecord
from tidemill.foundation.errors import Conflict, InvalidInput

MAX_COLUMNS = 10_000

Form = Literal["csv", "json", "typed"]

Progress = Callable[[int, int], None]
"""Told the bytes read so far, and in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A row that never became one: its line number, why, what was expected, found, its text."""

    line: int
    reason: str
    rule: str
    value: str | None = None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some rows of one file.

    Attributes:
        table: the rows, by the file's column names; CSV and JSON as strings, others as typed there.
        lines: line number of each row (CSV, JSON Lines), or row number from 1.  # (rows,)
        unreadable: rows beside them that could not be read.
        texts: gives the texts of the rows at some indices, as they were in the file.
        form: what such a text is: a record of CSV, a JSON object, or a typed row as JSON.
        delimiter: between the fields of a record of CSV.
        notes: what should be known about the file.
    """

    table: pa.Table
    lines: Ints
    unreadable: tuple[Unreadable, ...] = ()
    texts: Callable[[Ints], list[str]]
    form: Form = "typed"
    delimiter: str | None = None
    notes: tuple[Anomaly, ...] = ()

    @property
    def received(self) -> int:
        """How many rows it is, readable or not."""
        return len(self.lines) + len(self.unreadable)


class Elsewhere(Protocol):
    """Where a file is that is not on this machine; its path is that of a copy."""

    def bring(self) -> None:
        """Has the copy there, whole, of the version that was found.

        Raises:
            Conflict: there is another version by now.
            Unavailable: it cannot be had.
        """

    def check(self) -> None:
        """Raises Conflict where there is another version than the one that was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file to be read, as it was when it was found.

    Attributes:
        path: where it is, or its copy will be.
        record: its content's hash and size.
        stamp: what changes when somebody writes to it.
        elsewhere: where it came from, if it is not on this machine.
    """

    path: Path
    record: SourceRecord
    stamp: tuple[int, int, int]
    elsewhere: Elsewhere | None = None

    @property
    def name(self) -> str:
        """What people know it by."""
        return self.record.path


def check_names(path: str, names: list[str]) -> None:
    """Raises InvalidInput where a column has no name, or a name that another has."""
    if len(names) > MAX_COLUMNS:
        raise InvalidInput(
            f"{path} has {len(names)} columns", remedy=f"At most {MAX_COLUMNS} are allowed."
        )
    for position, name in enumerate(names, 1):
        if not name:
            raise InvalidInput(
                f"column {position} of {path} has no name",
                remedy="Name it in the header (pandas: to_csv(index=False)).",
            )
        if names.index(name) != position - 1:
            raise InvalidInput(
                f"{path} has two columns {name[:100]!r}", remedy="Give them different names."
            )


def written_to(path: str) -> Conflict:
    """Returns the error for a file that isn't what it was when it was found."""
    return Conflict(
        f"{path} was written to while it was read",
        remedy="Ingest it when its writer is done; write under another name, then rename.",
    )


def typed_batch(table: pa.Table, before: int) -> Batch:
    """Returns typed rows as a batch, numbered after those before."""

    def texts(indices: Ints) -> list[str]:
        rows = table.take(pa.array(indices))
        columns = [plain_values(column) for column in rows.columns]
        return [
            json.dumps(dict(zip(table.column_names, row, strict=True)), ensure_ascii=False)
            for row in zip(*columns, strict=True)
        ]

    lines = np.arange(before + 1, before + 1 + table.num_rows, dtype=np.int64)
    return Batch(table=table, lines=lines, texts=texts)


def plain_values(column: pa.ChunkedArray) -> list[Any]:
    """Returns values that JSON has: numbers, booleans and strings; others as text."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return list(column.to_pylist())
    try:
        return list(column.cast(pa.string()).to_pylist())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return [f"({kind})"] * len(column)
