"""Costs out of what a server took: CPU and latencies of runs at several paces, divided by cause.

How many turns of the loop a run had, and after which rests, is what the plan's own simulation says,
so that the costs which come out are those with which it is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from tidemill.models.signature import Array
from tidemill.planning.cold import RESTS_S, counted
from tidemill.planning.costs import Costs
from tidemill.planning.latency import QUANTILES, LatencyLaw
from tidemill.planning.simulate import Queries, Served, Simulated, Tally, serve
from tidemill.recipes.rehearsal.offering import Offered
from tidemill.recipes.rehearsal.stage import Used

SLO_MS = 2000.0
"""Deadline of the queries of a run."""

_ROUNDS = 6
_SWEEPS = 1000
_MOVES = 4
_DRAWN = 10_000
_PRIOR = 0.02
_ALIKE = 0.4
_SMOOTH = 0.1
_FIRST = 5
_GROUPS = 33
_QUEUES_FROM_RPS = 900.0
_UNKNOWN = ("turn_s", "table_s", "cache_s", "model_s", "hop_s")
_TYPICAL = Costs(law=LatencyLaw(a_s=0.0, b_s=0.0))


@dataclass(frozen=True, slots=True)
class Run:
    """What one source (``table``, ``cache``, ``model``) took at one pace; due when it was asked.

    Runs of one source at one pace are passes of the same. ``key`` says which queries are equal, of
    which the server asks the model once if they come together; None if no two are.
    """

    source: str
    pace_rps: float
    due_s: Array
    offered: Offered
    used: Used
    key: Array | None = None

    @property
    def each_s(self) -> float:
        """CPU of all processes for each query."""
        return self.used.total_s / len(self.due_s)


def fit_costs(assumed: Costs, runs: list[Run]) -> Costs:
    """Returns costs that, simulated, take the CPU and show the latencies of the runs.

    Args:
        assumed: the model's law, where it computes, bytes, and what the server takes at rest.
        runs: at least one of each source, at several paces. Of passes, the one that took the median
            of the CPU counts, and the latencies of all together.

    Example:
        >>> due_s = np.arange(1, 201) / 100.0
        >>> offered = Offered(np.full(200, 5e-4), seconds=2.0)
        >>> runs = [
        ...     Run(source, 100.0, due_s, offered, Used(200 * 3e-4, 0.0))
        ...     for source in ("table", "cache", "model")
        ... ]
        >>> costs = Costs(law=LatencyLaw(a_s=1e-4, b_s=0.0), on_loop=True, standing_cores=0.0)
        >>> fitted = fit_costs(costs, runs)
        >>> round(1e3 * _simulated(fitted, runs[0]).simulated.p50_ms)
        500
    """
    passes: dict[tuple[str, float], list[Run]] = {}
    for run in runs:
        passes.setdefault((run.source, run.pace_rps), []).append(run)
    costs, usual = assumed, [_usual(some) for some in passes.values()]
    shape = _shape([run for run in runs if run.source != "model"])
    for _ in range(_ROUNDS):
        costs = _fitted(costs, usual, shape)
    return _timed(costs, list(passes.values()))


def _usual(passes: list[Run]) -> Run:
    """Returns the pass that took the median of the CPU: what else a machine does comes and goes."""
    return sorted(passes, key=lambda each: each.each_s)[(len(passes) - 1) // 2]


def _simulated(costs: Costs, run: Run, seed: int = 0) -> Served:
    n = len(run.due_s)
    return serve(
        Queries(at_s=run.due_s, fate=np.full(n, 0.5), key=run.key),
        costs,
        covered=1.0 if run.source == "table" else 0.0,
        cached=1.0 if run.source == "cache" else 0.0,
        replicas=1,
        max_batch=64,
        slo_s=SLO_MS / 1e3,
        rng=np.random.default_rng([seed, len(run.due_s)]),
    )


@dataclass(frozen=True, slots=True)
class _Spent:
    """CPU seconds for each query of a run, beside how often everything was done."""

    source: str
    gateway_s: float
    worker_s: float
    computed_s: float
    simulated: Simulated
    tally: Tally


def _spent(costs: Costs, run: Run) -> _Spent:
    n = len(run.due_s)
    served = _simulated(costs, run)
    simulated = served.simulated
    computed_s = simulated.batches * costs.law.a_s + simulated.computed * costs.law.b_s
    return _Spent(
        source=run.source,
        gateway_s=(run.used.gateway_s - costs.standing_cores * run.offered.seconds) / n,
        worker_s=run.used.worker_s / n,
        computed_s=computed_s if run.source == "model" else 0.0,
        simulated=simulated,
        tally=served.tally(),
    )


def _begun(run: Run) -> int:
    """Returns how many queries find a client and connections that just began, and tell nothing."""
    return min(_FIRST, len(run.due_s) // _FIRST)


def _shape(runs: list[Run]) -> Array:
    """Returns how much longer an answer takes after each of ``RESTS_S`` than after the one before.

    CPU is known of whole runs only, latency of each query; and what rests add to it is CPU, most of
    it. So latencies say how what rests cost is divided among them, and CPU how much it is. Queries
    are beside those of the same pace; the medians of rests that are alike count, by how many they
    are.

    Args:
        runs: in which only the loop works; what else a rest makes slower goes the same way.

    Returns:
        Seconds, none negative; (rests,). All are 1 where too few queries had a rest.
    """
    edges = np.geomspace(RESTS_S[0] / 2.0, 4.0 * RESTS_S[-1], _GROUPS)
    paces = sorted({run.pace_rps for run in runs})
    rows, usual_s = [], []
    for pace, own in zip(paces, np.eye(len(paces)), strict=True):
        some = [_alone(run) for run in runs if run.pace_rps == pace]
        rests_s, taken_s, counts = (np.concatenate(each) for each in zip(*some, strict=True))
        groups = np.digitize(rests_s, edges)
        for group in np.unique(groups):
            like = groups == group
            usual_s.append(float(np.median(taken_s[like])))
            row = np.concatenate([own, counts[like].mean(axis=0), usual_s[-1:]])
            rows.append(row * np.sqrt(like.sum()) / usual_s[-1])
    if len(rows) <= len(paces):
        return np.ones(len(RESTS_S))
    smooth = np.diff(np.eye(len(RESTS_S)), axis=0) * _SMOOTH / np.median(usual_s)
    matrix = np.vstack([*rows, np.pad(smooth, ((0, 0), (len(paces), 1)))])
    return not_negative(matrix[:, :-1], matrix[:, -1])[len(paces) :]


def _alone(run: Run) -> tuple[Array, Array, Array]:
    """Returns the rests before queries that met no other, what these took, and ``counted`` rests.

    The first of a run find a client and connections that just began, and tell nothing.

    Returns:
        Seconds, seconds and shares; (queries,), (queries,), (queries, rests).
    """
    ended_s = np.maximum.accumulate(run.due_s + np.nan_to_num(run.offered.taken_s))
    rests_s = run.due_s - np.append(run.due_s[0], ended_s[:-1])
    alone = np.flatnonzero(rests_s > 0.0)
    alone = alone[alone >= _begun(run)]
    counts = counted(np.maximum(rests_s, 0.0))
    return rests_s[alone], run.offered.taken_s[alone], counts[alone]


def _fitted(costs: Costs, runs: list[Run], shape: Array) -> Costs:
    """Divides the measured CPU among turns, sources and rests, by least squares of relative errors.

    What the runs do not tell apart stays near what is typical.
    """
    spent = [_spent(costs, run) for run in runs]
    costs = _loop(costs, spent, shape)
    return costs if costs.on_loop else _worker(costs, spent, shape)


def _loop(costs: Costs, spent: list[_Spent], shape: Array) -> Costs:
    """Fits what everything takes in the gateway's loop, and what rests add."""
    rests, known = len(RESTS_S), len(_UNKNOWN)
    rows = []
    for each in spent:
        row = dict.fromkeys(_UNKNOWN, 0.0)
        row["turn_s"], row[f"{each.source}_s"] = each.tally.turns[0], 1.0
        if each.source == "model" and not costs.on_loop:
            row["hop_s"] = each.simulated.batches
        took_s = each.gateway_s - (each.computed_s if costs.on_loop else 0.0)
        colder = (*each.tally.turns[1:], 0.0, *each.tally.asked[1:], 0.0)
        rows.append(np.array([*row.values(), *colder, took_s]) / each.gateway_s)
    usual_s = float(np.mean([each.gateway_s for each in spent]))
    shaped = _shaped(shape, usual_s)
    typical = np.diag([_PRIOR / getattr(_TYPICAL, name) for name in _UNKNOWN])
    matrix = np.vstack(
        [
            *rows,
            np.column_stack([typical, np.zeros((known, 2 * rests + 2)), np.full(known, _PRIOR)]),
            np.pad(shaped, ((0, 0), (known, rests + 2))),
            np.pad(shaped, ((0, 0), (known + rests + 1, 1))),
            _alike(known + 2 * rests + 3),
        ]
    )
    found = not_negative(matrix[:, :-1], matrix[:, -1])
    fields = {name: float(each) for name, each in zip(_UNKNOWN, found, strict=False)}
    steps_s = found[known:].reshape(2, rests + 1)[:, :-1]
    cold_s, model_cold_s = np.cumsum(steps_s, axis=1).tolist()
    return msgspec.structs.replace(
        costs, **fields, cold_s=tuple(cold_s), model_cold_s=tuple(model_cold_s)
    )


