"""What a model takes and gives: named, typed columns, and the check of a batch against them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from tidemill.foundation.errors import InvalidInput, InvalidModel

if TYPE_CHECKING:
    import pyarrow as pa

Array: TypeAlias = npt.NDArray[Any]
Batch: TypeAlias = dict[str, Array]
"""Rows, column by column: arrays (n, *shape), one per name; strings are object arrays of str."""

DTYPES: dict[str, np.dtype[Any]] = {
    **{
        name: np.dtype(name)
        for name in (
            *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
            *("float16", "float32", "float64"),
        )
    },
    "string": np.dtype(object),
}
"""The NumPy type that holds each column type; the names are Arrow's."""

MAX_ROW_ELEMENTS = 1 << 26
"""No row of a column has more elements than this: sizes are bounded before they are allocated."""


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One named input or output of a model.

    Args:
        name: unique among the inputs, or among the outputs.
        type: an Arrow type name: bool, int8…int64, uint8…uint64, float16…float64 or string.
        shape: the shape of one row: ``()`` a scalar, ``(64,)`` a vector.

    Raises:
        InvalidModel: the type is unknown, or a dimension is not a positive number.

    Example:
        >>> Column("x", "float32", (64,)).dtype
        dtype('float32')
    """

    name: str
    type: str
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 1000:
            raise InvalidModel("a column needs a name of at most 1000 characters")
        if self.type not in DTYPES:
            raise InvalidModel(
                f"column {self.name!r} has the unknown type {self.type!r}",
                remedy=f"Known types: {', '.join(DTYPES)}.",
            )
        elements = 1
        for size in self.shape:
            elements *= size if size > 0 else MAX_ROW_ELEMENTS + 1
        if elements > MAX_ROW_ELEMENTS:
            raise InvalidModel(
                f"column {self.name!r} has the shape {self.shape}",
                remedy=f"Use positive sizes and at most {MAX_ROW_ELEMENTS} elements in a row.",
            )

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type of its arrays."""
        return DTYPES[self.type]

    @property
    def row_bytes(self) -> int:
        """What one row's elements take; of text, what points to it."""
        return math.prod(self.shape) * self.dtype.itemsize


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The columns that a model takes and gives, in order.

    Raises:
        InvalidModel: there are no inputs or outputs, or two of them share a name.

    Example:
        >>> signature = Signature((Column("x", "float64", (2,)),), (Column("label", "int64"),))
        >>> Signature.from_json(signature.to_json()) == signature
        True
    """

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]

    def __post_init__(self) -> None:
        for kind, columns in (("input", self.inputs), ("output", self.outputs)):
            names = [column.name for column in columns]
            if not names:
                raise InvalidModel(f"a signature needs at least one {kind}")
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise InvalidModel(f"two {kind}s share the name {twice[0]!r}")

    def to_json(self) -> bytes:
        """Returns the signature as JSON that ``from_json`` reads back as an equal one."""
        return msgspec.json.encode(self)

    @staticmethod
    def from_json(data: bytes | str) -> Signature:
        """Returns the signature that the JSON describes.

        Raises:
            InvalidModel: it does not describe one.
        """
        try:
            return _decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise InvalidModel(f"the signature cannot be read: {error}") from error

    def arrow_schema(self) -> pa.Schema:
        """Returns the inputs as an Arrow schema; vectors are (nested) fixed-size lists."""
        import pyarrow as pa  # noqa: PLC0415

        fields = []
        for column in self.inputs:
            kind = pa.bool_() if column.type == "bool" else pa.type_for_alias(column.type)
            for size in reversed(column.shape):
                kind = pa.list_(kind, size)
            fields.append(pa.field(column.name, kind))
        return pa.schema(fields)

    def empty_outputs(self) -> Batch:
        """Returns the answer to no rows: arrays (0, *shape) of the outputs' types."""
        return {c.name: np.empty((0, *c.shape), dtype=c.dtype) for c in self.outputs}


# Made on the thread that imports, as in ``format``.
_decoder = msgspec.json.Decoder(Signature)


def check_batch(signature: Signature, batch: Mapping[str, Any]) -> Batch:
    """Returns the batch as the model takes it, or says which column holds what it must not.

    What loses nothing is done silently: integers become floats that hold them, integral floats
    become integers, ``(n, 1)`` becomes ``(n,)``, bytes become text, null becomes NaN in float
    columns. Floats of other widths are rounded to the nearest. Nothing else is coerced.

    Args:
        signature: what the model takes.
        batch: arrays or (nested) lists by input name, each with one entry per row.

    Raises:
        InvalidInput: a column is missing, unknown, or of another length, shape or type, or a
            value has no place in the column's type; or there are no rows.

    Example:
        >>> signature = Signature((Column("age", "int64"),), (Column("label", "int64"),))
        >>> check_batch(signature, {"age": [41.0, 7]})
        {'age': array([41,  7])}
    """
    if len(batch) != len(signature.inputs):
        _check_names(signature, batch)
    checked: Batch = {}
    n = -1
    for column in signature.inputs:
        if column.name not in batch:
            _check_names(signature, batch)
        array = _array(column, batch[column.name])
        if n < 0:
            n = array.shape[0]
        elif array.shape[0] != n:
            raise InvalidInput(
                f"column {column.name!r} has {array.shape[0]} rows, "
                f"column {signature.inputs[0].name!r} has {n}",
                remedy="Send the same number of rows in every column.",
            )
        checked[column.name] = array
    if n == 0:
        raise InvalidInput("the batch has no rows", remedy="Send at least one row.")
    return checked


