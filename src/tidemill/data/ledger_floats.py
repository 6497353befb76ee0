"""Rows of floating-point numbers as the ledger's bytes: those of a whole batch at once.

They are the bytes that encoding each row by itself would give. Rows of one batch differ in their
numbers alone, each of which takes nine bytes, so that no number becomes an object on its way.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]
"""One array per column, (rows, …)."""

FEWEST_ROWS = 4
"""Of fewer, each is encoded by itself: that is quicker."""

_FLOAT = b"\xcb" + bytes(8)
_KINDS = frozenset("efd")  # a long double is no number of MessagePack's


class FloatRows:
    """Rows of some columns, all of numbers that are stored in nine bytes each.

    Args:
        blank: what each row is stored as, but for its numbers.
        places: where each column's numbers begin in it.
        arrays: the columns, (rows, …), of as many numbers a row as there is room for.
    """

    __slots__ = ("_arrays", "_places", "blank", "rows")

    def __init__(self, blank: bytes, places: tuple[int, ...], arrays: list[NDArray[Any]]) -> None:
        self.rows = len(arrays[0])
        self.blank = blank
        self._places = places
        self._arrays = arrays

    def __len__(self) -> int:
        return self.rows

    def fill(self, records: NDArray[np.uint8], at: int) -> None:
        """Writes the numbers of all rows into records, (rows, bytes), that hold blanks there."""
        rows = self.rows
        for place, array in zip(self._places, self._arrays, strict=True):
            size, start = array.size // rows, at + place
            numbers = array.astype(">f8", order="C").view(np.uint8).reshape(rows, size, 8)
            records[:, start : start + 9 * size].reshape(rows, size, 9)[:, :, 1:] = numbers

    def cut(self) -> list[msgspec.Raw]:
        """Returns each row as what an encoder takes as it is."""
        records = blank_records(self.blank, self.rows)
        self.fill(records, 0)
        data, size = records.tobytes(), len(self.blank)
        return [msgspec.Raw(data[at : at + size]) for at in range(0, len(data), size)]


def float_rows(columns: Columns, most: int) -> FloatRows | None:
    """Returns the rows of a batch; None where not all are a few such numbers.

    Args:
        columns: with as many rows each.
        most: so many numbers of a column in a row, no more.
    """
    arrays = [*columns.values()]
    rows = len(arrays[0]) if arrays else 0
    if rows < FEWEST_ROWS:
        return None
    for array in arrays:
        if array.dtype.char not in _KINDS or array.ndim > 2 or len(array) != rows:
            return None
        if not 0 < array.size <= most * rows:
            return None
    sizes = tuple([0 if array.ndim == 1 else array.size // rows for array in arrays])
    blank, places = _blank(sizes)
    return FloatRows(blank, places, arrays)


def blank_records(blank: bytes, rows: int) -> NDArray[np.uint8]:
    """Returns so many of the same bytes, (rows, bytes), to be written to."""
    return np.frombuffer(bytearray(blank * rows), np.uint8).reshape(rows, len(blank))


def list_head(size: int) -> bytes:
    r"""Returns what comes before the entries of a list.

    Example:
        >>> list_head(3), list_head(300)
        (b'\x93', b'\xdc\x01,')
    """
    if size < 16:
        return bytes([0x90 + size])
    if size < 1 << 16:
        return b"\xdc" + size.to_bytes(2, "big")
    return b"\xdd" + size.to_bytes(4, "big")


@lru_cache(64)
def _blank(sizes: tuple[int, ...]) -> tuple[bytes, tuple[int, ...]]:
    """Returns what a row is stored as, with noughts for its numbers, and where these begin.

    Args:
        sizes: how many numbers each column has in a row; 0 for one, and no list of one.
    """
    plain = not any(sizes)
    blank, places = list_head(len(sizes)), []
    for size in sizes:
        blank += b"" if plain else list_head(1)
        blank += list_head(size) if size else b""
        places.append(len(blank))
        blank += _FLOAT * (size or 1)
    return blank, tuple(places)
