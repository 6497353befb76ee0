"""Casts text and typed arrays to the types of a schema, value by value, without ever failing.

Whether a value is of a type depends on that value alone:

    int64      digits with an optional sign, also ``517.0``; Parquet floats without a fraction
    float64    decimal notation with an optional exponent, finite
    bool       ``true`` or ``false`` in any case
    timestamp  ISO 8601 date, or date and time with ``T`` or a space; without an offset it is UTC
    string     every text

Blanks around values of any type but string are ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.data.schema import Type

ARROW: dict[Type, pa.DataType] = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", "UTC"),
    "string": pa.string(),
}

MAJORITY = 0.95
"""A column is of a type if at least this part of its values is."""

Mask = npt.NDArray[np.bool_]

_INT = r"^[+-]?[0-9]{1,18}$"
_WHOLE = r"^[+-]?[0-9]+$"
_FLOAT = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?$"
_NOT_FINITE = r"^[+-]?(?i:nan|inf|infinity)$"
_BOOL = r"^(?i:true|false)$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
_ZONED = _DATE + r"[T ][0-9:.]+(Z|[+-][0-9]{2}:?[0-9]{2})$"
_NAIVE = _DATE + r"([T ][0-9:.]+)?$"
_PADDED = r"^[+-]?0[0-9]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """A column's values, and which of them are none.

    Attributes:
        values: of the type; null where missing, wrong or not finite.
        missing: no value was there.  # (rows,)
        wrong: a value was there that is not of the type.
        not_finite: a number that is NaN or infinite.
    """

    values: pa.Array
    missing: Mask
    wrong: Mask
    not_finite: Mask


def cast(column: pa.Array, to: Type, null_values: tuple[str, ...]) -> Cast:
    """Returns the column cast to a type.

    Args:
        column: an array of strings (from CSV), or of any type of its own (from Parquet).
        to: the type wanted.
        null_values: texts that mean "no value"; only text has them.
    """
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if not _is_text(column):
        return _cast_typed(column, to)
    text = column.cast(pa.string())
    if to != "string":
        text = pc.ascii_trim_whitespace(text)
    missing = pc.or_kleene(text.is_null(), pc.is_in(text, pa.array(null_values, pa.string())))
    text = pc.if_else(missing, pa.scalar(None, pa.string()), text)
    return _finished(text, *_CASTS[to](text))


def infer_type(column: pa.Array, null_values: tuple[str, ...]) -> Type:
    """Returns the type of the large majority of a sample's values; ``string`` if there is none.

    Numbers with leading zeros (``02139``) are names, not numbers: they make a string, and so do
    integers of which many are beyond 64 bits, since a float would lose the digits that tell them
    apart; so it is with decimals that have no fraction and 16 digits. An integer column is one
    without any fraction; an empty one is a string.
    """
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if pa.types.is_decimal(column.type):
        return _decimal_type(column)
    if not _is_text(column):
        return type_of(column.type)
    text = pc.ascii_trim_whitespace(column.cast(pa.string()))
    text = text.filter(pc.invert(pc.is_in(text, pa.array(null_values, pa.string()))))
    text = text.drop_null()

    if not len(text):
        return "string"
    if _share(text, f"{_FLOAT}|{_NOT_FINITE}") >= MAJORITY and _share(text, _FLOAT) > 0:
        return _number_type(text)
    others: tuple[tuple[Type, str], ...] = (("bool", _BOOL), ("timestamp", f"{_ZONED}|{_NAIVE}"))
    fitting = (kind for kind, pattern in others if _share(text, pattern) >= MAJORITY)
    return next(fitting, "string")


def _decimal_type(column: pa.Array) -> Type:
    """Returns the type of decimals; whole ones too long for a float are as integers in text."""
    text = column.cast(pa.string()).drop_null()
    long = len(text) and column.type.scale == 0 and _share(text, r"^-?[0-9]{16,}$") > 0
    return _number_type(text) if long else "float64"


def _number_type(text: pa.Array) -> Type:
    """Returns the type of texts of which nearly all are numbers."""
    if _count(text, _PADDED + r"[0-9]*$"):
        return "string"
    whole = _count(text, _WHOLE)
    if _count(text, _FLOAT) > whole:
        return "float64"
    fitting = _count(text, _INT) + _long_ints(text)
    if fitting / len(text) >= MAJORITY:
        return "int64"
    return "string" if whole > fitting else "float64"


def _share(text: pa.Array, pattern: str) -> float:
    return _count(text, pattern) / len(text)


def _count(text: pa.Array, pattern: str) -> int:
    return int(pc.sum(pc.match_substring_regex(text, pattern)).as_py() or 0)


def _long_ints(text: pa.Array) -> int:
    """Returns how many are integers of 19 digits, of which 64 bits hold some."""
    long = text.filter(pc.match_substring_regex(text, r"^[+-]?[0-9]{19}$"))
    return sum(_int(one) is not None for one in long.to_pylist())


def supported(kind: pa.DataType) -> bool:
    """Tells whether a Parquet column of this type can be kept."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    types = pa.types
    known = (
        types.is_integer,
        types.is_floating,
        types.is_decimal,
        types.is_boolean,
        types.is_timestamp,
        types.is_date,
        types.is_time,
        types.is_string,
        types.is_large_string,
        types.is_string_view,
        types.is_null,
    )
    return any(test(kind) for test in known)