def _alike(width: int) -> Array:
    """Returns the equation by which table and cache take about the same.

    A look-up is all that tells them apart, and is less than what the runs stray.
    """
    row = np.zeros((1, width))
    row[0, _UNKNOWN.index("table_s")] = _ALIKE / _TYPICAL.table_s
    row[0, _UNKNOWN.index("cache_s")] = -_ALIKE / _TYPICAL.table_s
    return row


def _shaped(shape: Array, usual_s: float) -> Array:
    """Returns equations by which what rests add has a shape, times a number: the last unknown.

    Args:
        shape: of ``_shape``.
        usual_s: what is as much as an error of 1.

    Returns:
        (rests, rests and the number).
    """
    return np.column_stack([np.eye(len(shape)), -shape]) / usual_s


def _worker(costs: Costs, spent: list[_Spent], shape: Array) -> Costs:
    """Fits what a batch takes in the worker beside the model, and more after a rest.

    What the model takes was measured elsewhere, in a loop of its own; where all of a batch takes
    the worker less than that, it is the model that takes less there.
    """
    asked = [each for each in spent if each.source == "model"]
    took_s = np.array([each.worker_s for each in asked])
    computed_s = np.array([each.computed_s for each in asked])
    colder = np.array([each.tally.worker[1:] for each in asked])
    shaped = _shaped(shape, float(took_s.mean()))

    def solved(warm: Array, wanted_s: Array) -> tuple[float, tuple[float, ...]]:
        rows = np.column_stack([warm, colder, np.zeros(len(warm)), wanted_s]) / took_s[:, None]
        matrix = np.vstack([rows, np.pad(shaped, ((0, 0), (1, 1)))])
        first, *steps, _ = not_negative(matrix[:, :-1], matrix[:, -1]).tolist()
        return first, tuple(np.cumsum(steps).tolist())

    batches = np.array([each.simulated.batches for each in asked])
    beside_s, cold_s = solved(batches, took_s - computed_s)
    law = costs.law
    if beside_s == 0.0:
        scale, cold_s = solved(computed_s, took_s)
        law = msgspec.structs.replace(law, a_s=law.a_s * scale, b_s=law.b_s * scale)
    return msgspec.structs.replace(costs, law=law, worker_s=beside_s, worker_cold_s=cold_s)


