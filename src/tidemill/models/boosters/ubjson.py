"""Universal Binary JSON, as XGBoost writes it: read within bounds.

Arrays of numbers become NumPy arrays; the rest is what JSON would be.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from tidemill.models.boosters.forest import malformed

_SIZES = {b"i": "b", b"U": "B", b"I": ">h", b"l": ">i", b"L": ">q"}
_NUMBERS = {**_SIZES, b"d": ">f", b"D": ">d"}
_WORDS: dict[bytes, Any] = {b"Z": None, b"T": True, b"F": False}
_MAX_DEPTH = 32


def read_ubjson(data: bytes) -> Any:
    r"""Returns the one value that the bytes hold.

    Raises:
        InvalidModel: they hold none, or more than it.

    Example:
        >>> read_ubjson(b"{i\x01aSi\x02hi}")
        {'a': 'hi'}
    """
    reader = _Reader(data)
    value = reader.value(reader.take(1), 0)
    if reader.at != len(data):
        raise malformed(f"{len(data) - reader.at} bytes follow its end")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        """Returns the next bytes."""
        if size < 0 or size > len(self.data) - self.at:
            raise malformed(f"it ends too early, at byte {self.at}")
        found = self.data[self.at : self.at + size]
        self.at += size
        return found

    def value(self, kind: bytes, depth: int) -> Any:
        """Returns the value of a kind that comes next."""
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind in _WORDS:
            return _WORDS[kind]
        if kind == b"S":
            return self._text()
        if depth > _MAX_DEPTH:
            raise malformed("it is nested too deeply")
        if kind == b"{":
            return self._object(depth + 1)
        if kind == b"[":
            return self._array(depth + 1)
        raise malformed(f"it has the unknown type {kind!r} at byte {self.at}")

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def _size(self) -> int:
        kind = self.take(1)
        if kind not in _SIZES:
            raise malformed(f"it has a length of the type {kind!r} at byte {self.at}")
        return int(self._number(_SIZES[kind]))

    def _text(self) -> str:
        try:
            return self.take(self._size()).decode("utf-8")
        except UnicodeDecodeError as error:
            raise malformed(f"it holds text that is none: {error}") from error

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.data[self.at : self.at + 1] != b"}":
            name = self._text()
            if name in found:
                raise malformed(f"{name[:50]!r} is said twice")
            found[name] = self.value(self.take(1), depth)
        self.at += 1
        return found

    def _array(self, depth: int) -> Any:
        if self.data[self.at : self.at + 1] == b"$":
            self.at += 1
            return self._numbers(self.take(1))
        if self.data[self.at : self.at + 1] == b"#":
            self.at += 1
            return [self.value(self.take(1), depth) for _ in range(self._size())]
        found = []
        while self.data[self.at : self.at + 1] != b"]":
            found.append(self.value(self.take(1), depth))
        self.at += 1
        return found

    def _numbers(self, kind: bytes) -> Any:
        if kind not in _NUMBERS or self.take(1) != b"#":
            raise malformed(f"it has an array of the type {kind!r} at byte {self.at}")
        dtype, count = np.dtype(_NUMBERS[kind]), self._size()
        if count < 0:
            raise malformed(f"it has an array of {count} at byte {self.at}")
        numbers = np.frombuffer(self.take(count * dtype.itemsize), dtype)
        return numbers.astype(dtype.newbyteorder("="))