def without_views(kind: pa.DataType) -> pa.DataType:
    """Returns a type whose dictionaries, if any, have plain texts: Arrow looks up no views in them.

    Polars' categories are of such.
    """
    if pa.types.is_dictionary(kind) and pa.types.is_string_view(kind.value_type):
        return pa.dictionary(kind.index_type, pa.string(), kind.ordered)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = without_views(kind.value_type)
        if inner != kind.value_type:
            return pa.list_(inner) if pa.types.is_list(kind) else pa.large_list(inner)
    return kind


def _is_text(column: pa.Array) -> bool:
    kind = column.type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def type_of(kind: pa.DataType) -> Type:
    """Returns the type that values of an Arrow type have here; ``string`` if no other fits."""
    if pa.types.is_integer(kind):
        return "int64"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "float64"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "timestamp"
    return "string"


# --- text ------------------------------------------------------------------------------------
# Each takes text with nulls and returns (values, not_finite); a null more is a wrong value.


def _text_to_int(text: pa.Array) -> tuple[pa.Array, Mask]:
    plain = pc.match_substring_regex(text, _INT)
    digits = _only(text, plain)
    values = pc.replace_substring_regex(digits, r"^\+", "").cast(pa.int64())
    values = _patched(values, text, pc.invert(plain), _int)
    return values, _mask(pc.match_substring_regex(text, _NOT_FINITE))


def _text_to_float(text: pa.Array) -> tuple[pa.Array, Mask]:
    decimal = pc.match_substring_regex(text, _FLOAT)
    values = _only(text, decimal).cast(pa.float64())
    not_finite = _mask(pc.match_substring_regex(text, _NOT_FINITE)) | _not_finite(values)
    return values, not_finite


def _text_to_bool(text: pa.Array) -> tuple[pa.Array, Mask]:
    values = _only(text, pc.match_substring_regex(text, _BOOL)).cast(pa.bool_())
    return values, np.zeros(len(text), np.bool_)


def _text_to_timestamp(text: pa.Array) -> tuple[pa.Array, Mask]:
    zoned = pc.match_substring_regex(text, _ZONED)
    naive = pc.match_substring_regex(text, _NAIVE)
    utc = ARROW["timestamp"]
    try:
        values = pc.coalesce(
            _only(text, zoned).cast(utc),
            pc.assume_timezone(_only(text, naive).cast(pa.timestamp("us")), "UTC"),
        )
    except pa.ArrowInvalid:  # a date that is in no calendar: look at every value
        values = _patched(pa.nulls(len(text), utc), text, pc.or_(zoned, naive), _timestamp)
    return _in_calendar(values), np.zeros(len(text), np.bool_)


def _text_to_string(text: pa.Array) -> tuple[pa.Array, Mask]:
    return text, np.zeros(len(text), np.bool_)


_CASTS: dict[Type, Callable[[pa.Array], tuple[pa.Array, Mask]]] = {
    "int64": _text_to_int,
    "float64": _text_to_float,
    "bool": _text_to_bool,
    "timestamp": _text_to_timestamp,
    "string": _text_to_string,
}


def _patched(
    values: pa.Array, text: pa.Array, where: pa.Array, read: Callable[[str], object]
) -> pa.Array:
    """Returns the values with those at some places read one by one."""
    places = np.flatnonzero(_mask(where))
    if not len(places):
        return values
    coded = text.take(pa.array(places)).dictionary_encode()
    patch = pa.array([read(one) for one in coded.dictionary.to_pylist()], values.type)
    return pc.replace_with_mask(values, pa.array(_mask(where)), patch.take(coded.indices))


