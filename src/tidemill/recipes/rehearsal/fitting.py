"""Costs out of what a server took: CPU and latencies of runs at several paces, divided by cause.

How many turns of the loop a run had, and after which rests, is what the plan's own simulation says,
so that the costs which come out are those with which it is right.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from tidemill.models.signature import Array
from tidemill.planning.cold import RESTS_S
from tidemill.planning.costs import Costs
from tidemill.planning.latency import QUANTILES, LatencyLaw
from tidemill.planning.simulate import Queries, Served, Simulated, Tally, serve
from tidemill.recipes.rehearsal.offering import Offered
from tidemill.recipes.rehearsal.stage import Used

SLO_MS = 2000.0
"""Deadline of the queries of a run."""

_ROUNDS = 6
_SWEEPS = 300
_MOVES = 4
_PRIOR = 0.02
_QUEUES_FROM_RPS = 900.0
_UNKNOWN = ("turn_s", "table_s", "cache_s", "model_s", "hop_s")
_TYPICAL = Costs(law=LatencyLaw(a_s=0.0, b_s=0.0))


@dataclass(frozen=True, slots=True)
class Run:
    """What one source (``table``, ``cache``, ``model``) took at one pace; due when it was asked."""

    source: str
    due_s: Array
    offered: Offered
    used: Used

    @property
    def each_s(self) -> float:
        """CPU of all processes for each query."""
        return self.used.total_s / len(self.due_s)


def fit_costs(assumed: Costs, runs: list[Run]) -> Costs:
    """Returns costs that, simulated, take the CPU and show the latencies of the runs.

    Args:
        assumed: the model's law, where it computes, bytes, and what the server takes at rest.
        runs: at least one of each source, at several paces.

    Example:
        >>> due_s = np.arange(1, 201) / 100.0
        >>> offered = Offered(np.full(200, 5e-4), seconds=2.0)
        >>> runs = [
        ...     Run(source, due_s, offered, Used(200 * 3e-4, 0.0))
        ...     for source in ("table", "cache", "model")
        ... ]
        >>> costs = Costs(law=LatencyLaw(a_s=1e-4, b_s=0.0), on_loop=True, standing_cores=0.0)
        >>> fitted = fit_costs(costs, runs)
        >>> round(1e3 * _simulated(fitted, runs[0]).simulated.p50_ms)
        500
    """
    costs = assumed
    for _ in range(_ROUNDS):
        costs = _fitted(costs, runs)
    return _timed(costs, runs)


def _simulated(costs: Costs, run: Run) -> Served:
    n = len(run.due_s)
    return serve(
        Queries(at_s=run.due_s, fate=np.full(n, 0.5)),
        costs,
        covered=1.0 if run.source == "table" else 0.0,
        cached=1.0 if run.source == "cache" else 0.0,
        replicas=1,
        max_batch=64,
        slo_s=SLO_MS / 1e3,
        rng=np.random.default_rng(0),
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


def _fitted(costs: Costs, runs: list[Run]) -> Costs:
    """Divides the measured CPU among turns and sources, by least squares of relative errors.

    What the runs do not tell apart stays near what was assumed. Warm costs and the stretch after a
    rest multiply each other, so each is fitted in turn, the other as it was.
    """
    spent = [_spent(costs, run) for run in runs]
    costs = _warm(costs, spent)
    costs = _cold(costs, spent)
    return costs if costs.on_loop else _worker(costs, spent)


def _warm(costs: Costs, spent: list[_Spent]) -> Costs:
    """Fits what everything takes in a busy loop; the stretch after a rest is taken as known."""
    up = np.diff([1.0, *(costs.cold or [1.0] * len(RESTS_S))], prepend=0.0)
    rows = []
    for each in spent:
        row = dict.fromkeys(_UNKNOWN, 0.0)
        first = float(each.tally.firsts @ up - each.tally.firsts[0])
        row["turn_s"], row[f"{each.source}_s"] = float(each.tally.turns @ up), 1.0 + first
        took_s = each.gateway_s
        if each.source == "model" and costs.on_loop:
            took_s -= each.computed_s + costs.law.expect(1) * first
        elif each.source == "model":
            sends = float(each.tally.sends @ up - each.tally.sends[0])
            row["hop_s"] = each.simulated.batches + sends
        rows.append((*(row[name] / each.gateway_s for name in _UNKNOWN), took_s / each.gateway_s))
    for at, name in enumerate(_UNKNOWN):
        prior = [0.0] * len(_UNKNOWN)
        prior[at] = _PRIOR / getattr(_TYPICAL, name)
        rows.append((*prior, _PRIOR))
    matrix = np.array(rows)
    found = not_negative(matrix[:, :-1], matrix[:, -1])
    fields = {name: float(each) for name, each in zip(_UNKNOWN, found, strict=True)}
    return msgspec.structs.replace(costs, **fields)


def _cold(costs: Costs, spent: list[_Spent]) -> Costs:
    """Fits by what a rest stretches the work of the loop; what it takes warm is taken as known."""
    rows = []
    for each in spent:
        source_s = getattr(costs, f"{each.source}_s")
        hop_s = 0.0
        if each.source == "model" and costs.on_loop:
            source_s += costs.law.expect(1)
        elif each.source == "model":
            hop_s = costs.hop_s
        tally = each.tally
        stretches = costs.turn_s * tally.turns + source_s * tally.firsts + hop_s * tally.sends
        on_loop_s = each.computed_s if costs.on_loop else 0.0
        warm_s = costs.turn_s * tally.turns[0] + getattr(costs, f"{each.source}_s") + on_loop_s
        warm_s += hop_s * each.simulated.batches
        rows.append((*(stretches[1:] / each.gateway_s), 1.0 - warm_s / each.gateway_s))
    matrix = np.array(rows)
    return msgspec.structs.replace(
        costs, cold=tuple((1.0 + np.cumsum(not_negative(matrix[:, :-1], matrix[:, -1]))).tolist())
    )


def _worker(costs: Costs, spent: list[_Spent]) -> Costs:
    """Fits what a batch takes in the worker beside the model, and more after a rest."""
    up = np.diff([1.0, *costs.cold])
    most = costs.cold[-1] - 1.0
    rows = []
    for each in spent:
        if each.source == "model":
            share = float(each.tally.worker[1:] @ up) / most if most > 0.0 else 0.0
            beyond_s = each.worker_s - each.computed_s
            rows.append((each.simulated.batches, share, beyond_s, each.worker_s))
    matrix = np.array([np.array(row[:3]) / row[3] for row in rows])
    worker_s, cold_s = not_negative(matrix[:, :2], matrix[:, 2])
    return msgspec.structs.replace(costs, worker_s=float(worker_s), worker_cold_s=float(cold_s))


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


def _timed(costs: Costs, runs: list[Run]) -> Costs:
    """Adds what latency there is beside CPU: of the machine, and of the way to a worker.

    Both are such that the simulation sees what clients saw at the paces at which nobody queues.
    """
    beside = [run for run in runs if len(run.due_s) / run.due_s[-1] < _QUEUES_FROM_RPS]
    costs = msgspec.structs.replace(costs, transport_s=(0.0,), hop_wait_s=(0.0,))
    costs = _waiting(costs, [run for run in beside if run.source == "table"], "transport_s")
    if costs.on_loop:
        return costs
    return _waiting(costs, [run for run in beside if run.source == "model"], "hop_wait_s")


def _waiting(costs: Costs, runs: list[Run], name: str) -> Costs:
    """Fits the quantiles of one wait: each is moved by what the simulation lacks, some times.

    Where an answer leaves before the work for it is done, the wait is less than nothing.
    """
    shares = np.linspace(0.0, 1.0, QUANTILES)
    wait_s = np.zeros(QUANTILES)
    weights = [len(run.due_s) for run in runs]
    seen_s = [np.quantile(run.offered.taken_s, shares) for run in runs]
    for _ in range(_MOVES):
        known_s = [np.quantile(_simulated(costs, run).taken_s, shares) for run in runs]
        wait_s = wait_s + np.average(np.subtract(seen_s, known_s), axis=0, weights=weights)
        wait_s = np.sort(wait_s)
        costs = msgspec.structs.replace(costs, **{name: tuple(wait_s.tolist())})
    return costs
