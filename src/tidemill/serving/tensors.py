"""Arrays made of what clients send, and what they are sent made of arrays.

A value is taken as it is, or refused with its place: none is cut, wrapped, parsed out of text or
taken for a number because it is true. A decimal fraction becomes the nearest float of its datatype.
"""

from __future__ import annotations

import math
import reprlib
import struct
import sys
from functools import lru_cache
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from tidemill.foundation.errors import InvalidInput, TooLarge
from tidemill.models.signature import Column

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

MAX_ROWS = 65_536
"""Rows in one request, at most."""

MAX_ELEMENTS = 1 << 26
"""Elements in one tensor, at most."""

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("bool"),
    "UINT8": np.dtype("uint8"),
    "UINT16": np.dtype("uint16"),
    "UINT32": np.dtype("uint32"),
    "UINT64": np.dtype("uint64"),
    "INT8": np.dtype("int8"),
    "INT16": np.dtype("int16"),
    "INT32": np.dtype("int32"),
    "INT64": np.dtype("int64"),
    "FP16": np.dtype("float16"),
    "FP32": np.dtype("float32"),
    "FP64": np.dtype("float64"),
    "BYTES": np.dtype(object),
}
"""Datatypes of the protocol and what holds them here; BYTES is UTF-8 text."""

BF16 = "BF16"
"""The upper half of an FP32: no type of NumPy's, so it becomes one when it comes in."""

ONLY_BINARY = frozenset({"FP16", BF16})
"""Datatypes that have no form in JSON, nor contents in gRPC."""

_NAMES = {dtype: name for name, dtype in DATATYPES.items()}

_BECOMES = {"f": "fiu", "i": "iu", "u": "iu", "b": "b", "O": "O"}
"""By the kind of a column: the kinds of tensors that it takes."""

