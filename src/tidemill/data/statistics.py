"""Statistics of columns, as an algebra: ``update`` with rows, ``merge`` with others, ``result``.

Everything is computed in one pass and in bounded memory. Counts, extremes, means and deviations
are exact (Chan et al., "Updating formulae", 1979). Distinct values and the most frequent ones are
exact up to 1,000 distinct values; beyond, the number is a HyperLogLog estimate (±1.6 %) and the
frequent ones are a lower bound. Quantiles are exact up to 4,096 numbers, then within about 0.2 %
of rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.data.cardinality import HyperLogLog
from tidemill.data.keys import hash_rows
from tidemill.data.summaries import ColumnStatistics, TableStatistics

EXACT_DISTINCT = 1_000
FEW_DISTINCT = 100
TOP = 20
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

Floats = npt.NDArray[np.float64]


class Statistics:
    """Mergeable statistics of a table that arrives in pieces.

    Example:
        >>> first, second = Statistics(), Statistics()
        >>> first.update(pa.table({"x": [1, 2]}))
        >>> second.update(pa.table({"x": [3, None]}))
        >>> first.merge(second)
        >>> x = first.result().column("x")
        >>> x.mean, x.missing, x.distinct
        (2.0, 1, 3)
    """

    def __init__(self) -> None:
        self._rows = 0
        self._columns: dict[str, _Column] = {}

    def update(self, table: pa.Table) -> None:
        """Takes rows in; the table's types are those of a schema."""
        self._rows += table.num_rows
        for name in table.column_names:
            values = table.column(name).combine_chunks()
            if isinstance(values, pa.ChunkedArray):
                values = pa.concat_arrays(values.chunks)
            self._columns.setdefault(name, _Column(type=_type_name(values.type))).update(values)

    def merge(self, other: Statistics) -> None:
        """Takes another's rows in."""
        self._rows += other._rows
        for name, column in other._columns.items():
            self._columns.setdefault(name, _Column(type=column.type)).merge(column)

    def result(self) -> TableStatistics:
        """Returns what is known so far."""
        return TableStatistics(
            rows=self._rows,
            columns=tuple(column.result(name) for name, column in self._columns.items()),
        )


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "timestamp"
    return {"double": "float64"}.get(str(kind), str(kind))


def _numbers(values: pa.Array) -> Floats:
    """Returns numbers as they are, times as seconds, strings as their lengths."""
    if pa.types.is_string(values.type):
        values = pc.utf8_length(values)
    if pa.types.is_timestamp(values.type):
        micros = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
        return np.asarray(micros, np.float64) / 1e6
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).timestamp() if isinstance(value, datetime) else value


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


@dataclass(slots=True)
class _Moments:
    count: int = 0
    zeros: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared deviations from the mean
    smallest: float = math.inf
    largest: float = -math.inf

    def update(self, numbers: Floats) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # near the largest floats
            mean = float(numbers.mean())
            squares = float(((numbers - mean) ** 2).sum())
        self.merge(
            _Moments(
                count=len(numbers),
                zeros=int((numbers == 0).sum()),
                mean=mean,
                squares=squares,
                smallest=float(numbers.min()),
                largest=float(numbers.max()),
            )
        )

    def merge(self, other: _Moments) -> None:
        total = self.count + other.count
        if not other.count:
            return
        gap = other.mean - self.mean
        self.squares += other.squares + gap * gap * self.count * other.count / total
        self.mean += gap * other.count / total
        self.zeros += other.zeros
        self.smallest = min(self.smallest, other.smallest)
        self.largest = max(self.largest, other.largest)
        self.count = total

    def std(self) -> float | None:
        if self.count < 2 or not math.isfinite(self.squares):
            return None
        return math.sqrt(self.squares / (self.count - 1))


