"""What serving takes on this machine, measured: a server with the model, asked at several paces.

At a slow pace every query has a turn of the loop for itself, after a rest that leaves caches cold;
at a fast one queries share turns that follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import msgspec
import numpy as np

from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.errors import ModelFailed
from tidemill.models.format import ModelManifest
from tidemill.models.requirements import LOCK
from tidemill.models.runtime import open_runtime
from tidemill.models.signature import Array
from tidemill.planning.costs import Costs
from tidemill.planning.latency import LatencyLaw, fit_law
from tidemill.recipes.rehearsal.fitting import SLO_MS, Run, fit_costs
from tidemill.recipes.rehearsal.offering import Offered
from tidemill.recipes.rehearsal.stage import Arrangement, Stage, Subject, on_loop, set_up
from tidemill.serving.replicas.address import RUNTIME

Told = Callable[[int, int], None]

SECONDS = 2.0
"""Each source is asked so long at each pace, in all passes together."""

PASSES = 3
"""Each pass asks all sources at all paces; what else a machine does comes and goes between them."""

PACES_RPS = (20.0, 75.0, 300.0, 1200.0, 4000.0)
"""Queries a second. A model that does not keep up is asked at as many slower ones."""

_BUSY = 0.4
_SLOWER = 4.0
_FEWEST = 24
_FEWEST_SLOW = 8
_SLOW_S = 2.0
_WARM_RPS = 500.0
_KEYS = 512
_SIZES = (1, 4, 16, 64)
_REPEATS, _REPEATS_QUICK, _REPEATS_S = 15, 200, 0.4
"""Each size is measured so often: a quick model until it has had so long, or more often still."""
_ELSEWHERE = frozenset({"mlflow", "python", RUNTIME})
_WARM = 64
_SOURCES = ("table", "cache", "model")


def calibrate(
    subject: Subject,
    *,
    seconds: float = SECONDS,
    seed: int = 0,
    told: Told = lambda _done, _all: None,
) -> Costs:
    """Measures what table, cache and model take on this machine, in some 20 times ``seconds``.

    A model that takes more than 5 ms a row is asked for longer, at slower paces.

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
    with calibrating(subject, seconds=seconds, seed=seed) as calibration:
        done = count(1)
        for _ in range(PASSES):
            calibration.measure(lambda: told(next(done), PASSES * calibration.runs_each))
        return calibration.costs()


@contextmanager
def calibrating(
    subject: Subject, *, seconds: float = SECONDS, seed: int = 0
) -> Iterator[Calibration]:
    """Serves a model in all ways that are measured while the block runs; see ``calibrate``."""
    assumed = Costs(law=_law(subject), on_loop=on_loop(subject.manifest))
    keys = min(_KEYS, len(subject.ranked))
    arrangements = [
        Arrangement(head_keys=keys, slo_ms=SLO_MS),
        Arrangement(cache_entries=8 * _KEYS, slo_ms=SLO_MS),
        Arrangement(slo_ms=SLO_MS),
    ]
    with set_up(subject, arrangements, entry_bytes=assumed.entry_bytes) as stage:
        asked = subject.ranked[:keys]
        for number in range(len(_SOURCES)):  # the cache fills, everything is imported
            _checked(stage.ask(number, np.resize(asked, max(_WARM, keys)), _even(keys))[0])
        yield Calibration(stage, assumed, asked, seconds=seconds / PASSES, seed=seed)


