"""How columns go together: correlation of numbers, and what a column tells of a label."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tidemill.data.statistics.sketches import Floats
from tidemill.data.statistics.table import named, plain_array
from tidemill.data.summaries import Association, ColumnStatistics, Correlation, TableStatistics
from tidemill.foundation.errors import InvalidInput

Codes = npt.NDArray[np.int64]


class Correlations:
    """Pearson's correlation of each two columns, over the rows that have both; mergeable.

    Numbers, booleans and times take part; NaN and the infinities are missing. Exact but for
    rounding, after Chan, Golub and LeVeque, "Updating formulae", 1979, for each pair.

    Example:
        >>> found = Correlations()
        >>> found.update(pa.table({"x": [1, 2, 3], "y": [2.0, 4.0, 6.0]}))
        >>> [(one.first, one.second, round(one.r, 9)) for one in found.result()]
        [('x', 'y', 1.0)]
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] | None = None
        self._count: Floats = np.empty((0, 0))  # rows that have both  # (columns, columns)
        self._mean: Floats = np.empty((0, 0))  # of the first, over them
        self._squares: Floats = np.empty((0, 0))  # of the first's deviations
        self._products: Floats = np.empty((0, 0))  # of both deviations

    def update(self, table: pa.Table, *, pool: Executor | None = None) -> None:  # noqa: ARG002
        """Takes rows in; pieces have the same columns.

        Raises:
            InvalidInput: they have others than before, or one that can't be kept.
        """
        columns = {name: plain_array(table.column(name), name) for name in table.column_names}
        numbers = {name: _numbers(each) for name, each in columns.items() if _ordered(each.type)}
        names = tuple(numbers)
        values = np.column_stack([*numbers.values()]) if numbers else np.empty((0, 0))
        there = np.isfinite(values)
        kept = there.astype(np.float64)
        with np.errstate(all="ignore"):  # near the largest floats; what isn't finite is no result
            rows = np.maximum(kept.sum(axis=0), 1)
            middle = np.where(there, values, 0.0).sum(axis=0) / rows
            off = np.where(there, values - middle, 0.0)
            count = kept.T @ kept
            some = np.maximum(count, 1)
            sums = off.T @ kept
            other = Correlations()
            other._names = names
            other._count = count
            other._mean = middle[:, None] + sums / some
            other._squares = np.square(off).T @ kept - sums * sums / some
            other._products = off.T @ off - sums * sums.T / some
        self.merge(other)

    def merge(self, other: Correlations) -> None:
        """Takes another's rows in.

        Raises:
            InvalidInput: it has other columns.
        """
        if other._names is None:
            return
        if self._names is None:
            self._names, self._count = other._names, other._count
            self._mean, self._squares = other._mean, other._squares
            self._products = other._products
            return
        if self._names != other._names:
            raise InvalidInput(
                "correlations of different columns cannot be merged",
                remedy="Give pieces of the same columns.",
            )
        total = np.maximum(self._count + other._count, 1)
        with np.errstate(all="ignore"):
            gap = other._mean - self._mean
            both = self._count * other._count / total
            self._squares = self._squares + other._squares + gap * gap * both
            self._products = self._products + other._products + gap * gap.T * both
            self._mean = self._mean + gap * other._count / total
        self._count = self._count + other._count

    def result(self) -> tuple[Correlation, ...]:
        """Returns each two columns that vary, the strongest first."""
        names = self._names or ()
        with np.errstate(all="ignore"):
            scale = np.sqrt(self._squares) * np.sqrt(self._squares.T)
            r = np.clip(self._products / scale, -1.0, 1.0)
        found = [
            Correlation(
                first=names[i], second=names[j], rows=int(self._count[i, j]), r=float(r[i, j])
            )
            for i in range(len(names))
            for j in range(i + 1, len(names))
            if np.isfinite(r[i, j]) and self._count[i, j] > 1
        ]
        return tuple(sorted(found, key=lambda one: (-abs(one.r), one.first, one.second)))