_JSON_TYPES: dict[str, frozenset[type]] = {
    "f": frozenset({int, float}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "b": frozenset({bool}),
    "O": frozenset({str}),
}
"""By the kind of a tensor: the values that it has in JSON; true is not 1."""

_MAX_FLOAT = sys.float_info.max
_MAX_PACKED = 1 << 16
_shorten = reprlib.Repr()
_shorten.maxstring = _shorten.maxother = _shorten.maxlong = 80
_shorten.maxlevel = 3


def show(value: object) -> str:
    """Returns a value as a message may quote it: as Python writes it, shortened.

    Example:
        >>> show([1] * 1000)
        '[1, 1, 1, 1, 1, 1, ...]'
    """
    return _shorten.repr(value)


def datatype_of(column: Column) -> str:
    """Returns the protocol's name for a column's type.

    Example:
        >>> datatype_of(Column("x", "float64"))
        'FP64'
    """
    return _NAMES[column.dtype]


def dtype_of(datatype: str) -> np.dtype[Any] | None:
    """Returns what holds a datatype here; None if it is unknown."""
    return DATATYPES["FP32"] if datatype == BF16 else DATATYPES.get(datatype)


def check_shape(shape: list[int], column: Column) -> Shape:
    """Returns the shape of a tensor that is sent for a column, rows first.

    A scalar column also takes (n, 1).

    Raises:
        InvalidInput: it is not the column's, or too large.
    """
    per_row = column.shape
    if len(shape) == 2 and per_row == () and shape[1] == 1:
        per_row = (1,)
    if len(shape) != 1 + len(per_row) or shape[0] < 0 or tuple(shape[1:]) != per_row:
        raise InvalidInput(
            f"input {column.name!r} has shape {show(shape)}",
            remedy=f"The model expects {[-1, *column.shape]}; -1 stands for the rows.",
        )
    check_rows(shape[0], at_least=0)
    if math.prod(shape) > MAX_ELEMENTS:
        raise TooLarge(
            f"input {column.name!r} has shape {show(shape)}",
            remedy=f"Send at most {MAX_ELEMENTS} elements in one tensor.",
        )
    return tuple(shape)


def check_rows(n: int, *, at_least: int = 1) -> int:
    """Returns a number of rows that one request may have.

    Raises:
        InvalidInput: there are none.
        TooLarge: there are too many.
    """
    if n < at_least:
        raise InvalidInput("the request has no rows", remedy="Send at least one row.")
    if n > MAX_ROWS:
        raise TooLarge(f"the request has {n} rows", remedy=f"Send at most {MAX_ROWS}.")
    return n


def check_datatype(datatype: str, column: Column) -> np.dtype[Any]:
    """Returns what holds a datatype, if the column takes tensors of it.

    Numbers are widened and narrowed where every value fits; integers become floats, never the
    other way round.

    Raises:
        InvalidInput: the datatype is unknown, or of another kind than the column.
    """
    dtype = dtype_of(datatype)
    if dtype is None or not takes_datatype(dtype, column):
        raise InvalidInput(
            f"input {column.name!r} has datatype {show(datatype)}",
            remedy=f"The model expects {datatype_of(column)}.",
        )
    return dtype


def takes_datatype(dtype: np.dtype[Any], column: Column, *, whole: bool = False) -> bool:
    """Says whether a column takes what a datatype holds.

    Args:
        dtype: of the tensor.
        column: whom it is for.
        whole: whether an integer may come as a float without a fraction.
    """
    kind = column.dtype.kind
    return dtype.kind in _BECOMES[kind] or (whole and dtype.kind == "f" and kind in "iu")


def from_json(values: Any, dtype: np.dtype[Any], shape: Shape, column: Column) -> Array:
    """Returns the array that a tensor in JSON stands for, as the column takes it.

    Args:
        values: what was sent: the elements row by row, in one list or nested as the shape is.
        dtype: of the tensor.
        shape: of the tensor; see ``check_shape``.
        column: whom it is for.

    Raises:
        InvalidInput: a value does not fit the datatype or the column, or the lists the shape.
    """
    flat = _flattened(values, shape, column)
    allowed = _JSON_TYPES[dtype.kind]
    if not allowed.issuperset(map(type, flat)):
        at = next(at for at, value in enumerate(flat) if type(value) not in allowed)
        _refuse(column, show(flat[at]), at, shape)
    if dtype.kind == "O":
        array = np.empty(len(flat), object)
        array[:] = flat
    elif dtype.kind == "b":
        array = np.array(flat, dtype)
    else:
        packed = _packed(flat, dtype)
        if packed is not None:
            array = packed
        elif dtype.kind == "f":
            array = _floats(flat, dtype, shape, column)
        else:
            array = _integers(flat, dtype, shape, column)
    return fit(array, shape, column)


def from_rows(rows: list[Any], column: Column) -> Array:
    """Returns the array of one column's values, as v1 sends them: one value or list per row.

    Raises:
        InvalidInput: a value does not fit the column; its row is named.
    """
    per_row = column.shape
    if per_row == () and rows and type(rows[0]) is list:
        per_row = (1,)
    elif per_row and rows and type(rows[0]) is not list:
        _refuse(column, show(rows[0]), 0, (len(rows),))
    return from_json(rows, column.dtype, (len(rows), *per_row), column)


def from_bytes(data: bytes, dtype: np.dtype[Any], shape: Shape, column: Column) -> Array:
    """Returns the array that a binary tensor stands for, as the column takes it.

    Args:
        data: little-endian elements row by row; text as its length (4 bytes) and its UTF-8.
        dtype: of the tensor.
        shape: of the tensor; see ``check_shape``.
        column: whom it is for.

    Raises:
        InvalidInput: the bytes are not what the shape holds, or a value does not fit the column.
    """
    count = math.prod(shape)
    if dtype.kind == "O":
        array = np.empty(count, object)
        array[:] = _texts(data, count, column)
        return array.reshape((shape[0], *column.shape))
    if len(data) != count * dtype.itemsize:
        raise InvalidInput(
            f"input {column.name!r} has {len(data)} bytes, its shape {list(shape)} holds "
            f"{count * dtype.itemsize}",
            remedy=f"Send {_NAMES[dtype]} values, {dtype.itemsize} bytes each, little-endian.",
        )
    if dtype.kind == "b":
        numbers = np.frombuffer(data, np.uint8)
        if (numbers > 1).any():
            at = int(np.flatnonzero(numbers > 1)[0])
            _refuse(column, f"the byte {numbers[at]}", at, shape)
    array = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False)
    if dtype.kind == "f":
        _check_finite(array, shape, column, array)
    return fit(array, shape, column)


