"""Answers given before, for the same version and the very same input; bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from tidemill.serving.sampling import LEAST_ENTRIES, Sampling

ENTRY_BYTES = 400
"""What an entry costs beside its key and what its answer is said to take."""

_AT_ONCE = 8
"""Entries that go for one that comes, at most, when the room has become smaller."""

_Answer = TypeVar("_Answer")


class Cache(Generic[_Answer]):
    """The most recently used answers of one model version, up to a number of bytes.

    A key is the whole input as bytes, so that equal keys are equal inputs. A version has a cache
    of its own, so that a swap leaves nothing stale. Where hardly any answer is asked again, few
    keys are taken, so that it costs next to nothing; see ``Sampling``.

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
        self._turn_to(Sampling())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def resting(self) -> bool:
        """Says whether it takes a few keys only, since hardly any came again."""
        return self._mask > 0

    def takes(self, key: bytes) -> bool:
        """Says whether a query's key is worth a ``get`` now; called once for each query."""
        if not hash(key) & self._mask:
            return True
        self._passed += 1
        if self._passed >= self._sampling.rest:
            self._judge()
        return False

    def keeps(self, key: bytes) -> bool:
        """Says whether an answer is worth a ``put`` now."""
        return not hash(key) & self._mask

    def get(self, key: bytes, *, now: float) -> _Answer | None:
        """Returns the answer kept under the key, if it is still fresh."""
        self._asked += 1
        if self._asked >= self._due:
            self._judge()
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._ttl is not None and now - entry[2] > self._ttl:
            self._drop(key)
            return None
        self._hits += 1
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: bytes, answer: _Answer, *, nbytes: int, now: float) -> None:
        """Keeps an answer of so many bytes, giving up the least recently used ones for room."""
        size = ENTRY_BYTES + len(key) + nbytes
        if size > self._room_bytes:
            return
        entries = self._entries
        if key in entries:
            self._drop(key)
        entries[key] = (answer, size, now)
        self.size_bytes += size
        if self.size_bytes > self._room_bytes:
            self._full = True
            self._make_room()

    def _make_room(self) -> None:
        """Drops what was used least recently: a few entries at a time, but what must go at once."""
        entries, went = self._entries, 0
        while self.size_bytes > self._room_bytes:
            if went >= _AT_ONCE and self.size_bytes <= self.capacity_bytes:
                return
            self.size_bytes -= entries.popitem(last=False)[1][1]
            went += 1

    def _judge(self) -> None:
        if self._full and not self.resting and len(self._entries) < LEAST_ENTRIES:
            self._full = False  # a sample of so few would tell nothing
        self._turn_to(
            self._sampling.after(self._asked, self._hits, full=self._full, passed=self._passed)
        )

    def _turn_to(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._mask = sampling.share - 1
        self._room_bytes = self.capacity_bytes // sampling.share
        self._due = sampling.window
        self._asked = self._hits = self._passed = 0
        self._full = False

    def _drop(self, key: bytes) -> None:
        self.size_bytes -= self._entries.pop(key)[1]
