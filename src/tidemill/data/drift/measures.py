"""Distances between two distributions: of counted values, of binned numbers, of raw samples.

    l_infinity        the largest difference of two shares; 0 to 1
    total_variation   half the sum of all differences: the part of the rows that would have to move;
                      0 to 1
    jensen_shannon    the divergence, to base 2; 0 to 1 (TFDV's; SciPy's ``jensenshannon`` is its
                      square root)
    psi               population stability index, each share at least 0.0001; 0 to about 9.2
    ks                Kolmogorov and Smirnov: the largest difference of two distribution functions;
                      0 to 1
    wasserstein       the area between two distribution functions, in the unit of the values

All are 0 for equal distributions. A measure says how much differs and nothing about chance: on a
hundred rows of one distribution a psi of 0.3 is usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from tidemill.foundation.errors import InvalidInput

Measure = Literal["l_infinity", "total_variation", "jensen_shannon", "psi", "ks", "wasserstein"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
ORDERED: frozenset[str] = frozenset({"ks", "wasserstein"})
"""Measures that need an order: of numbers, not of names."""

PSI_FLOOR = 1e-4
"""The least share that psi counts with: an empty bin would make it infinite."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bins:
    """Numbers in bins, in ascending order, none over another; inside a bin they lie evenly.

    Attributes:
        low: where each bin begins.  # (bins,)
        high: where it ends; where it is ``low``, the bin is that one number.  # (bins,)
        count: how many numbers, or their weight.  # (bins,)

    The first bin may begin at minus infinity and the last end at infinity.

    Example:
        >>> day = Bins.of([0.0, 1.0, 2.0], [50, 50])
        >>> next_day = Bins.of([0.0, 1.0, 2.0], [40, 60])
        >>> round(compare(day, next_day, "ks"), 6)
        0.1
    """

    low: Floats
    high: Floats
    count: Floats

    @staticmethod
    def of(edges: npt.ArrayLike, counts: npt.ArrayLike) -> Bins:
        """Returns the bins between ascending edges; a repeated edge is a bin of one number.

        Raises:
            InvalidInput: the edges don't ascend, or there isn't one more of them than counts.
        """
        ends, count = np.asarray(edges, np.float64), np.asarray(counts, np.float64)
        if len(ends) != len(count) + 1 or np.isnan(ends).any() or (ends[1:] < ends[:-1]).any():
            raise InvalidInput(
                f"{len(ends)} edges do not bound {len(count)} bins",
                remedy="Give ascending edges, one more than counts.",
            )
        return Bins(low=ends[:-1], high=ends[1:], count=count)


Counted = Mapping[Any, float]
"""How often each value is there."""


def compare(reference: Counted | Bins, current: Counted | Bins, measure: Measure) -> float:
    """Returns how far the current distribution is from the reference.

    Counts are taken as shares of their own total, over the values of both. Bins are cut at all
    edges of both, as TFDV does; for psi, l_infinity and total_variation they are those of the
    reference, with one for what is below and one for what is above.

    Args:
        reference: counts by value, or bins.
        current: the same kind.
        measure: one of ``MEASURES``; those in ``ORDERED`` need bins, or values that are numbers.

    Raises:
        InvalidInput: a side is empty, a count is negative or not finite, the two are of different
            kinds, or the measure needs an order that names don't have.
    """
    if measure not in MEASURES:
        raise InvalidInput(
            f"there is no measure {measure!r}", remedy=f"Measures: {', '.join(MEASURES)}."
        )
    if isinstance(reference, Bins) and isinstance(current, Bins):
        return _compare_bins(reference, current, measure)
    if isinstance(reference, Bins) or isinstance(current, Bins):
        raise InvalidInput(
            "numbers in bins cannot be compared with counts of values",
            remedy="Give both in bins, or both as counts.",
        )
    both = {**reference, **current}
    points = _sorted_numbers(both, measure) if measure in ORDERED else np.empty(0)
    values = points.tolist() if measure in ORDERED else list(both)
    first = np.array([reference.get(value, 0) for value in values], np.float64)
    second = np.array([current.get(value, 0) for value in values], np.float64)
    if measure == "wasserstein":
        gap = np.abs(np.cumsum(shares(first) - shares(second)))
        return float((gap[:-1] * np.diff(points)).sum())
    return compare_counts(first, second, measure)