def widened(data: bytes, shape: Shape, column: Column) -> bytes:
    """Returns a binary tensor of BF16 as one of FP32, which holds each of its values.

    Raises:
        InvalidInput: the bytes are not what the shape holds.
    """
    count = math.prod(shape)
    if len(data) != 2 * count:
        raise InvalidInput(
            f"input {column.name!r} has {len(data)} bytes, its shape {list(shape)} holds "
            f"{2 * count}",
            remedy=f"Send {BF16} values, 2 bytes each, little-endian.",
        )
    return (np.frombuffer(data, "<u2").astype("<u4") << 16).astype("<u4", copy=False).tobytes()


def fit_column(array: Array, column: Column) -> Array:
    """Returns one column of a matrix (n,) as the scalar column's own array.

    A matrix has one datatype: what has no fraction in it is taken for an integer.

    Raises:
        InvalidInput: a value does not fit the column; its row is named.
    """
    if array.dtype.kind != "f" or column.dtype.kind not in "iu":
        return fit(array, array.shape, column)
    bounds = np.iinfo(column.dtype)
    # The upper bound itself may be no float: what is below the one above it is inside.
    wide = array.astype(np.float64, copy=False)
    inside = (wide >= float(bounds.min)) & (wide < float(bounds.max) + 1.0)
    wrong = ~(inside & (np.trunc(wide) == wide))
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        _refuse(column, str(array[at]), at, array.shape)
    return array.astype(column.dtype)


def fit(array: Array, shape: Shape, column: Column) -> Array:
    """Returns finite values of a datatype that the column takes as the column's own array.

    Args:
        array: the elements, row by row.
        shape: of the tensor that was sent.
        column: whom it is for.

    Raises:
        InvalidInput: a value does not fit the column.
    """
    return _cast(array, shape, column).reshape((shape[0], *column.shape))


def packer(dtype: np.dtype[Any], count: int) -> struct.Struct | None:
    """Returns what packs so many numbers into the bytes of a tensor; None where nothing does.

    It refuses what the datatype cannot hold, but takes true for 1: that is the caller's to check.
    It is several times faster than NumPy's own conversion of a list.
    """
    if dtype.kind not in "fiu" or not 0 < count <= _MAX_PACKED:
        return None
    return _packers(dtype.char, count)


@lru_cache(256)
def _packers(char: str, count: int) -> struct.Struct:
    # As the machine has them, but for float32: only the portable form says what is too large.
    return struct.Struct(f"<{count}f" if char == "f" else f"{count}{char}")


def _packed(flat: list[Any], dtype: np.dtype[Any]) -> Array | None:
    pack = packer(dtype, len(flat))
    if pack is None:
        return None
    try:
        array = np.frombuffer(pack.pack(*flat), dtype)
    except (struct.error, OverflowError):
        return None  # a value is too large: who goes on says which
    if dtype.kind == "f" and not np.logical_and.reduce(np.isfinite(array)):
        return None  # JSON has no such number, but a declared default may
    return array


def to_json(array: Array) -> Any:
    """Returns an array's elements row by row, as orjson writes them."""
    if array.dtype.kind in "OUS":
        return array.ravel().tolist()
    return np.ascontiguousarray(array).ravel()


def to_bytes(array: Array) -> bytes:
    """Returns an array as a binary tensor."""
    if array.dtype.kind in "OUS":
        parts = [str(value).encode() for value in array.ravel().tolist()]
        return b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).tobytes()


def _flattened(values: Any, shape: Shape, column: Column) -> list[Any]:
    if type(values) is not list:
        raise _wrong(column, show(values))
    if len(shape) == 1 or not values or type(values[0]) is not list:
        if len(values) != math.prod(shape):
            _refuse_count(values, shape, column)
        return values
    if len(values) != shape[0]:
        _refuse_count(values, shape, column)
    level = values
    for size in shape[1:]:
        for at, inner in enumerate(level):
            if type(inner) is not list or len(inner) != size:
                row = at * shape[0] // len(level)
                raise _wrong(column, f"{show(inner)} in row {row}")
        level = list(chain.from_iterable(level))
    return level


