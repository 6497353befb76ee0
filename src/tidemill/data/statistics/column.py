"""What is known of one column, as it goes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.data.statistics.counting import Counted, count, first_places, repeated
from tidemill.data.statistics.hashes import hash_numbers, hash_texts
from tidemill.data.statistics.layout import Texts, numbers_of, places_of
from tidemill.data.statistics.scratch import scratch
from tidemill.data.statistics.sketches import (
    EXACT_DISTINCT,
    Distinct,
    Floats,
    Frequent,
    Moments,
    Quantiles,
    most_frequent,
)
from tidemill.data.summaries import ColumnStatistics, Histogram, WeightedStatistics
from tidemill.foundation.errors import InvalidInput

FEW_DISTINCT = 100
SHOWN = 500
"""Of a longer text so much is kept among the frequent ones, with its hash."""

TOP = 20
RANKS = 100
BINS = 20
PARTS = 10
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

Array = npt.NDArray[Any]


@dataclass(slots=True)
class Weighted:
    """What is known where rows count by their weight."""

    weight: float = 0.0
    missing: float = 0.0
    moments: Moments = field(default_factory=Moments)
    quantiles: Quantiles = field(default_factory=Quantiles)
    frequent: Frequent = field(default_factory=Frequent)

    def merge(self, other: Weighted) -> None:
        """Takes another's rows in."""
        self.weight += other.weight
        self.missing += other.missing
        self.moments.merge(other.moments)
        self.quantiles.merge(other.quantiles)
        self.frequent.merge(other.frequent)

    def result(self, *, numbers: bool) -> WeightedStatistics:
        """Returns what is known so far."""
        known = numbers and self.moments.count > 0
        return WeightedStatistics(
            weight=self.weight,
            missing=self.missing,
            top=tuple(self.frequent.ordered()[:TOP]),
            mean=_finite(self.moments.mean) if known else None,
            std=_finite(self.moments.deviation(sample=False)) if known else None,
            quantiles=quantiles_at(self.quantiles, QUANTILES),
            histogram=equal_width(self.quantiles, self.moments) if numbers else None,
        )


