"""Sorting more rows than memory holds: sorted runs on disk, merged when they are read."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

Item = tuple[bytes, bytes]

_encoder = msgspec.msgpack.Encoder()
_decode = msgspec.msgpack.Decoder(list[Item]).decode
_BLOCK = 16_384  # items
_OVERHEAD = 150  # what Python's objects take beside the bytes of an item


class SortedRuns:
    """Takes items in any order and gives them back by key, in bounded memory.

    Args:
        folder: where runs are written once the buffer is full; the caller removes it.
        buffer_bytes: keys and values held in memory.
    """

    def __init__(self, folder: Path, *, buffer_bytes: int) -> None:
        self._folder = folder
        self._buffer_bytes = buffer_bytes
        self._buffer: list[Item] = []
        self._bytes = 0
        self._runs: list[Path] = []

    def add(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Takes more items."""
        self._buffer.extend(zip(keys, values, strict=True))
        self._bytes += sum(map(len, keys)) + sum(map(len, values)) + _OVERHEAD * len(keys)
        if self._bytes > self._buffer_bytes:
            self._spill()

    def merged(self) -> Iterator[list[Item]]:
        """Yields every item by key, equal keys by value, in lists."""
        if self._runs:
            self._spill()
            return _merged([_read(run) for run in self._runs])
        self._buffer.sort()
        return blocks(self._buffer, _BLOCK)

    def _spill(self) -> None:
        self._buffer.sort()
        path = self._folder / f"run-{len(self._runs):05d}"
        with path.open("wb") as file:
            for block in blocks(self._buffer, _BLOCK):
                data = _encoder.encode(block)
                file.write(len(data).to_bytes(4, "little") + data)
        self._runs.append(path)
        self._buffer, self._bytes = [], 0


def blocks(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """Yields the items in lists of a size, the last one shorter."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _merged(runs: list[Iterator[list[Item]]]) -> Iterator[list[Item]]:
    """Yields the items of sorted runs in sorted lists, by key and value.

    What is at most as large as the last item of every list at hand can be followed by nothing
    smaller: it is cut off each list, and sorted, which is quick for runs that are sorted.
    """
    none: list[Item] = []
    ahead = [(block, run) for run in runs if (block := next(run, none))]
    while ahead:
        bound = min(block[-1] for block, _ in ahead)
        ready: list[Item] = []
        left: list[tuple[list[Item], Iterator[list[Item]]]] = []
        for block, run in ahead:
            cut = bisect.bisect_right(block, bound)
            ready += block[:cut]
            rest = block[cut:] or next(run, none)
            if rest:
                left.append((rest, run))
        ready.sort()
        yield ready
        ahead = left


def _read(path: Path) -> Iterator[list[Item]]:
    with path.open("rb") as file:
        while head := file.read(4):
            yield _decode(file.read(int.from_bytes(head, "little")))
