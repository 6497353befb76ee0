"""Who watches single queries: traces and the query log. Without either, a query is only counted."""

from __future__ import annotations

from typing import Protocol

from tidemill.serving.query import Query


class QueryWatch(Protocol):
    """Told of queries after their clients were; those that failed always, the rest if asked for."""

    every: bool
    """Whether it wants each query, and batches noted; else only those that failed."""

    def ended(self, query: Query, now: float) -> None:
        """Takes note of a query that ended; costs little and waits for nothing."""

    def wants(self, now: float) -> bool:
        """Says whether it would take note of one more that failed; if not, it is told of none."""


class Watches:
    """Several watches as one."""

    def __init__(self, *watches: QueryWatch) -> None:
        self._watches = watches
        self.every = any(watch.every for watch in watches)

    def ended(self, query: Query, now: float) -> None:
        """Tells each watch that wants it."""
        for watch in self._watches:
            if watch.every or query.error is not None:
                watch.ended(query, now)

    def wants(self, now: float) -> bool:
        """Says whether any of them does."""
        return any([watch.wants(now) for watch in self._watches])  # noqa: C419 - each counts
