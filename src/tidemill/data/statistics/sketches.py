"""What is kept of a column whose values are too many to keep: quantiles, distinct, frequent.

Each is updated with distinct values and how often they come, and merged with its like. While
everything fits, everything is exact; from then on each knows how wrong it may be:

    Quantiles   a rank is wrong by at most ``rank_error``, which is counted as points are left out:
                0.024 % for each doubling, about 0.3 % for ten million numbers. Buffers of equal
                size are joined two by two and halved, after Manku, Rajagopalan and Lindsay,
                "Approximate medians", 1998. KLL would be smaller, but draws from chance: the same
                rows would not give the same file twice
    Distinct    standard error 1.6 %: the 4,096 smallest hashes, after Bar-Yossef et al., "Counting
                distinct elements in a data stream", 2002; the same in whatever order
    Frequent    a count is never too high, and too low by at most ``error``: the sum of what was
                dropped each time that there were too many candidates
    Moments     exact, after Chan, Golub and LeVeque, "Updating formulae", 1979
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tidemill.data.mixing import Words
from tidemill.data.statistics.scratch import scratch

Floats = npt.NDArray[np.float64]

EXACT_POINTS = 1 << 14
POINTS = 1 << 11
HASHES = 1 << 12
EXACT_DISTINCT = 1_000
CANDIDATES = 2_000

_NO_FLOATS: Floats = np.empty(0)


@dataclass(slots=True)
class Quantiles:
    """Numbers by rank.

    Attributes:
        pending: points that stand for themselves, ascending, and their weights.
        waiting: how many those are.
        levels: at each level at most one buffer of ``POINTS`` ascending points of equal weight,
            and the weight of them all; a level holds twice the weight of the one before.
        lost: by how much, in weight, a rank may be wrong.
        weight: of all numbers.
    """

    pending: list[tuple[Floats, Floats]] = field(default_factory=list)
    waiting: int = 0
    levels: dict[int, tuple[Floats, float]] = field(default_factory=dict)
    lost: float = 0.0
    weight: float = 0.0

    @property
    def rank_error(self) -> float:
        """How wrong a rank may be, as a part of all; 0 if no number was left out."""
        return self.lost / self.weight if self.weight else 0.0

    def update(self, points: Floats, weights: npt.NDArray[Any]) -> None:
        """Takes ascending finite numbers in, each with its weight, which is more than 0."""
        if not len(points):
            return
        weights = np.asarray(weights, np.float64)
        total = float(weights.sum())
        self.weight += total
        if len(points) > EXACT_POINTS:
            self._halve(points, weights, total)
            return
        self.pending.append((points, weights))
        self.waiting += len(points)
        if self.waiting > EXACT_POINTS:
            self._compact()

    def update_middles(self, points: Floats, count: int) -> None:
        """Takes so many numbers in, by those in the middles of ``POINTS`` parts of equal size."""
        self.weight += count
        self.lost += count / (2 * POINTS)
        self._put(points, float(count))

    def merge(self, other: Quantiles) -> None:
        """Takes another's numbers in."""
        self.lost += other.lost
        for points, weight in other.levels.values():
            self.weight += weight
            self._put(points, weight)
        for points, weights in other.pending:
            self.update(points, weights)

    def points(self) -> tuple[Floats, Floats]:
        """Returns ascending points and their weights, which stand for all numbers."""
        kept = [*self.pending]
        for points, weight in self.levels.values():
            kept.append((points, np.full(POINTS, weight / POINTS)))
        return _joined(kept)

    def packed(self) -> tuple[Floats, Floats, float]:
        """Returns few points, their weights, and by how much a rank of theirs may be wrong."""
        points, weights = self.points()
        if not self.levels or len(points) <= POINTS:
            return points, weights, self.lost
        fewer = _halved(points, weights)
        return fewer, np.full(POINTS, self.weight / POINTS), self.lost + self.weight / (2 * POINTS)

    @staticmethod
    def unpacked(points: Floats, weights: Floats, lost: float) -> Quantiles:
        """Returns the sketch that was packed."""
        found = Quantiles(lost=lost, weight=float(weights.sum()))
        if lost and len(points) == POINTS:
            found._put(points, found.weight)
        elif len(points):
            found.pending.append((points, weights))
            found.waiting = len(points)
        return found

    def _compact(self) -> None:
        """Joins what waits: distinct points may be few after all; else they become a buffer."""
        points, weights = _joined(self.pending)
        self.pending, self.waiting = [(points, weights)], len(points)
        if self.waiting > EXACT_POINTS // 2:
            self.pending, self.waiting = [], 0
            self._halve(points, weights, float(weights.sum()))

    def _halve(self, points: Floats, weights: Floats, total: float) -> None:
        self.lost += total / (2 * POINTS)
        self._put(_halved(points, weights), total)

    def _put(self, points: Floats, weight: float) -> None:
        """Puts a buffer on its level, joined with the one that is there."""
        while True:
            level = math.frexp(weight)[1]
            there = self.levels.pop(level, None)
            if there is None:
                self.levels[level] = (points, weight)
                return
            both = np.concatenate([there[0], points])
            each = np.repeat([there[1] / POINTS, weight / POINTS], POINTS)
            order = np.argsort(both, kind="stable")
            weight += there[1]
            self.lost += weight / (2 * POINTS)
            points = _halved(both[order], each[order])