@dataclass(slots=True)
class ColumnState:
    """A column of one type; ``moments`` and ``quantiles`` of strings are of their lengths."""

    type: str
    count: int = 0
    missing: int = 0
    nan: int = 0
    infinite: int = 0
    smallest: Any = None
    largest: Any = None
    distinct: Distinct = field(default_factory=Distinct)
    frequent: Frequent = field(default_factory=Frequent)
    moments: Moments = field(default_factory=Moments)
    quantiles: Quantiles = field(default_factory=Quantiles)
    lists: Moments | None = None
    list_sizes: Quantiles = field(default_factory=Quantiles)
    weighted: Weighted | None = None

    def update(self, values: pa.Array, weights: Floats | None) -> None:
        """Takes values in; they are of a schema's type, or lists of such.

        Args:
            values: one for each row; texts may be a dictionary's, in which each is once.
            weights: of the rows, if they have one; then always.  # (rows,)
        """
        self.count += len(values)
        self.missing += values.null_count
        if weights is not None:
            self.weighted = self.weighted or Weighted()
            self.weighted.weight += float(weights.sum())
            there = values.is_valid().to_numpy(zero_copy_only=False)
            self.weighted.missing += float(weights[~there].sum())
            weights = weights[there]
        values = values.drop_null() if values.null_count else values
        if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            values, weights = self._opened(values, weights)
        if not len(values):
            return
        if self.type == "string":
            self._update_texts(values, weights)
        else:
            self._update_numbers(values, weights)

    def merge(self, other: ColumnState) -> None:
        """Takes another's rows in."""
        if other.count > other.missing:
            self.become(other.type)
        self.count += other.count
        self.missing += other.missing
        self.nan += other.nan
        self.infinite += other.infinite
        self.distinct.merge(other.distinct)
        self.frequent.merge(other.frequent)
        self.moments.merge(other.moments)
        self.quantiles.merge(other.quantiles)
        self.list_sizes.merge(other.list_sizes)
        if other.lists is not None:
            self.lists = self.lists or Moments()
            self.lists.merge(other.lists)
        if other.weighted is not None:
            self.weighted = self.weighted or Weighted()
            self.weighted.merge(other.weighted)
        if other.smallest is not None:
            self._extend(other.smallest, other.largest)

    def become(self, kind: str) -> None:
        """Takes the type of values that come; a column without values may still be of any.

        Raises:
            InvalidInput: values of another type came before.
        """
        self.check(kind)
        self.type = kind

    def check(self, kind: str) -> None:
        """Raises InvalidInput if values of another type came before."""
        if kind != self.type and self.count > self.missing:
            raise InvalidInput(
                f"statistics of {self.type} cannot be merged with those of {kind}",
                remedy="Give pieces of the same columns.",
            )

    # --- values ----------------------------------------------------------------------------------

    def _opened(self, lists: pa.Array, weights: Floats | None) -> tuple[pa.Array, Floats | None]:
        """Returns the values in lists, with the weights of their rows."""
        sizes = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        points, times = np.unique(sizes.astype(np.float64), return_counts=True)
        self.lists = self.lists or Moments()
        self.lists.update(points, times)
        self.list_sizes.update(points, times)
        flat = lists.flatten()
        weights = None if weights is None else np.repeat(weights, sizes)
        if flat.null_count:
            there = flat.is_valid().to_numpy(zero_copy_only=False)
            weights = None if weights is None else weights[there]
            flat = flat.drop_null()
        return flat, weights

    def _update_numbers(self, values: pa.Array, weights: Floats | None) -> None:
        if self.type == "bool" and weights is None:
            self._put_counted(_flags(values))
            return
        raw = _raw(values)
        low, high = raw.min(), raw.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raw, weights = self._finite(raw, weights)
            if not len(raw):
                return
            low, high = raw.min(), raw.max()
        if weights is not None:
            found, sums = _weighed(raw, weights)
            self._put_counted(found)
            self._update_weighted(found.points, sums)
            return
        found = count(raw, low, high)
        if found.middles is None:
            self._put_counted(found)
            return
        self._extend(*self._plain(np.array([low, high])))
        self.distinct.update(hash_numbers(found.points if found.complete else raw))
        numbers = self._numbers(raw, out=scratch("numbers", len(raw), np.float64))
        self.moments.update_each(numbers)
        self.quantiles.update_middles(self._numbers(found.middles), len(raw))
        self._put_frequent(self.frequent, found.points, found.times, complete=found.complete)

    def _put_counted(self, found: Counted) -> None:
        numbers = self._numbers(found.points)
        self._extend(*self._plain(found.points[[0, -1]]))
        self.distinct.update(hash_numbers(found.points))
        self.moments.update(numbers, found.times)
        self.quantiles.update(numbers, found.times)
        self._put_frequent(self.frequent, found.points, found.times)

    def _update_weighted(self, points: Array, sums: Floats) -> None:
        weighted, kept = self.weighted or Weighted(), sums > 0
        points, sums = points[kept], sums[kept]
        numbers = self._numbers(points)
        weighted.moments.update(numbers, sums)
        weighted.quantiles.update(numbers, sums)
        self._put_frequent(weighted.frequent, points, sums)

    def _finite(self, raw: Floats, weights: Floats | None) -> tuple[Floats, Floats | None]:
        """Counts what is no finite number, and returns the rest."""
        fine = np.isfinite(raw)
        nan = int(np.isnan(raw).sum())
        self.nan += nan
        self.infinite += int(len(raw) - fine.sum()) - nan
        return raw[fine], None if weights is None else weights[fine]

    def _put_frequent(
        self, frequent: Frequent, points: Array, counts: Array, *, complete: bool = True
    ) -> None:
        dropped = 0.0 if complete else 1.0
        if len(points) > EXACT_DISTINCT:
            places, dropped = most_frequent(counts)
            points, counts = points[places], counts[places]
        frequent.update(self._plain(points), counts.tolist(), dropped=_whole(dropped))

    def _numbers(self, points: Array, out: Floats | None = None) -> Floats:
        """Returns numbers as they are, and times as seconds; new ones in what is given."""
        if points.dtype == np.float64:
            return points
        unit = 1e6 if self.type == "timestamp" else 1.0
        return np.divide(points, unit, out=out)

    def _plain(self, points: Array) -> list[Any]:
        """Returns values as JSON has them."""
        if self.type == "timestamp":
            return list(self._numbers(points).tolist())
        if self.type == "bool":
            return [bool(point) for point in points.tolist()]
        return list((points + 0.0 if self.type == "float64" else points).tolist())

    # --- texts -----------------------------------------------------------------------------------

    def _update_texts(self, texts: pa.Array, weights: Floats | None) -> None:
        if not isinstance(texts, pa.DictionaryArray):
            if weights is None and self._varied(texts):
                self._update_varied(texts)
                return
            texts = texts.dictionary_encode()
        codes = numbers_of(texts.indices).astype(np.int64, copy=False)
        values = texts.dictionary
        times = np.bincount(codes, minlength=len(values))
        there = np.flatnonzero(times > 0)
        values, times = values.take(places_of(there)), times[there]
        laid = Texts(values)
        self._update_lengths(laid, times)
        self.distinct.update(hash_texts(laid))
        self._put_texts(self.frequent, values, times)
        if self.weighted is not None and weights is not None:
            sums = np.bincount(codes, weights, minlength=len(texts.dictionary))[there]
            self._put_texts(self.weighted.frequent, values, sums)

    def _varied(self, texts: pa.Array) -> bool:
        """Tells whether most texts are likely to come once, by the first ones."""
        if len(texts) <= 4 * EXACT_DISTINCT or (self.frequent.exact and self.count > len(texts)):
            return False
        first = texts.slice(0, 2 * EXACT_DISTINCT)
        return bool(pc.count_distinct(first).as_py() > EXACT_DISTINCT)

    def _update_varied(self, texts: pa.Array) -> None:
        """Takes texts in that are counted by their hashes: only frequent ones are looked up."""
        laid = Texts(texts)
        self._update_lengths(laid, None)
        hashes = hash_texts(laid)
        self.distinct.update(hashes)
        points, times = repeated(hashes)
        dropped = 1.0
        if len(points) > EXACT_DISTINCT:
            places, dropped = most_frequent(times)
            points, times = points[places], times[places]
        values = _shown(texts.take(places_of(first_places(hashes, points))))
        self.frequent.update(values, times.tolist(), dropped=_whole(dropped))

    def _update_lengths(self, texts: Texts, times: Array | None) -> None:
        self._extend(*texts.extremes())
        sizes = texts.characters()
        if int(sizes.max()) < 1 << 16:
            found = np.bincount(sizes, times)
            points = np.flatnonzero(found)
            found = found[points]
        else:
            points, inverse = np.unique(sizes, return_inverse=True)
            found = np.bincount(inverse, times)
        self.moments.update(points.astype(np.float64), found)
        self.quantiles.update(points.astype(np.float64), found)

    @staticmethod
    def _put_texts(frequent: Frequent, values: pa.Array, counts: Array) -> None:
        dropped = 0.0
        if len(values) > EXACT_DISTINCT:
            places, dropped = most_frequent(counts)
            values, counts = values.take(places_of(places)), counts[places]
        frequent.update(_shown(values), counts.tolist(), dropped=_whole(dropped))

    def _extend(self, smallest: Any, largest: Any) -> None:
        self.smallest = smallest if self.smallest is None else min(self.smallest, smallest)
        self.largest = largest if self.largest is None else max(self.largest, largest)

    # --- result ----------------------------------------------------------------------------------

    def result(self, name: str, *, absent: int = 0) -> ColumnStatistics:
        """Returns what is known so far.

        Args:
            name: the column.
            absent: rows of pieces that had no such column; they have no value.
        """
        moments, text = self.moments, self.type == "string"
        known = moments.count > 0
        numbers = known and not text
        ordered = self.frequent.ordered()
        measured = self.type not in ("string", "bool")
        return ColumnStatistics(
            name=name,
            type=self.type,
            count=self.count + absent,
            missing=self.missing + absent,
            distinct=self._distinct(),
            distinct_exact=self.frequent.exact,
            top=tuple(ordered[:TOP]),
            domain=self._domain() if text else None,
            zeros=int(moments.zeros) if self.type in ("int64", "float64") else None,
            min=self.smallest,
            max=self.largest,
            mean=_finite(moments.mean) if numbers else None,
            std=_finite(moments.deviation(sample=True)) if numbers else None,
            quantiles=quantiles_at(self.quantiles, QUANTILES) if measured else {},
            min_length=int(moments.smallest) if known and text else None,
            max_length=int(moments.largest) if known and text else None,
            mean_length=moments.mean if known and text else None,
            nan=self.nan,
            infinite=self.infinite,
            rank_error=self.quantiles.rank_error if measured else 0.0,
            top_error=int(self.frequent.error),
            histogram=equal_width(self.quantiles, moments) if numbers else None,
            quantile_histogram=equal_parts(self.quantiles, moments) if measured else None,
            length_quantiles=quantiles_at(self.quantiles, QUANTILES) if text else {},
            ranks=tuple(count for _, count in ordered[:RANKS]) if text else (),
            values=None if self.lists is None else round(self.lists.mean * self.lists.count),
            list_lengths=quantiles_at(self.list_sizes, (0.0, 0.5, 1.0)),
            mean_list_length=self.lists.mean if self.lists and self.lists.count else None,
            weighted=None if self.weighted is None else self.weighted.result(numbers=not text),
        )

    def _distinct(self) -> int:
        if self.frequent.exact:
            return len(self.frequent.counts)
        return max(self.distinct.result(), len(self.frequent.counts))

    def _domain(self) -> tuple[str, ...] | None:
        values = sorted(self.frequent.counts)
        few = self.frequent.exact and len(values) <= FEW_DISTINCT
        return tuple(values) if few and all(len(one) <= SHOWN for one in values) else None


