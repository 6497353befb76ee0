"""Rows of whatever has them, as Arrow: tables, record batches, Polars and pandas frames."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tidemill.data.casting import without_views
from tidemill.foundation.errors import InvalidInput


def as_table(data: Any) -> pa.Table:
    """Returns the rows of a table or frame.

    Args:
        data: an Arrow table or record batch, a Polars or pandas frame, or whatever else exports
            the Arrow stream. NaN in a pandas frame is a missing value, as pandas means it.
            Categories of texts stay such.

    Raises:
        InvalidInput: it is none of that, or two columns have one name.
    """
    table = _as_table(data)
    names = table.column_names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"two columns are called {twice!r}", remedy="Rename one.")
    for place, field in enumerate(table.schema):
        kind = without_views(field.type)
        if kind != field.type:
            plain = table.column(place).cast(kind)
            table = table.set_column(place, field.with_type(kind), plain)
    return table


def _as_table(data: Any) -> pa.Table:
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    try:
        if type(data).__module__.partition(".")[0] == "pandas":
            return pa.Table.from_pandas(_frame(data), preserve_index=False)
        if hasattr(data, "__arrow_c_stream__"):
            return pa.table(data)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidInput(
            f"the frame is no Arrow table: {error}", remedy="Give each column one type."
        ) from error
    raise InvalidInput(
        f"a {type(data).__name__} has no rows that can be read",
        remedy="Give an Arrow table, or a Polars or pandas frame.",
    )


def _frame(data: Any) -> Any:
    """Returns a pandas frame; one column alone becomes a frame of it."""
    if hasattr(data, "columns"):
        return data
    if getattr(data, "name", None) is None:
        raise TypeError(f"a pandas {type(data).__name__} without a name is no column")
    return data.to_frame()