def _joined(parts: list[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Returns all points in ascending order, each once, with the weights of equal ones added."""
    if not parts:
        return _NO_FLOATS, _NO_FLOATS
    if len(parts) == 1:
        return parts[0]
    points, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(points, kind="stable")
    points, weights = points[order], weights[order]
    first = np.flatnonzero(np.concatenate([[True], points[1:] != points[:-1]]))
    if len(first) == len(points):
        return points, weights
    return points[first], np.add.reduceat(weights, first)


def _halved(points: Floats, weights: Floats) -> Floats:
    """Returns the points in the middles of ``POINTS`` parts of equal weight.

    The weight up to any point is so wrong by at most half a part.
    """
    total = np.cumsum(weights)
    middles = (np.arange(POINTS) + 0.5) * (total[-1] / POINTS)
    found: Floats = points[np.searchsorted(total, middles).clip(max=len(points) - 1)]
    return found


@dataclass(slots=True)
class Distinct:
    """The smallest hashes that were seen, ascending."""

    hashes: Words = field(default_factory=lambda: np.empty(0, np.uint64))

    def update(self, hashes: Words) -> None:
        """Takes hashes in, well mixed."""
        if len(self.hashes) < HASHES and len(hashes) > 8 * HASHES:  # few of them are mostly enough
            self._join(hashes[hashes < np.uint64((2 * HASHES << 64) // len(hashes))])
        if len(self.hashes) >= HASHES:
            hashes = hashes[hashes < self.hashes[-1]]
        self._join(hashes)

    def merge(self, other: Distinct) -> None:
        """Takes another's hashes in."""
        self._join(other.hashes)

    def _join(self, hashes: Words) -> None:
        if len(hashes):
            both = np.sort(np.concatenate([self.hashes, hashes]))
            self.hashes = both[np.concatenate([[True], both[1:] != both[:-1]])][:HASHES]

    def result(self) -> int:
        """Returns how many different values there were, about."""
        if len(self.hashes) < HASHES:
            return len(self.hashes)
        return round((HASHES - 1) / (int(self.hashes[-1]) / 2**64))


@dataclass(slots=True)
class Frequent:
    """Values and how often they come: all while they are few, else the most frequent.

    Attributes:
        counts: of values, or their weights.
        exact: every value is there, and its count is its count.
        error: a count is too low by at most so much.
    """

    counts: dict[Any, Any] = field(default_factory=dict)
    exact: bool = True
    error: float = 0

    def update(self, values: Iterable[Any], times: Iterable[Any], *, dropped: float = 0) -> None:
        """Takes different values in, each so many times.

        Args:
            values: plain ones, not NaN.
            times: how often each came, or with what weight.
            dropped: at most so often came a value that isn't given; 0 if all are.
        """
        counts = self.counts
        for value, count in zip(values, times, strict=True):
            counts[value] = counts.get(value, 0) + count
        if dropped:
            self.exact = False
            self.error += dropped
        self._trim()

    def merge(self, other: Frequent) -> None:
        """Takes another's values in."""
        self.exact &= other.exact
        self.error += other.error
        self.update(other.counts.keys(), other.counts.values())

    def ordered(self) -> list[tuple[Any, Any]]:
        """Returns the values with their counts, the most frequent first, equals by value."""
        return sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))

    def _trim(self) -> None:
        if len(self.counts) > EXACT_DISTINCT:
            self.exact = False
        if len(self.counts) > CANDIDATES:
            ordered = self.ordered()
            self.counts = dict(ordered[:EXACT_DISTINCT])
            self.error += ordered[EXACT_DISTINCT][1]


def most_frequent(times: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], float]:
    """Returns the places of the largest counts of too many, and the largest of the others.

    Values that came once stand for nothing and are left out.
    """
    places, least = np.flatnonzero(times > 1), 1.0
    if len(places) > EXACT_DISTINCT:
        counts = times[places]
        least = float(np.sort(counts)[-1 - EXACT_DISTINCT])
        places = places[counts > least]
    return places, least


@dataclass(slots=True)
class Moments:
    """Number (or weight), mean, deviation, zeros and extremes."""

    count: float = 0
    zeros: float = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared deviations from the mean
    smallest: float = math.inf
    largest: float = -math.inf

    def update(self, points: Floats, times: npt.NDArray[Any]) -> None:
        """Takes ascending finite numbers in, each so many times."""
        if not len(points):
            return
        low, high = np.searchsorted(points, 0.0, "left"), np.searchsorted(points, 0.0, "right")
        with np.errstate(over="ignore", invalid="ignore"):  # near the largest floats
            times = times.astype(np.float64)
            count, zeros = float(times.sum()), float(times[low:high].sum())
            mean = float((points * times).sum() / count)
            off = points - mean
            squares = float((off * off * times).sum())
        self.merge(
            Moments(
                count=count,
                zeros=zeros,
                mean=mean,
                squares=squares,
                smallest=float(points[0]),
                largest=float(points[-1]),
            )
        )

    def update_each(self, numbers: Floats) -> None:
        """Takes finite numbers in, each once, in any order."""
        count = len(numbers)
        with np.errstate(over="ignore", invalid="ignore"):  # near the largest floats
            mean = float(numbers.mean())
            off = np.subtract(numbers, mean, out=scratch("off", count, np.float64))
            squares = float(np.square(off, out=off).sum())
        self.merge(
            Moments(
                count=float(count),
                zeros=float(count - np.count_nonzero(numbers)),
                mean=mean,
                squares=squares,
                smallest=float(numbers.min()),
                largest=float(numbers.max()),
            )
        )

    def merge(self, other: Moments) -> None:
        """Takes another's numbers in."""
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

    def deviation(self, *, sample: bool) -> float | None:
        """Returns the standard deviation, of a sample or of the weights; None if there is none."""
        if self.count <= sample or not math.isfinite(self.squares):
            return None
        return math.sqrt(self.squares / (self.count - sample))
