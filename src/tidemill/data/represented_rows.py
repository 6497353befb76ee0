"""Columns of rows replaced by what represents them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.data.representation import check_representation
from tidemill.foundation.errors import InvalidInput


def represented_rows(rows: pa.Table, represent: Mapping[str, str]) -> pa.Table:
    """Returns the rows with some columns replaced by their representations; missing ones stay so.

    Args:
        rows: with columns of numbers or text.
        represent: the representation of some of them.

    Raises:
        InvalidInput: there is no such column, or it has none of the representation's types.

    Example:
        >>> rows = pa.table({"city": ["Oslo ", None, "OSLO"], "km": [1, 2, 3]})
        >>> represented_rows(rows, {"city": "text"})["city"].to_pylist()
        ['oslo', None, 'oslo']
    """
    for name, declared in represent.items():
        at = rows.schema.get_field_index(name)
        if at < 0:
            raise InvalidInput(
                f"column {name!r} is represented, and no part of the key",
                remedy=f"The key: {', '.join(rows.column_names[:30])}.",
            )
        rows = rows.set_column(at, name, _represented(name, rows.column(at), declared))
    return rows


def key_columns(
    questions: Sequence[Mapping[str, Any]], key: Sequence[str], represent: Mapping[str, str]
) -> pa.Table:
    """Returns the key of each question: represented columns of their values, all else as text.

    Args:
        questions: at least one, each with all columns of the key.
        key: the columns, in order.
        represent: the representation of some of them; those of other columns do not count.

    Raises:
        InvalidInput: a column has none of its representation's types.

    Example:
        >>> key_columns([{"city": "Oslo ", "km": 1}], ["city", "km"], {"city": "text"}).to_pylist()
        [{'city': 'oslo', 'km': '1'}]
    """
    of_key = {name: how for name, how in represent.items() if name in key}
    columns = {
        name: [row[name] if name in of_key else str(row[name]) for row in questions] for name in key
    }
    return represented_rows(pa.table(columns), of_key)


def _represented(name: str, column: pa.ChunkedArray, declared: str) -> Any:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return column
    found = check_representation(name, _kind(column.type), declared)
    if found.takes == "text":
        coded = column.combine_chunks().dictionary_encode()
        texts = np.array([*coded.dictionary.to_pylist(), ""], object)[:-1]
        values = pa.array(found.many(texts).tolist())
        return values.take(coded.indices) if len(values) else column
    missing = column.is_null().to_numpy()
    values = found.many(column.fill_null(0).to_numpy())
    return pa.array(values, mask=missing)


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "uint64" if pa.types.is_unsigned_integer(kind) else "int64"
    return "float64" if pa.types.is_floating(kind) else str(kind)
