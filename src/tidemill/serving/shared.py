"""What the connections of one edge have in common."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Executor
from typing import Any

from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import Overloaded
from tidemill.foundation.instruments import Counter, Family
from tidemill.serving.cors import Cors
from tidemill.serving.exchange import Head, Load, Routes, cut_query
from tidemill.serving.guard import Guard
from tidemill.serving.hosts import Hosts
from tidemill.serving.limits import Limits
from tidemill.serving.pace import Pace

MAX_REMEMBERED_HEADS = 2048
"""Request heads that are known again when the same bytes come."""


class Shared:
    """What each connection of an edge looks at for every request; see ``Edge``.

    Args:
        routes: finds who serves a request.
        limits: what clients may do.
        clock: measures their time.
        guard: lets clients in by their keys.
        cors: knows which web pages of other origins may ask.
        hosts: knows by which names the server may be asked where no key is.
        pace: tells when what is read arrived; without one, it arrives when it is read.
        refused: counts what is refused before it becomes a query.
        coders: fold and unfold large bodies.
        log: takes what nobody foresaw.
    """

    def __init__(
        self,
        *,
        routes: Routes,
        limits: Limits,
        clock: Clock,
        guard: Guard | None,
        cors: Cors | None,
        hosts: Hosts | None,
        pace: Pace | None,
        refused: Family[Counter],
        coders: Executor,
        log: Any,
    ) -> None:
        self.routes = routes
        self.limits = limits
        self.max_held_bytes = limits.max_held_bytes
        self.clock = clock
        self.guard = guard
        self.cors = cors
        self.hosts = hosts
        self.pace = pace
        self.refused = refused
        self.coders = coders
        self.log = log
        self.load = Load()
        self.connections: OrderedDict[Any, None] = OrderedDict()
        self.heads: dict[bytes, tuple[Head, int]] = {}
        self.draining = False

    def arrival(self) -> float:
        """Tells when what is read now arrived."""
        pace = self.pace
        return self.clock.monotonic() if pace is None else pace.arrival()

    def too_much(self) -> Overloaded:
        """Returns the error of a request that would have all of them hold too much."""
        return Overloaded(
            f"the gateway holds {self.load.nbytes} bytes of requests, with {self.max_held_bytes} "
            "allowed",
            remedy="Retry in a moment, or raise serve.max_held_bytes.",
        )

    def remember(self, head_bytes: bytes, head: Head, body_bytes: int) -> None:
        """Keeps what the parser made of a whole head whose body is framed by its length.

        Parsing depends on nothing but the bytes, so the next head of the same bytes says the same;
        one with another query says the same but for that.
        """
        if head.traceparent:
            return  # it is another one each time
        head_bytes, query = cut_query(head_bytes)
        if query:
            head = head.without_query()
        if len(self.heads) >= MAX_REMEMBERED_HEADS:
            self.heads.clear()  # somebody sends ever new ones; the others come back
        self.heads[head_bytes] = (head, body_bytes)
