"""Sorting more rows than memory holds: sorted runs on disk, merged when they are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.tables.packing import Packed

KEY = "key"
"""The column by whose bytes rows are sorted, of the type ``large_binary``."""

_BLOCK_ROWS = 16_384
_BLOCK_BYTES = 2 << 20
_FAN_IN = 16
"""So many runs are merged at once: more would be as many blocks in memory."""

Order = npt.NDArray[np.int64]
Item = tuple[bytes, bytes]
"""A key and its answer."""


class SortedRuns:
    """Takes rows in any order and gives them back by key, in memory that is bounded.

    Rows with one key come one after the other, in any order.

    Args:
        folder: where runs are written once the buffer is full; the caller removes it.
        buffer_bytes: rows held in memory.

    Example:
        >>> rows = pa.table({KEY: bytes_array(Packed.of([b"b", b"a"])), "x": [1, 2]})
        >>> runs = SortedRuns(Path(), buffer_bytes=1000)
        >>> runs.add(rows)
        >>> [block["x"].to_pylist() for block in runs.merged()]
        [[2, 1]]
    """

    def __init__(self, folder: Path, *, buffer_bytes: int) -> None:
        self._folder = folder
        self._buffer_bytes = buffer_bytes
        self._buffer: list[pa.Table] = []
        self._bytes = 0
        self._runs: list[Path] = []
        self._written = 0

    def add(self, rows: pa.Table) -> None:
        """Takes more rows; all have the same columns."""
        self._buffer.append(rows)
        self._bytes += rows.nbytes
        if self._bytes > self._buffer_bytes:
            self._spill()

    def merged(self) -> Iterator[pa.Table]:
        """Yields every row by key, in tables of one chunk; runs are gone once they are read."""
        if not self._runs:
            if self._buffer:
                yield from _blocks(self._sorted())
            return
        if self._buffer:
            self._spill()
        while len(self._runs) > _FAN_IN:
            runs, self._runs = self._runs, []
            for first in range(0, len(runs), _FAN_IN):
                some = runs[first : first + _FAN_IN]
                self._write(merge_sorted([_read(run) for run in some]))
        yield from merge_sorted([_read(run) for run in self._runs])

    def _sorted(self) -> pa.Table:
        rows = pa.concat_tables(self._buffer).combine_chunks()
        self._buffer, self._bytes = [], 0
        return sort_rows(rows)

    def _spill(self) -> None:
        self._write(_blocks(self._sorted()))

    def _write(self, blocks: Iterator[pa.Table]) -> None:
        path = self._folder / f"run-{self._written:05d}"
        self._written += 1
        first = next(blocks)
        with path.open("wb") as file, pa.ipc.new_stream(file, first.schema) as writer:
            writer.write_table(first)
            for block in blocks:
                writer.write_table(block)
        self._runs.append(path)


def bytes_array(items: Packed) -> Any:
    """Returns byte strings as an Arrow array of ``large_binary``."""
    offsets = np.zeros(len(items) + 1, np.int64)
    np.cumsum(items.sizes, out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(items.data)]
    return pa.Array.from_buffers(pa.large_binary(), len(items), buffers)


def packed_bytes(array: Any) -> Packed:
    """Returns byte strings of an Arrow array, none missing, in one piece."""
    offsets, data = _layout(array)
    return Packed(data[offsets[0] : offsets[-1]].tobytes(), np.diff(offsets))


def sort_rows(rows: pa.Table) -> pa.Table:
    """Returns a table of one chunk by key; itself if it is in order."""
    if not rows.num_rows:
        return rows
    order = key_order(rows.column(KEY).chunk(0))
    return rows if order is None else rows.take(pa.array(order)).combine_chunks()


def key_order(keys: Any) -> Order | None:
    """Returns the places of keys in the order of their bytes, equal ones as they came.

    Keys are compared eight bytes at a time, as numbers: all by their first eight, then those that
    are equal so far by their next. What a key lacks at its end counts as zeros, and of keys that
    are equal so the shorter is first.

    Args:
        keys: an Arrow array of ``large_binary``, none missing.

    Returns:
        Places, (n,), or None if they are in order already.
    """
    offsets, data = _layout(keys)
    count = len(offsets) - 1
    starts, sizes = offsets[:-1], np.diff(offsets)
    padded = np.concatenate([data[: offsets[-1]], np.zeros(8, np.uint8)])
    words = np.ndarray((len(padded) - 7,), ">u8", padded, strides=(1,))  # at every byte
    first = _words(words, starts, sizes, 0)
    in_order = bool((first[1:] >= first[:-1]).all())
    order = np.arange(count) if in_order else np.argsort(first, kind="stable")
    first = first if in_order else first[order]
    places, equal, depth = np.arange(count), first[1:] == first[:-1], 1
    del first
    moved = not in_order
    while equal.any():
        among = np.concatenate([equal, [False]]) | np.concatenate([[False], equal])
        group = np.cumsum(np.concatenate([[True], ~equal]))[among]
        places = places[among]
        rows = order[places]
        last = depth * 8 >= int(sizes[rows].max())
        word = sizes[rows] if last else _words(words, starts[rows], sizes[rows], depth)
        by = np.lexsort((word, group))
        moved = moved or not bool((by[1:] > by[:-1]).all())
        order[places] = rows[by]
        word, depth = word[by], depth + 1
        equal = (group[1:] == group[:-1]) & (word[1:] == word[:-1])
        if last:
            break
    return order if moved else None


def _words(words: Any, starts: Any, sizes: Any, depth: int) -> npt.NDArray[np.uint64]:
    """Returns each key's bytes from 8 * depth on, eight of them, as a number."""
    left = np.clip(sizes - 8 * depth, 0, 8)
    at = np.minimum(starts + 8 * depth, len(words) - 1)
    found: npt.NDArray[np.uint64] = words[at].astype(np.uint64)
    short = np.flatnonzero(left < 8)
    if len(short):
        lost = (8 * (8 - left[short])).astype(np.uint64)
        kept = (found[short] >> np.minimum(lost, 63)) << np.minimum(lost, 63)
        found[short] = np.where(lost == 64, np.uint64(0), kept)
    return found


