"""How a version's answers lie in its cache: apart from the batch that they came with, and small.

An answer of numbers is kept as bytes, cut from its batch's: nothing of the batch stays behind it,
and a query that nobody repeats costs no more than the cut.
"""

from __future__ import annotations

from sys import getsizeof

import numpy as np

from tidemill.models.signature import Array, Batch, Column
from tidemill.serving.query import Answers, Query

ARRAY_BYTES = 200
"""What each array costs beside its data, and more than what bytes do."""

Kept = tuple[bytes, ...] | Batch
"""An answer: its columns' bytes in order, or arrays of its own where one holds text."""


class Keeping:
    """Takes answers of one signature apart for the cache, and puts them together again.

    Args:
        outputs: the signature's.
    """

    def __init__(self, outputs: tuple[Column, ...]) -> None:
        self._columns = outputs
        self._plain = all(each.dtype.kind != "O" for each in outputs)
        self._fixed_bytes = ARRAY_BYTES * (len(outputs) - 1)
        self._row_bytes = sum(each.row_bytes for each in outputs)
        self._one_bytes = self._fixed_bytes + self._row_bytes

    def take(self, query: Query) -> tuple[Kept, int]:
        """Returns a query's answer, and how many bytes it takes."""
        answers = query.answers
        if not self._plain or answers is None:
            return _owned(query.outputs)
        if query.n == 1:
            rows = answers.written.get(self) or self._split(answers)
            return rows[query.start], self._one_bytes
        start, stop = query.start, query.start + query.n
        kept = tuple([answers.rows(column, start, stop) for column in self._columns])
        return kept, self._fixed_bytes + self._row_bytes * query.n

    def _split(self, answers: Answers) -> list[tuple[bytes, ...]]:
        """Cuts a batch's answers into rows, once for all its queries of one row."""
        columns = []
        for column in self._columns:
            blob = answers.rows(column, 0, len(answers.outputs[column.name]))
            size = column.row_bytes
            columns.append([blob[at : at + size] for at in range(0, len(blob), size)])
        rows = answers.written[self] = [*zip(*columns, strict=True)]
        return rows

    def give(self, kept: Kept, n: int) -> Batch:
        """Returns the answer, n rows, as arrays."""
        if isinstance(kept, dict):
            return kept
        return {
            column.name: np.frombuffer(part, column.dtype).reshape((n, *column.shape))
            for column, part in zip(self._columns, kept, strict=True)
        }


def _owned(outputs: Batch) -> tuple[Batch, int]:
    # A copy, since a part of a batch's answer would keep all of it in memory.
    kept = {name: a if a.base is None else a.copy() for name, a in outputs.items()}
    return kept, sum(map(_size_bytes, kept.values())) + ARRAY_BYTES * (len(kept) - 1)


def _size_bytes(array: Array) -> int:
    texts = map(getsizeof, array.ravel().tolist()) if array.dtype == object else ()
    return array.nbytes + sum(texts)
