"""Statistics of parts of a table: of the rows that have a value in common."""

from __future__ import annotations

import math
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.data.statistics.layout import places_of
from tidemill.data.statistics.table import Statistics, named, plain_array
from tidemill.data.summaries import SliceStatistics
from tidemill.foundation.errors import InvalidInput

MOST_SLICES = 100


class Slices:
    """Mergeable statistics by the values of one column, at most 100 different ones.

    Args:
        by: the column; rows without a value in it, or with NaN, are a slice of their own.
        weight: as for ``Statistics``.

    Example:
        >>> slices = Slices("kind")
        >>> slices.update(pa.table({"kind": ["a", "b", "a"], "x": [1.0, 5.0, 3.0]}))
        >>> [(one.value, one.statistics.column("x").mean) for one in slices.result()]
        [('a', 2.0), ('b', 5.0)]
    """

    def __init__(self, by: str, *, weight: str | None = None) -> None:
        self._by = by
        self._weight = weight
        self._slices: dict[Any, Statistics] = {}

    def update(self, table: pa.Table, *, pool: Executor | None = None) -> None:
        """Takes rows in.

        After an error the slices are spent: some may have rows that others lack.

        Raises:
            InvalidInput: as for ``Statistics``; or there is no such column, it holds lists, or it
                has too many different values.
        """
        values = plain_array(table.column(named(self._by, table.column_names)), self._by)
        if pa.types.is_list(values.type):
            raise InvalidInput(
                f"column {self._by!r} holds lists", remedy="Slice by a column of single values."
            )
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.int64()).cast(pa.float64(), safe=False)
            values = pc.divide(values, 1e6)
        coded = values.dictionary_encode(null_encoding="encode")
        keys = [_key(value) for value in coded.dictionary.to_pylist()]
        if len({*self._slices, *keys}) > MOST_SLICES:
            raise InvalidInput(
                f"column {self._by!r} has more than {MOST_SLICES} different values",
                remedy="Slice by a column with fewer.",
            )
        codes = coded.indices.to_numpy(zero_copy_only=False)
        order = np.argsort(codes, kind="stable")
        ends = np.searchsorted(codes[order], np.arange(len(keys) + 1))
        ordered = table.take(places_of(order))
        for code, key in enumerate(keys):
            rows = ordered.slice(int(ends[code]), int(ends[code + 1] - ends[code]))
            self._slices.setdefault(key, Statistics(weight=self._weight)).update(rows, pool=pool)

    def merge(self, other: Slices) -> None:
        """Takes another's rows in.

        Raises:
            InvalidInput: as for ``update``, or it is of another column or weight.
        """
        if self._by != other._by:
            raise InvalidInput(
                f"slices by {self._by!r} cannot be merged with those by {other._by!r}",
                remedy="Slice all pieces by the same column.",
            )
        if len({*self._slices, *other._slices}) > MOST_SLICES:
            raise InvalidInput(
                f"column {self._by!r} has more than {MOST_SLICES} different values",
                remedy="Slice by a column with fewer.",
            )
        for key, statistics in other._slices.items():
            self._slices.setdefault(key, Statistics(weight=self._weight)).merge(statistics)

    def result(self) -> tuple[SliceStatistics, ...]:
        """Returns the slices, the largest first."""
        found = [
            SliceStatistics(value=key, statistics=one.result()) for key, one in self._slices.items()
        ]
        return tuple(sorted(found, key=lambda one: (-one.statistics.rows, str(one.value))))


def _key(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value + 0.0
    return value
