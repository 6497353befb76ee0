"""Answers given before, for the same version and the very same input; bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from sys import getsizeof

from tidemill.models.signature import Array, Batch

ENTRY_BYTES = 400
"""What an entry of one array costs beside its key and its array's data."""

ARRAY_BYTES = 200
"""What each further array costs beside its data."""


class Cache:
    """The most recently used answers of one model version, up to a number of bytes.

    A key is the whole input as bytes, so that equal keys are equal inputs. A version has a cache
    of its own, so that a swap leaves nothing stale.

    Args:
        capacity_bytes: at most this much is kept, keys and values and overhead; 0 keeps nothing.
        ttl_s: an entry older than this is not given; None for no limit.

    Example:
        >>> cache = Cache(10_000, None)
        >>> cache.put(b"k", {}, now=0.0)
        >>> cache.get(b"k", now=1.0)
        {}
    """

    def __init__(self, capacity_bytes: int, ttl_s: float | None) -> None:
        self.capacity_bytes = capacity_bytes
        self._ttl = ttl_s
        self._entries: OrderedDict[bytes, tuple[Batch, int, float]] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, *, now: float) -> Batch | None:
        """Returns the answer kept under the key, if it is still fresh."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._ttl is not None and now - entry[2] > self._ttl:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: bytes, answer: Batch, *, now: float) -> None:
        """Keeps an answer, giving up the least recently used ones for room."""
        more_arrays = max(0, len(answer) - 1)
        size = ENTRY_BYTES + ARRAY_BYTES * more_arrays + len(key)
        size += sum(map(_size_bytes, answer.values()))
        if size > self.capacity_bytes:
            return
        if key in self._entries:
            self._drop(key)
        # A copy, since a part of a batch's answer would keep all of it in memory.
        owned = {n: a if a.base is None else a.copy() for n, a in answer.items()}
        self._entries[key] = (owned, size, now)
        self.size_bytes += size
        while self.size_bytes > self.capacity_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        self.size_bytes -= self._entries.pop(key)[1]


def _size_bytes(array: Array) -> int:
    texts = map(getsizeof, array.ravel().tolist()) if array.dtype == object else ()
    return array.nbytes + sum(texts)
