"""Every way to serve an application that is looked at, with what it costs and how fast it is.

An alternative is a table of the k most frequent keys (none, some, all), a cache or none, and the
fewest replicas and the batch limit with which the promise holds. All meet the same queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Literal

import msgspec
import numpy as np

from tidemill.planning.costs import Costs
from tidemill.planning.figures import number
from tidemill.planning.prices import Prices, per_million
from tidemill.planning.simulate import Queries, Served, Simulated, draw_queries, serve
from tidemill.planning.traffic import Popularity, Traffic

Choice = Literal["static", "dynamic", "hybrid"]

QUERIES = 12_000
"""So many queries are simulated for each alternative: 120 of them are above the p99."""

CACHES = (100, 1_000, 10_000, 100_000)
"""Sizes of the cache, in entries, among which the best is taken beside each table."""

BATCH_LIMITS = (64, 16, 256)
"""Tried in this order; a later one must be better by more than the noise."""

MOST_REPLICAS = 64
_STEP = 10.0 ** (1.0 / 3.0)
_BUSY = 0.7
"""A gateway's loop, and a replica, are busy for at most so much of the time."""
_BUSY_ENOUGH = 0.2
"""Where replicas are busy for less than that, another one shortens nobody's wait."""
_PEAK_FROM = 1.2
_FEW_ROWS = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What is simulated: the shares of the sources, and for each gateway its replicas."""

    keys: int
    entries: int
    covered: float
    cached: float
    gateways: int
    replicas: int
    limit: int

    @property
    def rest(self) -> float:
        """What the model answers."""
        return max(0.0, 1.0 - self.covered - self.cached)


Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e10)]
"""At most some three hundred years: what is never, is None."""


class Promise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must hold, whatever is chosen.

    Args:
        slo_ms: 99 of 100 answers come within that, in the busiest stretch, too.
        max_age_s: how old an answer may be; None for any age.
        refresh_s: how often the model or the features change; None if that is not known, or never.
        uncovered: the share of queries that a table may leave to the model, or to the default, and
            be called static all the same.
        most_replicas: of the model.
        noise: costs, or latencies, that differ by less than this share are taken as equal.
    """

    slo_ms: Annotated[float, msgspec.Meta(gt=0, le=3.6e6)] = 100.0
    max_age_s: Seconds | None = None
    refresh_s: Seconds | None = None
    uncovered: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.001
    most_replicas: Annotated[int, msgspec.Meta(ge=1, le=MOST_REPLICAS)] = 8
    noise: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.05


class Alternative(msgspec.Struct, frozen=True, kw_only=True):
    """One way to serve, with its figures; money is a month's, in the currency of the prices.

    Args:
        choice: static if the table answers (nearly) everything, dynamic without a table.
        head_keys: keys in the table.
        cache_entries: answers that the cache of a gateway may keep.
        replicas: of the model.
        batch_limit: rows of a batch at most.
        gateways: processes that answer queries.
        covered: share of the queries that the table answers.
        cached: share that the cache answers.
        cpu_us_per_query: of all processes, the work of refreshing the table included.
        refresh_us_per_query: that work alone.
        bytes: of table and caches.
        table_bytes: of the table.
        memory_bytes: table, caches and the workers' memory.
        cost_per_million: predictions.
        cost_month: cpu_month + storage_month.
        cpu_month: for CPU.
        storage_month: for memory and disk.
        mean_ms: latency at the average rate.
        p50_ms: median, at the average rate.
        p99_ms: 99th percentile, at the average rate.
        peak_p99_ms: the same in the busiest stretch.
        busy: share of the time in which a gateway's loop works.
        batch_rows: rows of a batch, on average.
        refresh_every_s: how often the table is scored again; None for never.
        build_s: how long that takes one core.
        feasible: everything promised holds.
        broken: what does not hold, in words.
    """

    choice: Choice
    head_keys: int
    cache_entries: int
    replicas: int
    batch_limit: int
    gateways: int
    covered: float
    cached: float
    cpu_us_per_query: float
    refresh_us_per_query: float
    bytes: int
    table_bytes: int
    memory_bytes: int
    cost_per_million: float
    cost_month: float
    cpu_month: float
    storage_month: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    peak_p99_ms: float
    busy: float
    batch_rows: float
    refresh_every_s: float | None
    build_s: float
    feasible: bool
    broken: tuple[str, ...]


