"""A workload in bounded memory: taken in as it comes, merged with what came later.

Three sketches, all mergeable, and vectorised over the rows of a batch:

    keys       the counts of up to 32,768 keys. Beyond, the count of the next one is taken off all
               (Misra and Gries, 1982; merged as Agarwal et al., "Mergeable summaries", 2012): a
               count is then at most the requests over 32,768 too low.
    sample     every request of the keys whose hash is under a bound, which halves whenever there
               are too many: a uniform sample of the keys, whole with their requests, as SHARDS has
               it. It tells the tail of the shares, reuse and how fast new keys come.
    arrivals   moments of the gaps, and counts by windows, whose length doubles as time goes on.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tidemill.data.cardinality import HyperLogLog
from tidemill.data.keys import Hashes
from tidemill.data.mixing import mix
from tidemill.foundation.errors import DataRefused, InvalidInput
from tidemill.planning.workload.heads import carried, carries, ranked
from tidemill.planning.workload.profile import HeavyKey, WorkloadProfile
from tidemill.planning.workload.reuse import distances, previous

EXACT_KEYS = 1 << 15
"""So many keys are counted one by one."""

SAMPLED_REQUESTS = 1 << 18
"""So many requests of sampled keys are kept."""

HEADS = (1, 10, 100, 1_000, 10_000)
CACHES = (100, 1_000, 10_000)
_NAMED = 20
_MOMENT_S = 1e-6
_WINDOWS = 4096
_FIRST_WINDOW_S = 1.0 / 16.0
_PER_WINDOW = 100
_FEWEST_WINDOWS = 8
_ZIPF_RANKS = 10_000
_WHOLE = 1 << 64

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Curve: TypeAlias = tuple[tuple[int, float], ...]


class Workload:
    """What is known of the requests so far.

    Example:
        >>> from tidemill.data.keys import hash_rows
        >>> import pyarrow as pa
        >>> keys = pa.table({"k": ["a", "b", "a", "a"]})
        >>> seen = Workload()
        >>> seen.update(np.array([0.0, 1.0, 2.0, 3.0]), hash_rows(keys, ["k"]))
        >>> found = seen.result()
        >>> found.cardinality, found.top_share["1"], found.rate_rps, found.cv2
        (2, 0.75, 1.0, 0.0)
    """

    def __init__(self) -> None:
        self.skipped = 0
        self._requests = 0
        self._first = math.inf
        self._last = -math.inf
        self._gaps = np.zeros(2)  # their sum, and that of their squares
        self._reordered = 0
        self._windows: dict[int, int] = {}
        self._window_s = _FIRST_WINDOW_S
        self._keys = np.empty(0, np.uint64)
        self._counts = np.empty(0, np.int64)
        self._lost = 0  # at most so much is missing from each count
        self._distinct = HyperLogLog(14)
        self._bound = _WHOLE
        self._places = np.empty(0, np.int64)
        self._sample = np.empty(0, np.uint64)
        self._names: dict[int, str] = {}

    def update(self, times: Floats, hashes: Hashes, names: Any = None) -> None:
        """Takes requests in, in the order of their times.

        Args:
            times: seconds.  # (n,)
            hashes: of the keys, as ``hash_rows`` makes them.  # (n, 2)
            names: returns the text of the key at a place in the batch, for the heaviest.
        """
        if not len(times):
            return
        self._arrive(times)
        keys = mix(hashes[:, 0] ^ (hashes[:, 1] * np.uint64(0x9E3779B97F4A7C15)))
        distinct, first, counts = np.unique(keys, return_index=True, return_counts=True)
        self._distinct.update(distinct)
        self._count(distinct, counts.astype(np.int64), 0)
        chosen = self._under(keys)
        self._places = np.concatenate([self._places, np.flatnonzero(chosen) + self._requests])
        self._sample = np.concatenate([self._sample, keys[chosen]])
        self._requests += len(times)
        self._thin()
        if names is not None:
            for at in np.argsort(counts)[-_NAMED:]:
                self._names.setdefault(int(distinct[at]), names(int(first[at])))
            self._forget()

    def merge(self, later: Workload) -> None:
        """Takes in requests that another has seen, none of them before the last one here.

        Raises:
            InvalidInput: they are older.
        """
        if not later._requests:
            return
        if later._first < self._last:
            raise InvalidInput(
                f"requests from {later._first:.3f} s on cannot follow those up to {self._last:.3f}",
                remedy="Merge parts in the order of time.",
            )
        if self._requests:
            gap = later._first - self._last
            self._gaps += (gap, gap * gap)
        self._gaps += later._gaps
        self._first, self._last = min(self._first, later._first), later._last
        self._reordered += later._reordered
        self.skipped += later.skipped
        while self._window_s < later._window_s:
            self._widen()
        for at, count in later._windows.items():
            wide = math.floor(at * later._window_s / self._window_s)
            self._windows[wide] = self._windows.get(wide, 0) + count
        self._bound_windows()
        self._distinct.merge(later._distinct)
        self._count(later._keys, later._counts, later._lost)
        self._bound = min(self._bound, later._bound)
        self._places = np.concatenate([self._places, later._places + self._requests])
        self._sample = np.concatenate([self._sample, later._sample])
        self._requests += later._requests
        self._thin()
        self._names = {**later._names, **self._names}
        self._forget()

    def result(self) -> WorkloadProfile:
        """Returns the profile.

        Raises:
            DataRefused: there were fewer than two requests, or all came at one moment.
        """
        if self._requests < 2 or not self._last - self._first >= _MOMENT_S:
            why = "no time, no request, or not all of the key"
            left = f" ({self.skipped:,} rows were left out: {why})" if self.skipped else ""
            if not self._requests:
                raise DataRefused(
                    f"there is no request to make a workload of{left}",
                    remedy="Have it asked first, or give a trace of its traffic.",
                )
            raise DataRefused(
                f"{self._requests:,} requests within one moment make no workload{left}",
                remedy="Give at least two, at different times.",
            )
        counts, weights = self._shares()
        sums, ranks = np.cumsum(counts * weights), np.cumsum(weights)
        cardinality = len(self._keys) if self.exact else self._distinct.estimate()
        head = _curve(ranks, sums / self._requests, cardinality)
        cache, cache_later = self._reuse(cardinality)
        duration_s = self._last - self._first
        mean = self._gaps[0] / (self._requests - 1)
        cv2 = max(0.0, self._gaps[1] / (self._requests - 1) - mean * mean) / (mean * mean)
        peak, window_s = self._peak()
        return WorkloadProfile(
            requests=self._requests,
            duration_s=duration_s,
            rate_rps=(self._requests - 1) / duration_s,
            cv2=float(cv2),
            peak_to_mean=peak,
            window_s=window_s,
            cardinality=cardinality,
            top_share={str(k): _at(ranks, sums / self._requests, k) for k in HEADS},
            gini=_gini(counts, weights),
            zipf_exponent=_zipf(counts, weights),
            new_key_rate=self._new_keys(),
            reuse={str(size): _hits(cache, size) for size in CACHES},
            head=head,
            cache=cache,
            head_later=self._head_later(ranks, sums / self._requests),
            cache_later=cache_later,
            heavy=self.heavy(),
            exact=self.exact and self._bound == _WHOLE,
            sampled=self._bound / _WHOLE,
            skipped=self.skipped,
            reordered=self._reordered,
        )

    @property
    def first_s(self) -> float:
        """Returns when the first of the requests came; infinity before it has."""
        return self._first

    @property
    def exact(self) -> bool:
        """Says whether every key was counted."""
        return self._lost == 0

    @property
    def out_of_order(self) -> float:
        """Returns the part of the requests that came before the one before them."""
        return self._reordered / self._requests if self._requests else 0.0

    # Arrivals

    def _arrive(self, times: Floats) -> None:
        before = self._last if self._requests else times[0]
        gaps = np.diff(times, prepend=before)
        back = int((gaps < 0.0).sum())
        if back:  # it waits, in effect, for the one before it
            self._reordered += back
            times = np.maximum.accumulate(np.maximum(times, before))
            gaps = np.diff(times, prepend=before)
        self._gaps += (gaps.sum(), (gaps * gaps).sum())
        self._first, self._last = min(self._first, float(times[0])), float(times[-1])
        while (self._last - self._first) / self._window_s > _WINDOWS:
            self._widen()
        at, counts = np.unique(np.floor(times / self._window_s), return_counts=True)
        for window, count in zip(at.tolist(), counts.tolist(), strict=True):
            self._windows[int(window)] = self._windows.get(int(window), 0) + count

    def _widen(self) -> None:
        wider: dict[int, int] = {}
        for at, count in self._windows.items():
            wider[at // 2] = wider.get(at // 2, 0) + count
        self._windows, self._window_s = wider, 2.0 * self._window_s

    def _bound_windows(self) -> None:
        while (self._last - self._first) / self._window_s > _WINDOWS:
            self._widen()

    def _peak(self) -> tuple[float, float]:
        """Returns the fullest window over the average, and the windows' length."""
        span = max(self._windows) - min(self._windows) + 1
        fits = max(1, math.ceil(_PER_WINDOW * span / self._requests))
        together = min(fits, max(1, span // _FEWEST_WINDOWS))
        start = min(self._windows)
        whole = span // together  # a last one that is shorter tells nothing
        counts = np.zeros(max(1, whole))
        for at, count in self._windows.items():
            if (at - start) // together < whole:
                counts[(at - start) // together] += count
        return float(counts.max() / counts.mean()), together * self._window_s

    # Keys

    def _count(self, keys: Words, counts: Ints, lost: int) -> None:
        """Adds counts of distinct keys, each at most ``lost`` too low."""
        both = np.concatenate([self._keys, keys])
        joined, at = np.unique(both, return_inverse=True)
        sums = np.zeros(len(joined), np.int64)
        np.add.at(sums, at, np.concatenate([self._counts, counts]))
        self._lost += lost
        if len(joined) > EXACT_KEYS:
            cut = int(np.partition(sums, -EXACT_KEYS - 1)[-EXACT_KEYS - 1])
            kept = sums > cut
            joined, sums = joined[kept], sums[kept] - cut
            self._lost += cut
        self._keys, self._counts = joined, sums

    def _under(self, keys: Words) -> npt.NDArray[np.bool_]:
        if self._bound == _WHOLE:
            return np.ones(len(keys), np.bool_)
        return keys < np.uint64(self._bound)

    def _thin(self) -> None:
        """Halves the bound until the sample is small enough, also where a merge lowered it."""
        kept = self._under(self._sample)
        while int(kept.sum()) > SAMPLED_REQUESTS:
            self._bound //= 2
            kept = self._under(self._sample)
        if not kept.all():
            self._places, self._sample = self._places[kept], self._sample[kept]

    def _shares(self) -> tuple[Floats, Floats]:
        """Returns the keys' counts, the largest first, and how many keys each stands for.

        What is counted one by one stands for itself. The rest is known from the sampled keys that
        are not among them, scaled so that all requests are there.
        """
        keys, counted = self._sure()
        if self.exact:
            return np.sort(counted)[::-1], np.ones(len(counted))
        tail, times = np.unique(self._sample, return_counts=True)
        seen = times[_places_in(keys, tail) < 0].astype(np.float64)
        left = max(0.0, self._requests - counted.sum())
        others = max(0.0, self._distinct.estimate() - len(counted))
        if not len(seen) or not left or not others:
            return np.sort(counted)[::-1], np.ones(len(counted))
        weights = np.full(len(seen), others / len(seen))
        seen *= left / (seen * weights).sum()
        counts = np.concatenate([counted, seen])
        weights = np.concatenate([np.ones(len(counted)), weights])
        falling = np.argsort(-counts, kind="stable")
        return counts[falling], weights[falling]

    def _sure(self) -> tuple[Words, Floats]:
        """Returns the keys, in order, that are counted well, and their counts.

        What counts lack is about the same for all of them; of those that are in the sample, too,
        it is known.
        """
        if self.exact:
            return self._keys, self._counts.astype(np.float64)
        sure = self._counts > self._lost
        keys, counts = self._keys[sure], self._counts[sure].astype(np.float64)
        tail, times = np.unique(self._sample, return_counts=True)
        at = _places_in(keys, tail)
        lacks = times[at >= 0] - counts[at[at >= 0]]
        return keys, counts + (float(np.mean(lacks)) if len(lacks) else self._lost / 2.0)

    def _reuse(self, cardinality: int) -> tuple[Curve, Curve]:
        """Returns the hit rates of caches of the keys used last: of all requests, and later.

        Whether a heavy key is in the sample is chance, and it carries much. The keys are therefore
        taken in groups of like counts, and each group has the weight of all its requests.
        """
        found, weights = distances(self._sample), self._weights()
        again, rate = found >= 0, self._bound / _WHOLE
        later = self._later
        sizes = sorted({*CACHES, *_grid(cardinality)})

        def curve(some: npt.NDArray[np.bool_], requests: float) -> Curve:
            order = np.flatnonzero(some & again)
            order = order[np.argsort(found[order], kind="stable")]
            summed = np.append(0.0, np.cumsum(weights[order]))
            places = np.searchsorted(found[order] / rate, np.array(sizes), side="left")
            hits = summed[places] / max(requests, 1.0)
            return tuple((size, round(float(h), 6)) for size, h in zip(sizes, hits, strict=True))

        return curve(np.ones_like(again), self._requests), curve(later, weights[later].sum())

    @property
    def _later(self) -> npt.NDArray[np.bool_]:
        """Which of the sampled requests are of the later half."""
        return self._places >= self._requests // 2

    def _head_later(self, ranks: Floats, shares: Floats) -> Curve:
        """Returns what the most frequent keys of the earlier half carry in the later half.

        Where not all keys are in the sample, it tells by how much that differs from what the most
        frequent keys carry.
        """
        later, rate = self._later, self._bound / _WHOLE
        if later.all() or not later.any():
            return ()
        known = ranked(self._sample[~later])
        ahead = carried(known, self._sample[later])
        sizes = sorted({*_grid(round(len(known) / rate)), round(len(known) / rate)})
        if self._bound == _WHOLE:
            return tuple((k, round(carries(ahead, k), 6)) for k in sizes)
        whole = carried(ranked(self._sample), self._sample)
        found = []
        for k in sizes:
            # Of a few keys, none may be in the sample: what the first ones lose is known of it.
            at = max(1.0, k * rate)
            keeps = carries(ahead, at) / carries(whole, at)
            found.append((k, round(min(1.0, keeps * _at(ranks, shares, k)), 6)))
        return tuple(found)

    def _weights(self) -> Floats:
        """Returns how many requests each sampled one stands for."""
        if self._bound == _WHOLE:
            return np.ones(len(self._sample))
        keys, counts = self._sure()
        at = _places_in(keys, self._sample)
        octaves = 1 + np.log2(np.maximum(counts, 1.0)).astype(np.int64)
        groups = np.where(at >= 0, octaves[at] if len(octaves) else 0, 0)
        requests = np.bincount(octaves, counts, minlength=1)
        requests[0] = max(0.0, self._requests - counts.sum())
        sampled = np.bincount(groups, minlength=len(requests))
        there = np.flatnonzero(sampled)
        for group in np.flatnonzero((sampled == 0) & (requests > 0.0)):
            nearest = there[np.argmin(np.abs(there - group))]
            requests[nearest] += requests[group]
        each: Floats = requests / np.maximum(sampled, 1)
        return each[groups]

    def _new_keys(self) -> float:
        new = float(((previous(self._sample) < 0) & self._later).sum()) / (self._bound / _WHOLE)
        return round(min(1.0, new / (self._requests - self._requests // 2)), 6)

    def heavy(self) -> tuple[HeavyKey, ...]:
        """Returns the most frequent keys, each with its share of the requests."""
        order = np.argsort(-self._counts, kind="stable")[:_NAMED]
        return tuple(
            HeavyKey(
                key=self._names[int(self._keys[at])],
                share=round((int(self._counts[at]) + self._lost / 2.0) / self._requests, 6),
            )
            for at in order
            if int(self._keys[at]) in self._names
        )

    def _forget(self) -> None:
        """Keeps the names of the heaviest keys only."""
        if len(self._names) > 50 * _NAMED:
            order = np.argsort(-self._counts, kind="stable")[: 10 * _NAMED]
            heavy = {int(each) for each in self._keys[order]}
            self._names = {key: name for key, name in self._names.items() if key in heavy}


def _places_in(ordered: Words, keys: Words) -> Ints:
    """Returns where each key is among the ordered ones, -1 where it is not."""
    if not len(ordered):
        return np.full(len(keys), -1, np.int64)
    at = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    return np.where(ordered[at] == keys, at, -1)


def _grid(cardinality: int) -> list[int]:
    """Returns 1, 2, 5, 10, 20, … up to a number."""
    steps = [m * 10**e for e in range(len(str(cardinality)) + 1) for m in (1, 2, 5)]
    return [step for step in steps if step <= cardinality]


def _curve(ranks: Floats, sums: Floats, cardinality: int) -> Curve:
    sizes = sorted({*_grid(cardinality), cardinality})
    return tuple((k, round(_at(ranks, sums, k), 6)) for k in sizes)


def _at(ranks: Floats, sums: Floats, k: float) -> float:
    """Returns the share of the first k keys, where some stand for several alike."""
    return float(np.interp(k, np.append(0.0, ranks), np.append(0.0, sums)))


def _hits(cache: Curve, size: int) -> float:
    return next(share for entries, share in cache if entries == size)


def _gini(counts: Floats, weights: Floats) -> float:
    """Returns 1 less twice the area under the Lorenz curve."""
    rising, of = counts[::-1], weights[::-1]
    keys, asked = np.cumsum(of) / of.sum(), np.cumsum(rising * of) / (rising * of).sum()
    area = np.trapezoid(np.append(0.0, asked), np.append(0.0, keys))
    return round(float(max(0.0, 1.0 - 2.0 * area)), 6)


def _zipf(counts: Floats, weights: Floats) -> float:
    """Returns the exponent under which the counts of the first ranks are likeliest.

    The likelihood of p(r) = r^-s / H(s) is greatest where the mean of log r under p is that of the
    requests; it falls with s, so that halving finds it.
    """
    ends = np.minimum(np.cumsum(weights), _ZIPF_RANKS)
    first = np.append(0.0, ends[:-1])
    n = int(ends[-1])
    if n < 2:
        return 0.0
    logs = np.log(np.arange(1, n + 1))
    steps = np.append(0.0, np.cumsum(logs))  # of log r up to a rank, between ranks a straight line
    asked = np.interp(ends, np.arange(n + 1), steps) - np.interp(first, np.arange(n + 1), steps)
    mean = float((counts * asked).sum() / (counts * (ends - first)).sum())
    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2.0
        likely = np.exp(-middle * logs)
        if float((likely * logs).sum() / likely.sum()) > mean:
            low = middle
        else:
            high = middle
    return round(low, 4)