def compare_counts(reference: npt.ArrayLike, current: npt.ArrayLike, measure: Measure) -> float:
    """Returns how far two counts over the same bins, in order, are apart.

    Args:
        reference: how many in each bin.  # (bins,)
        current: likewise.  # (bins,)
        measure: all but ``wasserstein``, which needs to know where bins are.

    Raises:
        InvalidInput: as for ``compare``.
    """
    p, q = shares(reference), shares(current)
    if p.shape != q.shape:
        raise InvalidInput(f"{len(p)} bins were compared with {len(q)}", remedy="Align them.")
    if measure not in _ON_SHARES:
        raise InvalidInput(
            f"{measure} of counts alone is not defined", remedy="Give bins, or counts by value."
        )
    return _ON_SHARES[measure](p, q)


def shares(counts: npt.ArrayLike) -> Floats:
    """Returns each count's part of the total.

    Raises:
        InvalidInput: there is nothing, or a count is negative or not finite.
    """
    count = np.asarray(counts, np.float64)
    if not np.isfinite(count).all() or (count < 0).any():
        raise InvalidInput("a count is negative or not finite", remedy="Count again.")
    largest = float(count.max(initial=0.0))
    if not largest > 0:
        raise InvalidInput("there is nothing to compare", remedy="Give at least one row.")
    scaled = count / largest  # so that no sum is over the largest float
    return np.asarray(scaled / scaled.sum(), np.float64)


# --- on shares of the same bins --------------------------------------------------------------


def _l_infinity(p: Floats, q: Floats) -> float:
    return float(np.abs(p - q).max())


def _total_variation(p: Floats, q: Floats) -> float:
    return min(1.0, float(np.abs(p - q).sum()) / 2)


def _jensen_shannon(p: Floats, q: Floats) -> float:
    middle = (p + q) / 2
    return min(1.0, max(0.0, (_kullback_leibler(p, middle) + _kullback_leibler(q, middle)) / 2))


def _kullback_leibler(p: Floats, q: Floats) -> float:
    there = p > 0
    return float((p[there] * np.log2(p[there] / q[there])).sum())


def _psi(p: Floats, q: Floats) -> float:
    p, q = np.maximum(p, PSI_FLOOR), np.maximum(q, PSI_FLOOR)
    return float(((q - p) * np.log(q / p)).sum())


def _ks(p: Floats, q: Floats) -> float:
    return min(1.0, float(np.abs(np.cumsum(p - q)).max()))


_ON_SHARES: dict[str, Callable[[Floats, Floats], float]] = {
    "l_infinity": _l_infinity,
    "total_variation": _total_variation,
    "jensen_shannon": _jensen_shannon,
    "psi": _psi,
    "ks": _ks,
}


# --- on raw samples --------------------------------------------------------------------------


def ks_distance(reference: npt.ArrayLike, current: npt.ArrayLike) -> float:
    """Returns the largest difference between two samples' distribution functions.

    Args:
        reference: numbers, in any order.  # (n,)
        current: numbers.  # (m,)

    Raises:
        InvalidInput: a sample is empty or holds NaN.
    """
    first, second, points = _samples(reference, current)
    gap = _distribution(first, points) - _distribution(second, points)
    return float(np.abs(gap).max())


def wasserstein_distance(reference: npt.ArrayLike, current: npt.ArrayLike) -> float:
    """Returns the area between two samples' distribution functions, in their unit.

    Raises:
        InvalidInput: a sample is empty or holds NaN or infinity.
    """
    first, second, points = _samples(reference, current)
    if not np.isfinite(points).all():
        raise InvalidInput("a sample holds infinity", remedy="Leave it out, or use ks.")
    gap = np.abs(_distribution(first, points) - _distribution(second, points))
    return float((gap[:-1] * np.diff(points)).sum())


