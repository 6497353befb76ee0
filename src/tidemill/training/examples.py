"""Examples as models take them: feature columns and labels out of an Arrow table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import Array, Batch, Column


def feature_columns(schema: pa.Schema, features: Sequence[str]) -> tuple[Column, ...]:
    """Returns the features as a signature's columns: what a client will send.

    Integers of every width become int64, decimals float64, dictionaries strings.

    Raises:
        InvalidInput: there are none, one is missing or is named twice, or has a type that a model
            cannot take.

    Example:
        >>> feature_columns(pa.schema({"hour": pa.int8()}), ["hour"])
        (Column(name='hour', type='int64', shape=()),)
    """
    if not features:
        raise InvalidInput("no features are named", remedy="Name at least one column.")
    twice = sorted({name for name in features if list(features).count(name) > 1})
    if twice:
        raise InvalidInput(f"feature {twice[0]!r} is named twice")
    return tuple(Column(name, _type(name, _field(schema, name).type)) for name in features)


def feature_batch(table: pa.Table, columns: Sequence[Column]) -> Batch:
    """Returns some columns of a table as a model takes them; a missing float is NaN.

    Raises:
        InvalidInput: a column is missing or does not convert, or misses a value that only a float
            column can miss.
    """
    return {column.name: _array(table, column) for column in columns}


def label_array(table: pa.Table, label: str) -> Array:
    """Returns the labels: integers (booleans and whole floats too), other floats, or strings.

    Raises:
        InvalidInput: there is no such column, or it misses a value: rows without a label are no
            examples.
    """
    kind = _field(table.schema, label).type
    column = table.column(label)
    if column.null_count:
        raise InvalidInput(
            f"label {label!r} is missing in {column.null_count} of {table.num_rows} rows",
            remedy="Leave those rows out: without a label they are no examples.",
        )
    if _is_text(kind):
        return _texts(column)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return np.asarray(column.cast(pa.int64()).to_numpy())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = np.asarray(column.cast(pa.float64()).to_numpy())
        if not np.isfinite(numbers).all():
            raise InvalidInput(f"label {label!r} holds numbers that are not finite")
        whole = bool((np.trunc(numbers) == numbers).all())
        return numbers.astype(np.int64) if whole else numbers
    raise InvalidInput(
        f"label {label!r} has the type {kind}", remedy="Select a number, a boolean or text."
    )


def _field(schema: pa.Schema, name: str) -> pa.Field:
    if schema.names.count(name) != 1:
        raise InvalidInput(
            f"column {name!r} is {'ambiguous' if name in schema.names else 'not there'}",
            remedy=f"Columns: {', '.join(schema.names[:50])}.",
        )
    return schema.field(name)


def _type(name: str, kind: pa.DataType) -> str:
    if _is_text(kind):
        return "string"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "int64"
    if pa.types.is_floating(kind):
        return "float32" if kind == pa.float32() else "float64"
    if pa.types.is_decimal(kind):
        return "float64"
    raise InvalidInput(
        f"feature {name!r} has the type {kind}",
        remedy="Select numbers, booleans or text; of a time, select its parts.",
    )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _array(table: pa.Table, column: Column) -> Array:
    _field(table.schema, column.name)
    values = table.column(column.name)
    if values.null_count and column.dtype.kind != "f":
        raise InvalidInput(
            f"feature {column.name!r} is missing in {values.null_count} of {table.num_rows} rows",
            remedy="Leave those rows out, or select another value in their place (coalesce).",
        )
    if column.type == "string":
        return _texts(values)
    values = cast_feature(values, column)
    if column.dtype.kind == "f":
        values = pc.fill_null(values, float("nan"))
    return np.asarray(values.to_numpy()).astype(column.dtype, copy=False)


def cast_feature(values: Any, column: Column) -> Any:
    """Returns an Arrow array or column in the type of a model's column; what is missing stays so.

    Raises:
        InvalidInput: a value is of another type, or would silently become infinite.
    """
    if column.type == "string":
        _check_text(values)
    wanted = pa.bool_() if column.type == "bool" else pa.type_for_alias(column.type)
    exact = pa.types.is_decimal(values.type) and column.dtype.kind == "f"
    try:
        # A decimal's text is rounded rightly, the decimal itself is not.
        cast = (values.cast(pa.string()) if exact else values).cast(wanted)
    except pa.ArrowException as error:
        raise InvalidInput(
            f"feature {column.name!r} does not convert to {column.type}: {error}"
        ) from error
    if column.dtype.kind == "f":
        _check_range(values, cast, column)
    return cast


def _check_range(given: Any, cast: Any, column: Column) -> None:
    """Refuses numbers that would silently become infinite in a narrower type."""
    if not pa.types.is_floating(given.type) or given.type == cast.type:
        return
    lost = pc.and_(pc.is_inf(cast), pc.invert(pc.is_inf(given)))
    if pc.any(lost).as_py():
        value = given.filter(lost)[0].as_py()
        raise InvalidInput(
            f"feature {column.name!r} holds {value:g}, which is too large for {column.type}",
            remedy="Scale the column, or leave those rows out.",
        )


def _check_text(values: Any) -> None:
    if not _is_text(values.type):
        raise InvalidInput(f"text was expected, and the column has the type {values.type}")


def _texts(values: pa.ChunkedArray) -> Array:
    _check_text(values)
    texts = np.empty(len(values), dtype=object)
    texts[:] = values.cast(pa.string()).to_pylist()
    return texts
