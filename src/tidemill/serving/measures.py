"""What is counted of every query: plain integers here, merged and rendered when somebody asks."""

from __future__ import annotations

from tidemill.foundation.errors import TidemillError
from tidemill.foundation.instruments import Instruments
from tidemill.serving.query import Query

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

SOURCES = ("table", "cache", "model", "default")


class Measures:
    """The counters of one application, held by handle so that counting is an addition."""

    def __init__(self, instruments: Instruments, application: str) -> None:
        answers = instruments.counter(
            "tidemill_answers", "Rows answered, by source.", ("application", "source")
        )
        self._answers = {source: answers.of(application, source) for source in SOURCES}
        self._queries = instruments.counter(
            "tidemill_queries", "Queries that ended.", ("application",)
        ).of(application)
        self._late = instruments.counter(
            "tidemill_slo_missed", "Queries that ended after their SLO.", ("application",)
        ).of(application)
        self._errors = instruments.counter(
            "tidemill_errors", "Queries ended as an error, by kind.", ("application", "kind")
        )
        self._defaults = instruments.counter(
            "tidemill_defaults",
            "Queries answered with the stated default, by the error it stands for.",
            ("application", "kind"),
        )
        self._latency = instruments.histogram(
            "tidemill_query_seconds",
            "Seconds from a query's arrival to its answer.",
            ("application",),
        ).of(application)
        self._application = application

    def ended(self, query: Query, now: float) -> None:
        """Counts one query that ended."""
        self._queries.value += 1
        self._latency.observe(now - query.arrived)
        if now > query.deadline:
            self._late.value += 1
        if query.error is not None:
            self._errors.of(self._application, type(query.error).__name__).value += 1
        elif query.row_sources is None:
            self._answers[query.source].value += query.n
        else:
            for source in query.row_sources:
                self._answers[source].value += 1

    def defaulted(self, error: TidemillError) -> None:
        """Counts a default that stood in for an error."""
        self._defaults.of(self._application, type(error).__name__).value += 1
