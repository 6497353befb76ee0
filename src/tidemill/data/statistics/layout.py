"""Arrow's arrays as they lie in memory, for NumPy, without what Arrow loads to convert them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.data.mixing import Words
from tidemill.data.statistics.scratch import scratch

Places = npt.NDArray[np.int64]

_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)
"""Keeps the first so many bytes of a word."""

_ONE, _THREE, _SEVEN, _LAST = (np.uint64(n) for n in (1, 3, 7, 63))


def numbers_of(values: pa.Array) -> npt.NDArray[Any]:
    """Returns numbers or times, of which none is missing, without a copy."""
    kind = values.type
    is_letter = {"f": pa.types.is_floating, "u": pa.types.is_unsigned_integer}
    letter = next((letter for letter, test in is_letter.items() if test(kind)), "i")
    dtype = np.dtype(f"{letter}{kind.bit_width // 8}")
    data = values.buffers()[1]
    if data is None:
        return np.empty(0, dtype)
    return np.frombuffer(data, dtype, len(values), values.offset * dtype.itemsize)


def places_of(places: npt.NDArray[np.intp]) -> pa.Array:
    """Returns places as Arrow has them."""
    data = pa.py_buffer(np.ascontiguousarray(places, np.int64))
    return pa.Array.from_buffers(pa.int64(), len(places), [None, data])


class Texts:
    """Texts, of which none is missing; they hold until the thread lays out others.

    Attributes:
        begin: where the bytes of each begin.  # (texts,)
        length: how many they are.  # (texts,)
    """

    def __init__(self, texts: pa.Array) -> None:
        rows = len(texts)
        _, offsets, data = texts.buffers()
        ends = np.frombuffer(offsets, np.int32, rows + 1, 4 * texts.offset)
        self._texts = texts
        self._bytes = np.frombuffer(b"" if data is None else data, np.uint8)[ends[0] : ends[-1]]
        self.begin = np.subtract(ends[:-1], ends[0], out=scratch("begin", rows, np.int64))
        self.length = np.subtract(ends[1:], ends[:-1], out=scratch("length", rows, np.int64))

    def characters(self) -> npt.NDArray[Any]:
        """Returns how many characters each has.  # (texts,)"""
        if int(self._bytes.max(initial=0)) < 128:  # ASCII
            return self.length
        return numbers_of(pc.utf8_length(self._texts))

    def extremes(self) -> tuple[str, str]:
        """Returns the first and the last in the order of their characters; there is one."""
        heads = self.heads.byteswap()
        ends = []
        for head in (heads.min(), heads.max()):
            near = np.flatnonzero(heads == head)
            some = len(near) < len(heads) / 2
            ends.append(pc.min_max(self._texts.take(places_of(near)) if some else self._texts))
        return ends[0]["min"].as_py(), ends[1]["max"].as_py()

    def text_bytes(self, row: int) -> bytes:
        """Returns the bytes of one."""
        return self._bytes[self.begin[row] :][: self.length[row]].tobytes()

    @cached_property
    def heads(self) -> Words:
        """The first eight bytes of each, or as many as it has, as little-endian words."""
        heads = scratch("heads", len(self.begin), np.uint64)
        heads[:] = self.words(self.begin, self.length, 0)
        return heads

    def words(self, begin: Places, length: Places, at: int) -> Words:
        """Returns the eight bytes from ``at`` on of texts that begin there, or as many as are left.

        They lie across two words of memory: the end of one and the beginning of the next.
        """
        rows = len(begin)
        place = np.add(begin, at, out=scratch("place", rows, np.int64))
        shift = scratch("shift", rows, np.uint64)
        np.bitwise_and(place.view(np.uint64), _SEVEN, out=shift)
        np.left_shift(shift, _THREE, out=shift)
        np.right_shift(place, 3, out=place)
        word = np.take(self._memory, place, out=scratch("word", rows, np.uint64), mode="clip")
        np.right_shift(word, shift, out=word)
        np.add(place, 1, out=place)
        rest = np.take(self._memory, place, out=scratch("rest", rows, np.uint64), mode="clip")
        np.left_shift(rest, _ONE, out=rest)  # by 64 in two steps: one of 64 is none
        np.subtract(_LAST, shift, out=shift)
        np.left_shift(rest, shift, out=rest)
        np.bitwise_or(word, rest, out=word)
        left = np.subtract(length, at, out=place)
        np.clip(left, 0, 8, out=left)
        return np.bitwise_and(word, np.take(_MASKS, left, out=rest, mode="clip"), out=word)

    @cached_property
    def _memory(self) -> Words:
        """The bytes as words, with zeros behind."""
        count = len(self._bytes)
        padded = scratch("padded", (count // 8 + 3) * 8, np.uint8)
        padded[:count] = self._bytes
        padded[count:] = 0
        return padded.view("<u8")
