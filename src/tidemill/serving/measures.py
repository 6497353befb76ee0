"""What is counted of every query: plain numbers here, merged and rendered when somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from tidemill.foundation.errors import (
    DeadlineExceeded,
    NotReady,
    Overloaded,
    TidemillError,
    WorkerLost,
)
from tidemill.foundation.instruments import Counter, Histogram, Instruments
from tidemill.serving.flight import Flight
from tidemill.serving.query import Query
from tidemill.serving.statistics import Spent, Tally

BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

SOURCES: Final = ("table", "cache", "model", "default")

STAGES: Final = ("queue", "compute", "table", "cache", "default")
"""Where a query's time goes."""

STAGE_BUCKETS_S: Final = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
"""Upper bounds for parts of a query's time: a look-up takes ten microseconds."""

Outcome = Literal["met", "missed", "refused", "defaulted", "failed"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("met", "missed", "refused", "defaulted", "failed")
"""How a query ended, as its SLO sees it: see ``outcome_of``."""

MAX_SIZES: Final = 256
"""Sizes of batches that are counted apart; further ones are counted together."""

_PROMISE: Final = (DeadlineExceeded, Overloaded, WorkerLost, NotReady)


class VersionMeasures:
    """The numbers of one version of an application, held by handle: counting is an addition."""

    __slots__ = (
        "_before",
        "answers",
        "application",
        "batches",
        "batches_rows",
        "coalesced",
        "failures",
        "hedges",
        "landed_at",
        "outcomes",
        "rows",
        "seconds",
        "stages",
        "stale",
        "table_failures",
        "version",
    )

    def __init__(self, instruments: Instruments, application: str, version: int) -> None:
        self.application, self.version = application, version
        labels = (application, str(version))
        named = ("application", "version")
        answers = instruments.counter(
            "tidemill_answers", "Rows answered, by source.", (*named, "source")
        )
        self.answers = {source: answers.of(*labels, source) for source in SOURCES}
        queries = instruments.counter(
            "tidemill_queries", "Queries that ended, by what became of the SLO.", (*named, "slo")
        )
        self.outcomes: dict[Outcome, Counter] = {
            outcome: queries.of(*labels, outcome) for outcome in OUTCOMES
        }
        self.seconds: Histogram = instruments.histogram(
            "tidemill_query_seconds", "Seconds from a query's arrival to its answer.", named
        ).of(*labels)
        stages = instruments.histogram(
            "tidemill_stage_seconds",
            "Seconds of a query by stage.",
            (*named, "stage"),
            bounds=STAGE_BUCKETS_S,
        )
        self.stages = {stage: stages.of(*labels, stage) for stage in STAGES}
        self.coalesced: Counter = instruments.counter(
            "tidemill_coalesced", "Queries that waited for the answer to an equal one.", named
        ).of(*labels)
        self.stale: Counter = instruments.counter(
            "tidemill_table_stale", "Queries that found their table too old to answer.", named
        ).of(*labels)
        self.table_failures: Counter = instruments.counter(
            "tidemill_table_failures",
            "Lookups that a table on another host did not answer.",
            named,
        ).of(*labels)
        self.rows: Histogram = instruments.histogram(
            "tidemill_batch_rows", "Rows in a batch.", named, bounds=BATCH_BUCKETS
        ).of(*labels)
        self.hedges: Counter = instruments.counter(
            "tidemill_hedged_batches",
            "Batches that were overdue, and asked of another replica, too.",
            named,
        ).of(*labels)
        self.failures: Histogram = instruments.histogram(
            "tidemill_error_seconds", "Seconds from a query's arrival to its error.", named
        ).of(*labels)
        self.landed_at: float | None = None
        self.batches: dict[int, list[int]] = {}
        self.batches_rows = 0
        self._before = self._spent()

    def tally(self, *, caches: bool, now: float, monotonic: float) -> Tally:
        """Returns what was counted since this version was loaded.

        Args:
            caches: whether it has a cache.
            now: seconds since the epoch.
            monotonic: the same moment on the clock of queries.
        """
        before = self._before
        total, fail, queue, compute, hits = (
            (count - before[at][0], ns - before[at][1])
            for at, (count, ns) in enumerate(self._spent())
        )
        last = 0.0 if self.landed_at is None else now - (monotonic - self.landed_at)
        return Tally(
            application=self.application,
            version=self.version,
            last_ms=int(last * 1000),
            success=(total[0] - fail[0], total[1] - fail[1]),
            fail=fail,
            queue=queue,
            compute=compute,
            cache_hit=hits,
            cache_miss=(queue[0] if caches else 0, 0),
            batches={rows: (count, ns) for rows, (count, ns) in self.batches.items()},
            rows=self.batches_rows,
        )

    def _spent(self) -> list[Spent]:
        stages = self.stages
        counted = (
            self.seconds,
            self.failures,
            *map(stages.__getitem__, ("queue", "compute", "cache")),
        )
        return [(sum(each.counts), int(each.total * 1e9)) for each in counted]

    def sent(self, flight: Flight, waited_s: float) -> None:
        """Counts a batch that goes to a replica; its queries waited so long together."""
        self.rows.observe(flight.rows)
        self.stages["queue"].observe_many(waited_s / flight.count, flight.count)

    def landed(self, flight: Flight, now: float) -> None:
        """Counts a batch that came back."""
        took_s = now - flight.started
        self.stages["compute"].observe_many(took_s, flight.count)
        self.landed_at = now
        self.batches_rows += flight.rows
        spent = self.batches.get(flight.rows) or self._of_size(flight.rows)
        spent[0] += 1
        spent[1] += int(took_s * 1e9)

    def hedged(self, flight: Flight) -> None:
        """Counts a batch that is asked of another replica, too."""
        del flight
        self.hedges.value += 1

    def _of_size(self, rows: int) -> list[int]:
        return self.batches.setdefault(rows if len(self.batches) < MAX_SIZES else 0, [0, 0])


class Measures:
    """The numbers of one application, by version."""

    def __init__(self, instruments: Instruments, application: str) -> None:
        self._instruments = instruments
        self._application = application
        self._versions: dict[int, VersionMeasures] = {}
        named = ("application", "version", "kind")
        self._errors = instruments.counter(
            "tidemill_errors", "Queries ended as an error, by kind.", named
        )
        self._defaults = instruments.counter(
            "tidemill_defaults",
            "Queries answered with the stated default, by the error it stands for.",
            named,
        )

    def of(self, version: int) -> VersionMeasures:
        """Returns the numbers of a version."""
        found = self._versions.get(version)
        if found is None:
            found = VersionMeasures(self._instruments, self._application, version)
            self._versions[version] = found
        return found

    def ended(self, query: Query, now: float) -> None:
        """Counts one query that ended."""
        of = self._versions.get(query.version) or self.of(query.version)
        of.seconds.observe(now - query.arrived)
        if query.error is not None:
            of.outcomes[outcome_of(query.error, refused=query.refused)].value += 1
            of.failures.observe(now - query.arrived)
            kind = type(query.error).__name__
            self._errors.of(self._application, str(query.version), kind).value += 1
            return
        if query.row_sources is not None:
            for source in query.row_sources:
                of.answers[source].value += 1
        else:
            source = query.source
            of.answers[source].value += query.n
            if source == "default":
                return  # ``defaulted`` has counted what it stands for
        of.outcomes["met" if now <= query.deadline else "missed"].value += 1

    def answered(
        self, version: int, source: str, arrived: Sequence[float], slo_s: float, now: float
    ) -> None:
        """Counts queries of one row that were answered from one source, each by its arrival."""
        of = self._versions.get(version) or self.of(version)
        of.answers[source].value += len(arrived)
        late = 0
        if now > of.seconds.observe_since(arrived, now) + slo_s:
            late = sum([now > each + slo_s for each in arrived])
            of.outcomes["missed"].value += late
        of.outcomes["met"].value += len(arrived) - late

    def refused(self, version: int, error: TidemillError, waited_s: float, times: int) -> None:
        """Counts queries that were refused before they were read, after they waited so long."""
        of = self.of(version)
        of.seconds.observe_many(waited_s, times)
        of.failures.observe_many(waited_s, times)
        of.outcomes["refused"].value += times
        self._errors.of(self._application, str(version), type(error).__name__).value += times

    def defaulted(self, query: Query, error: TidemillError, now: float) -> None:
        """Counts a default that stands in for an error of the version that the query still has."""
        of = self.of(query.version)
        of.outcomes["defaulted"].value += 1
        of.stages["default"].observe(now - query.arrived)
        kind = type(error).__name__
        self._defaults.of(self._application, str(query.version), kind).value += 1


def outcome_of(error: TidemillError, *, refused: bool) -> Outcome:
    """Says what an error is to the SLO.

    ``refused``: the query was told on arrival that its promise cannot be kept. ``missed``: it was
    taken, and the promise was broken. ``failed``: it or the model is wrong; no promise was made.
    """
    if not isinstance(error, _PROMISE):
        return "failed"
    return "refused" if refused else "missed"