def _int(text: str) -> int | None:
    whole, _, fraction = text.partition(".")
    digits = whole.lstrip("+-")
    if fraction.strip("0") or not digits.isdecimal() or len(digits) > 19 or not text.isascii():
        return None
    if len(whole) - len(digits) > 1:
        return None
    value = int(whole)
    return value if -(1 << 63) <= value < 1 << 63 else None


def _timestamp(text: str) -> datetime | None:
    try:
        value = datetime.fromisoformat(text)
        value = value.replace(tzinfo=UTC) if value.tzinfo is None else value
        return value.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


# --- typed -----------------------------------------------------------------------------------


def _cast_typed(column: pa.Array, to: Type) -> Cast:
    nothing = np.zeros(len(column), np.bool_)
    have = type_of(column.type)
    if pa.types.is_null(column.type):
        return _finished(column, column.cast(ARROW[to]), nothing)
    if to == "string" and supported(column.type):
        return _finished(column, column.cast(pa.string()), nothing)
    if to != "string" and (have == to or (have, to) == ("int64", "float64")):
        values, not_finite = _widened(column, to)
        return _finished(column, values, not_finite)
    if to == "int64" and pa.types.is_decimal(column.type):
        text = pc.replace_substring_regex(column.cast(pa.string()), r"\.0+$", "")
        text = pc.replace_substring_regex(text, r"^-?0E-[0-9]+$", "0")
        return _finished(column, *_text_to_int(text))
    if (have, to) == ("float64", "int64"):
        values, not_finite = _widened(column, "float64")
        numbers = values.fill_null(0.5).to_numpy(zero_copy_only=False)
        whole = (np.floor(numbers) == numbers) & (np.abs(numbers) < 2.0**53)
        return _finished(column, _only(values, pa.array(whole)).cast(pa.int64()), not_finite)
    return _finished(column, pa.nulls(len(column), ARROW[to]), nothing)


def _widened(column: pa.Array, to: Type) -> tuple[pa.Array, Mask]:
    nothing = np.zeros(len(column), np.bool_)
    if to == "timestamp":
        if not pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("ms" if column.type == pa.date64() else "s"))
        values = _in_calendar(column).cast(pa.timestamp("us", column.type.tz), safe=False)
        utc = values if column.type.tz else pc.assume_timezone(values, "UTC")
        return utc.cast(ARROW[to]), nothing
    if to == "int64":
        if column.type == pa.uint64():
            column = _only(column, pc.less(column, pa.scalar(1 << 63, pa.uint64())))
        return column.cast(pa.int64()), nothing
    if to == "float64":
        if pa.types.is_decimal(column.type):
            column = column.cast(pa.string())  # its text is rounded rightly, a decimal itself not
        # Large integers lose their last digits here, as they do in every float64.
        values = column.cast(pa.float64(), safe=False)
        return values, _not_finite(values)
    return column.cast(ARROW[to]), nothing


_FIRST_S = -62_135_596_800
_LAST_S = 253_402_300_799
_PER_S = {"s": 1, "ms": 10**3, "us": 10**6}


def _in_calendar(times: pa.Array) -> pa.Array:
    """Returns the times in the years 1 to 9999; elsewhere clocks and calendars disagree."""
    per_s = _PER_S.get(times.type.unit)
    if per_s is None:  # nanoseconds end in 2262
        return times
    ticks = times.cast(pa.int64())
    inside = pc.and_(
        pc.greater_equal(ticks, _FIRST_S * per_s), pc.less(ticks, (_LAST_S + 1) * per_s)
    )
    return _only(times, inside)


# --- masks -----------------------------------------------------------------------------------


def _finished(source: pa.Array, values: pa.Array, not_finite: Mask) -> Cast:
    missing = _mask(source.is_null())
    if not_finite.any():
        values = _only(values, pa.array(~not_finite))
    wrong = _mask(values.is_null()) & ~missing & ~not_finite
    return Cast(values=values, missing=missing, wrong=wrong, not_finite=not_finite)


def _only(values: pa.Array, where: pa.Array) -> pa.Array:
    return pc.if_else(where, values, pa.scalar(None, values.type))


def _mask(flags: pa.Array) -> Mask:
    found: Any = flags.fill_null(False).to_numpy(zero_copy_only=False)
    return np.asarray(found, np.bool_)


def _not_finite(values: pa.Array) -> Mask:
    numbers = values.fill_null(0.0).to_numpy(zero_copy_only=False)
    return ~np.isfinite(np.asarray(numbers, np.float64))