def _samples(reference: npt.ArrayLike, current: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
    first = np.sort(np.asarray(reference, np.float64).ravel())
    second = np.sort(np.asarray(current, np.float64).ravel())
    if not len(first) or not len(second):
        raise InvalidInput("a sample is empty", remedy="Give at least one number.")
    if np.isnan(first[-1]) or np.isnan(second[-1]):  # NaN sorts last
        raise InvalidInput("a sample holds NaN", remedy="Leave missing numbers out.")
    return first, second, np.sort(np.concatenate([first, second]), kind="stable")


def _distribution(ordered: Floats, points: Floats) -> Floats:
    return np.searchsorted(ordered, points, side="right") / len(ordered)


# --- on bins ---------------------------------------------------------------------------------


def _compare_bins(reference: Bins, current: Bins, measure: Measure) -> float:
    if measure in ("psi", "l_infinity", "total_variation"):
        return compare_counts(*_on_first(reference, current), measure)
    points = np.unique(
        np.concatenate([each for side in (reference, current) for each in _ends(side)])
    )
    first, second = _cut(reference, points), _cut(current, points)
    if measure != "wasserstein":
        return compare_counts(first, second, measure)
    if not np.isfinite(points).all():
        raise InvalidInput(
            "wasserstein of bins that reach to infinity is not defined", remedy="Use ks."
        )
    gap = np.cumsum(shares(first) - shares(second))  # after point, interval, point, …
    begin, end = gap[0:-1:2], gap[1::2]
    return float((_mean_size(begin, end) * np.diff(points)).sum())


def _mean_size(begin: Floats, end: Floats) -> Floats:
    """Returns the mean of a line's absolute value from one height to another."""
    size = (np.abs(begin) + np.abs(end)) / 2
    crosses = (begin * end) < 0
    spread = np.where(crosses, np.abs(begin - end), 1.0)
    return np.where(crosses, (begin**2 + end**2) / (2 * spread), size)


def _ends(bins: Bins) -> tuple[Floats, Floats]:
    return bins.low, bins.high


def _cut(bins: Bins, points: Floats) -> Floats:
    """Returns the counts at each point and between each two: point, interval, point, …"""
    found = np.zeros(max(2 * len(points) - 1, 0))
    begin = np.searchsorted(points, bins.low)
    end = np.searchsorted(points, bins.high)
    for low, high, i, j, count in zip(bins.low, bins.high, begin, end, bins.count, strict=True):
        if i == j:
            found[2 * i] += count
            continue
        found[2 * i + 1 : 2 * j : 2] += count * _parts(points[i : j + 1], float(low), float(high))
    return found


def _parts(points: Floats, low: float, high: float) -> Floats:
    """Returns which part of a bin lies in each interval between points that cut it."""
    if math.isinf(high - low) and math.isfinite(low) and math.isfinite(high):
        points, low, high = points / 2, low / 2, high / 2  # a width over the largest float
    width = np.diff(points)
    if math.isinf(low) or math.isinf(high):  # nobody knows where: next to what is known
        part = np.zeros(len(width))
        part[-1 if math.isinf(low) and not math.isinf(high) else 0] = 1.0
        return part
    return np.asarray(width / (high - low), np.float64)


def _on_first(reference: Bins, current: Bins) -> tuple[Floats, Floats]:
    """Returns both counts over the reference's bins, with one below and one above."""
    points = np.unique(np.concatenate([*_ends(reference), *_ends(current)]))
    cells = _cut(current, points)
    # A bin holds the points that it ends with, as quantile bins do; the first also its beginning.
    twice = np.repeat(points, 2)  # point, interval, point, …: where each begins, and where it ends
    place = np.searchsorted(reference.high, twice[1:], side="left") + 1
    place[twice[:-1] < reference.low[0]] = 0
    for number in np.flatnonzero(reference.low == reference.high):
        place[0::2][points == reference.low[number]] = number + 1
    second = np.bincount(place, cells, len(reference.count) + 2)
    return np.concatenate([[0.0], reference.count, [0.0]]), np.asarray(second, np.float64)


def _sorted_numbers(values: Counted, measure: str) -> Floats:
    if any(isinstance(value, str | bytes) or value is None for value in values):
        raise InvalidInput(
            f"{measure} needs an order, and names have none",
            remedy="Use l_infinity, total_variation, jensen_shannon or psi.",
        )
    return np.array(sorted(float(value) for value in values))
