"""Answers given before, for the same version and the very same input; bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

ENTRY_BYTES = 400
"""What an entry costs beside its key and what its answer is said to take."""

_Answer = TypeVar("_Answer")


class Cache(Generic[_Answer]):
    """The most recently used answers of one model version, up to a number of bytes.

    A key is the whole input as bytes, so that equal keys are equal inputs. A version has a cache
    of its own, so that a swap leaves nothing stale.

    Args:
        capacity_bytes: at most this much is kept, keys and answers and overhead; 0 keeps nothing.
        ttl_s: an entry older than this is not given; None for no limit.

    Example:
        >>> cache = Cache(10_000, None)
        >>> cache.put(b"k", "answer", nbytes=6, now=0.0)
        >>> cache.get(b"k", now=1.0)
        'answer'
    """

    def __init__(self, capacity_bytes: int, ttl_s: float | None) -> None:
        self.capacity_bytes = capacity_bytes
        self._ttl = ttl_s
        self._entries: OrderedDict[bytes, tuple[_Answer, int, float]] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, *, now: float) -> _Answer | None:
        """Returns the answer kept under the key, if it is still fresh."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._ttl is not None and now - entry[2] > self._ttl:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: bytes, answer: _Answer, *, nbytes: int, now: float) -> None:
        """Keeps an answer of so many bytes, giving up the least recently used ones for room."""
        size = ENTRY_BYTES + len(key) + nbytes
        if size > self.capacity_bytes:
            return
        entries = self._entries
        if key in entries:
            self._drop(key)
        entries[key] = (answer, size, now)
        self.size_bytes += size
        while self.size_bytes > self.capacity_bytes:
            self.size_bytes -= entries.popitem(last=False)[1][1]

    def _drop(self, key: bytes) -> None:
        self.size_bytes -= self._entries.pop(key)[1]
