"""Which rows of a source a table was made of: told by digests of their inputs, in any order.

A table of slots says which row of the table may have a digest; what is found there is compared.
All is done for many rows at once, and costs a few memory accesses a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tidemill.data.keys import Hashes

Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

_FREE = np.uint32(0xFFFFFFFF)
_IN_MEMORY_BYTES = 256 << 20
"""What is larger is a file that is mapped: memory is bounded, however many rows there are."""


class Known:
    """Finds rows by their digests.

    Args:
        rows: how many there are; fewer than four billion.
        blocks: their digests, in order, in blocks of any size.
        folder: where files are made that are too large for memory; the caller removes it.

    Example:
        >>> digests = np.array([[1, 2], [3, 4]], np.uint64)
        >>> known = Known(2, [digests], Path())
        >>> known.find(np.array([[3, 4], [3, 5]], np.uint64)).tolist()
        [1, -1]
    """

    def __init__(self, rows: int, blocks: Iterable[Hashes], folder: Path) -> None:
        self._first, self._second = _array(folder / "digests", (2, rows), np.uint64)
        size = 1 << max(4, (2 * rows).bit_length())  # a quarter to a half of the slots are taken
        self._mask = size - 1
        self._slots = _array(folder / "slots", (size,), np.uint32)
        self._slots[:] = _FREE
        start = 0
        for block in blocks:
            stop = start + len(block)
            self._first[start:stop], self._second[start:stop] = block[:, 0], block[:, 1]
            self._add(np.arange(start, stop, dtype=np.uint32), self._slot_of(block[:, 0]))
            start = stop

    def find(self, digests: Hashes) -> Places:
        """Returns the row that has each digest, -1 where none has."""
        first, second = (np.ascontiguousarray(digests[:, at]) for at in (0, 1))
        slots = self._slot_of(first)
        rows = self._slots.take(slots)
        taken = rows != _FREE
        here = np.where(taken, rows, 0)  # of most rows, the first slot is the one: no detours
        same = taken & (self._first.take(here) == first) & (self._second.take(here) == second)
        found = np.where(same, here.astype(np.int64), -1)
        waiting = np.flatnonzero(taken & ~same)
        while len(waiting):
            slots[waiting] = (slots.take(waiting) + 1) & self._mask
            rows = self._slots.take(slots.take(waiting))
            taken = rows != _FREE
            waiting, rows = waiting[taken], rows[taken]
            same = self._first.take(rows) == first.take(waiting)
            same &= self._second.take(rows) == second.take(waiting)
            found[waiting[same]] = rows[same]
            waiting = waiting[~same]
        return found

    def _add(self, rows: npt.NDArray[np.uint32], slots: Places) -> None:
        while len(rows):
            free = np.flatnonzero(self._slots.take(slots) == _FREE)
            self._slots[slots.take(free)] = rows.take(free)  # of several for one slot, one has it
            left = np.flatnonzero(self._slots.take(slots) != rows)
            rows, slots = rows.take(left), (slots.take(left) + 1) & self._mask

    def _slot_of(self, words: npt.NDArray[np.uint64]) -> Places:
        return (words & np.uint64(self._mask)).astype(np.int64)


def digest_words(column: Any) -> Hashes:
    """Returns a column of 16 bytes a row as two words a row.  # (rows, 2)"""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    start = 2 * array.offset
    data = np.frombuffer(array.buffers()[1] or b"", "<u8")
    return data[start : start + 2 * len(array)].reshape(-1, 2)


def _array(path: Path, shape: tuple[int, ...], kind: Any) -> Any:
    if int(np.prod(shape)) * np.dtype(kind).itemsize <= _IN_MEMORY_BYTES:
        return np.empty(shape, kind)
    return np.memmap(path, kind, "w+", shape=shape)
