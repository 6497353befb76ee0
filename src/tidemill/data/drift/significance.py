"""How likely a difference is where nothing differs: tails of tests, and many tests at once.

Written here because the core has no SciPy; tests compare each with SciPy's to 1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tidemill.foundation.errors import InvalidInput

EXPECTED = 5.0
"""Chi-square needs this many rows expected in each cell of each sample (Cochran's rule)."""

Floats = npt.NDArray[np.float64]


def kolmogorov(x: float) -> float:
    """Returns Kolmogorov's tail: that sqrt(nm/(n+m)) times the KS distance is over x.

    Both of its series (Kolmogorov 1933; the theta identity), each where it converges at once.
    For samples of any size, and for a distance that is measured at some points only, the chance
    is at most about that.
    """
    if not x > 0:
        return 1.0
    if x < 1.18:
        step = math.exp(-(math.pi**2) / (8 * x * x)) if x > 0.04 else 0.0
        series = step + step**9 + step**25 + step**49
        return max(0.0, 1 - math.sqrt(2 * math.pi) / x * series)
    terms = ((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 6))
    return min(1.0, max(0.0, 2 * math.fsum(terms)))


def chi_square(x: float, freedom: int) -> float:
    """Returns the upper tail of the chi-square distribution.

    It is Q(freedom / 2, x / 2), the regularised incomplete gamma function: by its power series
    below the mean, by its continued fraction (Lentz) above.

    Raises:
        InvalidInput: there is no degree of freedom.
    """
    if freedom < 1:
        raise InvalidInput("chi-square needs a degree of freedom", remedy="Give two cells.")
    if not x > 0:
        return 1.0
    if math.isinf(x):
        return 0.0
    a, half = freedom / 2, x / 2
    front = math.exp(a * math.log(half) - half - math.lgamma(a))
    if half < a + 1:
        term = total = 1 / a
        n = a
        while term > total * 1e-17:
            n += 1
            term *= half / n
            total += term
        return max(0.0, 1 - front * total)
    return min(1.0, front * _fraction(a, half))


def _fraction(a: float, x: float) -> float:
    b = x + 1 - a
    c, d = 1e300, 1 / b
    value = d
    for i in range(1, 100_000):
        step = -i * (i - a)
        b += 2
        d = 1 / (step * d + b)
        c = b + step / c
        change = c * d
        value *= change
        if abs(change - 1) < 1e-16:
            break
    return value


def exact_two(first: int, of_first: int, second: int, of_second: int) -> float:
    """Returns Fisher's exact test of two shares: twice the smaller tail, at most 1.

    Args:
        first: how many of the first sample are in question.
        of_first: how many it has.
        second: likewise of the second.
        of_second: likewise.
    """
    total, drawn = of_first + of_second, first + second
    low, high = max(0, drawn - of_second), min(drawn, of_first)

    def log_chance(k: int) -> float:
        ways = _choose(of_first, k) + _choose(of_second, drawn - k)
        return ways - _choose(total, drawn)

    def tail(step: int) -> float:
        k, sum_, term = first, 0.0, math.exp(log_chance(first))
        while low <= k <= high:
            sum_ += term
            if step > 0:
                up = (of_first - k) * (drawn - k)
                term *= up / ((k + 1) * (of_second - drawn + k + 1)) if up else 0.0
            else:
                down = k * (of_second - drawn + k)
                term *= down / ((of_first - k + 1) * (drawn - k + 1)) if down else 0.0
            k += step
            if term < sum_ * 1e-17 or sum_ > 0.5:  # more would change nothing
                break
        return sum_

    return min(1.0, 2 * min(tail(1), tail(-1)))


def _choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def same_cells(reference: npt.ArrayLike, current: npt.ArrayLike, *, ordered: bool) -> float:
    """Returns the chance of such different counts if both samples have one distribution.

    A pooled chi-square test of two samples, in which the reference's own sampling error counts.
    Cells in which either sample expects fewer than ``EXPECTED`` rows are put together: neighbours
    where cells are ordered, else the smallest. If no two cells remain, the largest is tested
    against all others by Fisher's exact test.

    Args:
        reference: rows in each cell.  # (cells,)
        current: likewise.  # (cells,)
        ordered: cells have neighbours.

    Raises:
        InvalidInput: a sample is empty.
    """
    first, second = np.asarray(reference, np.float64), np.asarray(current, np.float64)
    n, m = float(first.sum()), float(second.sum())
    if not n or not m:
        raise InvalidInput("a sample is empty", remedy="Give at least one row.")
    pooled = first + second
    least = EXPECTED * (n + m) / min(n, m)
    if not ordered:
        rank = np.argsort(pooled, kind="stable")
        first, second, pooled = first[rank], second[rank], pooled[rank]
    groups = _together(pooled, least)
    cells = int(groups[-1]) + 1
    if cells < 2:
        top = int(pooled.argmax())
        return exact_two(int(first[top]), int(n), int(second[top]), int(m))
    p = np.bincount(groups, first) / n
    q = np.bincount(groups, second) / m
    middle = np.bincount(groups, pooled) / (n + m)
    statistic = float(((p - q) ** 2 / middle).sum()) * (n / (n + m)) * m
    return chi_square(statistic, cells - 1)


def _together(pooled: Floats, least: float) -> npt.NDArray[np.int64]:
    """Returns the group of each cell: neighbours together until each group has enough."""
    groups, group, held = np.zeros(len(pooled), np.int64), 0, 0.0
    for i, rows in enumerate(pooled):
        groups[i] = group
        held += float(rows)
        if held >= least:
            group, held = group + 1, 0.0
    if held < least and group:  # what is left over joins the last that has enough
        groups[groups == group] = group - 1
    return groups


def adjusted(chances: Sequence[float]) -> list[float]:
    """Returns p-values so that those under a level keep the false discovery rate under it.

    Benjamini and Yekutieli's (2001), which holds however columns depend on each other: each is
    multiplied by m/rank and by 1 + 1/2 + … + 1/m, and made no larger than those after it.

    Example:
        >>> [round(p, 6) for p in adjusted([0.01, 0.5])]
        [0.03, 0.75]
    """
    m = len(chances)
    if not m:
        return []
    order = np.argsort(chances, kind="stable")
    harmonic = float((1 / np.arange(1, m + 1)).sum())
    scaled = np.asarray(chances, np.float64)[order] * m * harmonic / np.arange(1, m + 1)
    least = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    found = np.empty(m)
    found[order] = least
    return [float(each) for each in found]
