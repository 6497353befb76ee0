"""What the plan must know of the traffic: how fast queries come and how they share their keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import msgspec
import numpy as np

from tidemill.models.signature import Array

_STEPS = 400
"""Into so many groups of equal probability the ranks are taken together."""

_DOUBLINGS = 60
_FOREVER_S = 1e300
"""Not infinite: a key that nobody asks for is hit by nobody, however long it stays."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The traffic of one application.

    Args:
        rate_rps: queries a second, on average.
        cv2: the squared coefficient of variation of the time between two; 1 is a Poisson process.
        peak_to_mean: the busiest stretch over the average; the promise must hold in it, too.
        cardinality: distinct keys.
        top: (k, share of queries for the k most frequent keys), with k rising.
        reuse: (entries, share of queries that a cache of so many would answer), as measured; empty
            if nobody measured it.
        new_keys: share of the queries whose key nobody has asked for before.
        ahead: share of the queries whose key a table can have; 1 if nothing is known against it.
    """

    rate_rps: Annotated[float, msgspec.Meta(gt=0)]
    cv2: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    peak_to_mean: Annotated[float, msgspec.Meta(ge=1)] = 1.0
    cardinality: Annotated[int, msgspec.Meta(ge=1)]
    top: tuple[tuple[int, float], ...] = ()
    reuse: tuple[tuple[int, float], ...] = ()
    new_keys: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    ahead: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0


def zipf_traffic(rate_rps: float, cardinality: int, exponent: float, **more: float) -> Traffic:
    """Returns traffic whose r-th most frequent key is asked for in proportion to r^-exponent.

    Args:
        rate_rps: queries a second.
        cardinality: keys.
        exponent: 0 for keys that are all asked for alike.
        more: other fields of ``Traffic``.

    Example:
        >>> zipf_traffic(10.0, 100, 0.0).top[-2:]
        ((64, 0.64), (100, 1.0))
    """
    heads = [1 << power for power in range(_DOUBLINGS) if 1 << power < cardinality]
    sums = [_harmonic(head, exponent) for head in (*heads, cardinality)]
    known = 1.0 - more.get("new_keys", 0.0)
    shares = [round(known * each / sums[-1], 9) for each in sums]
    return Traffic(
        rate_rps=rate_rps,
        cardinality=cardinality,
        top=tuple(zip((*heads, cardinality), shares, strict=True)),
        **more,  # type: ignore[arg-type]
    )


def _harmonic(n: int, exponent: float) -> float:
    """Returns the sum of r^-exponent for r = 1 … n; beyond a thousand, by Euler and Maclaurin."""
    exact = min(n, 1000)
    head = float((np.arange(1, exact + 1) ** -exponent).sum())
    if n == exact:
        return head
    if exponent == 1.0:
        integral = float(np.log(n / exact))
    else:
        rest = 1.0 - exponent
        integral = float(n**rest - exact**rest) / rest
    return head + integral + float(n**-exponent - exact**-exponent) / 2.0


@dataclass(frozen=True)
class Popularity:
    """How the queries are shared among the keys, between the points that were measured.

    Between two points the share grows with the logarithm of k, as it does for Zipf's law with an
    exponent near one; past the last point all keys are alike.

    Example:
        >>> even = Popularity(Traffic(rate_rps=1.0, cardinality=4, top=((2, 0.5), (4, 1.0))))
        >>> even.covers(0), even.covers(2), even.covers(4)
        (0.0, 0.5, 1.0)
    """

    traffic: Traffic

    @cached_property
    def _curve(self) -> tuple[Array, Array]:
        cardinality = self.traffic.cardinality
        known = 1.0 - self.traffic.new_keys
        points = [(k, share) for k, share in self.traffic.top if 0 < k < cardinality]
        ranks = np.array([k for k, _ in points] + [cardinality], np.float64)
        shares = np.array([share for _, share in points] + [known])
        return ranks, np.maximum.accumulate(np.clip(shares, 0.0, known))

    def covers(self, keys: int) -> float:
        """Returns the share of the queries that a table of the most frequent keys answers.

        No table knows keys that are asked for the first time, nor those that come up after it was
        built, however often they are asked for then: what it had answered later bounds it.
        """
        return min(self._share(keys), self.traffic.ahead)

    def ranks(self, shares: Array) -> Array:
        """Returns whose query lies at these shares of all: the key's rank from 0, (n,) integers.

        It is the inverse of ``covers``. A query beyond what known keys ask for is about a key of
        its own, below 0.

        Example:
            >>> even = Popularity(Traffic(rate_rps=1.0, cardinality=4, top=((2, 0.5), (4, 1.0))))
            >>> even.ranks(np.array([0.0, 0.3, 0.6, 0.99])).tolist()
            [0, 1, 2, 3]
        """
        edges, ends = self._steps(0)
        inside = np.minimum(np.interp(shares, ends, edges), self.traffic.cardinality - 1)
        found: Array = np.asarray(inside, np.int64)
        new = shares >= ends[-1]
        found[new] = -1 - np.flatnonzero(new)
        return found

    def _share(self, keys: float) -> float:
        if keys <= 0:
            return 0.0
        ranks, shares = self._curve
        if keys <= ranks[0]:
            return float(shares[0] * keys / ranks[0])
        at = int(np.searchsorted(ranks, keys))
        if at >= len(ranks):
            return float(shares[-1])
        if at == len(ranks) - 1:  # nothing is known of the tail but its end
            part = (keys - ranks[at - 1]) / (ranks[at] - ranks[at - 1])
        else:
            part = np.log(keys / ranks[at - 1]) / np.log(ranks[at] / ranks[at - 1])
        return float(shares[at - 1] + part * (shares[at] - shares[at - 1]))

    def cached(self, entries: int, *, beyond: int = 0, at_most_s: float | None = None) -> float:
        """Returns the share of all queries that a cache answers, behind a table of ``beyond`` keys.

        By Che's approximation of a least-recently-used cache (IEEE JSAC 20(7), 2002): an entry
        stays for a time T that is the same for all, such that as many are there as fit. Where
        reuse was measured, the result is corrected by how far the approximation is off there:
        keys that come in bursts are hit more often than their shares say.

        Args:
            entries: that fit into the cache.
            beyond: keys that the table before it answers.
            at_most_s: how old an entry may be; None for any age.
        """
        if entries <= 0:
            return 0.0
        independent = self._che(entries, beyond, at_most_s)
        return min(independent * self._bursts(entries), 1.0 - self.covers(beyond))

    def _bursts(self, entries: int) -> float:
        """Returns measured over approximated hits of a cache of about so many entries."""
        known = [(size, hits) for size, hits in self.traffic.reuse if size > 0]
        if not known:
            return 1.0
        size, hits = min(known, key=lambda each: abs(np.log(each[0] / entries)))
        independent = self._che(size, 0, None)
        return hits / independent if independent > 0.0 else 1.0

    def _che(self, entries: int, beyond: int, at_most_s: float | None) -> float:
        counts, rates = self._groups(beyond)
        if not len(counts):
            return 0.0
        new_rps = self.traffic.new_keys * self.traffic.rate_rps
        if counts.sum() <= entries and new_rps == 0.0:
            stays_s = _FOREVER_S
        else:
            stays_s = _stays(entries, counts, rates, new_rps)
        hits = -np.expm1(-rates * stays_s)
        if at_most_s is not None:
            # An entry is not renewed when it is used: after each miss it serves for that long.
            hits = np.minimum(hits, rates * at_most_s / (1.0 + rates * at_most_s))
        return float((counts * rates * hits).sum() / self.traffic.rate_rps)

    def _groups(self, beyond: int) -> tuple[Array, Array]:
        """Returns keys taken together by rank: how many, and how often a second each is asked."""
        cardinality = self.traffic.cardinality
        if beyond >= cardinality:
            return np.array([]), np.array([])
        edges, ends = self._steps(beyond)
        counts = np.diff(edges)
        return counts, np.diff(ends) * self.traffic.rate_rps / counts

    def _steps(self, beyond: int) -> tuple[Array, Array]:
        """Returns ranks from there to the last, closest at the head, and the share up to each."""
        cardinality = self.traffic.cardinality
        edges = np.unique(np.floor(np.geomspace(beyond + 1, cardinality + 1, _STEPS)) - 1)
        edges[0], edges[-1] = beyond, cardinality
        return edges, np.array([self._share(edge) for edge in edges])


def _stays(entries: int, counts: Array, rates: Array, new_rps: float) -> float:
    """Returns Che's time: after which as many distinct keys were asked for as there are entries."""

    def held(seconds: float) -> float:
        return float((counts * -np.expm1(-rates * seconds)).sum()) + new_rps * seconds

    return _solve(held, entries)


def _solve(rises: Callable[[float], float], goal: float) -> float:
    low, high = 0.0, 1.0
    while rises(high) < goal and high < 1e15:
        high *= 4.0
    for _ in range(_DOUBLINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if rises(middle) < goal else (low, middle)
    return high
