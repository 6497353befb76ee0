"""A batch that is out, and what is noted of it for those who watch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

from tidemill.models.signature import Batch
from tidemill.serving.query import Notes, Query
from tidemill.serving.replicas.replica import Replica

_numbers = itertools.count(1)


class Flight:
    """Who is in a batch, which replica has it, since when."""

    __slots__ = ("inputs", "notes", "overdue", "queries", "replica", "rows", "started")

    def __init__(
        self, queries: Sequence[Query], rows: int, replica: Replica, started: float
    ) -> None:
        self.queries = queries
        self.rows = rows
        self.replica = replica
        self.started = started
        self.inputs: Batch = {}
        self.notes: Notes | None = None
        self.overdue = False

    def note(self) -> Notes:
        """Notes for each query that it was in this batch; the notes know of no query."""
        if self.notes is None:
            self.notes = Notes(
                batch=next(_numbers),
                rows=self.rows,
                replica=self.replica.name,
                sent=self.started,
            )
            for query in self.queries:
                query.notes = self.notes
        return self.notes


class BatchObserver(Protocol):
    """Told of each batch, once for all queries in it."""

    def sent(self, flight: Flight, waited_s: float) -> None:
        """Counts a batch that goes out; ``waited_s`` is the sum of its queries' waits."""

    def landed(self, flight: Flight, now: float) -> None:
        """Counts a batch that came back with answers."""

    def hedged(self, flight: Flight) -> None:
        """Counts a batch whose queries are asked of another replica, too: it is overdue."""


class NotedBatches:
    """Notes each batch, then tells another observer."""

    def __init__(self, inner: BatchObserver) -> None:
        self._inner = inner

    def sent(self, flight: Flight, waited_s: float) -> None:
        """Notes where the batch went, and when."""
        flight.note()
        self._inner.sent(flight, waited_s)

    def landed(self, flight: Flight, now: float) -> None:
        """Notes when the batch came back."""
        flight.note().returned = now
        self._inner.landed(flight, now)

    def hedged(self, flight: Flight) -> None:
        """Tells the other observer; the batch is noted already."""
        self._inner.hedged(flight)
