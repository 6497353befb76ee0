"""Writes a table's data file from rows that come in the order of their keys, each key once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import numpy.typing as npt

from tidemill.tables.packing import Packed

_PAGE_BYTES = 4096
_ROWS, _BYTES = 65_536, 16 << 20
"""So much is written in one transaction, at most: the file depends on what it holds only."""

_FIRST_BYTES = 16 << 20
"""The file's size is bounded by that, and then by twice as much, as it fills."""


class Appending:
    """A data file that grows at its end; ``close`` makes it durable.

    What was put is in the file's pages by then, full to the brim: the same rows are the same file,
    in whatever parts they came.

    Args:
        path: of the file; there is none yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bound = _FIRST_BYTES
        self._environment: Any = lmdb.open(
            os.fspath(path), subdir=False, lock=False, sync=False, map_size=self._bound
        )
        self._waiting: list[tuple[Packed, Packed]] = []  # for a whole transaction
        self._waiting_rows = self._waiting_takes = 0
        self.rows = 0

    def append(self, keys: Packed, values: Packed) -> None:
        """Takes rows whose keys are above all before, in ascending order."""
        self._wait(keys, values)
        if self._waiting_rows >= _ROWS or self._waiting_takes > _BYTES:
            self._write_full()

    def finish(self) -> None:
        """Writes what is left, and makes the file durable and read-only."""
        if self._waiting:
            self._write_full(last=True)
        self._environment.sync(True)
        self.close()
        self._path.chmod(0o444)

    def close(self) -> None:
        """Gives the file back, as it is; closing twice does nothing."""
        environment, self._environment = self._environment, None
        if environment is not None:
            environment.close()

    def items(self) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Yields keys and values of all that was taken, in order."""
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            keys: list[bytes] = []
            values: list[bytes] = []
            for key, value in cursor:
                keys.append(key)
                values.append(value)
                if len(keys) == _ROWS:
                    yield keys, values
                    keys, values = [], []
        yield keys, values
        for some, answers in self._waiting:
            yield some.cut(), answers.cut()

    def _write_full(self, *, last: bool = False) -> None:
        """Writes whole transactions; of the last rows, one that is not."""
        keys, values = (Packed.joined(parts) for parts in zip(*self._waiting, strict=True))
        takes = _taken(keys, values)
        start, count = 0, len(takes)
        while start < count:
            ends = np.cumsum(takes[start : start + _ROWS])
            if len(ends) < _ROWS and ends[-1] <= _BYTES and not last:
                break
            stop = start + max(1, int(np.searchsorted(ends, _BYTES, side="right")))
            stop = min(stop, count)
            self._make_room(int(ends[stop - start - 1]))
            self._write(keys.part(start, stop).cut(), values.part(start, stop).cut())
            start = stop
        self._waiting, self._waiting_rows, self._waiting_takes = [], 0, 0
        if start < count:
            self._wait(keys.part(start, count), values.part(start, count))

    def _wait(self, keys: Packed, values: Packed) -> None:
        self._waiting.append((keys, values))
        self._waiting_rows += len(keys)
        self._waiting_takes += int(_taken(keys, values).sum())

    def _write(self, keys: list[bytes], values: list[bytes]) -> None:
        with self._environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            # Appending fills every page; inserting in any order would half-fill them.
            _, added = cursor.putmulti(zip(keys, values, strict=True), append=True)
        self.rows += added

    def _make_room(self, takes: int) -> None:
        used = (self._environment.info()["last_pgno"] + 1) * _PAGE_BYTES
        while used + 2 * takes + (1 << 20) > self._bound:
            self._bound *= 2
            self._environment.set_mapsize(self._bound)


def _taken(keys: Packed, values: Packed) -> npt.NDArray[np.int64]:
    """Returns the most that each row takes in the file; large values lie on pages of their own."""
    sizes = keys.sizes + values.sizes + 24
    return sizes + 2 * _PAGE_BYTES * (sizes >= _PAGE_BYTES // 2 - 50)