def not_negative(matrix: Array, wanted: Array) -> Array:
    """Returns the least squares solution of which no part is negative, by coordinate descent.

    Args:
        matrix: (equations, unknowns).
        wanted: (equations,).

    Example:
        >>> not_negative(np.eye(2), np.array([2.0, -1.0])).tolist()
        [2.0, 0.0]
    """
    found = np.zeros(matrix.shape[1])
    left = wanted.astype(np.float64)
    squares = (matrix**2).sum(axis=0)
    for _ in range(_SWEEPS):
        for at, square in enumerate(squares):
            if square > 0.0:
                better = max(0.0, found[at] + float(matrix[:, at] @ left) / square)
                left -= matrix[:, at] * (better - found[at])
                found[at] = better
    return found


def _timed(costs: Costs, passes: list[list[Run]]) -> Costs:
    """Adds what latency there is beside CPU: of the machine, and of the way to the model.

    Both are such that the simulation sees what clients saw at the paces at which nobody queues. How
    far batches stray that the gateway computes was measured elsewhere, in a loop of their own: as
    it is here, it is in what clients saw.
    """
    costs = msgspec.structs.replace(costs, transport_s=(0.0,), hop_wait_s=(0.0,), paces_s=())
    beside = [some for some in passes if some[0].pace_rps < _QUEUES_FROM_RPS]
    stored = [some for some in beside if some[0].source != "model"]
    asked = [some for some in beside if some[0].source == "model"]
    costs = _waiting(_paced(costs, stored), stored, _transport)
    if costs.on_loop:
        law = msgspec.structs.replace(costs.law, strays=(1.0,))
        costs = msgspec.structs.replace(costs, law=law)
    return _waiting(costs, asked, _hop_wait)


