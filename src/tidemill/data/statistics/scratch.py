"""Memory that is used again: a fresh array of a megabyte costs more than what is done with it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LARGEST_BYTES = 1 << 23
"""Larger arrays are made anew, so that no thread keeps much."""


class _Kept(threading.local):
    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}


_kept = _Kept()


def scratch(name: str, size: int, dtype: Any) -> Array:
    """Returns an array of the thread's own, with whatever was in it.

    It holds until the thread asks for the same name again.
    """
    size_bytes = size * np.dtype(dtype).itemsize
    if size_bytes > LARGEST_BYTES:
        return np.empty(size, dtype)
    there = _kept.arrays.get(name)
    if there is None or there.nbytes < size_bytes:
        there = _kept.arrays[name] = np.empty(size_bytes, np.uint8)
    return there[:size_bytes].view(dtype)