def quantiles_at(sketch: Quantiles, parts: Iterable[float]) -> dict[str, float]:
    """Returns the values at parts of the weight; where one ends there, the middle of two.

    The second of Hyndman and Fan, "Sample quantiles in statistical packages", 1996.
    """
    points, weights = sketch.points()
    if not len(points):
        return {}
    total = np.cumsum(weights)
    at = np.fromiter(parts, np.float64)
    slack = 1e-9 * total[-1]
    low = np.searchsorted(total, at * total[-1] - slack).clip(max=len(points) - 1)
    high = np.searchsorted(total, at * total[-1] + slack, "right").clip(max=len(points) - 1)
    found = np.where(low == high, points[low], points[low] / 2 + points[high] / 2)
    return {f"{part:g}": value for part, value in zip(at.tolist(), found.tolist(), strict=True)}


def equal_width(sketch: Quantiles, moments: Moments) -> Histogram | None:
    """Returns a histogram whose bins are equally wide, from the smallest number to the largest."""
    points, weights = sketch.points()
    if not len(points):
        return None
    low, high = moments.smallest, moments.largest
    if low == high:
        return Histogram(edges=(low, high), counts=(_whole(sketch.weight),))
    at = np.arange(BINS + 1) / BINS
    edges = np.maximum.accumulate(low * (1 - at) + high * at)
    edges[0], edges[-1] = low, high
    below = np.concatenate([[0.0], np.cumsum(weights)])
    cut = below[np.searchsorted(points, edges[1:-1].clip(max=high), "left")]
    counts = np.diff(np.concatenate([[0.0], cut, [below[-1]]]))
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(map(_whole, counts.tolist())))


