"""The schema of any frame, inferred as an ingest would, and of value lists too."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.data.casting import ARROW, cast, supported, type_of
from tidemill.data.frames import as_table
from tidemill.data.schema import Column, Schema, complete, infer
from tidemill.data.statistics import describe
from tidemill.foundation.errors import InvalidInput


def infer_schema(data: Any, *, declared: Schema | None = None, ranges: bool = False) -> Schema:
    """Returns the schema that rows teach; they conform to it.

    Args:
        data: an Arrow table, or a Polars or pandas frame. Lists of values may be there, lists of
            lists may not.
        declared: rules that stay as they are.
        ranges: numbers and timestamps get the range that they are in.

    Raises:
        InvalidInput: it is no frame, a column is of a type that can't be kept, or what was declared
            doesn't fit it.

    Example:
        >>> schema = infer_schema(pa.table({"age": [4, 14], "tags": [["a"], []]}))
        >>> [(column.name, column.type, column.max_values) for column in schema.columns]
        [('age', 'int64', None), ('tags', 'string', 1)]
    """
    table = as_table(data)
    lists = {name: _valency(table, name) for name in table.column_names if _is_list(table, name)}
    flat = {name: _flat(table, name) for name in table.column_names}
    types = {name: type_of(values.type) for name, values in flat.items()}
    columns = []
    for column in complete(declared, types).columns:
        if column.name not in flat:
            columns.append(column)
            continue
        seen = _learned(column, flat[column.name], ranges=ranges)
        if column.name in lists:  # presence is of rows, not of the values in their lists
            low, high = lists[column.name]
            rows = table.column(column.name)
            seen = msgspec.structs.replace(
                seen,
                **_presence(column, rows),
                min_values=low if column.min_values is None else column.min_values,
                max_values=high if column.max_values is None else column.max_values,
            )
        columns.append(seen)
    return msgspec.structs.replace(complete(declared, types), columns=tuple(columns))


def _is_list(table: pa.Table, name: str) -> bool:
    kind = table.schema.field(name).type
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _valency(table: pa.Table, name: str) -> tuple[int, int]:
    lengths = pc.min_max(pc.list_value_length(table.column(name))).as_py()
    return lengths["min"] or 0, lengths["max"] or 0


def _flat(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    if _is_list(table, name):
        column = pc.list_flatten(column)
    values = column.combine_chunks()
    values = pa.concat_arrays(values.chunks) if isinstance(values, pa.ChunkedArray) else values
    if isinstance(values, pa.DictionaryArray):
        values = values.dictionary_decode()
    if not supported(values.type):
        raise InvalidInput(
            f"column {name!r} is of type {table.schema.field(name).type}, which can't be kept",
            remedy="Write it as numbers, booleans, timestamps, strings, or lists of them.",
        )
    return values


def _learned(column: Column, values: pa.Array, *, ranges: bool) -> Column:
    """Returns a column with what its values teach."""
    kind = column.type or "string"
    found = cast(values, kind, ())
    if found.wrong.any():
        raise InvalidInput(
            f"column {column.name!r} has values that are not {kind}", remedy="Correct the schema."
        )
    statistics = describe(pa.table({column.name: found.values.cast(ARROW[kind])}))
    bare = Schema(columns=(column,))
    learned = infer(bare, statistics.result(), ranges=ranges).columns[0]
    if kind != "float64" or not found.not_finite.any():
        return learned
    odd = values.cast(pa.float64())
    return msgspec.structs.replace(
        learned,
        allow_nan=bool(pc.any(pc.is_nan(odd)).as_py()),
        allow_inf=bool(pc.any(pc.is_inf(odd)).as_py()),
        **_unbounded(column),
        **_presence(column, values),
    )


def _unbounded(column: Column) -> dict[str, Any]:
    """Returns the range of numbers some of which are infinite: what was declared."""
    return {"min": column.min, "max": column.max}


def _presence(column: Column, values: pa.Array | pa.ChunkedArray) -> dict[str, Any]:
    """Returns the presence that values teach; NaN is a value."""
    missing = values.null_count / len(values) if len(values) else 0.0
    most = column.max_missing_fraction
    if most is None and not column.required and len(values):
        most = round(min(1.0, 2 * missing + 0.05), 4)
    present = len(values) - values.null_count
    count = column.min_count if column.min_count is not None else min(present, 1)
    return {"max_missing_fraction": most, "min_count": count}