def head_sizes(cardinality: int) -> list[int]:
    """Returns the sizes of a table that are looked at: none, three in each decade, and all keys.

    Example:
        >>> head_sizes(60)
        [0, 1, 2, 5, 10, 22, 60]
    """
    sizes = [0]
    power = 0
    while (size := round(_STEP**power)) < cardinality / 1.5:
        sizes.append(size)
        power += 1
    return [*sizes, cardinality]


def refresh_every(promise: Promise, build_s: float) -> float | None:
    """Returns how often a table must be scored again, in seconds; None for never.

    After each change; but not more often than the allowed age asks for: a table that is scored in
    ``build_s`` and replaced after the rest of that age is never older.

    Example:
        >>> refresh_every(Promise(refresh_s=10.0), 1.0)
        10.0
        >>> refresh_every(Promise(refresh_s=10.0, max_age_s=3600.0), 100.0)
        3500.0
    """
    if promise.max_age_s is None:
        return promise.refresh_s
    return max(promise.refresh_s or 0.0, promise.max_age_s - build_s)


def stale(promise: Promise, keys: int, build_s: float) -> str | None:
    """Returns why a table of so many keys cannot be fresh enough; None if it can."""
    every_s = refresh_every(promise, build_s)
    takes = f"scoring {keys:,} keys takes {number(build_s)} s"
    if not keys or every_s is None:
        return None
    if promise.max_age_s is not None and build_s >= promise.max_age_s:
        return f"{takes}, and an answer may be {number(promise.max_age_s)} s old"
    if build_s > every_s:
        return f"{takes}, and is due every {number(every_s)} s"
    return None


