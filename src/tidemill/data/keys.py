"""Row keys as 128-bit hashes: duplicates are found in a batch, in an ingest and in snapshots.

A key is hashed value by value in the order of the declared columns, the same on every machine and
in every version (``KEYS_SUFFIX`` names the layout). 128 bits make a false duplicate less likely
than a broken disk: 1e-19 among ten billion rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.data.mixing import Words, mix_in_place

KEYS_SUFFIX = "keys1"

Hashes = npt.NDArray[np.uint64]
"""Two words per row.  # (rows, 2)"""

Planes = npt.NDArray[np.uint64]
"""Hashes sorted, first words apart from second ones.  # (2, rows)"""

_SEEDS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
_STEP = np.uint64(0x100000001B3)
_NULL = np.uint64(0x6E756C6C6E756C6C)


def hash_rows(table: pa.Table, columns: Sequence[str]) -> Hashes:
    """Returns the hash of each row's values in some columns.  # (rows, 2)

    Example:
        >>> rows = pa.table({"a": [1, 1, 2], "b": ["x", "x", "x"]})
        >>> first, second, third = hash_rows(rows, ["a", "b"]).tolist()
        >>> first == second, first == third
        (True, False)
    """
    rows = table.num_rows
    states = [np.full(rows, seed, np.uint64) for seed in _SEEDS]
    scratch = np.empty(rows, np.uint64)
    for name in columns:
        pair = _words(table.column(name).combine_chunks())
        for state, words, seed in zip(states, pair, _SEEDS, strict=True):
            np.multiply(state, _STEP, out=state)
            np.add(state, words, out=state)
            np.add(state, seed, out=state)
            mix_in_place(state, scratch)
    return np.stack(states, axis=1)


def _words(column: pa.Array) -> tuple[Words, Words]:
    """Returns two words per value, equal exactly for equal values."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.string())
    if pa.types.is_null(column.type):
        column = column.cast(pa.int64())
    if pa.types.is_string(column.type):
        first, second = _text_words(column)
    else:
        first = second = _number_words(column)
    if not column.null_count:
        return first, second
    null = column.is_null().to_numpy(zero_copy_only=False)
    return np.where(null, _NULL, first), np.where(null, ~_NULL, second)


def _number_words(column: pa.Array) -> Words:
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.timestamp("us", getattr(column.type, "tz", None))).cast(pa.int64())
    kind = np.float64 if pa.types.is_floating(column.type) else np.int64
    missing = False if pa.types.is_boolean(column.type) else 0
    filled = column.fill_null(missing) if column.null_count else column
    values = np.ascontiguousarray(filled.to_numpy(zero_copy_only=False), kind)
    if kind is np.float64:
        return np.add(values, 0.0).view(np.uint64)  # -0.0 + 0.0 is 0.0
    return values.view(np.uint64)


def _text_words(column: pa.Array) -> tuple[Words, Words]:
    coded = column.dictionary_encode()
    digests = b"".join(
        hashlib.blake2b(text.encode(), digest_size=16).digest()
        for text in coded.dictionary.to_pylist()
    )
    table = np.frombuffer(digests or bytes(16), "<u8").reshape(-1, 2).astype(np.uint64)
    codes = pc.fill_null(coded.indices, 0).to_numpy(zero_copy_only=False)
    return table[codes, 0], table[codes, 1]


class KeySet:
    """The keys seen so far: those of earlier snapshots, from disk, and this ingest's, in memory.

    Memory: 16 bytes per row of this ingest; earlier snapshots are mapped, not read.

    Args:
        earlier: key files of earlier snapshots, as ``save_keys`` wrote them.
    """

    def __init__(self, earlier: Sequence[Path] = ()) -> None:
        self._earlier = earlier
        self._own: list[Planes] = []

    def repeats(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Tells which rows' keys were seen, before or earlier in the batch, and learns the rest."""
        if not len(hashes):
            return np.zeros(0, np.bool_)
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: the first of equals stays first
        ordered = hashes[order]
        repeated = np.zeros(len(hashes), np.bool_)
        repeated[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
        for known in (*map(_mapped, self._earlier), *self._own):
            repeated |= _contains(known, hashes)
        self._learn(np.ascontiguousarray(ordered[~repeated[order]].T))
        return repeated

    def _learn(self, planes: Planes) -> None:
        """Keeps few, large, sorted arrays: merges the last two while they are of like size."""
        self._own.append(planes)
        while len(self._own) > 1 and self._own[-2].shape[1] < 2 * self._own[-1].shape[1]:
            self._own.append(_sorted(np.hstack([self._own.pop(), self._own.pop()])))


def save_keys(path: Path, hashes: Sequence[Hashes]) -> None:
    """Writes keys, sorted, for later ingests to open."""
    rows = np.concatenate([np.empty((0, 2), np.uint64), *hashes])
    path.write_bytes(_sorted(rows.T).astype("<u8").tobytes())


def _sorted(planes: Planes) -> Planes:
    return np.ascontiguousarray(planes[:, np.lexsort((planes[1], planes[0]))])


def _mapped(path: Path) -> Planes:
    if not path.stat().st_size:
        return np.empty((2, 0), np.uint64)
    return np.memmap(path, dtype="<u8", mode="r").reshape(2, -1)


def _contains(known: Planes, hashes: Hashes) -> npt.NDArray[np.bool_]:
    """Tells which hashes are among some sorted ones."""
    at = np.searchsorted(known[0], hashes[:, 0])
    found = np.zeros(len(hashes), np.bool_)
    waiting = np.arange(len(hashes))
    while len(waiting):  # more than once only where two keys share their first 64 bits
        waiting = waiting[at[waiting] < known.shape[1]]
        waiting = waiting[known[0][at[waiting]] == hashes[waiting, 0]]
        same = known[1][at[waiting]] == hashes[waiting, 1]
        found[waiting[same]] = True
        waiting = waiting[~same]
        at[waiting] += 1
    return found
