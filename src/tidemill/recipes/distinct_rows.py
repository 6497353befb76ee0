"""Rows made distinct on disk, and the proof that their key determines all else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.data.queries import literal, spilling
from tidemill.foundation.durable import replacing
from tidemill.foundation.errors import DataRefused, InvalidInput, TidemillError, Unavailable
from tidemill.models.signature import Column
from tidemill.training.examples import cast_feature

CHUNK = 1 << 16
"""So many rows are a group in the file, and scored at once."""

ROWS = "rows.parquet"
"""What the file is called in the folder of a build."""
TIMES = "times"
"""The column that says how often the source holds a row, where rows are counted."""

_MEMORY = "500MB"


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
) -> None:
    """Writes the distinct rows of a source to a Parquet file, in groups of ``CHUNK``.

    Its columns are the inputs in their order; ``column_names`` has their names, since the engine
    takes ``a`` and ``A`` for one. Memory is bounded: what is more is sorted out on disk, beside the
    target.

    Args:
        batches: the source's rows.
        columns: of the model: rows are distinct in its types, in which they are asked for.
        key: those of them that are to determine the others.
        target: the file; whole and durable, or not there.
        counted: that it also says how often the source holds each row, in ``TIMES``.

    Raises:
        InvalidInput: a column is missing or comes twice, or the key does not determine an input.
        DataRefused: there are no rows.
        Unavailable: the disk is full.
    """
    import duckdb  # noqa: PLC0415

    inputs = [column.name for column in columns]
    first = next(batches, None)
    if first is None:
        raise DataRefused("the source has no rows", remedy="Give a source with keyed rows.")
    failed: list[TidemillError] = []
    cast = _cast(first, columns, counted)

    def selected() -> Iterator[pa.RecordBatch]:
        try:
            yield cast
            for batch in batches:
                yield _cast(batch, columns, counted)
        except TidemillError as error:  # the engine would make another one of it
            failed.append(error)
            raise

    reader = pa.RecordBatchReader.from_batches(cast.schema, selected())
    wanted = ", ".join(column_names(inputs))
    with (
        replacing(target, target.parent) as unfinished,
        spilling(target.parent, memory=_MEMORY) as connection,
    ):
        connection.register("source", reader)
        options = f"format parquet, row_group_size {CHUNK}, compression zstd, compression_level 1"
        query = f"select distinct {wanted} from source"  # noqa: S608 - names of ours
        if counted is not None:
            query = (
                f"select {wanted}, sum({TIMES})::bigint as {TIMES} "  # noqa: S608 - names of ours
                f"from source group by {wanted}"
            )
        try:
            connection.execute(f"copy ({query}) to {literal(str(unfinished))} ({options})")
            _check_key(connection, unfinished, inputs, key)
        except duckdb.Error as error:
            raise (failed[0] if failed else _unwritable(target, error)) from error


def column_names(inputs: Sequence[object]) -> list[str]:
    """Returns what the columns of the file are called."""
    return [f"c{at}" for at in range(len(inputs))]


def _cast(
    batch: pa.RecordBatch, columns: Sequence[Column], counted: Counted | None
) -> pa.RecordBatch:
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
    return pa.RecordBatch.from_arrays(arrays, names=names)


def _check_columns(schema: pa.Schema, inputs: Sequence[str]) -> None:
    for name in inputs:
        given = schema.names.count(name)
        if given != 1:
            raise InvalidInput(
                f"the source has {'two columns' if given else 'no column'} {name!r}",
                remedy=f"It needs every input of the model, once: {', '.join(inputs)}.",
            )


def _check_key(connection: Any, path: Path, inputs: Sequence[str], key: Sequence[str]) -> None:
    source = f"read_parquet({literal(str(path))})"
    names = dict(zip(inputs, column_names(inputs), strict=True))
    keys = ", ".join(names[name] for name in key)
    total, distinct = connection.execute(
        f"select (select count(*) from {source}), "  # noqa: S608 - quoted
        f"(select count(*) from (select distinct {keys} from {source}))"
    ).fetchone()
    if not total:
        raise DataRefused("the source has no rows", remedy="Give a source with keyed rows.")
    if total == distinct:
        return
    others = [name for name in inputs if name not in key]
    values = ", ".join(
        f"count(distinct {each}) + bool_or({each} is null)::int > 1 as v{at}"
        for at, each in enumerate(names[name] for name in others)
    )
    varies = ", ".join(f"bool_or(v{at})" for at in range(len(others)))
    several, *found = connection.execute(
        f"select count(*), {varies} from (select {values} from {source} "  # noqa: S608 - quoted
        f"group by {keys} having count(*) > 1)"
    ).fetchone()
    varying = [name for name, varied in zip(others, found, strict=True) if varied]
    raise InvalidInput(
        f"the key ({', '.join(key)}) does not determine {', '.join(varying)}: "
        f"{several} keys would have several answers",
        remedy="Add those columns to the key, or make them equal in the source.",
    )


def _unwritable(target: Path, error: Exception) -> Unavailable | InvalidInput:
    said = str(error)[:300]
    if "No space left" in said or "Out of Memory" in said or "IO Error" in said:
        return Unavailable(
            f"the source's rows cannot be written beside {target}: {said}",
            remedy="Free space on that disk, and build again.",
        )
    return InvalidInput(f"the source cannot be read: {said}", remedy="Check its columns.")