class Study:
    """Looks at alternatives of one question; deterministic for a seed.

    Args:
        traffic: what is asked.
        costs: what serving takes.
        prices: what that costs.
        promise: what must hold.
        seed: of the queries that are simulated.
        queries: how many.
    """

    def __init__(
        self,
        traffic: Traffic,
        costs: Costs,
        prices: Prices,
        promise: Promise,
        *,
        seed: int = 0,
        queries: int = QUERIES,
    ) -> None:
        self.traffic = traffic
        self.costs = costs
        self.prices = prices
        self.promise = promise
        self.popularity = Popularity(traffic)
        self._seed = seed
        self._queries = queries
        self._drawn = cache(self._draw)

    def all(self, *, caches: bool = True, tables: bool = True) -> Iterator[Alternative]:
        """Yields every alternative: each head size, without a cache and with the best one."""
        for keys, entries in self._shapes(caches=caches, tables=tables):
            yield self.alternative(keys, entries)

    def count(self, *, caches: bool = True, tables: bool = True) -> int:
        """Returns how many alternatives ``all`` will look at."""
        return len(self._shapes(caches=caches, tables=tables))

    def _shapes(self, *, caches: bool, tables: bool) -> list[tuple[int, int]]:
        return [
            (keys, entries)
            for keys in (head_sizes(self.traffic.cardinality) if tables else (0,))
            for entries in (self.cache_sizes(keys) if caches else (0,))
        ]

    def cache_sizes(self, keys: int) -> tuple[int, ...]:
        """Returns no cache, and the one that saves most beside a table, if any saves something."""
        saves = {entries: self._cache_saves(keys, entries) for entries in CACHES}
        best = max(saves, key=lambda entries: saves[entries])
        return (0, best) if saves[best] > 0.0 else (0,)

    def _cache_saves(self, keys: int, entries: int) -> float:
        """Returns what a cache saves a month, roughly: each hit a batch of one, less its memory."""
        if entries >= 10 * self.traffic.cardinality:
            return 0.0  # nobody needs so many
        costs = self.costs
        hits = self._cached(keys, entries)
        spared_s = costs.law.expect(1) + costs.model_s + self._hop_s - costs.cache_s
        cores = self.traffic.rate_rps * hits * spared_s
        return self.prices.cpu(cores) - self.prices.storage(entries * costs.entry_bytes, 0.0)

    @property
    def _hop_s(self) -> float:
        return 0.0 if self.costs.on_loop else self.costs.hop_s + self.costs.worker_s

    def _cached(self, keys: int, entries: int) -> float:
        promise = self.promise
        age_s = promise.max_age_s if promise.max_age_s is not None else promise.refresh_s
        return self.popularity.cached(entries, beyond=keys, at_most_s=age_s)

    def alternative(
        self,
        keys: int,
        entries: int,
        *,
        replicas: int | None = None,
        batch_limit: int | None = None,
    ) -> Alternative:
        """Returns the figures of one alternative.

        Args:
            keys: in the table.
            entries: of the cache.
            replicas: of the model; as few as will do if None.
            batch_limit: rows of a batch; the best if None.
        """
        covered, cached = self.popularity.covers(keys), self._cached(keys, entries)
        shape = _Shape(
            keys=keys,
            entries=entries,
            covered=covered,
            cached=cached,
            gateways=self._gateways(covered, cached),
            replicas=replicas or 1,
            limit=batch_limit or BATCH_LIMITS[0],
        )
        best: Alternative | None = None
        for limit in (batch_limit,) if batch_limit else BATCH_LIMITS:
            found = self._provisioned(replace(shape, limit=limit), fixed=replicas is not None)
            if best is None or _better(found, best, self.promise.noise):
                best = found
            if found.batch_rows <= _FEW_ROWS and found.feasible:
                break  # batches are short whatever the limit
        assert best is not None
        return best

    def _provisioned(self, shape: _Shape, *, fixed: bool) -> Alternative:
        """Returns the figures with as few replicas as keep the promise, or as many as are fixed."""
        if not fixed:
            shape = replace(shape, replicas=self._fewest(shape))
        while True:
            usual = peak = self._served(shape, 1.0).simulated
            if self.traffic.peak_to_mean > _PEAK_FROM:
                peak = self._served(shape, self.traffic.peak_to_mean).simulated
            met = peak.p99_ms <= self.promise.slo_ms
            helps = not self.costs.on_loop and peak.replicas_busy > _BUSY_ENOUGH
            if fixed or met or not helps or shape.replicas >= self.promise.most_replicas:
                return self._figures(shape, usual, peak)
            shape = replace(shape, replicas=shape.replicas + 1)

    def _fewest(self, shape: _Shape) -> int:
        """Returns the replicas below which queries would pile up in full batches."""
        if self.costs.on_loop:
            return 1
        full_s = (self.costs.law.expect(shape.limit) + self.costs.worker_s) / shape.limit
        model_rps = self.traffic.rate_rps * self.traffic.peak_to_mean * shape.rest
        needed = math.ceil(model_rps * full_s / shape.gateways / 0.95)
        return min(max(1, needed), self.promise.most_replicas)

    def _gateways(self, covered: float, cached: float) -> int:
        costs, rest = self.costs, 1.0 - covered - cached
        loop_s = covered * costs.table_s + cached * costs.cache_s + rest * costs.model_s
        if costs.on_loop:
            loop_s += rest * (costs.law.b_s + costs.law.a_s / 4.0)
        loads = self.traffic.rate_rps * self.traffic.peak_to_mean * loop_s
        return max(1, math.ceil(loads / _BUSY))

    def _draw(self, rate_rps: float) -> Queries:
        rng = np.random.default_rng(self._seed)
        drawn = draw_queries(rng, self._queries, rate_rps=rate_rps, cv2=self.traffic.cv2)
        return replace(drawn, key=self.popularity.ranks(drawn.fate))

    def served(self, alternative: Alternative) -> Served:
        """Returns what becomes of each query at the average rate, as it was simulated before."""
        gateways = alternative.gateways
        shape = _Shape(
            keys=alternative.head_keys,
            entries=alternative.cache_entries,
            covered=alternative.covered,
            cached=alternative.cached,
            gateways=gateways,
            replicas=max(1, alternative.replicas // gateways),
            limit=alternative.batch_limit,
        )
        return self._served(shape, 1.0)

    def _served(self, shape: _Shape, peak: float) -> Served:
        """Simulates one of the gateways, with the replicas that are its own."""
        return serve(
            self._drawn(self.traffic.rate_rps * peak / shape.gateways),
            self.costs,
            covered=shape.covered,
            cached=shape.cached,
            replicas=shape.replicas,
            max_batch=shape.limit,
            slo_s=self.promise.slo_ms / 1e3,
            rng=np.random.default_rng(self._seed + 1),
        )

    def _figures(self, shape: _Shape, usual: Simulated, peak: Simulated) -> Alternative:
        keys, entries, gateways = shape.keys, shape.entries, shape.gateways
        costs, promise, rate_rps = self.costs, self.promise, self.traffic.rate_rps
        build_s = costs.rescored_s(keys) if keys else 0.0
        every_s = refresh_every(promise, build_s) if keys else None
        refresh_us = 1e6 * build_s / every_s / rate_rps if every_s and every_s > 0.0 else 0.0
        table = costs.table_bytes(keys)
        kept = table + round(entries * costs.entry_bytes) * gateways
        workers = 0 if costs.on_loop else shape.replicas * gateways
        memory = kept + round(costs.replica_bytes) * workers
        cpu_us = usual.cpu_us + refresh_us + 1e6 * costs.standing_cores / rate_rps
        cpu_month = self.prices.cpu(cpu_us * 1e-6 * rate_rps)
        storage = self.prices.storage(memory, table)
        broken = [stale(promise, keys, build_s)]
        if peak.p99_ms > promise.slo_ms:
            when = "" if peak is usual else " in the busiest stretch"
            broken.append(
                f"the p99 of {number(peak.p99_ms)} ms{when} is over {number(promise.slo_ms)} ms"
            )
        told = tuple(each for each in broken if each)
        choice: Choice = "hybrid" if keys else "dynamic"
        if keys and shape.covered >= 1.0 - promise.uncovered:
            choice = "static"
        return Alternative(
            choice=choice,
            head_keys=keys,
            cache_entries=entries,
            replicas=workers or 1,
            batch_limit=shape.limit,
            gateways=gateways,
            covered=shape.covered,
            cached=shape.cached,
            cpu_us_per_query=cpu_us,
            refresh_us_per_query=refresh_us,
            bytes=kept,
            table_bytes=table,
            memory_bytes=memory,
            cost_per_million=per_million(cpu_month + storage, rate_rps),
            cost_month=cpu_month + storage,
            cpu_month=cpu_month,
            storage_month=storage,
            mean_ms=usual.mean_ms,
            p50_ms=usual.p50_ms,
            p99_ms=usual.p99_ms,
            peak_p99_ms=peak.p99_ms,
            busy=usual.busy,
            batch_rows=usual.batch_rows,
            refresh_every_s=every_s,
            build_s=build_s,
            feasible=not told,
            broken=told,
        )


def _better(one: Alternative, other: Alternative, noise: float) -> bool:
    """Says whether one is feasible where the other is not, or clearly cheaper."""
    if one.feasible != other.feasible:
        return one.feasible
    return one.cost_month < (1.0 - noise) * other.cost_month