def _waited(costs: Costs, run: Run, taken_s: Array) -> Array:
    """Returns what each query took beside what its own turn, rests and batch take, in seconds.

    The simulation meets the queries of the run when they came, so that the two can be compared one
    by one. The first of a run say nothing.
    """
    bare = msgspec.structs.replace(costs, transport_s=(0.0,), hop_wait_s=(0.0,), paces_s=())
    waited: Array = (taken_s - _simulated(bare, run).taken_s)[_begun(run) :]
    return waited


def _paced(costs: Costs, stored: list[list[Run]]) -> Costs:
    """Adds by how much the usual wait at each pace is off, beside how far all paces are.

    The median of sources and passes counts; where all were asked at one pace, nothing is known.
    """
    off_s: dict[float, list[float]] = {}
    for run in (run for some in stored for run in some):
        lacks_s = np.median(_waited(costs, run, run.offered.taken_s))
        off_s.setdefault(run.pace_rps, []).append(float(lacks_s))
    usual_s = {pace: float(np.median(each)) for pace, each in sorted(off_s.items())}
    middle_s = float(np.mean(list(usual_s.values())))
    paces_s = tuple((pace, each - middle_s) for pace, each in usual_s.items())
    return msgspec.structs.replace(costs, paces_s=paces_s if len(paces_s) > 1 else ())


def _transport(costs: Costs, wait_s: Array) -> Costs:
    return msgspec.structs.replace(costs, transport_s=tuple(wait_s.tolist()))


def _hop_wait(costs: Costs, wait_s: Array) -> Costs:
    return msgspec.structs.replace(costs, hop_wait_s=tuple(wait_s.tolist()))


def _waiting(
    costs: Costs, passes: list[list[Run]], with_wait: Callable[[Costs, Array], Costs]
) -> Costs:
    """Fits the quantiles of one wait: each is moved by what the simulation lacks, some times.

    The waits of a pass count together, and of passes the median: what else a machine does comes and
    goes. The simulation draws each run as often as makes many: stalls are rare, and a run in which
    none was drawn says nothing of how long they are. Where an answer leaves before the work for it
    is done, the wait is less than nothing.
    """
    levels, runs = np.linspace(0.0, 1.0, QUANTILES), [run for some in passes for run in some]
    count = min(len(some) for some in passes)
    seen = [
        [_waited(costs, run, run.offered.taken_s) for some in passes for run in some[at::count]]
        for at in range(count)
    ]
    seen_s = np.median([_quantiles(each, levels) for each in seen], axis=0)
    draws = range(1, 1 + max(1, _DRAWN // sum(len(run.due_s) for run in runs)))
    wait_s = np.zeros(QUANTILES)
    for _ in range(_MOVES):
        trial = with_wait(costs, wait_s)
        known_s = [
            _waited(costs, run, _simulated(trial, run, seed).taken_s)
            for run in runs
            for seed in draws
        ]
        wait_s = np.sort(wait_s + seen_s - _quantiles(known_s, levels))
    return with_wait(costs, wait_s)


def _quantiles(waits_s: list[Array], levels: Array) -> Array:
    """Returns quantiles, those of few unbiased: half of all samples have more above them."""
    found: Array = np.quantile(np.concatenate(waits_s), levels, method="median_unbiased")
    return found
