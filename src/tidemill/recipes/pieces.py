"""Rows that come in parts of any size, cut into pieces of one size."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

CHUNK = 1 << 16
"""So many rows are a group in a build's files, and scored at once."""


class Pieces:
    """Cuts rows that come in any pieces into pieces of ``CHUNK``, the last one smaller.

    Args:
        write: takes each piece.
    """

    def __init__(self, write: Callable[[pa.Table], None]) -> None:
        self._write = write
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def add(self, rows: pa.Table) -> None:
        """Takes rows; writes what is a whole piece."""
        self._waiting.append(rows)
        self._rows += rows.num_rows
        while self._rows >= CHUNK:
            self._cut(CHUNK)

    def finish(self) -> None:
        """Writes what is left."""
        if self._rows:
            self._cut(self._rows)

    def _cut(self, size: int) -> None:
        whole = pa.concat_tables(self._waiting)
        self._write(whole.slice(0, size))
        self._waiting = [whole.slice(size)]
        self._rows -= size
