"""What serving takes on this machine, measured: a server with the model, asked slowly and fast.

At a slow pace every query has a turn of the loop for itself; at a fast one they share turns. How
many turns there are is what the plan's own simulation says, so that the costs which come out are
those with which it is right here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.errors import ModelFailed
from tidemill.models.format import ModelManifest
from tidemill.models.requirements import LOCK
from tidemill.models.runtime import open_runtime
from tidemill.models.signature import Array
from tidemill.planning.costs import Costs
from tidemill.planning.latency import QUANTILES, LatencyLaw, fit_law
from tidemill.planning.simulate import Queries, Simulated, simulate
from tidemill.recipes.rehearsal.offering import Offered
from tidemill.recipes.rehearsal.stage import Arrangement, Subject, Used, on_loop, set_up
from tidemill.serving.replicas.address import RUNTIME

Told = Callable[[int, int], None]

SECONDS = 2.0
"""Each source is asked so long at each pace."""

SLOW_RPS, FAST_RPS = 150.0, 2500.0
_BUSY = 0.4
_SLO_MS = 2000.0
_ROUNDS = 4
_KEYS = 512
_SIZES = (1, 4, 16, 64)
_REPEATS = 15
_ELSEWHERE = frozenset({"mlflow", "python", RUNTIME})
_WARM = 64
_PRIOR = 0.02
_SOURCES = ("table", "cache", "model")
_UNKNOWN = ("turn_s", "table_s", "cache_s", "model_s", "hop_s")


@dataclass(frozen=True, slots=True)
class _Run:
    """One source at one pace: what was asked when, and what it took."""

    source: str
    due_s: Array
    offered: Offered
    used: Used


def calibrate(
    subject: Subject,
    *,
    seconds: float = SECONDS,
    seed: int = 0,
    told: Told = lambda _done, _all: None,
) -> Costs:
    """Measures what table, cache and model take on this machine, in about seven times ``seconds``.

    Args:
        subject: the model and questions of the kind that it will be asked.
        seconds: that each source is asked at each pace.
        seed: of the arrivals.
        told: how many runs are done, and of how many.

    Returns:
        Costs that, simulated, take the CPU that was measured, with the spread of the latencies
        that a client on this machine sees.

    Raises:
        ModelFailed: the server did not answer some of the queries.
        InvalidInput: the questions do not fit the model or its key.
    """
    manifest = subject.manifest
    local = on_loop(manifest)
    assumed = Costs(law=_law(subject), on_loop=local)
    keys = min(_KEYS, len(subject.ranked))
    arrangements = [
        Arrangement(head_keys=keys, slo_ms=_SLO_MS),
        Arrangement(cache_entries=8 * _KEYS, slo_ms=_SLO_MS),
        Arrangement(slo_ms=_SLO_MS, coalesce=False),
    ]
    rng = np.random.default_rng(seed)
    with set_up(subject, arrangements, entry_bytes=assumed.entry_bytes) as stage:
        asked = subject.ranked[:keys]
        for number in range(len(_SOURCES)):  # the cache fills, everything is imported
            _checked(stage.ask(number, np.resize(asked, max(_WARM, keys)), _even(keys))[0])
        standing = stage.rest(seconds / 2.0)
        runs = []
        paces = [(number, pace) for pace in (SLOW_RPS, _fast(assumed)) for number in range(3)]
        for number, pace in paces:
            count = max(32, int(pace * seconds))
            due_s = np.cumsum(rng.exponential(1.0 / pace, count))
            offered, used = stage.ask(number, rng.choice(asked, count), due_s)
            _checked(offered)
            runs.append(_Run(_SOURCES[number], due_s, offered, used))
            told(len(runs), len(paces))
    measured = msgspec.structs.replace(
        assumed,
        standing_cores=standing,
        key_bytes=stage.key_bytes,
        value_bytes=stage.value_bytes,
        transport_s=(0.0,),
    )
    for _ in range(_ROUNDS):
        measured = _fitted(measured, runs)
    return _timed(measured, runs)


def registered_law(manifest: ModelManifest) -> LatencyLaw | None:
    """Returns the law of what was measured when the model was registered; None if nothing was."""
    latency = manifest.latency
    if latency is None:
        return None
    return fit_law([1, 64], [latency.batch_1_s, latency.batch_64_s])


def _law(subject: Subject) -> LatencyLaw:
    """Measures batches of some sizes; as it was pushed, where only its own environment opens it."""
    manifest = subject.manifest
    if LOCK in manifest.files or manifest.runtime in _ELSEWHERE:
        law = registered_law(manifest)
        if law is None:
            raise ModelFailed(
                f"model {manifest.name!r} was never measured",
                remedy="Push it again: it is measured then.",
            )
        return law
    runtime = open_runtime(subject.folder, trust_code=True, threads=1)
    sizes, seconds = [], []
    try:
        for size in _SIZES:
            batch = subject.take(np.resize(subject.ranked, size))
            for repeat in range(_REPEATS + 1):
                began = SYSTEM_CLOCK.monotonic()
                runtime.predict(batch)
                if repeat:  # the first call is slower than all others
                    sizes.append(size)
                    seconds.append(SYSTEM_CLOCK.monotonic() - began)
    finally:
        runtime.close()
    return fit_law(sizes, seconds)


def _fast(costs: Costs) -> float:
    """Returns a pace at which the model is busy, and far from overloaded."""
    return min(FAST_RPS, _BUSY / (costs.law.expect(1) + costs.worker_s + costs.model_s))


def _even(count: int) -> Array:
    return np.arange(max(_WARM, count)) / SLOW_RPS


def _checked(offered: Offered) -> None:
    if offered.failed:
        why, count = max(offered.failures.items(), key=lambda each: each[1])
        raise ModelFailed(
            f"{count} of {len(offered.taken_s)} queries got no answer while costs were measured: "
            f"{why}",
            remedy="Serve the model, ask it, and read the log.",
        )


def _simulated(costs: Costs, run: _Run) -> Simulated:
    n = len(run.due_s)
    return simulate(
        Queries(at_s=run.due_s, fate=np.full(n, 0.5)),
        costs,
        covered=1.0 if run.source == "table" else 0.0,
        cached=1.0 if run.source == "cache" else 0.0,
        replicas=1,
        max_batch=64,
        slo_s=_SLO_MS / 1e3,
        rng=np.random.default_rng(0),
    )


def _fitted(costs: Costs, runs: list[_Run]) -> Costs:
    """Solves for the CPU of turns and sources, by least squares of relative errors.

    What the runs do not tell apart stays near what was assumed.
    """
    law = costs.law
    rows, worker_s = [], []
    for run in runs:
        n, simulated = len(run.due_s), _simulated(costs, run)
        took_s = (run.used.gateway_s - costs.standing_cores * run.offered.seconds) / n
        row = dict.fromkeys(_UNKNOWN, 0.0)
        row["turn_s"], row[f"{run.source}_s"] = simulated.turns, 1.0
        if run.source == "model":
            computed_s = simulated.batches * law.a_s + simulated.computed * law.b_s
            if costs.on_loop:
                took_s -= computed_s
            else:
                row["hop_s"] = simulated.batches
                spent_s = run.used.worker_s / n - computed_s
                worker_s.append(spent_s / simulated.batches)
        scale = max(took_s, 1e-6)
        rows.append((*(row[name] / scale for name in _UNKNOWN), took_s / scale))
    for at, name in enumerate(_UNKNOWN):
        prior = [0.0] * len(_UNKNOWN)
        prior[at] = _PRIOR / getattr(DEFAULTS, name)
        rows.append((*prior, _PRIOR))
    matrix = np.array(rows)
    found, *_ = np.linalg.lstsq(matrix[:, :-1], matrix[:, -1], rcond=None)
    fields = {name: max(0.0, float(each)) for name, each in zip(_UNKNOWN, found, strict=True)}
    if worker_s:
        fields["worker_s"] = max(0.0, float(np.mean(worker_s)))
    return msgspec.structs.replace(costs, **fields)


DEFAULTS = Costs(law=LatencyLaw(a_s=0.0, b_s=0.0))
"""What is typical: unknowns that no run tells apart are near these."""


def _timed(costs: Costs, runs: list[_Run]) -> Costs:
    """Adds what latency there is beside CPU: of the machine, and of the way to a worker."""
    shares = np.linspace(0.0, 1.0, QUANTILES)
    slow = {run.source: np.quantile(run.offered.taken_s, shares) for run in runs[: len(_SOURCES)]}
    table = slow["table"]
    transport = np.maximum(table - costs.turn_s - costs.table_s, 1e-6)
    waits = (0.0,)
    if not costs.on_loop:
        known_s = costs.turn_s + costs.hop_s + costs.worker_s + costs.law.expect(1)
        beyond = slow["model"] - table - (costs.model_s - costs.table_s) - known_s
        waits = tuple(np.maximum.accumulate(np.maximum(beyond, 0.0)).tolist())
    return msgspec.structs.replace(costs, transport_s=tuple(transport.tolist()), hop_wait_s=waits)
