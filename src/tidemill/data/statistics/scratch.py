"""Memory that is used again: a fresh array of a megabyte costs more than what is done with it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ROOM_BYTES = 1 << 25
"""Of a thread. What finds no room is made anew, so that no thread keeps more."""

ALIGNED = 64


class _Room(threading.local):
    """One block, which the system gives in large pages, and the part of each name."""

    def __init__(self) -> None:
        self._block: npt.NDArray[np.uint8] | None = None
        self._used = 0
        self._parts: dict[str, npt.NDArray[np.uint8]] = {}

    def part(self, name: str, size_bytes: int) -> npt.NDArray[np.uint8]:
        part = self._parts.get(name)
        if part is not None and len(part) >= size_bytes:
            return part[:size_bytes]
        wanted = -(-size_bytes // ALIGNED) * ALIGNED
        if self._block is None:
            self._block = np.empty(ROOM_BYTES, np.uint8)
        if self._used + wanted > ROOM_BYTES:
            return np.empty(size_bytes, np.uint8)
        part = self._parts[name] = self._block[self._used :][:wanted]
        self._used += wanted
        return part[:size_bytes]


_room = _Room()


def scratch(name: str, size: int, dtype: Any) -> Array:
    """Returns an array of the thread's own, with whatever was in it.

    It holds until the thread asks for the same name again.
    """
    return _room.part(name, size * np.dtype(dtype).itemsize).view(dtype)
