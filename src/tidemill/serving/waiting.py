"""Queries that wait for a replica, in the order in which they go."""

from __future__ import annotations

from bisect import insort

from tidemill.serving.flight import Gathering, Together
from tidemill.serving.query import DEFAULT_PRIORITY, Query


def _deadline(query: Query) -> float:
    return query.deadline


def _rank(query: Query) -> tuple[int, float]:
    return query.priority, query.deadline


class Waiting:
    """Who has a higher priority goes first; of one priority, who must be answered earliest.

    ``queries`` are those that wait, in this order. ``rows`` and ``nbytes`` are of all that waits.
    ``ranked``: until the queue is empty again, not all have had one priority. ``ranks``: at some
    time, not all had. ``joined``, if anything, are rows that wait before all queries, to go
    together: so many as ``joined_rows``, with ``joined_until`` as their latest deadline.
    """

    __slots__ = (
        "joined",
        "joined_rows",
        "joined_until",
        "nbytes",
        "queries",
        "ranked",
        "ranks",
        "rows",
    )

    def __init__(self) -> None:
        self.queries: list[Query] = []
        self.rows = 0
        self.nbytes = 0
        self.ranked = False
        self.ranks = False
        self.joined: Gathering | None = None
        self.joined_rows = 0
        self.joined_until = 0.0

    def append(self, query: Query) -> None:
        """Has a query wait behind all others, where it belongs."""
        self.queries.append(query)
        self.rows += query.n
        self.nbytes += query.nbytes

    def put(self, query: Query) -> None:
        """Has a query wait where it belongs."""
        queries = self.queries
        if query.priority != DEFAULT_PRIORITY and not self.ranked:
            self.ranks = self.ranked = True
        if self.ranked:
            insort(queries, query, key=_rank)
        elif not queries or queries[-1].deadline <= query.deadline:
            queries.append(query)
        else:
            insort(queries, query, key=_deadline)
        self.rows += query.n
        self.nbytes += query.nbytes

    def must_part(self, query: Query, most: int) -> bool:
        """Says whether a query cannot wait behind the rows that go together.

        It can where those are a batch by themselves, and go before it in any case.
        """
        return (
            (not self.queries and self.rows < most)
            or query.priority != DEFAULT_PRIORITY
            or query.deadline < self.joined_until
        )

    def join(self, rows: Gathering, nbytes: int, until: float) -> None:
        """Counts one more row among those that go together."""
        self.joined, self.joined_until = rows, until
        self.joined_rows += 1
        self.rows += 1
        self.nbytes += nbytes

    def take_joined(self, rows: int) -> Together:
        """Returns so many of the rows that go together, which wait no more."""
        assert self.joined is not None
        taken = self.joined.take(rows)
        count = len(taken.arrived)
        self.joined_rows -= count
        self.rows -= count
        self.nbytes -= taken.nbytes
        if not self.joined_rows:
            self.joined = None
        return taken

    def part(self, rows: Together | None = None) -> None:
        """Has each row wait as a query that would have gone together with others."""
        rest = () if self.joined is None else self.take_joined(self.joined_rows).apart()
        for query in (*(() if rows is None else rows.apart()), *rest):
            self.put(query)

    def take(self, count: int) -> list[Query]:
        """Returns so many from the head, which wait no more."""
        taken = self.queries[:count]
        del self.queries[:count]
        if not self.queries:
            self.ranked = False
        for query in taken:
            self.rows -= query.n
            self.nbytes -= query.nbytes
        return taken

    def take_late(self, now: float) -> list[Query]:
        """Takes those whose deadline has passed."""
        queries = self.queries
        if self.ranked:  # not in order of deadline: they are brought to the head first
            queries.sort(key=lambda query: query.deadline > now)
        late = 0
        while late < len(queries) and queries[late].deadline <= now:
            late += 1
        return self.take(late)

    def drop_ended(self) -> None:
        """Takes out what was answered after all."""
        ended = sum([query.ended for query in self.queries])
        if ended:
            self.queries.sort(key=lambda query: not query.ended)  # the others keep their order
            self.take(ended)

    def rows_before(self, priority: int) -> int:
        """Returns how many rows go before a query of that priority, or with it."""
        if not self.ranked and priority == DEFAULT_PRIORITY:
            return self.rows
        return sum([each.n for each in self.queries if each.priority <= priority])

    @property
    def earliest(self) -> float:
        """The earliest deadline; infinity where nobody waits."""
        if self.joined is not None:
            return self.joined.earliest  # no query behind them has an earlier one
        if self.ranked:
            return min([query.deadline for query in self.queries])
        return self.queries[0].deadline if self.queries else float("inf")
