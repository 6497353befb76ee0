"""Rows made distinct, in the order of their keys, and the proof that their key determines all else.

The order is that of the keys' bytes in a table: what is scored row by row afterwards is written to
the table as it comes, and need not be sorted again.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.foundation.durable import replacing
from tidemill.foundation.errors import DataRefused, InvalidInput
from tidemill.models.signature import Column
from tidemill.recipes.ahead import Behind, in_order
from tidemill.recipes.key_proof import KeyProof
from tidemill.recipes.pieces import Pieces
from tidemill.recipes.scored_rows import file_options
from tidemill.tables.key import KeyEncoder
from tidemill.tables.runs import KEY, SortedRuns, bytes_array
from tidemill.training.examples import cast_feature, feature_batch

ROWS = "rows.parquet"
"""What the file is called in the folder of a build."""
TIMES = "times"
"""The column that says how often the source holds a row, where rows are counted."""

Unknown = Callable[[pa.Table], pa.Table]

_SORTED_BYTES = 64 << 20
_LOOKED_AT = 16
"""Of so many batches whose rows are nearly all distinct, one is looked at again."""


@dataclass(frozen=True, slots=True)
class Counted:
    """That rows are counted: by the column that says how often each counts, or as once each."""

    column: str | None = None


def write_distinct(
    batches: Iterator[pa.RecordBatch],
    columns: Sequence[Column],
    key: Sequence[str],
    target: Path,
    *,
    counted: Counted | None = None,
    unknown: Unknown | None = None,
) -> None:
    """Writes the distinct rows of a source to a Parquet file by their keys, in groups of ``CHUNK``.

    Its columns are the inputs in their order; ``column_names`` has their names, as they are for
    SQL, which takes ``a`` and ``A`` for one. Memory is bounded: what is more is sorted on disk,
    beside the target.

    Args:
        batches: the source's rows.
        columns: of the model: rows are distinct in its types, in which they are asked for.
        key: those of them that are to determine the others.
        target: the file; whole and durable, or not there.
        counted: that it also says how often the source holds each row, in ``TIMES``.
        unknown: given rows, returns those of them that are to be written; there may be none.

    Raises:
        InvalidInput: a column is missing or comes twice, the key does not determine an input, or a
            value of the key is missing that must be there.
        DataRefused: there are no rows.
    """
    first = next(batches, None)
    if first is None:
        raise _no_rows()
    names = dict(zip([column.name for column in columns], column_names(columns), strict=True))
    others = {name: found for name, found in names.items() if name not in key}
    proof = KeyProof(others, times=None if counted is None else TIMES)
    folder = target.parent / "sorting"
    shutil.rmtree(folder, ignore_errors=True)  # of a build that was killed
    folder.mkdir()
    try:
        runs = SortedRuns(folder, buffer_bytes=_SORTED_BYTES)
        given = itertools.chain([first], batches)
        schema, rows = _sort(given, columns, key, runs, counted=counted, unknown=unknown)
        if not rows:
            raise _no_rows()
        with replacing(target, target.parent) as unfinished:
            _write(runs, proof, unfinished, schema)
            proof.check(tuple(key))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sort(
    batches: Iterator[pa.RecordBatch],
    columns: Sequence[Column],
    key: Sequence[str],
    runs: SortedRuns,
    *,
    counted: Counted | None,
    unknown: Unknown | None,
) -> tuple[pa.Schema, int]:
    """Puts rows with their keys among what is sorted.

    Returns:
        The schema without the key, and how many rows the source had.
    """
    named = {column.name: column for column in columns}
    keyed = [named[name] for name in key]
    encoder = KeyEncoder([(column.name, column.type) for column in keyed])
    places = [[column.name for column in columns].index(name) for name in key]
    fewer, schema, given = _Fewer(), None, 0

    def with_key(batch: pa.RecordBatch) -> tuple[pa.Table, int]:
        rows = _cast(batch, columns, counted)
        rows = fewer(rows if unknown is None else unknown(rows))
        arrays = feature_batch(rows.select(places).rename_columns(list(key)), keyed)
        keys = encoder.packed([arrays[name] for name in key])
        return rows.append_column(KEY, bytes_array(keys)), batch.num_rows

    for rows, count in in_order(with_key, batches, threads=1):
        schema = rows.schema.remove(len(rows.schema) - 1)
        given += count
        if rows.num_rows:
            runs.add(rows)
    return schema, given


def _write(runs: SortedRuns, proof: KeyProof, path: Path, schema: pa.Schema) -> None:
    with (
        pq.ParquetWriter(path, schema, **file_options(schema)) as writer,
        Behind(writer.write_table) as write,
    ):
        pieces = Pieces(write)
        for block in runs.merged():
            pieces.add(proof.update(block).select(schema.names))
        last = proof.finish()
        if last is not None:
            pieces.add(last.select(schema.names))
        pieces.finish()


class _Fewer:
    """Leaves rows out that a batch holds already, where many are; others are left to the sorting.

    Rows that are left out are counted where rows are counted.
    """

    def __init__(self) -> None:
        self._left = 0

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Returns the rows, or fewer of them."""
        if self._left:
            self._left -= 1
            return rows
        names = [name for name in rows.column_names if name != TIMES]
        counted = [(TIMES, "sum")] if TIMES in rows.column_names else []
        found = rows.group_by(names, use_threads=False).aggregate(counted)
        if 2 * found.num_rows > rows.num_rows:
            self._left = _LOOKED_AT
            return rows
        return found.rename_columns([*names, *(name for name, _ in counted)]).cast(rows.schema)


def _no_rows() -> DataRefused:
    return DataRefused("the source has no rows", remedy="Give a source with keyed rows.")


def column_names(inputs: Sequence[object]) -> list[str]:
    """Returns what the columns of the file are called."""
    return [f"c{at}" for at in range(len(inputs))]


def _cast(batch: pa.RecordBatch, columns: Sequence[Column], counted: Counted | None) -> pa.Table:
    """Returns the inputs in the model's types, under the names of the file.

    Raises:
        InvalidInput: one is missing, or of another type.
    """
    _check_columns(batch.schema, [column.name for column in columns])
    arrays = [cast_feature(batch.column(column.name), column) for column in columns]
    names = column_names(columns)
    if counted is not None:
        times = np.ones(batch.num_rows, np.int64)
        given = counted.column
        arrays.append(pa.array(times) if given is None else batch.column(given).cast(pa.int64()))
        names.append(TIMES)
    return pa.table(arrays, names=names)


def _check_columns(schema: pa.Schema, inputs: Sequence[str]) -> None:
    for name in inputs:
        given = schema.names.count(name)
        if given != 1:
            raise InvalidInput(
                f"the source has {'two columns' if given else 'no column'} {name!r}",
                remedy=f"It needs every input of the model, once: {', '.join(inputs)}.",
            )
