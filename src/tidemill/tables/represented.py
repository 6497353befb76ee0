"""Keys of represented values: inputs with one representation have one key, as declared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tidemill.data.representation import Array, Representation, check_representation
from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import DTYPES, Batch, Column
from tidemill.tables.key import KeyEncoder, Values
from tidemill.tables.packing import Packed

_STANDS = b"\xc1R"
_WIDE = {"f": np.float64, "i": np.int64, "u": np.uint64}


class Keys(Protocol):
    """What makes keys of the values of key columns."""

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """Name and type of each, in order, as a model takes them."""

    def one(self, values: Sequence[Any]) -> bytes:
        """Returns the key of one row; see ``KeyEncoder.one``."""

    def many(self, arrays: Sequence[Values]) -> list[bytes]:
        """Returns the key of each row; see ``KeyEncoder.many``."""

    def packed(self, arrays: Sequence[Values]) -> Packed:
        """Returns what ``many`` does, as bytes one behind the other."""

    def show(self, key: bytes) -> str:
        """Returns the values that the key was made from, for people."""


class RepresentedKeys:
    """Turns the values of key columns into the key of what represents them.

    A value is first brought into its canonical form, as it would be in a key, so that equal values
    have one representation, whatever width they came in.

    Args:
        columns: name and type of each, in order; the types are those of a model's signature.
        represent: the representation of some of them.

    Raises:
        InvalidInput: a representation is not known, or none of its column's type.

    Example:
        >>> keys = RepresentedKeys([("city", "string"), ("km", "float32")], {"city": "text"})
        >>> keys.show(keys.one([" OSLO", 4.5])), keys.one(["oslo", 4.5]) == keys.one(["Oslo", 4.5])
        ("city='oslo', km=4.5", True)
    """

    def __init__(self, columns: Sequence[tuple[str, str]], represent: Mapping[str, str]) -> None:
        self._given = KeyEncoder(columns)
        self._of: tuple[Representation | None, ...] = tuple(
            check_representation(name, kind, represent[name]) if name in represent else None
            for name, kind in columns
        )
        kinds = [
            (name, kind if found is None else found.type_of(kind))
            for (name, kind), found in zip(columns, self._of, strict=True)
        ]
        self._keys = KeyEncoder(kinds)
        self.columns = self._given.columns

    def one(self, values: Sequence[Any]) -> bytes:
        """Returns the key of one row.

        Raises:
            InvalidInput: there are too many or too few values, or one is of a wrong type.
        """
        given = self._given.canonical(values)
        return self._keys.one(
            [
                value if found is None else found.one(value)
                for value, found in zip(given, self._of, strict=True)
            ]
        )

    def many(self, arrays: Sequence[Values]) -> list[bytes]:
        """Returns the key of each row.

        Raises:
            InvalidInput: there are too many or too few columns, their lengths differ, or a value
                is of a wrong type.
        """
        return self.packed(arrays).cut()

    def packed(self, arrays: Sequence[Values]) -> Packed:
        """Returns what ``many`` does, as bytes one behind the other.

        Raises:
            InvalidInput: as for ``many``.
        """
        if len(arrays) != len(self._of):
            return self._given.packed(arrays)  # which says so
        return self._keys.packed([self._represented(at, array) for at, array in enumerate(arrays)])

    def show(self, key: bytes) -> str:
        """Returns what represents the row, for people."""
        return self._keys.show(key)

    def _represented(self, at: int, array: Values) -> Values:
        found, (_, kind) = self._of[at], self.columns[at]
        if found is None:
            return array
        values = self._given.canonical_column(at, array)
        wide = _WIDE.get(DTYPES[kind].kind, object)
        try:
            return found.many(_array(values, wide))
        except OverflowError:  # a whole number that the column's type does not hold
            return [found.one(value) for value in values]


def keys_of(columns: Sequence[tuple[str, str]], represent: Mapping[str, str]) -> Keys:
    """Returns what makes keys of some columns, represented as declared.

    Args:
        columns: name and type of each, in order.
        represent: the representation of any column; those of other columns do not count.

    Raises:
        InvalidInput: a representation is not known, or none of its column's type.
    """
    own = {name: represent[name] for name, _ in columns if name in represent}
    return RepresentedKeys(columns, own) if own else KeyEncoder(columns)


def standing_for(key: bytes) -> bytes:
    """Returns the key of what stands for all values of one representation, beside keys of values.

    It is none of them: no key of values begins so and is as long.

    Args:
        key: as ``RepresentedKeys`` makes it.

    Example:
        >>> keys = keys_of([("hour", "int64")], {"hour": "step(10)"})
        >>> one, other = (standing_for(keys.one([hour])) for hour in (8, 12))
        >>> one == other, len(one)
        (True, 34)
    """
    return _STANDS + hashlib.sha256(key).digest()


def check_represented(inputs: Sequence[Column], represent: Mapping[str, str]) -> None:
    """Checks that representations are of inputs of one value each, and suit their types.

    Raises:
        InvalidInput: one is not.
    """
    known = {column.name: column for column in inputs}
    for name, declared in represent.items():
        if name not in known or known[name].shape:
            raise InvalidInput(
                f"column {name!r} is represented, which is "
                + ("no input" if name not in known else "no single value"),
                remedy=f"Inputs: {', '.join(c.name for c in inputs if not c.shape)}.",
            )
        check_representation(name, known[name].type, declared)


class Folding:
    """Replaces the inputs that are represented by what represents them.

    Args:
        inputs: of a signature.
        represent: the representations of some of them.
    """

    def __init__(self, inputs: Sequence[Column], represent: Mapping[str, str]) -> None:
        self._of = {
            column.name: check_representation(column.name, column.type, represent[column.name])
            for column in inputs
            if column.name in represent
        }

    def fold(self, batch: Batch) -> Batch:
        """Returns the batch with those inputs replaced, the others as they are."""
        folded = dict(batch)
        for name, found in self._of.items():
            folded[name] = found.many(batch[name])
        return folded


def _array(values: list[Any], kind: Any) -> Array:
    if kind is not object:
        return np.array(values, kind)  # None is NaN
    found = np.empty(len(values), object)
    found[:] = values
    return found
