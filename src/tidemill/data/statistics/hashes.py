"""64-bit hashes of whole columns at once, the same on every machine: to count distinct values."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tidemill.data.mixing import Words, mix

LONG_BYTES = 256
"""Longer texts are hashed one by one."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def hash_numbers(values: npt.NDArray[Any]) -> Words:
    """Returns the hash of each number; ``-0.0`` is ``0.0``."""
    if values.dtype == np.float64:
        values = values + 0.0
    return mix(np.ascontiguousarray(values).view(np.uint64) + _FACTOR)


def hash_texts(texts: pa.Array) -> Words:
    """Returns the hash of each text; none is missing.

    Eight bytes of every text are taken in at a time.
    """
    rows = len(texts)
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int32, rows + 1, 4 * texts.offset)
    begin, length = ends[:-1].astype(np.int64), np.diff(ends)
    raw = b"" if data is None else memoryview(data)[int(ends[0]) : int(ends[-1])]
    begin -= int(ends[0])
    padded = np.zeros(len(raw) + 16, np.uint8)
    padded[: len(raw)] = np.frombuffer(raw, np.uint8)
    words = np.ndarray((len(padded) - 7,), "<u8", padded, strides=(1,))
    hashes: Words = length.astype(np.uint64)
    active: Any = slice(None)
    for at in range(0, min(int(length.max(initial=0)), LONG_BYTES), 8):
        if at:
            active = np.flatnonzero(length > at)
        left = np.minimum(length[active] - at, 8)
        kept = _MASKS[np.maximum(left, 0)]
        word = words[begin[active] + at] & kept
        state = (hashes[active] ^ word) * _FACTOR
        hashes[active] = state ^ (state >> np.uint64(32))
    for row in np.flatnonzero(length > LONG_BYTES).tolist():
        text = raw[begin[row] : begin[row] + int(length[row])]
        hashes[row] = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return mix(hashes)


_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)
"""Keeps the first so many bytes of a word."""
