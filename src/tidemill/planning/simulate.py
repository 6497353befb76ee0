"""A gateway in fast motion: queries, turns of the loop, batches by serving's own law, replicas.

A turn takes what has come, answers what the table and the cache know, and gives what is left to
the queue; the queue is cut by ``serving.batching`` as it is in the server. Nothing is drawn but
from the generator that is given, so that the same call gives the same result, and plans that differ
in one thing meet the same queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from tidemill.models.signature import Array
from tidemill.planning.cold import WORKER_OWN, Cold
from tidemill.planning.costs import Costs
from tidemill.planning.latency import spread
from tidemill.serving.batching import (
    HELD_FROM_S,
    Arrivals,
    cut,
    fewest_rows,
    fills,
    held_until,
    most_rows,
    rows_at_once,
    worth_sending,
)

TABLE, CACHE, MODEL = 0, 1, 2
LAW = 4
"""Costs are fitted so that this simulation, with ``cold``, comes out at what was measured. Whatever
changes what a cost does in it raises this number: costs that were fitted to another mean other
things."""
WORKER_CAPACITY = 2
"""Batches that a worker may have: one in the model, one that waits for it."""
_AT_ONCE = 4096
_SOONEST_S = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How often what is paid for was done, for each query, and after which rests.

    Each is an array: all of them, then those after a rest, as ``cold.counted`` counts each.

    Attributes:
        turns: of the gateway's loop.
        asked: queries that go to the model, by how long no other did.
        worker: batches, by how long the worker had rested.
    """

    turns: Array
    asked: Array
    worker: Array


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the queries.

    Args:
        mean_ms: latency as a client sees it; a query that was given up counts with the SLO.
        p50_ms: the median.
        p99_ms: the 99th percentile.
        missed: share of queries given up, or answered after the SLO.
        cpu_us: CPU of all processes for each query, what stands still apart.
        busy: share of the time in which the gateway's loop works.
        replicas_busy: share of the time in which a replica computes, on average.
        batch_rows: rows of a batch, on average; 0 without one.
        batches: of the model for each query.
        computed: queries that the model computed itself, of all; the others were equal to one that
            was out.
    """

    mean_ms: float
    p50_ms: float
    p99_ms: float
    missed: float
    cpu_us: float
    busy: float
    replicas_busy: float
    batch_rows: float
    batches: float = 0.0
    computed: float = 0.0


@dataclass(frozen=True, slots=True)
class Served:
    """What became of the queries.

    Attributes:
        simulated: in figures.
        taken_s: each one's latency in seconds; (queries,).
        tally: counts how often everything was done; most plans never ask.
    """

    simulated: Simulated
    taken_s: Array
    tally: Callable[[], Tally]


@dataclass(frozen=True, slots=True, kw_only=True)
class Queries:
    """Who asks when: moments in seconds, rising, and a share of [0, 1) that decides each source.

    A query below ``covered`` is the table's, and one below ``covered + cached`` the cache's. So the
    queries of a larger table are those of a smaller one and some more. ``key`` says which of them
    are equal; None if no two are.
    """

    at_s: Array
    fate: Array
    key: Array | None = None

    def sources(self, covered: float, cached: float) -> Array:
        """Returns who answers each: ``TABLE``, ``CACHE`` or ``MODEL``."""
        return (self.fate >= covered).astype(np.int8) + (self.fate >= covered + cached)


def draw_queries(rng: np.random.Generator, n: int, *, rate_rps: float, cv2: float) -> Queries:
    """Draws arrivals with gamma-distributed gaps, as bursty as ``cv2`` says.

    Args:
        rng: where chance comes from.
        n: how many.
        rate_rps: a second, on average.
        cv2: squared coefficient of variation of the gaps; 0 for a metronome.
    """
    even = np.full(n, 1.0 / rate_rps)
    gaps = rng.gamma(1.0 / cv2, cv2 / rate_rps, n) if cv2 > 0.0 else even
    return Queries(at_s=np.cumsum(gaps), fate=rng.random(n))


def serve(
    queries: Queries,
    costs: Costs,
    *,
    covered: float,
    cached: float,
    replicas: int,
    max_batch: int,
    slo_s: float,
    rng: np.random.Generator,
) -> Served:
    """Serves the queries by one gateway and returns what became of them.

    Args:
        queries: who asks when.
        costs: what everything takes.
        covered: share that the table answers.
        cached: share that the cache answers.
        replicas: of the model; the gateway itself is one.
        max_batch: rows of a batch at most.
        slo_s: how long an answer may take.
        rng: draws how batches and the machine stray.
    """
    sources = queries.sources(covered, cached)
    n = len(sources)
    machine = spread(costs.transport_s, rng.random(n)) + _at_pace(costs, queries.at_s)
    run = _Run(
        arrivals=queries.at_s.tolist(),
        sources=sources.tolist(),
        costs=costs,
        replicas=replicas,
        max_batch=max_batch,
        slo_s=slo_s,
        strays=costs.law.draws(rng, n).tolist(),
        waits=spread(costs.hop_wait_s, rng.random(n)).tolist(),
        keys=None if queries.key is None else queries.key.tolist(),
    )
    run.serve()
    taken_s, simulated = _simulated(run, queries, machine, replicas=replicas, slo_s=slo_s)
    return Served(simulated, taken_s, run.tally)


def _at_pace(costs: Costs, at_s: Array) -> float:
    """Returns what the way takes more or less where queries come as fast as these."""
    if not costs.paces_s or at_s[-1] <= at_s[0]:
        return 0.0
    paces, more_s = zip(*costs.paces_s, strict=True)
    rate_rps = (len(at_s) - 1) / float(at_s[-1] - at_s[0])
    return float(np.interp(np.log(rate_rps), np.log(paces), more_s))


def _simulated(
    run: _Run, queries: Queries, machine: Array, *, replicas: int, slo_s: float
) -> tuple[Array, Simulated]:
    n = len(machine)
    taken_s = np.clip(np.asarray(run.answered) - queries.at_s + machine, _SOONEST_S, 10.0 * slo_s)
    late = np.asarray(run.late, dtype=int)
    taken_s[late] = slo_s
    span_s = max(run.ended, float(queries.at_s[-1])) - float(queries.at_s[0]) or 1.0
    missed = (taken_s > slo_s).sum() + len(late)
    ordered = np.quantile(taken_s, (0.5, 0.99))
    if len(late) > 0.01 * n:  # a promise that is broken for so many is no latency of 99 percent
        ordered[1] = max(ordered[1], 2.0 * slo_s)
    return taken_s, Simulated(
        mean_ms=1e3 * float(taken_s.mean()),
        p50_ms=1e3 * float(ordered[0]),
        p99_ms=1e3 * float(ordered[1]),
        missed=float(missed) / n,
        cpu_us=1e6 * (run.busy_s + run.computed_s) / n,
        busy=run.busy_s / span_s,
        replicas_busy=run.computed_s / span_s / max(1, replicas),
        batch_rows=run.rows / run.batches if run.batches else 0.0,
        batches=run.batches / n,
        computed=run.rows / n,
    )


class _Run:
    """The state of one simulation: the loop's clock, the queue, and what is out."""

    def __init__(
        self,
        *,
        arrivals: list[float],
        sources: list[int],
        costs: Costs,
        replicas: int,
        max_batch: int,
        slo_s: float,
        strays: list[float],
        waits: list[float],
        keys: list[int] | None,
    ) -> None:
        self._arrivals = arrivals
        self._sources = sources
        self._costs = costs
        self._loop = Cold(costs.cold_s)
        self._way = Cold(costs.model_cold_s)
        self._workers = [Cold(costs.worker_cold_s, WORKER_OWN) for _ in range(replicas)]
        self._asked_at = arrivals[0]
        self._rest_s = 0.0
        self._law = costs.law.service_time()
        self._slo_s = slo_s
        self._strays = strays
        self._waits = waits
        self._keys = keys
        self._leaders: dict[int, int] = {}
        self._followers: dict[int, list[int]] = {}
        on_loop = costs.on_loop
        self._most = most_rows(self._law, max_batch) if on_loop else max_batch
        self._fewest = fewest_rows(self._law, max_batch)
        self._free_at = [0.0] * replicas
        self._out: list[list[tuple[float, list[int]]]] = [[] for _ in range(replicas)]
        self._queue: list[int] = []
        self._pace = Arrivals()
        self._sent_at = 0.0
        self._learned_at = 0.0
        self._wake_at = float("inf")
        self.answered = [0.0] * len(arrivals)
        self.late: list[int] = []
        self.busy_s = self.computed_s = 0.0
        self.batches = self.rows = 0
        self.ended = 0.0

    def serve(self) -> None:
        """Goes on until every query has ended."""
        arrivals, count, infinity = self._arrivals, len(self._arrivals), float("inf")
        at, now = 0, arrivals[0]
        while True:
            coming = arrivals[at] if at < count else infinity
            landing = min((out[0][0] for out in self._out if out), default=infinity)
            begin = max(now, min(coming, landing, self._wake_at))
            if begin == infinity:
                break
            woken, self._wake_at = self._wake_at <= begin, infinity
            self._rest_s = begin - now
            now = begin + self._costs.turn_s + self._loop.after(self._rest_s)
            now = self._land(begin, now)
            stop = at
            while stop < count and stop - at < _AT_ONCE and arrivals[stop] <= begin:
                stop += 1
            now = self._read(at, stop, begin, now)
            at = stop
            self.busy_s += now - begin
            now = self._turn(now, may_hold=not woken)
        self.ended = now

    def tally(self) -> Tally:
        """Returns how often everything was done."""
        n = len(self._arrivals)
        return Tally(
            turns=self._loop.counts() / n,
            asked=self._way.counts() / n,
            worker=np.sum([each.counts() for each in self._workers], axis=0) / n,
        )

    def _land(self, begin: float, now: float) -> float:
        """Takes the answers of batches that came back; returns when that is done."""
        ended: list[int] = []
        for out in self._out:
            while out and out[0][0] <= begin:
                self._learned_at = begin
                ended += out.pop(0)[1]
        for each in ended:
            self._answer(each, now)
        return now

    def _answer(self, query: int, now: float) -> None:
        """Answers a query, and those that wait for it."""
        self.answered[query] = now
        if self._keys is not None and self._leaders.get(self._keys[query]) == query:
            del self._leaders[self._keys[query]]
            for each in self._followers.pop(query, ()):
                self.answered[each] = now

    def _follows(self, query: int) -> bool:
        """Says whether an equal query is out, whose answer will be this one's; else it leads."""
        if self._keys is None:
            return False
        leader = self._leaders.setdefault(self._keys[query], query)
        if leader == query:
            return False
        self._followers.setdefault(leader, []).append(query)
        return True

    def _read(self, start: int, stop: int, begin: float, now: float) -> float:
        """Reads queries; those that need no model are answered at the end of it."""
        costs, known = self._costs, []
        for each in range(start, stop):
            source = self._sources[each]
            if source != MODEL:
                now += costs.table_s if source == TABLE else costs.cache_s
                known.append(each)
                continue
            # What others ask for meanwhile keeps the loop warm, but not the way to the model.
            rest_s = max(0.0, begin - self._asked_at)
            now += costs.model_s + self._way.after(rest_s)
            self._asked_at = now
            if not self._follows(each):
                self._queue.append(each)
        for each in known:
            self.answered[each] = now
        return now

    def _turn(self, now: float, *, may_hold: bool) -> float:
        """Sends what the batching law sends now; returns when the loop is free again."""
        while self._queue:
            replica = self._idle()
            if replica is None or (may_hold and self._holds(now, replica)):
                break
            most = self._rows_for(replica)
            head = self._queue[:most]
            decision = cut(
                [self._arrivals[each] + self._slo_s for each in head],
                [1] * len(head),
                now=max(now, self._free_at[replica]) if self._out[replica] else now,
                law=self._law,
                max_batch=most,
            )
            if self._out[replica] and (
                decision.late or not fills(decision.take, self._fewest, self._most)
            ):
                break
            for each in self._queue[: decision.late]:
                self.late += [each, *self._followers.get(each, ())]
                self._answer(each, now)
            batch = self._queue[decision.late : decision.late + decision.take]
            del self._queue[: decision.late + decision.take]
            if batch:
                now = self._send(now, replica, batch)
        return now

    def _rows_for(self, replica: int) -> int:
        """Returns how many rows may go to a replica at once."""
        if self._costs.on_loop:
            return self._most
        return rows_at_once(len(self._queue), len(self._out[replica]), self._fewest, self._most)

    def _idle(self) -> int | None:
        """Returns a replica that takes a batch now."""
        if self._costs.on_loop:
            return 0
        best = min(range(len(self._out)), key=lambda each: len(self._out[each]))
        out = len(self._out[best])
        if out < WORKER_CAPACITY and worth_sending(len(self._queue), out, self._fewest):
            return best
        return None

    def _holds(self, now: float, replica: int) -> bool:
        if self._law.a_s < HELD_FROM_S or self._costs.on_loop or self._out[replica]:
            return False
        first, last = self._arrivals[self._queue[0]], self._arrivals[self._queue[-1]]
        until = held_until(
            law=self._law,
            fixed_s=self._law.a_s,
            rate_rps=self._pace.rate_rps,
            queued_rows=len(self._queue),
            max_batch=self._most,
            idle_since=max(self._learned_at, first),
            newest=last,
            deadline=first + self._slo_s,
        )
        if until <= now:
            return False
        self._wake_at = until
        return True

    def _send(self, now: float, replica: int, batch: list[int]) -> float:
        rows, costs = len(batch), self._costs
        self._pace.update(rows, min(now - self._sent_at, 4.0 * self._law.a_s))
        self._sent_at = now
        # On average it takes the CPU that it takes; how far it strays is time that passes.
        cpu_s = costs.law.expect(rows)
        took_s = cpu_s * self._strays[self.batches % len(self._strays)]
        self.batches += 1
        self.rows += rows
        wait_s = self._waits[self.batches % len(self._waits)]
        if costs.on_loop:
            self.busy_s += cpu_s
            now += took_s
            for each in batch:
                self._answer(each, now + wait_s)
            return now
        self.busy_s += costs.hop_s
        now += costs.hop_s
        rest_s = max(0.0, now - self._free_at[replica])
        # The loop has just woken; how long it had rested tells how long the machine had.
        beside_s = costs.worker_s + self._workers[replica].after(rest_s, min(rest_s, self._rest_s))
        self.computed_s += cpu_s + beside_s
        took_s += beside_s
        self._free_at[replica] = max(self._free_at[replica], now) + took_s
        arrives = max(now, self._free_at[replica] + wait_s)
        out = self._out[replica]
        out.append((max(arrives, out[-1][0]) if out else arrives, batch))
        return now