def _check_names(signature: Signature, batch: Mapping[str, Any]) -> None:
    wanted = [column.name for column in signature.inputs]
    missing = [name for name in wanted if name not in batch]
    unknown = [str(name)[:100] for name in batch if name not in wanted]
    parts = []
    if missing:
        parts.append(f"missing: {', '.join(map(repr, missing[:10]))}")
    if unknown:
        parts.append(f"unknown: {', '.join(map(repr, unknown[:10]))}")
    if parts:
        raise InvalidInput(
            f"the columns do not fit the model ({'; '.join(parts)})",
            remedy=f"Send exactly: {', '.join(wanted[:50])}.",
        )


def _array(column: Column, value: Any) -> Array:
    dtype = column.dtype
    array = value if isinstance(value, np.ndarray) else _from_list(column, value)
    if array.shape[1:] != column.shape or array.ndim == 0:
        array = _reshaped(column, array)
    if dtype.kind == "O":
        return _strings(column, array)
    if array.dtype == dtype:
        return array
    if array.dtype.kind == "O":
        array = _from_objects(column, array)
        if array.dtype == dtype:
            return array
    return _cast(column, array)


def _from_list(column: Column, value: Any) -> Array:
    try:
        if column.type == "string":
            return _object_array(value, 1 + len(column.shape))
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise _wrong(column, value, "rows of different lengths") from error


def _object_array(value: Any, depth: int) -> Array:
    # Filled, not converted: NumPy would make a fixed-width text array and copy it twice.
    if depth == 1 and isinstance(value, list):
        array = np.empty(len(value), dtype=object)
        array[:] = value
        return array
    return np.array(value, dtype=object)


def _reshaped(column: Column, array: Array) -> Array:
    if column.shape == () and array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if column.shape == (1,) and array.ndim == 1:
        return array[:, np.newaxis]
    wanted = ", ".join(["rows", *map(str, column.shape)])
    raise InvalidInput(
        f"column {column.name!r} has the shape {array.shape}",
        remedy=f"Send the shape ({wanted}).",
    )


def _strings(column: Column, array: Array) -> Array:
    if array.dtype.kind == "U":
        return array.astype(object)
    if array.dtype.kind == "S":
        array = array.astype(object)
    if array.dtype.kind != "O":
        raise _wrong(column, array.flat[0] if array.size else None, f"type {array.dtype}")
    values = array.ravel().tolist()
    if set(map(type, values)) <= {str}:
        return array
    texts = np.empty(len(values), dtype=object)
    texts[:] = [_text(column, row, value) for row, value in enumerate(values)]
    return texts.reshape(array.shape)


def _text(column: Column, row: int, value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise _wrong(column, value, "bytes that are not UTF-8", row) from error
    raise _wrong(column, value, f"a {_kind(value)}", row)


def _from_objects(column: Column, array: Array) -> Array:
    """Returns an array of numbers (or bools) made of a mixed one, row by row."""
    values = array.ravel().tolist()
    kind = column.dtype.kind
    allowed: tuple[type, ...] = (bool, np.bool_) if kind == "b" else (int, float, np.number)
    for row, value in enumerate(values):
        if value is None and kind == "f":
            continue
        refused = kind != "b" and isinstance(value, bool)
        if refused or not isinstance(value, allowed):
            raise _wrong(column, value, f"a {_kind(value)}", row)
    if kind == "f":
        numbers = [np.nan if value is None else value for value in values]
        exact = all(isinstance(v, float) or abs(v) <= 1 << 53 or v != v for v in numbers)  # noqa: PLR0124
        if not exact:
            raise _wrong(column, max(numbers, key=abs), "a number too large to be held exactly")
        return np.array(numbers, dtype=np.float64).reshape(array.shape)
    if any(isinstance(value, int) and abs(value) >= 1 << 63 for value in values):
        raise _wrong(column, max(values, key=abs), "a number out of range")
    return np.array(values).reshape(array.shape)


def _cast(column: Column, array: Array) -> Array:
    source, target = array.dtype.kind, column.dtype.kind
    if source not in "iuf" or target not in "iuf":
        raise _wrong(column, array.flat[0] if array.size else None, f"type {array.dtype}")
    with np.errstate(invalid="ignore", over="ignore"):
        cast = array.astype(column.dtype)
        if source == "f" and target == "f":
            bad = np.isinf(cast) & ~np.isinf(array)
        else:
            bad = _changed(array, cast)
    if bad.any():
        row = int(np.argmax(bad.reshape(bad.shape[0], -1).any(axis=1)))
        raise _wrong(column, array[bad].flat[0].item(), "a number that it cannot hold", row)
    return cast


def _changed(array: Array, cast: Array) -> Array:
    """Says which values an (integer to or from float or integer) cast has changed."""
    if array.dtype.kind == "f":
        limits = np.iinfo(cast.dtype)
        # The upper limit itself is no float64 for 64-bit integers: compare with one above it.
        inside = (array >= float(limits.min)) & (array < float(limits.max) + 1.0)
        return np.asarray(~(inside & (np.trunc(array) == array)))
    if cast.dtype.kind == "f":
        largest = 1 << (np.finfo(cast.dtype).nmant + 1)
        return np.asarray((array > largest) | (array < -largest))
    limits = np.iinfo(cast.dtype)
    return np.asarray((array > limits.max) | (array < limits.min))


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _wrong(column: Column, value: Any, what: str, row: int | None = None) -> InvalidInput:
    place = "" if row is None else f" in row {row}"
    shown = repr(value)[:100]
    return InvalidInput(
        f"column {column.name!r} holds {what}{place}: {shown}",
        remedy=f"Send {column.type} values.",
    )
