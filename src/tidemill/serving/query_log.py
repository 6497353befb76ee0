"""One log line for a query: who asked what of whom and how long it took; never what was in it."""

from __future__ import annotations

from typing import Any

from tidemill.foundation.instruments import Instruments
from tidemill.foundation.logs import log
from tidemill.foundation.settings import LogSettings
from tidemill.serving.measures import outcome_of
from tidemill.serving.query import Query


class QueryLog:
    """Writes lines for the queries that the settings name, and at most so many a second.

    Args:
        settings: which queries, and how many lines.
        instruments: count the lines that were not written.
    """

    def __init__(self, settings: LogSettings, instruments: Instruments) -> None:
        self._all = settings.queries == "all"
        self._slow_s = settings.slow_ms / 1000.0
        self._per_s = settings.queries_per_s
        self._allowed = float(settings.queries_per_s)
        self._refilled = float("-inf")
        self._suppressed = instruments.counter(
            "tidemill_query_logs_suppressed", "Lines on queries that were over the limit."
        ).of()
        self._log = log("serving.queries")
        self.every = settings.queries in {"slow", "all"}

    def ended(self, query: Query, now: float) -> None:
        """Writes the query's line, if it is to have one."""
        failed = query.error is not None
        if not (failed or self._all or now - query.arrived > self._slow_s):
            return
        if not self._takes(now):
            self._suppressed.value += 1
            return
        if failed:
            self._log.warning("query.failed", **line(query, now))
        else:
            self._log.info("query.answered", **line(query, now))

    def wants(self, now: float) -> bool:
        """Says whether it has room for one more line; what it does not want is counted."""
        if self._allowed + (now - self._refilled) * self._per_s >= 1.0:
            return True
        self._suppressed.value += 1
        return False

    def _takes(self, now: float) -> bool:
        """Says whether one more line may be written; unused ones are saved for one second."""
        gained = (now - self._refilled) * self._per_s
        self._allowed = min(self._allowed + gained, float(self._per_s))
        self._refilled = now
        if self._allowed < 1.0:
            return False
        self._allowed -= 1.0
        return True


def line(query: Query, now: float) -> dict[str, Any]:
    """Returns what is said of a query: names, numbers and kinds, no word of its input."""
    said: dict[str, Any] = {
        "prediction_id": query.request_id,
        "application": query.state.name,
        "version": query.version,
        "rows": query.n,
        "ms": _ms(now - query.arrived),
    }
    if query.error is None:
        said["source"] = query.source if query.row_sources is None else "mixed"
    else:
        said["error"] = type(query.error).__name__
        said["slo"] = outcome_of(query.error, refused=query.refused)
    notes = query.notes
    if notes is not None:
        said["queue_ms"] = _ms(notes.sent - query.arrived)
        said["compute_ms"] = _ms((notes.returned or now) - notes.sent)
        said["batch_rows"] = notes.rows
        said["replica"] = notes.replica
    return said


def _ms(seconds: float) -> float:
    return round(seconds * 1000.0, 3)
