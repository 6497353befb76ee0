"""64-bit hashes of whole columns at once, the same on every machine: to count distinct values."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.data.mixing import Words, mix_in_place
from tidemill.data.statistics.layout import Texts
from tidemill.data.statistics.scratch import scratch

LONG_BYTES = 256
"""Longer texts are hashed one by one."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)


def hash_numbers(values: npt.NDArray[Any]) -> Words:
    """Returns the hash of each number, until the thread hashes others; ``-0.0`` is ``0.0``."""
    hashes = scratch("hashes", len(values), np.uint64)
    if values.dtype == np.float64:
        np.add(values, 0.0, out=hashes.view(np.float64))
        np.add(hashes, _FACTOR, out=hashes)
    else:
        np.add(np.ascontiguousarray(values).view(np.uint64), _FACTOR, out=hashes)
    mix_in_place(hashes, scratch("mixing", len(hashes), np.uint64))
    return hashes


def hash_texts(texts: Texts) -> Words:
    """Returns the hash of each text, until the thread hashes others.

    Eight bytes of every text are taken in at a time.
    """
    length = texts.length
    hashes = scratch("hashes", len(length), np.uint64)
    hashes[:] = length
    _take_in(hashes, texts.heads)
    shortest = int(length.min(initial=LONG_BYTES))
    for at in range(8, min(int(length.max(initial=0)), LONG_BYTES), 8):
        if shortest > at:
            _take_in(hashes, texts.words(texts.begin, length, at))
            continue
        active = np.flatnonzero(length > at)
        some = hashes[active]
        _take_in(some, texts.words(texts.begin[active], length[active], at))
        hashes[active] = some
    for row in np.flatnonzero(length > LONG_BYTES).tolist():
        digest = hashlib.blake2b(texts.text_bytes(row), digest_size=8).digest()
        hashes[row] = int.from_bytes(digest, "little")
    mix_in_place(hashes, scratch("mixing", len(hashes), np.uint64))
    return hashes


def _take_in(hashes: Words, words: Words) -> None:
    """Takes a word of each text into its hash."""
    np.bitwise_xor(hashes, words, out=hashes)
    np.multiply(hashes, _FACTOR, out=hashes)
    half = np.right_shift(hashes, _HALF, out=scratch("mixing", len(hashes), np.uint64))
    np.bitwise_xor(hashes, half, out=hashes)
