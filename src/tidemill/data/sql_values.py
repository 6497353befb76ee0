"""Turns rows of a database into Arrow: by the types that it declares, else by the values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from tidemill.foundation.errors import InvalidInput

_INT64 = pa.int64()
_FLOAT64 = pa.float64()
_STRING = pa.string()
_UTC = pa.timestamp("us", "UTC")

_POSTGRESQL: dict[int, pa.DataType] = {
    **dict.fromkeys((20, 21, 23, 26), _INT64),  # int8, int2, int4, oid
    **dict.fromkeys((700, 701), _FLOAT64),
    **dict.fromkeys((18, 19, 25, 1042, 1043), _STRING),  # "char", name, text, bpchar, varchar
    16: pa.bool_(),
    1082: pa.date32(),
    1083: pa.time64("us"),
    1114: pa.timestamp("us"),
    1184: _UTC,
}
_ALONE: dict[type, pa.DataType] = {
    bool: pa.bool_(),
    int: _INT64,
    str: _STRING,
    date: pa.date32(),
}
_NUMERIC = 1700
_EXACT_INTS = 1 << 53
_MOST_DIGITS = 38
_NOT_ARROW = (pa.ArrowException, OverflowError, TypeError, ValueError)


def declared_types(driver: str, description: Sequence[Any]) -> list[pa.DataType | None]:
    """Returns the type that each column of a result has, whatever its rows; None for by values.

    Args:
        driver: its name; PostgreSQL's says the types of columns.
        description: of the cursor.
    """
    return [_declared(column) if driver == "psycopg" else None for column in description]


def _declared(column: Any) -> pa.DataType | None:
    digits, scale = column.precision, column.scale
    if column.type_code != _NUMERIC:
        return _POSTGRESQL.get(column.type_code)
    if digits is None or scale is None or not 0 <= scale <= digits <= _MOST_DIGITS:
        return None
    return pa.decimal128(digits, scale)


def record_batch(
    names: Sequence[str], types: Sequence[pa.DataType | None], rows: Sequence[Sequence[Any]]
) -> pa.RecordBatch:
    """Returns rows as a batch.

    A column whose values do not fit the type that was declared, or one another, is of text: the
    gate judges each value then as it does in CSV.

    Raises:
        InvalidInput: a column holds bytes.
    """
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    arrays = [
        _array(name, values, kind) for name, values, kind in zip(names, columns, types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, names=list(names))


def _array(name: str, values: Sequence[Any], declared: pa.DataType | None) -> pa.Array:
    if declared is not None:
        try:
            return pa.array(values, declared)
        except _NOT_ARROW:
            pass
    kinds = {type(value) for value in values if value is not None}
    if kinds & {bytes, bytearray, memoryview}:
        raise InvalidInput(
            f"column {name!r} holds bytes, which can't be kept",
            remedy="Leave it out of the query, or have the database write it as text.",
        )
    if not kinds:
        return pa.nulls(len(values))
    try:
        found = _of_kinds(kinds, values)
    except _NOT_ARROW:
        found = None
    return pa.array(map(_text, values), _STRING) if found is None else found


def _of_kinds(kinds: set[type], values: Sequence[Any]) -> pa.Array | None:
    """Returns values of some classes as an array; None where only their texts are of one type."""
    if len(kinds) == 1 and (alone := _ALONE.get(next(iter(kinds)))) is not None:
        return pa.array(values, alone)
    if kinds <= {int, float}:
        ints = (value for value in values if type(value) is int)
        return pa.array(values, _FLOAT64) if all(abs(i) <= _EXACT_INTS for i in ints) else None
    if kinds <= {int, Decimal}:
        return _decimals(values)
    zoned = {getattr(value, "tzinfo", None) is not None for value in values if value is not None}
    if kinds == {datetime} and len(zoned) == 1:
        return pa.array(values, _UTC if True in zoned else pa.timestamp("us"))
    return pa.array(values, pa.time64("us")) if kinds == {time} and zoned == {False} else None


def _decimals(values: Sequence[Any]) -> pa.Array:
    """Returns decimals as such where they are finite and have not too many digits."""
    exact = [value if value is None else Decimal(value) for value in values]
    if all(value is None or value.is_finite() for value in exact):
        try:
            found = pa.array(exact)
            if found.type.scale >= 0:
                return found
        except _NOT_ARROW:
            pass
    return pa.array([None if value is None else float(value) for value in exact], _FLOAT64)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_text)
    return str(value)
