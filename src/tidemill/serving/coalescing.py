"""Equal queries in flight: the first one leads, and its answer is the answer to all of them."""

from __future__ import annotations

from collections.abc import Sequence

from tidemill.serving.query import Query

MAX_FOLLOWERS = 1024
"""Queries that may wait for one leader; the next one asks for itself."""


class Coalescing:
    """The queries of one version that are out, by their whole input as bytes.

    Whoever follows ends with the leader, at the leader's deadline at the latest; nobody follows a
    leader that may take longer than its own deadline allows.

    Args:
        folds: queries that are equal here may differ, as their representations do not.

    Example:
        >>> def asked(deadline):
        ...     query = Query(inputs={}, n=1, arrived=0.0, deadline=deadline, done=print)
        ...     query.cache_key = b"k"
        ...     return query
        >>> out, leader = Coalescing(), asked(2.0)
        >>> out.follow(leader), out.follow(asked(2.5)), out.follow(asked(1.0))
        (False, True, False)
        >>> len(out.release(leader)), len(out.release(leader))
        (1, 0)
    """

    def __init__(self, *, folds: bool = False) -> None:
        self.folds = folds
        self._leaders: dict[bytes, Query] = {}
        self._followers: dict[bytes, list[Query]] = {}

    def follow(self, query: Query) -> bool:
        """Has the query wait for an equal one that is out; if there is none, it leads.

        Returns:
            Whether it follows. If not, the caller sends it, and calls ``release`` at its end.
        """
        key = query.cache_key
        assert key is not None
        leader = self._leaders.get(key)
        if leader is None:
            self._leaders[key] = query
            return False
        followers = self._followers.setdefault(key, [])
        if leader.deadline > query.deadline or len(followers) >= MAX_FOLLOWERS:
            return False
        if not self.folds:
            query.asked = leader.asked  # equal: one copy is enough while they wait
        followers.append(query)
        return True

    def release(self, query: Query) -> Sequence[Query]:
        """Returns who follows a query that has ended; it leads no more."""
        key = query.cache_key
        if key is None or self._leaders.get(key) is not query:
            return ()
        del self._leaders[key]
        return self._followers.pop(key, ()) if self._followers else ()
