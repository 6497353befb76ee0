"""Predicted beside measured: alternatives of a plan, served and asked under the planned traffic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from tidemill.foundation.errors import InvalidInput
from tidemill.models.signature import Array
from tidemill.planning.alternatives import Alternative, Choice, Promise, Study
from tidemill.planning.costs import Costs
from tidemill.planning.prices import Prices
from tidemill.planning.simulate import draw_queries
from tidemill.planning.traffic import Traffic
from tidemill.recipes.rehearsal.stage import Arrangement, Stage, Subject, set_up

Told = Callable[[int, int], None]

SECONDS = 4.0
"""Each alternative is asked so long in each repeat."""

_FEWEST = 200
_WARM = 80
_WARM_RPS = 1000.0
_WARMED_S = 8.0
_UNEVEN = (5**0.5 - 1.0) / 2.0


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What an alternative takes and how fast it is, as predicted or as measured.

    Args:
        cpu_us: CPU for each query, of all processes; without the refreshing of the table.
        mean_ms: latency, as a client sees it.
        p50_ms: the median.
        p99_ms: the 99th percentile.
        table_bytes: of the table's file.
        covered: share of the queries that the table answered.
        cached: share that the cache answered.
        queries: how many were asked; 0 for a prediction.
        failed: how many of them got no answer.
    """

    cpu_us: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    table_bytes: int
    covered: float
    cached: float
    queries: int = 0
    failed: int = 0


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """One alternative: what the plan says of it, and what each repeat came to.

    Args:
        table_rows: keys that its table held: those of the past, as far as there were so many.
    """

    choice: Choice
    head_keys: int
    cache_entries: int
    replicas: int
    batch_limit: int
    predicted: Figures
    measured: tuple[Figures, ...]
    table_rows: int = 0

    def median(self, figure: str) -> float:
        """Returns the median of a figure over the repeats."""
        return float(np.median([getattr(each, figure) for each in self.measured]))

    def spread(self, figure: str) -> tuple[float, float]:
        """Returns the smallest and the largest of a figure over the repeats."""
        values = [getattr(each, figure) for each in self.measured]
        return min(values), max(values)

    def off(self, figure: str) -> float:
        """Returns by how much a prediction is off: predicted over the median, less 1."""
        measured = self.median(figure)
        predicted = float(getattr(self.predicted, figure))
        return predicted / measured - 1.0 if measured else float(predicted > 0.0)


def rehearse(
    subject: Subject,
    alternatives: Sequence[Alternative],
    *,
    traffic: Traffic,
    costs: Costs,
    slo_ms: float,
    seconds: float = SECONDS,
    repeats: int = 1,
    seed: int = 0,
    told: Told = lambda _done, _all: None,
    before: Callable[[int], None] = lambda _done: None,
) -> tuple[Rehearsed, ...]:
    """Serves alternatives side by side and asks each what the trace asked, at the planned rate.

    Every repeat asks each alternative once, in turn, the same questions at the same moments.

    Args:
        subject: the model and the questions, in their order.
        alternatives: of a plan for this traffic.
        traffic: how fast, and how bursty, queries come.
        costs: that the plan was made with.
        slo_ms: deadline of each query.
        seconds: that each is asked in each repeat; longer where that would be a few queries.
        repeats: how often.
        seed: of the arrivals.
        told: how many runs are done, and of how many.
        before: called before each run, with how many are done.

    Raises:
        InvalidInput: an alternative needs several gateways: one machine's client is no match.
        TidemillError: the server does not start.
    """
    for each in alternatives:
        if each.gateways > 1:
            raise InvalidInput(
                f"{traffic.rate_rps:,.0f} queries a second need {each.gateways} gateways, and are "
                "more than can be asked from here",
                remedy="Rehearse with a trace of a lower rate.",
            )
    arrangements = [
        Arrangement(
            head_keys=each.head_keys,
            cache_entries=each.cache_entries,
            replicas=each.replicas,
            batch_limit=each.batch_limit,
            slo_ms=slo_ms,
        )
        for each in alternatives
    ]
    study = Study(traffic, costs, Prices(), Promise(slo_ms=slo_ms))
    count = max(_FEWEST, int(traffic.rate_rps * seconds))
    measured: list[list[Figures]] = [[] for _ in alternatives]
    with set_up(subject, arrangements, entry_bytes=costs.entry_bytes) as stage:
        for number, each in enumerate(alternatives):
            _warm(stage, number, each, traffic)
        for repeat, (missed, at) in enumerate(_windows(subject, count, repeats)):
            rng = np.random.default_rng([seed, repeat])
            drawn = draw_queries(rng, count, rate_rps=traffic.rate_rps, cv2=traffic.cv2)
            for number, each in enumerate(alternatives):
                if each.cache_entries:  # it would have met what the repeats leave out
                    _hear(stage, number, missed, _fast_rps(traffic))
                before(repeat * len(alternatives) + number)
                measured[number].append(_asked(stage, number, at, drawn.at_s))
                told(repeat * len(alternatives) + number + 1, repeats * len(alternatives))
    rows = [0 if table is None else table.rows for table in stage.tables]
    return tuple(
        Rehearsed(
            choice=each.choice,
            head_keys=each.head_keys,
            cache_entries=each.cache_entries,
            replicas=each.replicas,
            batch_limit=each.batch_limit,
            predicted=predicted(each, study, keys, queries=count),
            measured=tuple(figures),
            table_rows=keys,
        )
        for each, keys, figures in zip(alternatives, rows, measured, strict=True)
    )