@dataclass(slots=True)
class _Frequent:
    """Counts of values up to a bound; beyond, the frequent ones and a HyperLogLog."""

    counts: dict[Any, int] = field(default_factory=dict)
    exact: bool = True
    seen: HyperLogLog = field(default_factory=lambda: HyperLogLog(12))

    def update(self, values: pa.Array) -> None:
        counted = pc.value_counts(values)
        distinct, times = counted.field("values"), counted.field("counts")
        self.seen.update(hash_rows(pa.table({"value": distinct}), ["value"])[:, 0])
        if len(distinct) > EXACT_DISTINCT:
            self.exact = False
            best = pc.select_k_unstable(times, EXACT_DISTINCT, sort_keys=[("", "descending")])
            distinct, times = distinct.take(best), times.take(best)
        self._add(zip(map(_plain, distinct.to_pylist()), times.to_pylist(), strict=True))

    def merge(self, other: _Frequent) -> None:
        self.exact &= other.exact
        self.seen.merge(other.seen)
        self._add(other.counts.items())

    def _add(self, pairs: Any) -> None:
        for value, times in pairs:
            self.counts[value] = self.counts.get(value, 0) + times
        if len(self.counts) > EXACT_DISTINCT:
            self.exact = False
            self.counts = dict(_ordered(self.counts)[:EXACT_DISTINCT])

    def top(self) -> tuple[tuple[Any, int], ...]:
        return tuple(_ordered(self.counts)[:TOP])

    def domain(self) -> tuple[str, ...] | None:
        """Returns every value if they are few and all known."""
        few = self.exact and len(self.counts) <= FEW_DISTINCT
        return tuple(sorted(self.counts)) if few else None

    def distinct(self) -> int:
        if self.exact:
            return len(self.counts)
        return max(self.seen.estimate(), len(self.counts))


def _ordered(counts: dict[Any, int]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


@dataclass(slots=True)
class _Quantiles:
    """Weighted points in order of arrival; many are merged into points of like weight."""

    limit: int = 4096
    points: Floats = field(default_factory=lambda: np.empty(0))
    weights: Floats = field(default_factory=lambda: np.empty(0))

    def update(self, numbers: Floats) -> None:
        self._add(numbers, np.ones(len(numbers)))

    def merge(self, other: _Quantiles) -> None:
        self._add(other.points, other.weights)

    def _add(self, points: Floats, weights: Floats) -> None:
        points = np.concatenate([self.points, points])
        weights = np.concatenate([self.weights, weights])
        if len(points) > self.limit:
            order = np.argsort(points, kind="stable")
            points, weights = points[order], weights[order]
            total = weights.sum()
            ranks = (np.arange(self.limit // 2) + 0.5) * (total / (self.limit // 2))
            points = points[np.searchsorted(np.cumsum(weights), ranks).clip(max=len(points) - 1)]
            weights = np.full(len(points), total / len(points))
        self.points, self.weights = points, weights

    def result(self) -> dict[str, float]:
        if not len(self.points):
            return {}
        order = np.argsort(self.points, kind="stable")
        points, weights = self.points[order], self.weights[order]
        middle = (np.cumsum(weights) - 0.5 * weights) / weights.sum()
        with np.errstate(over="ignore", invalid="ignore"):
            found = {str(q): float(np.interp(q, middle, points)) for q in QUANTILES}
        return {q: value for q, value in found.items() if math.isfinite(value)}


@dataclass(slots=True)
class _Column:
    type: str
    count: int = 0
    missing: int = 0
    frequent: _Frequent = field(default_factory=_Frequent)
    moments: _Moments = field(default_factory=_Moments)
    quantiles: _Quantiles = field(default_factory=_Quantiles)
    smallest: Any = None
    largest: Any = None

    def update(self, values: pa.Array) -> None:
        self.count += len(values)
        self.missing += values.null_count
        values = values.drop_null()
        if not len(values):
            return
        extremes = pc.min_max(values).as_py()
        self._extend(extremes["min"], extremes["max"])
        self.frequent.update(values)
        numbers = _numbers(values)
        self.moments.update(numbers)
        if self.type not in ("string", "bool"):
            self.quantiles.update(numbers)

    def merge(self, other: _Column) -> None:
        self.count += other.count
        self.missing += other.missing
        self.frequent.merge(other.frequent)
        self.moments.merge(other.moments)
        self.quantiles.merge(other.quantiles)
        if other.smallest is not None:
            self._extend(other.smallest, other.largest)

    def _extend(self, smallest: Any, largest: Any) -> None:
        self.smallest = smallest if self.smallest is None else min(self.smallest, smallest)
        self.largest = largest if self.largest is None else max(self.largest, largest)

    def result(self, name: str) -> ColumnStatistics:
        moments = self.moments
        text = self.type == "string"
        known = moments.count > 0
        return ColumnStatistics(
            name=name,
            type=self.type,
            count=self.count,
            missing=self.missing,
            distinct=self.frequent.distinct(),
            distinct_exact=self.frequent.exact,
            top=self.frequent.top(),
            domain=self.frequent.domain() if text else None,
            zeros=moments.zeros if self.type in ("int64", "float64") else None,
            min=_plain(self.smallest),
            max=_plain(self.largest),
            mean=_finite(moments.mean) if known and not text else None,
            std=_finite(moments.std()) if not text else None,
            quantiles=self.quantiles.result(),
            min_length=int(moments.smallest) if known and text else None,
            max_length=int(moments.largest) if known and text else None,
            mean_length=moments.mean if known and text else None,
        )