def _layout(array: Any) -> tuple[Order, npt.NDArray[np.uint8]]:
    """Returns where each key begins and the last ends, and the bytes; nothing is copied."""
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return ends, np.frombuffer(data if data is not None else b"", np.uint8)


def merge_sorted(runs: list[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Yields the rows of sorted runs by key, holding one block of each run.

    What is at most as large as the last key of every block at hand can be followed by nothing
    smaller: it is cut off each block, and sorted.
    """
    ahead = [(block, run) for run in runs if (block := next(run, None)) is not None]
    while ahead:
        bound = min(_key(block, block.num_rows - 1) for block, _ in ahead)
        ready: list[pa.Table] = []
        left: list[tuple[pa.Table, Iterator[pa.Table]]] = []
        for block, run in ahead:
            cut = first_above(block, bound)
            if cut:
                ready.append(block.slice(0, cut))
            rest = block.slice(cut) if cut < block.num_rows else next(run, None)
            if rest is not None:
                left.append((rest, run))
        yield ready[0] if len(ready) == 1 else sort_rows(pa.concat_tables(ready).combine_chunks())
        ahead = left


def first_above(block: pa.Table, bound: bytes) -> int:
    """Returns the first row whose key is above a bound, or how many there are.

    Args:
        block: rows by key, one or more.
        bound: the key.
    """
    low, high = 0, int(block.num_rows)
    if _key(block, high - 1) <= bound:
        return high
    while low < high:
        middle = (low + high) // 2
        if _key(block, middle) <= bound:
            low = middle + 1
        else:
            high = middle
    return low


def _key(block: pa.Table, row: int) -> bytes:
    key: bytes = block.column(KEY)[row].as_py()
    return key


def repeated(keys: Any) -> npt.NDArray[np.bool_]:
    """Returns of each key but the first whether it is that before it; (n - 1,)."""
    return np.asarray(pc.equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False))


def _blocks(rows: pa.Table) -> Iterator[pa.Table]:
    """Yields the rows in tables of some size."""
    each = max(1, rows.nbytes // max(1, rows.num_rows))
    size = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // each))
    for start in range(0, rows.num_rows, size):
        yield rows.slice(start, size)


def _read(path: Path) -> Iterator[pa.Table]:
    with pa.OSFile(os.fspath(path)) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])
    path.unlink()
