"""The files of a build: rows with their keys and the model's answers, as columns by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.models.signature import Array, Batch, Column, Signature


def answers_table(
    batch: Batch, outputs: Batch, key: tuple[str, ...], signature: Signature
) -> pa.Table:
    """Returns keys and answers as a table; a vector is a list."""
    columns = {name: _column(batch[name]) for name in key}
    for column in signature.outputs:
        columns[output_name(column.name, key)] = _column(outputs[column.name])
    return pa.table(columns)


def file_options(schema: pa.Schema) -> dict[str, Any]:
    """Returns how the Parquet files of a build are written: only texts are worth a dictionary."""
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    return {"compression": "zstd", "compression_level": 1, "use_dictionary": texts}


def read_answers(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Returns the rows of such a file, without what else Arrow would import to read folders."""
    with pq.ParquetFile(path) as file:
        return file.read(None if columns is None else list(columns), use_threads=False)


def output_name(output: str, key: tuple[str, ...]) -> str:
    """Returns what an output's column is called: one that is called like a key column gives way."""
    return f"predicted_{output}" if output in key else output


def column_array(rows: Any, name: str, column: Column) -> Array:
    """Returns a column of such rows as the array that it was.

    Args:
        rows: an Arrow table or batch.
        name: of its column.
        column: of the signature.
    """
    found = rows.column(name)
    values: Any = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    for _ in column.shape:
        values = values.flatten()
    if column.dtype == object:
        flat = np.empty(len(values), dtype=object)
        flat[:] = values.to_pylist()
    else:
        flat = values.to_numpy(zero_copy_only=False)
    return flat.reshape(rows.num_rows, *column.shape)


def _column(array: Array) -> pa.Array:
    flat = pa.array(array.reshape(-1).tolist() if array.dtype == object else array.reshape(-1))
    for size in reversed(array.shape[1:]):
        flat = pa.FixedSizeListArray.from_arrays(flat, size)
    return flat