def _integers(flat: list[int], dtype: np.dtype[Any], shape: Shape, column: Column) -> Array:
    wide = np.dtype(np.int64 if dtype.kind == "i" else np.uint64)
    try:
        if flat and wide.kind == "u" and min(flat) < 0:
            raise OverflowError  # noqa: TRY301 - as NumPy does, or will
        array = np.array(flat, wide)
    except OverflowError:
        _refuse_integer(flat, dtype, shape, column)
    if dtype != wide:
        if not _fits(array, dtype):
            _refuse_integer(flat, dtype, shape, column)
        array = array.astype(dtype)
    return array


def _floats(flat: list[float], dtype: np.dtype[Any], shape: Shape, column: Column) -> Array:
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.array(flat, dtype)
            total = np.add.reduce(array)  # finite only if all of them are: the usual case, soon
    except OverflowError:
        at = next(at for at, value in enumerate(flat) if abs(value) > _MAX_FLOAT)
        _refuse(column, show(flat[at]), at, shape)
    if not math.isfinite(total):
        _check_finite(array, shape, column, flat)
    return array


def _texts(blob: bytes, count: int, column: Column) -> list[str]:
    texts: list[str] = []
    offset = 0
    while offset < len(blob) and len(texts) < count:
        length = int.from_bytes(blob[offset : offset + 4], "little")
        offset += 4
        if offset + length > len(blob):
            raise InvalidInput(
                f"input {column.name!r} has a BYTES element of {length} bytes, "
                f"{max(0, len(blob) - offset)} are left",
                remedy="Send each element as its length (4 bytes, little-endian) and its bytes.",
            )
        try:
            texts.append(blob[offset : offset + length].decode())
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"input {column.name!r} has a BYTES element that is not UTF-8: number {len(texts)}",
                remedy="Send UTF-8 text.",
            ) from error
        offset += length
    if len(texts) < count or offset < len(blob):
        raise InvalidInput(
            f"input {column.name!r} has {'more' if offset < len(blob) else len(texts)} "
            f"BYTES elements, its shape holds {count}",
            remedy="Send as many elements as the shape holds.",
        )
    return texts


def _cast(array: Array, shape: Shape, column: Column) -> Array:
    """Makes an array of a datatype that the column takes into one of the column's own."""
    target = column.dtype
    if array.dtype == target:
        return array
    if target.kind == "f":
        return _narrowed(array, target, shape, column)
    if array.size and not _fits(array, target):
        _refuse_integer(array.tolist(), target, shape, column)
    return array.astype(target)


def _narrowed(array: Array, dtype: np.dtype[Any], shape: Shape, column: Column) -> Array:
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    _check_finite(cast, shape, column, array)
    return cast


def _check_finite(array: Array, shape: Shape, column: Column, sent: Any) -> None:
    """Refuses what is not finite, and what has become infinite because it was too large."""
    finite = np.isfinite(array)
    if not finite.all():
        at = int(np.flatnonzero(~finite)[0])
        narrow = f", too large for {_NAMES[array.dtype]}," if math.isfinite(sent[at]) else ""
        _refuse(column, f"{sent[at]}{narrow}", at, shape)


def _fits(array: Array, target: np.dtype[Any]) -> bool:
    if array.size == 0 or np.can_cast(array.dtype, target):
        return True
    bounds = np.iinfo(target)
    return int(array.min()) >= bounds.min and int(array.max()) <= bounds.max


def _refuse_integer(
    flat: list[int], dtype: np.dtype[Any], shape: Shape, column: Column
) -> NoReturn:
    bounds = np.iinfo(dtype)
    at = next(at for at, value in enumerate(flat) if not bounds.min <= value <= bounds.max)
    _refuse(column, f"{show(flat[at])}, which {_NAMES[dtype]} cannot hold,", at, shape)


def _refuse_count(values: list[Any], shape: Shape, column: Column) -> NoReturn:
    raise InvalidInput(
        f"input {column.name!r} has {len(values)} values, its shape {list(shape)} holds "
        f"{math.prod(shape)}",
        remedy="Send as many values as the shape holds, in one list or nested like the shape.",
    )


def _refuse(column: Column, what: str, at: int, shape: Shape) -> NoReturn:
    per_row = max(1, math.prod(shape[1:]))
    raise _wrong(column, f"{what} in row {at // per_row}")


def _wrong(column: Column, what: str) -> InvalidInput:
    return InvalidInput(
        f"input {column.name!r} holds {what}",
        remedy=f"The model expects finite {datatype_of(column)} values of shape "
        f"{[-1, *column.shape]}.",
    )