class Associations:
    """What each column tells of a label: the part of the label's entropy that it takes away.

    Numbers and times are cut at the deciles of the statistics, other values are the 20 most
    frequent and the rest; missing values are a value. The mutual information is corrected for
    chance after Miller, "Note on the bias of information estimates", 1955. Mergeable, exactly.

    Args:
        statistics: of the rows, or of rows like them.
        label: the column.

    Raises:
        InvalidInput: there is no such column.
    """

    def __init__(self, statistics: TableStatistics, label: str) -> None:
        named(label, [one.name for one in statistics.columns])
        self._label = label
        self._columns = {one.name: one for one in statistics.columns}
        self._counts: dict[str, Codes] = {}

    def update(self, table: pa.Table, *, pool: Executor | None = None) -> None:  # noqa: ARG002
        """Takes rows in.

        Raises:
            InvalidInput: a column is not in the statistics, or can't be kept.
        """
        named(self._label, table.column_names)
        coded = {}
        for name in table.column_names:
            named(name, list(self._columns))
            values = plain_array(table.column(name), name)
            if not pa.types.is_list(values.type):
                coded[name] = _codes(values, self._columns[name])
        if self._label not in coded:
            raise InvalidInput(
                f"column {self._label!r} holds lists", remedy="Name a column of single values."
            )
        labels, width = coded.pop(self._label)
        for name, (codes, height) in coded.items():
            counts = np.bincount(codes * width + labels, minlength=height * width)
            self._add(name, counts.reshape(height, width))

    def merge(self, other: Associations) -> None:
        """Takes another's rows in; it was made with the same statistics and label.

        Raises:
            InvalidInput: it was not.
        """
        if self._label != other._label or self._columns != other._columns:
            raise InvalidInput(
                "associations by other statistics cannot be merged",
                remedy="Make them with the same statistics and label.",
            )
        for name, counts in other._counts.items():
            self._add(name, counts)

    def result(self) -> tuple[Association, ...]:
        """Returns the columns, the one that tells most first."""
        found = [_association(name, counts) for name, counts in self._counts.items()]
        return tuple(sorted(found, key=lambda one: (-one.share, one.column)))

    def _add(self, name: str, counts: Codes) -> None:
        self._counts[name] = self._counts[name] + counts if name in self._counts else counts


def _association(name: str, counts: Codes) -> Association:
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    rows = int(counts.sum())
    if not rows:
        return Association(column=name, bits=0.0, share=0.0)
    column, label = counts.sum(axis=1), counts.sum(axis=0)
    entropy = _entropy(label)
    by_chance = (len(column) - 1) * (len(label) - 1) / (2 * rows * np.log(2))
    both = _entropy(counts.ravel())
    bits = max(0.0, float(_entropy(column) + entropy - both - by_chance))
    return Association(column=name, bits=bits, share=min(1.0, bits / entropy) if entropy else 0.0)


def _entropy(counts: Codes) -> float:
    """Returns the entropy of counts, in bits."""
    part = counts[counts > 0] / counts.sum()
    return max(0.0, float(-(part * np.log2(part)).sum()))


def _codes(values: pa.Array, column: ColumnStatistics) -> tuple[Codes, int]:
    """Returns the bin of each row, and how many there are."""
    if _ordered(values.type) and not pa.types.is_boolean(values.type):
        edges: Sequence[float] = ()
        if column.quantile_histogram is not None:  # the smallest number has a bin of its own
            edges = column.quantile_histogram.edges[:-1]
        numbers = _numbers(values)
        bins = np.searchsorted(np.asarray(edges, np.float64), numbers, "left").astype(np.int64)
        bins[np.isnan(numbers)] = len(edges) + 1
        return bins, len(edges) + 2
    places: dict[Any, int] = {value: place for place, (value, _) in enumerate(column.top)}
    other, missing = len(places), len(places) + 1
    coded = values.dictionary_encode()
    table = [places.get(value, other) for value in coded.dictionary.to_pylist()]
    there = np.asarray([*table, missing], np.int64)
    return there[coded.indices.fill_null(len(table)).to_numpy(zero_copy_only=False)], missing + 1


def _ordered(kind: pa.DataType) -> bool:
    return not (pa.types.is_string(kind) or pa.types.is_list(kind))


def _numbers(values: pa.Array) -> Floats:
    """Returns numbers, missing ones as NaN; times in seconds."""
    scale = 1.0
    if pa.types.is_timestamp(values.type):
        values, scale = values.cast(pa.int64()), 1e6
    missing = values.is_null().to_numpy(zero_copy_only=False)
    filled = values.fill_null(False if pa.types.is_boolean(values.type) else 0)
    numbers: Floats = np.asarray(filled.to_numpy(zero_copy_only=False), np.float64) / scale
    numbers[missing] = np.nan
    return numbers