def predicted(alternative: Alternative, study: Study, keys: int, *, queries: int) -> Figures:
    """Returns what a plan says of an alternative, as far as a rehearsal can measure it.

    Of few queries, the 99th percentile is between the last of them, and mostly less than that of
    all: it is predicted for as many as are asked, as the median of as many rehearsals as were
    simulated.

    Args:
        alternative: of the plan.
        study: of the traffic and the costs that the plan was made with.
        keys: that the rehearsed table holds: fewer than planned where the past had fewer, so that
            it is looked at again.
        queries: asked in each repeat.
    """
    costs = study.costs
    if keys != alternative.head_keys:
        alternative = study.alternative(
            keys,
            alternative.cache_entries,
            replicas=alternative.replicas,
            batch_limit=alternative.batch_limit,
        )
    taken_ms = 1e3 * study.served(alternative).taken_s
    stretches = max(1, len(taken_ms) // queries)
    each_ms = np.array_split(taken_ms, stretches)
    p50_ms, p99_ms = np.median([np.quantile(some, (0.5, 0.99)) for some in each_ms], axis=0)
    return Figures(
        cpu_us=alternative.cpu_us_per_query - alternative.refresh_us_per_query,
        mean_ms=alternative.mean_ms,
        p50_ms=float(p50_ms),
        p99_ms=float(p99_ms),
        table_bytes=costs.table_bytes(keys),
        covered=alternative.covered,
        cached=alternative.cached,
    )


def begins(questions: int, count: int, repeats: int) -> list[int]:
    """Returns where the stretch of each repeat begins: spread over all, and not at even distances.

    What is asked changes with the hour, and a plan is for all hours. Stretches that are as far from
    each other as a day is long would meet the same one each time.

    Args:
        questions: that there are.
        count: of a stretch; stretches follow each other where there are no more questions.
        repeats: how many stretches.

    Example:
        >>> begins(100, 10, 4), begins(30, 10, 4)
        ([0, 34, 53, 87], [0, 10, 20, 30])
    """
    apart = max(count, questions // repeats)
    return [
        repeat * apart + int(repeat * _UNEVEN % 1.0 * (apart - count)) for repeat in range(repeats)
    ]


def _windows(subject: Subject, count: int, repeats: int) -> list[tuple[Array, Array]]:
    """Returns for each repeat the questions of the later half since the one before, and its own."""
    later = subject.count - subject.past or subject.count
    first, found, ended = subject.count - later, [], 0
    for begin in begins(later, count, repeats):
        missed, stretch = np.arange(ended, begin), np.arange(begin, begin + count)
        found.append((first + missed % later, first + stretch % later))
        ended = begin + count
    return found


def _warm(stage: Stage, number: int, each: Alternative, traffic: Traffic) -> None:
    """Asks what came last before the later half, so that caches hold what they would hold."""
    wanted = max(_WARM, 3 * each.cache_entries)
    pace = _fast_rps(traffic) if each.cache_entries else traffic.rate_rps
    past = stage.subject.past
    _hear(stage, number, np.arange(max(0, past - wanted), past), pace)


def _fast_rps(traffic: Traffic) -> float:
    return max(traffic.rate_rps, _WARM_RPS)


def _hear(stage: Stage, number: int, at: Array, pace_rps: float) -> None:
    """Asks questions that are not measured, evenly; the last ones, as many as fit into the time."""
    at = at[-max(1, int(pace_rps * _WARMED_S)) :]
    stage.ask(number, at, np.arange(len(at)) / pace_rps)


def _asked(stage: Stage, number: int, at: Array, due_s: Array) -> Figures:
    offered, used = stage.ask(number, at, due_s)
    table = stage.tables[number]
    taken_ms = 1e3 * offered.taken_s[np.isfinite(offered.taken_s)]
    if not len(taken_ms):
        taken_ms = np.array([np.nan])
    return Figures(
        cpu_us=1e6 * used.total_s / len(at),
        mean_ms=float(taken_ms.mean()),
        p50_ms=float(np.quantile(taken_ms, 0.5)),
        p99_ms=float(np.quantile(taken_ms, 0.99)),
        table_bytes=0 if table is None else table.bytes,
        covered=offered.sources.get("table", 0) / len(at),
        cached=offered.sources.get("cache", 0) / len(at),
        queries=len(at),
        failed=offered.failed,
    )
