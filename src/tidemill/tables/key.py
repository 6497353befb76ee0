"""Keys: the values of a row's key columns as bytes, equal exactly where the values are equal.

A key is the MessagePack array of the values, each in its one canonical form:

    integers    the shortest encoding, whatever the width they came in
    floats      64 bits; of a float32 or float16 column, the nearest value that it holds;
                -0.0 is 0.0; every NaN, and a missing value, is nil
    strings     their UTF-8, as they are: nothing is trimmed, folded or normalised
    booleans    true or false; they are never integers

Where that is longer than LMDB takes (511 bytes), the key is the byte 0xC1, with which no
MessagePack begins, and the sha256 of the array: two long keys are then equal as surely as sha256
has no collision, and no long key equals a short one.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import DTYPES
from tidemill.tables.packing import Packed, list_head, pack

MAX_KEY_BYTES = 511
"""LMDB's limit."""

_LONG = b"\xc1"
_INTEGERS = range(-(1 << 63), 1 << 64)
_ROUNDERS = {"float32": struct.Struct("<f"), "float16": struct.Struct("<e")}
_EXACT: dict[str, type] = {"b": bool, "i": int, "u": int, "f": float, "O": str}

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode

Canonical: TypeAlias = Callable[[Any], Any]
Values: TypeAlias = Sequence[Any] | npt.NDArray[Any]


class KeyEncoder:
    """Turns the values of the key columns into a key.

    Args:
        columns: name and type of each, in order; the types are those of a model's signature.

    Raises:
        InvalidInput: there are none, or one has a type that is not known.

    Example:
        >>> encoder = KeyEncoder([("carrier", "string"), ("hour", "int64")])
        >>> encoder.one(["UA", 5]) == encoder.many([["UA"], np.array([5.0])])[0]
        True
        >>> encoder.show(encoder.one(["UA", 5]))
        "carrier='UA', hour=5"
    """

    def __init__(self, columns: Sequence[tuple[str, str]]) -> None:
        if not columns:
            raise InvalidInput("a key needs at least one column")
        for name, kind in columns:
            if kind not in DTYPES:
                raise InvalidInput(
                    f"key column {name!r} has the unknown type {kind!r}",
                    remedy=f"Known types: {', '.join(DTYPES)}.",
                )
        self.columns: tuple[tuple[str, str], ...] = tuple((name, kind) for name, kind in columns)
        self._exact = tuple(_EXACT[DTYPES[kind].kind] for _, kind in self.columns)
        self._canonical = tuple(_canonical(name, kind) for name, kind in self.columns)
        # Where the type alone makes a value canonical, nothing is left to do for it.
        self._floats = tuple(
            (at, self._canonical[at]) for at, exact in enumerate(self._exact) if exact is float
        )

    def __repr__(self) -> str:
        return f"KeyEncoder({list(self.columns)!r})"

    def one(self, values: Sequence[Any]) -> bytes:
        """Returns the key of one row.

        Args:
            values: one per column, in order; Python's or NumPy's scalars.

        Raises:
            InvalidInput: there are too many or too few, or one is of a wrong type.
        """
        if tuple(map(type, values)) != self._exact:
            values = self._converted(values)
        elif self._floats:
            values = list(values)
            for at, canonical in self._floats:
                values[at] = canonical(values[at])
        try:
            key = _encode(values)
        except (OverflowError, UnicodeEncodeError) as error:
            raise self._unencodable(values, error) from error
        return key if len(key) <= MAX_KEY_BYTES else _LONG + hashlib.sha256(key).digest()

    def many(self, arrays: Sequence[Values]) -> list[bytes]:
        """Returns the key of each row.

        Args:
            arrays: one array or list per column, in order, all of one length.

        Raises:
            InvalidInput: there are too many or too few columns, their lengths differ, or a value
                is of a wrong type.
        """
        self._check_count(arrays)
        packed = self._all_at_once(arrays)
        return self._one_by_one(arrays) if packed is None else packed.cut()

    def packed(self, arrays: Sequence[Values]) -> Packed:
        """Returns what ``many`` does, as bytes one behind the other.

        Raises:
            InvalidInput: as for ``many``.
        """
        self._check_count(arrays)
        packed = self._all_at_once(arrays)
        return Packed.of(self._one_by_one(arrays)) if packed is None else packed

    def _one_by_one(self, arrays: Sequence[Values]) -> list[bytes]:
        lists = [self._column(at, array) for at, array in enumerate(arrays)]
        lengths = [len(values) for values in lists]
        if min(lengths) != max(lengths):
            raise InvalidInput(
                f"the key columns have {', '.join(map(str, lengths))} rows",
                remedy="Give columns of one length.",
            )
        try:
            keys = list(map(_encode, zip(*lists, strict=True)))
        except (OverflowError, UnicodeEncodeError):
            keys = [self.one(row) for row in zip(*lists, strict=True)]
        if len(max(keys, key=len, default=b"")) > MAX_KEY_BYTES:
            return [
                k if len(k) <= MAX_KEY_BYTES else _LONG + hashlib.sha256(k).digest() for k in keys
            ]
        return keys

    def canonical(self, values: Sequence[Any]) -> list[Any]:
        """Returns the values of one row in their canonical forms; None is a missing number.

        Raises:
            InvalidInput: there are too many or too few, or one is of a wrong type.
        """
        return self._converted(values)

    def canonical_column(self, at: int, array: Values) -> list[Any]:
        """Returns the values of one column in their canonical forms; None is a missing number.

        Raises:
            InvalidInput: a value is of a wrong type.
        """
        return self._column(at, array)

    def _all_at_once(self, arrays: Sequence[Values]) -> Packed | None:
        """Returns the keys of columns of plain numbers of the very types, made all at once."""
        cells: list[tuple[bytes, npt.NDArray[Any]]] = []
        for array, (_, kind) in zip(arrays, self.columns, strict=True):
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
                return None
            if array.ndim != 1 or array.dtype.kind != DTYPES[kind].kind:
                return None
            if array.dtype.kind == "f":
                if not np.isfinite(array).all():
                    return None  # nil is shorter, and what is too large is refused
                with np.errstate(over="ignore"):
                    rounded = array.astype(DTYPES[kind]) + 0.0  # -0.0 is 0.0
                if not np.isfinite(rounded).all():
                    return None
                cells.append((b"", rounded))
            else:
                cells.append((b"", array))
        if len({len(array) for _, array in cells}) != 1 or len(cells) * 9 + 5 > MAX_KEY_BYTES:
            return None
        return pack([(list_head(len(cells)), cells[0][1]), *cells[1:]])

    def show(self, key: bytes) -> str:
        """Returns the values that the key was made from, for people; of a long key its hash."""
        if key[:1] == _LONG:
            return f"a long key with sha256 {key[1:].hex()}"
        try:
            pairs = list(zip((name for name, _ in self.columns), _decode(key), strict=True))
        except (msgspec.MsgspecError, TypeError, ValueError):
            return f"bytes {key.hex()}, which are no key of these columns"
        return ", ".join(f"{name}={value!r}" for name, value in pairs)

    def _converted(self, values: Iterable[Any]) -> list[Any]:
        values = list(values)
        self._check_count(values)
        return [canonical(value) for canonical, value in zip(self._canonical, values, strict=True)]

    def _check_count(self, values: Sequence[Any]) -> None:
        if len(values) != len(self.columns):
            raise InvalidInput(
                f"a key of {len(self.columns)} columns was given {len(values)} values",
                remedy=f"Give, in this order: {', '.join(name for name, _ in self.columns)}.",
            )

    def _column(self, at: int, array: Values) -> list[Any]:
        name = self.columns[at][0]
        if isinstance(array, np.ndarray):
            if array.ndim != 1:
                raise InvalidInput(
                    f"key column {name!r} has the shape {array.shape}",
                    remedy="Give one scalar per row.",
                )
            array = array.tolist()
        exact = self._exact[at]
        if exact is not float and set(map(type, array)) <= {exact}:
            return array if isinstance(array, list) else list(array)
        return list(map(self._canonical[at], array))

    def _unencodable(self, values: Iterable[Any], error: Exception) -> InvalidInput:
        for (name, kind), value in zip(self.columns, values, strict=True):
            try:
                _encode(value)
            except (OverflowError, UnicodeEncodeError):
                return _wrong(name, kind, value)
        return InvalidInput(f"the key cannot be encoded: {error}")


