"""The answer to one row, as the bytes that a table keeps: a MessagePack map of output to value."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from tidemill.foundation.errors import Corrupted, InvalidInput
from tidemill.models.signature import Column
from tidemill.tables.packing import Packed, list_head, map_head, pack

MOST_PLAIN = 32
"""An answer's column of more elements is no plain value; the ledger keeps it as an array, too."""

_NARROW = {"float32": "f", "float16": "e"}
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__}")


_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode


def encode_answer(row: Mapping[str, Any]) -> bytes:
    """Returns one row's outputs as bytes.

    Args:
        row: a scalar or a (nested) list by output name; NumPy's are taken too.

    Raises:
        InvalidInput: a value is neither.

    Example:
        >>> decode_answer(encode_answer({"label": 1, "probabilities": [0.25, 0.75]}))
        {'label': 1, 'probabilities': [0.25, 0.75]}
    """
    try:
        return _encode(row)
    except (TypeError, OverflowError, UnicodeEncodeError) as error:
        raise InvalidInput(
            f"the answer {str(dict(row))[:200]} cannot be kept in a table: {error}",
            remedy="Answer with numbers, text, booleans or lists of them.",
        ) from error


def encode_answers(outputs: Mapping[str, Any]) -> list[bytes]:
    """Returns the outputs of a batch, arrays (n, ...) by name, as one answer per row.

    Example:
        >>> [decode_answer(each) for each in encode_answers({"label": np.array([3, 7])})]
        [{'label': 3}, {'label': 7}]
    """
    packed = _all_at_once(outputs)
    return _one_by_one(outputs) if packed is None else packed.cut()


def pack_answers(outputs: Mapping[str, Any]) -> Packed:
    """Returns what ``encode_answers`` does, as bytes one behind the other."""
    packed = _all_at_once(outputs)
    return Packed.of(_one_by_one(outputs)) if packed is None else packed


def _all_at_once(outputs: Mapping[str, Any]) -> Packed | None:
    names = tuple(outputs)
    arrays = [np.asarray(outputs[name]) for name in names]
    if arrays and all(array.ndim in {1, 2} for array in arrays):
        cells = [(_encode(name), array) for name, array in zip(names, arrays, strict=True)]
        heads = [name + (list_head(a.shape[1]) if a.ndim == 2 else b"") for name, a in cells]
        heads[0] = map_head(len(names)) + heads[0]
        return pack(list(zip(heads, arrays, strict=True)))
    return None


def _one_by_one(outputs: Mapping[str, Any]) -> list[bytes]:
    columns = (np.asarray(array).tolist() for array in outputs.values())
    rows = zip(*columns, strict=True)
    return [encode_answer(dict(zip(outputs, row, strict=True))) for row in rows]


def decode_answer(data: bytes) -> dict[str, Any]:
    """Returns the outputs that ``encode_answer`` made the bytes from, arrays as lists.

    Raises:
        Corrupted: they are not what it made.
    """
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corrupted(
            f"an answer in a table cannot be read: {error}", remedy="Build the table again."
        ) from error


class AnswerReader:
    """Reads answers of known columns as plain values, without a look at what they could be.

    Args:
        columns: the outputs of a signature, in the order that the answers have.

    Example:
        >>> reader = AnswerReader([Column("label", "int64"), Column("p", "float64", (2,))])
        >>> reader.read(encode_answer({"label": 1, "p": [0.25, 0.75]}))
        (1, [0.25, 0.75])
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        fields = [(f"c{at}", _type_of(column)) for at, column in enumerate(columns)]
        names = {f"c{at}": column.name for at, column in enumerate(columns)}
        form = msgspec.defstruct("Answer", fields, rename=names, forbid_unknown_fields=True)
        self._decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(form).decode
        self._rounded = [(at, _rounder(c)) for at, c in enumerate(columns) if _is_narrow(c)]

    def read(self, data: bytes) -> tuple[Any, ...] | None:
        """Returns a value for each column, in order, as an array of its type would hold it.

        None where an answer is of another form; ``decode_answer`` may know what it is.
        """
        try:
            values: tuple[Any, ...] = msgspec.structs.astuple(self._decode(data))
            if self._rounded:
                cells = [*values]
                for at, rounded in self._rounded:
                    cells[at] = rounded(cells[at])
                values = tuple(cells)
        except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError):
            return None
        return values

    def read_all(self, found: Sequence[bytes | None]) -> list[tuple[Any, ...] | None]:
        """Returns what ``read`` does of each answer; None also where there is none."""
        if not self._rounded:
            decode, plain = self._decode, msgspec.structs.astuple
            try:
                if None not in found:
                    return [*map(plain, map(decode, found))]  # type: ignore[arg-type]
                return [None if data is None else plain(decode(data)) for data in found]
            except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError):
                pass  # one of them is of another form
        return [None if data is None else self.read(data) for data in found]


def reader_of(columns: Sequence[Column]) -> AnswerReader | None:
    """Returns what reads answers of these columns; None where one is of many elements."""
    if all(len(each.shape) <= 1 and sum(each.shape) <= MOST_PLAIN for each in columns):
        return AnswerReader(columns)
    return None


def _type_of(column: Column) -> Any:
    kind, dtype = column.dtype.kind, column.dtype
    if kind in "iu":
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        bound = None if high > np.iinfo(np.int64).max else high
        found: Any = Annotated[int, msgspec.Meta(ge=low, le=bound)]
    else:
        found = {"b": bool, "f": float, "O": str}[kind]
    for size in column.shape:
        found = Annotated[list[found], msgspec.Meta(min_length=size, max_length=size)]
    return found


def _is_narrow(column: Column) -> bool:
    return column.type in _NARROW


def _rounder(column: Column) -> Callable[[Any], Any]:
    """Returns what makes a value that is a column's nearest, as an array of its type does."""
    form = struct.Struct(f"<{sum(column.shape) or 1}{_NARROW[column.type]}")
    if column.shape:
        return lambda cell: [*form.unpack(form.pack(*cell))]
    return lambda cell: form.unpack(form.pack(cell))[0]
