"""The answer to one row, as the bytes that a table keeps: a MessagePack map of output to value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from tidemill.foundation.errors import Corrupted, InvalidInput
from tidemill.tables.packing import Packed, list_head, map_head, pack

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