def _canonical(name: str, kind: str) -> Canonical:
    dtype = DTYPES[kind].kind
    if dtype == "f":
        return _float(name, kind)
    return {"b": _bool, "i": _integer, "u": _integer, "O": _string}[dtype](name, kind)


def _bool(name: str, kind: str) -> Canonical:
    def canonical(value: Any) -> bool:
        if isinstance(value, bool | np.bool_):
            return bool(value)
        raise _wrong(name, kind, value)

    return canonical


def _integer(name: str, kind: str) -> Canonical:
    def canonical(value: Any) -> int:
        if isinstance(value, float | np.floating):
            whole = int(value) if math.isfinite(value) else None
        elif isinstance(value, int | np.integer) and not isinstance(value, bool):
            whole = int(value)
        else:
            whole = None
        if whole is None or whole != value or whole not in _INTEGERS:
            raise _wrong(name, kind, value)
        return whole

    return canonical


def _float(name: str, kind: str) -> Canonical:
    rounder = _ROUNDERS.get(kind)

    def canonical(value: Any) -> float | None:
        if type(value) is not float:
            if value is None:
                return None
            value = _widened(name, kind, value)
        if rounder is not None and math.isfinite(value):
            try:
                (value,) = rounder.unpack(rounder.pack(value))
            except OverflowError:
                raise _wrong(name, kind, value) from None
        return value + 0.0 if value == value else None  # noqa: PLR0124 - only NaN differs from itself

    return canonical


def _widened(name: str, kind: str, value: Any) -> float:
    if isinstance(value, float | np.floating):
        return float(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            raise _wrong(name, kind, value) from None
        if int(number) == int(value):
            return number
    raise _wrong(name, kind, value)


def _string(name: str, kind: str) -> Canonical:
    def canonical(value: Any) -> str:
        if isinstance(value, str):
            return str(value)
        raise _wrong(name, kind, value)

    return canonical


def _wrong(name: str, kind: str, value: Any) -> InvalidInput:
    shown = "null" if value is None else f"{value!r:.100}, of type {type(value).__name__}"
    return InvalidInput(f"key column {name!r} holds {shown}", remedy=f"Give {kind} values.")
