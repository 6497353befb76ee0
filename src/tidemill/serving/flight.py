"""A batch that is out, and what is noted of it for those who watch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final, Protocol

from tidemill.models.signature import Batch
from tidemill.serving.query import Answers, Notes, Query
from tidemill.serving.replicas.replica import Replica

_numbers = itertools.count(1)
_NEVER: Final = float("inf")


class Together(Protocol):
    """Rows that clients have asked for in one turn, each by a query of its own, if one is made.

    They go as one batch; where that could end otherwise than each alone, each goes its own way.
    """

    @property
    def arrived(self) -> Sequence[float]:
        """When each arrived, on the monotonic clock."""

    @property
    def deadline(self) -> float:
        """The earliest of theirs."""

    @property
    def nbytes(self) -> int:
        """The bytes of their requests."""

    def inputs(self) -> Batch | None:
        """Returns all rows as one batch, in their order; None where each needs a closer look."""

    def apart(self) -> Sequence[Query]:
        """Returns each as a query; who is refused at once was told, and is not among them."""

    def answered(self, answers: Answers) -> None:
        """Takes the answers, one for each row."""


class Gathering(Protocol):
    """Rows that wait to go together, while more are added."""

    @property
    def arrived(self) -> Sequence[float]:
        """When each arrived, on the monotonic clock."""

    @property
    def first(self) -> float:
        """When the first of them arrived."""

    @property
    def earliest(self) -> float:
        """The deadline of the first of them, which is the earliest."""

    def take(self, rows: int) -> Together:
        """Returns so many of them, from the first on, which wait no more."""


class Flight:
    """Who is in a batch, which replica has it, since when.

    Either ``queries``, or ``together``, of which there are no queries yet.
    """

    __slots__ = (
        "count",
        "inputs",
        "notes",
        "overdue",
        "queries",
        "replica",
        "rows",
        "started",
        "together",
    )

    def __init__(
        self,
        queries: Sequence[Query],
        rows: int,
        replica: Replica,
        started: float,
        together: Together | None = None,
    ) -> None:
        self.queries = queries
        self.together = together
        self.count = len(queries) if together is None else rows
        self.rows = rows
        self.replica = replica
        self.started = started
        self.inputs: Batch = {}
        self.notes: Notes | None = None
        self.overdue = False

    @property
    def earliest(self) -> float:
        """The earliest deadline of those that it has not ended for; infinity if of none."""
        if self.together is not None:
            return self.together.deadline
        return min([each.deadline for each in self.queries if not each.ended], default=_NEVER)

    def part(self) -> None:
        """Makes a query of each row that went together with others."""
        if self.together is not None:
            self.queries, self.together = self.together.apart(), None

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
