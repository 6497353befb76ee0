"""The law of a model's time: a + b·n seconds for a batch of n rows, and how far some stray."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from tidemill.models.signature import Array
from tidemill.serving.batching import ServiceTime

QUANTILES = 401
"""So many values tell how times stray, from the minimum to the maximum: what is rarer than one in
four hundred must not make every hundredth one slow.
"""


class LatencyLaw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a model computes.

    Args:
        a_s: the fixed part of a batch, in seconds.
        b_s: what each row adds.
        strays: measured time over expected time, as quantiles at even steps from 0 to 1; their
            mean is about 1. One value, 1, for a model that never strays.
    """

    a_s: float
    b_s: float
    strays: tuple[float, ...] = (1.0,)

    def expect(self, n: float) -> float:
        """Returns the seconds that a batch of n rows takes on average.

        Example:
            >>> LatencyLaw(a_s=0.001, b_s=0.0001).expect(10)
            0.002
        """
        return self.a_s + self.b_s * n

    def service_time(self) -> ServiceTime:
        """Returns what a server that has learned this law for long knows of it."""
        off = np.abs(np.asarray(self.strays) - 1.0).mean()
        typical_s = self.expect(1.0)
        return ServiceTime(self.a_s, self.b_s, float(off) * typical_s, weight=50.0)

    def draws(self, rng: np.random.Generator, n: int) -> Array:
        """Returns how n batches stray, drawn from the quantiles."""
        return spread(self.strays, rng.random(n))


def spread(quantiles: Sequence[float], shares: Array) -> Array:
    """Returns the values at these shares of what quantiles at even steps describe.

    Example:
        >>> spread((0.0, 10.0), np.array([0.0, 0.25, 1.0])).tolist()
        [0.0, 2.5, 10.0]
    """
    at = np.linspace(0.0, 1.0, len(quantiles)) if len(quantiles) > 1 else np.array([0.0])
    return np.interp(shares, at, np.asarray(quantiles, np.float64))


def fit_law(rows: Sequence[int], seconds: Sequence[float]) -> LatencyLaw:
    """Fits the law to measured batches.

    The line goes through the medians of each size, weighted so that each counts by how far it is
    off relative to itself: a microsecond at one row counts as a hundred at a hundred rows. A batch
    strays from the median of its size.

    Args:
        rows: of each batch.
        seconds: that it took.

    Raises:
        ValueError: there is no batch, or one that took no time.

    Example:
        >>> law = fit_law([1, 1, 11, 11], [0.002, 0.002, 0.003, 0.003])
        >>> round(law.a_s, 6), round(law.b_s, 6)
        (0.0019, 0.0001)
    """
    sizes = np.asarray(rows, np.float64)
    times = np.asarray(seconds, np.float64)
    if not len(times) or (times <= 0.0).any() or len(times) != len(sizes):
        raise ValueError("a law needs batches that took some time")
    distinct = np.unique(sizes)
    medians = np.array([np.median(times[sizes == size]) for size in distinct])
    a_s, b_s = _line(distinct, medians)
    # Beside batches of its own size: where the line is off, all of them are.
    ratios = times / medians[np.searchsorted(distinct, sizes)]
    strays = np.quantile(ratios, np.linspace(0.0, 1.0, QUANTILES))
    return LatencyLaw(a_s=a_s, b_s=b_s, strays=tuple(float(each) for each in strays))


def _line(sizes: Array, times: Array) -> tuple[float, float]:
    """Least squares of relative errors, with neither part negative."""
    if len(sizes) == 1:
        return float(times[0]), 0.0
    columns = np.stack([np.ones_like(sizes), sizes], axis=1) / times[:, None]
    (a_s, b_s), *_ = np.linalg.lstsq(columns, np.ones_like(sizes), rcond=None)
    if b_s < 0.0:
        return float(times.mean()), 0.0
    if a_s < 0.0:
        return 0.0, float((times / sizes).mean())
    return float(a_s), float(b_s)