def equal_parts(sketch: Quantiles, moments: Moments) -> Histogram | None:
    """Returns a histogram whose bins hold equally many, as far as equal numbers allow."""
    points, weights = sketch.points()
    if not len(points):
        return None
    inner = quantiles_at(sketch, [i / PARTS for i in range(1, PARTS)]).values()
    edges = np.array(sorted({moments.smallest, *inner, moments.largest}))
    if len(edges) == 1:
        return Histogram(edges=(float(edges[0]),) * 2, counts=(_whole(sketch.weight),))
    below = np.concatenate([[0.0], np.cumsum(weights)])
    cut = below[np.searchsorted(points, edges[1:-1], "left")]
    counts = np.diff(np.concatenate([[0.0], cut, [below[-1]]]))
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(map(_whole, counts.tolist())))


def _weighed(raw: Array, weights: Floats) -> tuple[Counted, Floats]:
    """Returns how often each value comes, and with what weight."""
    points, inverse = np.unique(raw, return_inverse=True)
    sums: Floats = np.bincount(inverse, weights).astype(np.float64)
    return Counted(points=points, times=np.bincount(inverse)), sums


def _flags(values: pa.Array) -> Counted:
    true = values.true_count
    times = np.array([len(values) - true, true], np.int64)
    there = np.flatnonzero(times)
    return Counted(points=there, times=times[there])


def _raw(values: pa.Array) -> Array:
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    raw = numbers_of(values)
    return raw if raw.dtype == np.float64 else raw.astype(np.int64, copy=False)


def _shown(texts: pa.Array) -> list[str]:
    """Returns texts; of a long one its beginning and its hash, by which it is told from others."""
    found: list[str] = texts.to_pylist()
    for place, text in enumerate(found):
        if len(text) > SHOWN:
            digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
            found[place] = f"{text[:SHOWN]}\u2026{digest}"
    return found


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
