"""Tells which values lose digits in the type that they are kept as, so that two become one.

In a feature that is what the type means; in a key it would make two rows one. A float64 keeps 15
digits of any number, and 17 of those that were written from a float64; a timestamp keeps
microseconds. Integers, truth values and texts lose nothing.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.data.casting import Cast, Mask, cast
from tidemill.data.schema import Type

_LONG = r"[0-9.]{16}"
_FINE = r"\.[0-9]{6}[0-9]*[1-9]"


def inexact(column: pa.Array, found: Cast) -> Mask:
    """Tells which values are kept as others than came.  # (rows,)

    Args:
        column: as it came, text or typed.
        found: the same, cast.
    """
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(found.values.type):
        suspects = _finer(column)
    elif pa.types.is_floating(found.values.type) and not pa.types.is_floating(column.type):
        suspects = _longer(column, found.values)
    else:
        suspects = pa.array(np.zeros(len(column), np.bool_))
    lost = pc.and_(pc.fill_null(suspects, False), found.values.is_valid())
    return np.asarray(lost.to_numpy(zero_copy_only=False), np.bool_)


def key_type(column: pa.Array, inferred: Type, null_values: tuple[str, ...]) -> Type:
    """Returns the type in which the values of a key keep all their digits.

    Args:
        column: a sample.
        inferred: the type that they would have otherwise.
        null_values: texts that mean "no value".
    """
    if inferred == "float64" and pa.types.is_decimal(column.type) and column.type.scale == 0:
        return "int64"
    lost = inexact(column, cast(column, inferred, null_values))
    return "string" if lost.any() else inferred


def _finer(column: pa.Array) -> pa.Array:
    """Tells which times have a part of a microsecond."""
    if pa.types.is_timestamp(column.type):
        ticks = column.cast(pa.int64())
        whole = pc.multiply(pc.divide(ticks, 1000), 1000)
        return pc.and_(pc.not_equal(ticks, whole), column.type.unit == "ns")
    if pa.types.is_date(column.type) or pa.types.is_null(column.type):
        return pa.array(np.zeros(len(column), np.bool_))
    return pc.match_substring_regex(column.cast(pa.string()), _FINE)


def _longer(column: pa.Array, values: pa.Array) -> pa.Array:
    """Tells which numbers have digits that their floats have not."""
    text = pc.ascii_trim_whitespace(column.cast(pa.string()))
    alike = pc.equal(values.cast(pa.string()), text)
    suspects = pc.and_not(pc.match_substring_regex(text, _LONG), pc.fill_null(alike, False))
    places = np.flatnonzero(pc.fill_null(suspects, False).to_numpy(zero_copy_only=False))
    lost, at = np.zeros(len(text), np.bool_), pa.array(places, pa.int64())
    pairs = zip(text.take(at).to_pylist(), values.take(at).to_pylist(), strict=True)
    lost[places] = [value is not None and not _writes(one, value) for one, value in pairs]
    return pa.array(lost)


def _writes(text: str, value: float) -> bool:
    """Tells whether a text is one that a float is written as."""
    written = (Decimal(repr(value)), Decimal(f"{value:.17g}"), Decimal(value))
    return Decimal(text) in written