class Calibration:
    """Costs under measurement, in as many passes as one wants; made by ``calibrating``.

    Args:
        stage: serves a table, a cache and the model.
        assumed: the model's law, and where it computes.
        asked: questions that table and cache know.
        seconds: that each source is asked at each pace, in each pass.
        seed: of the arrivals.
    """

    def __init__(
        self, stage: Stage, assumed: Costs, asked: Array, *, seconds: float, seed: int
    ) -> None:
        self._stage = stage
        self._assumed = assumed
        self._asked = asked
        self._seconds = seconds
        self._rng = np.random.default_rng(seed)
        self._runs: list[Run] = []
        self._rests: list[float] = []
        paces = {**dict.fromkeys(_SOURCES, PACES_RPS), "model": paces_up_to(_fast(assumed))}
        self._paces = [
            (number, name, paces[name][at])
            for at in range(len(PACES_RPS))
            for number, name in enumerate(_SOURCES)
        ]

    @property
    def runs_each(self) -> int:
        """How many runs a pass has."""
        return len(self._paces)

    def measure(
        self, told: Callable[[], None] = lambda: None, *, part: int = 0, parts: int = 1
    ) -> None:
        """Asks each source at each pace once more: a pass, or one of several parts of it.

        Args:
            told: called after each run.
            part: which, from 0; between parts, anything else may be measured.
            parts: that the pass has. Each asks several sources at several paces.

        Raises:
            ModelFailed: the server did not answer some of the queries.
        """
        if not part:
            self._rests.append(self._stage.rest(self._seconds))
        for number, source, pace in self._paces[part::parts]:
            queries = queries_at(pace, self._seconds)
            due_s = np.cumsum(self._rng.exponential(1.0 / pace, queries))
            at = self._rng.choice(self._asked, queries)
            offered, used = self._stage.ask(number, at, due_s)
            _checked(offered)
            self._runs.append(Run(source, pace, due_s, offered, used, key=at))
            told()

    def costs(self) -> Costs:
        """Returns the costs by what was measured so far, in one pass at least."""
        measured = msgspec.structs.replace(
            self._assumed,
            standing_cores=float(np.median(self._rests)),
            key_bytes=self._stage.key_bytes,
            value_bytes=self._stage.value_bytes,
            transport_s=(0.0,),
        )
        return fit_costs(measured, self._runs)


def paces_up_to(most_rps: float) -> tuple[float, ...]:
    """Returns the paces at which a model is asked that bears so many queries a second.

    Example:
        >>> paces_up_to(8.0)[0], paces_up_to(8.0)[-1], paces_up_to(1e6) == PACES_RPS
        (2.0, 8.0, True)
    """
    if most_rps >= PACES_RPS[-1]:
        return PACES_RPS
    slowest_rps = min(PACES_RPS[0], most_rps / _SLOWER)
    return tuple(np.geomspace(slowest_rps, most_rps, len(PACES_RPS)).tolist())


def queries_at(pace_rps: float, seconds: float) -> int:
    """Returns how many queries a run has: as many as come in that time, and some in any case.

    Example:
        >>> queries_at(300.0, 0.5), queries_at(20.0, 0.5), queries_at(1.0, 0.5)
        (150, 24, 8)
    """
    few = max(_FEWEST_SLOW, min(_FEWEST, int(pace_rps * _SLOW_S)))
    return max(few, int(pace_rps * seconds))


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
            runtime.predict(batch)  # the first call is slower than all others
            took_s: list[float] = []
            while len(took_s) < _REPEATS or (
                len(took_s) < _REPEATS_QUICK and sum(took_s) < _REPEATS_S
            ):
                began = SYSTEM_CLOCK.monotonic()
                runtime.predict(batch)
                took_s.append(SYSTEM_CLOCK.monotonic() - began)
            sizes += [size] * len(took_s)
            seconds += took_s
    finally:
        runtime.close()
    return fit_law(sizes, seconds)


def _fast(costs: Costs) -> float:
    """Returns a pace at which the model is busy, and far from overloaded."""
    return min(PACES_RPS[-1], _BUSY / (costs.law.expect(1) + costs.worker_s + costs.model_s))


def _even(count: int) -> Array:
    return np.arange(max(_WARM, count)) / _WARM_RPS


def _checked(offered: Offered) -> None:
    if offered.failed:
        why, count = max(offered.failures.items(), key=lambda each: each[1])
        raise ModelFailed(
            f"{count} of {len(offered.taken_s)} queries got no answer while costs were measured: "
            f"{why}",
            remedy="Serve the model, ask it, and read the log.",
        )
