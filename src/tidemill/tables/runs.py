"""Sorting more rows than memory holds: sorted runs on disk, merged when they are read."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

Item = tuple[bytes, bytes]

_encoder = msgspec.msgpack.Encoder()
_decode = msgspec.msgpack.Decoder(list[Item]).decode
_BLOCK = 4096  # items


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
        self._bytes += sum(map(len, keys)) + sum(map(len, values))
        if self._bytes > self._buffer_bytes:
            self._spill()

    def merged(self) -> Iterator[Item]:
        """Yields every item by key, equal keys by value."""
        self._buffer.sort()
        if not self._runs:
            return iter(self._buffer)
        return heapq.merge(self._buffer, *map(_read, self._runs))

    def _spill(self) -> None:
        self._buffer.sort()
        path = self._folder / f"run-{len(self._runs):05d}"
        with path.open("wb") as file:
            for block in blocks(self._buffer, _BLOCK):
                data = _encoder.encode(block)
                file.write(len(data).to_bytes(4, "little") + data)
        self._runs.append(path)
        self._buffer, self._bytes = [], 0


def blocks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yields the items in lists of a size, the last one shorter."""
    block: list[Item] = []
    for item in items:
        block.append(item)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def _read(path: Path) -> Iterator[Item]:
    with path.open("rb") as file:
        while head := file.read(4):
            yield from _decode(file.read(int.from_bytes(head, "little")))
