"""The HTTP/1.1 edge: what its connections share, and their end in time.

A connection looks after itself (``serving/connection.py``); the edge knows all of them: how many
there are, what they hold together, which heads came before, and when all must come to an end.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import ceil

from tidemill.foundation.clock import SYSTEM_CLOCK, Clock
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.logs import log
from tidemill.serving.connection import Connection
from tidemill.serving.cors import Cors
from tidemill.serving.exchange import Routes
from tidemill.serving.guard import Guard
from tidemill.serving.hosts import Hosts
from tidemill.serving.limits import Limits
from tidemill.serving.pace import Pace
from tidemill.serving.shared import Shared

CODERS = 2
"""Threads that fold and unfold large bodies."""

SWEPT_AT_ONCE = 256
"""Connections whose time is looked at in one go: under a millisecond."""

SWEEP_S = 1.0
"""How often the time of each connection is looked at."""

LAST_REQUEST_S = 0.3
"""How long a kept connection may send one more request once the edge is draining."""


class Edge(Shared):
    """Serves HTTP connections with handlers found by ``routes``.

    Args:
        routes: finds who serves a request.
        limits: what clients may do.
        clock: measures their time.
        instruments: count what is refused before it becomes a query.
        guard: lets clients in by their keys; without one, everybody.
        cors: knows which web pages of other origins may ask; without it, none.
        hosts: knows by which names the server may be asked where no key is; without it, by any.
        pace: tells when what is read arrived; without one, it arrives when it is read.

    ``protocol`` is the factory for ``loop.create_server``; ``start`` begins watching the time;
    ``drain`` lets requests end.
    """

    def __init__(
        self,
        routes: Routes,
        limits: Limits,
        clock: Clock = SYSTEM_CLOCK,
        instruments: Instruments | None = None,
        guard: Guard | None = None,
        *,
        cors: Cors | None = None,
        hosts: Hosts | None = None,
        pace: Pace | None = None,
    ) -> None:
        refused = (instruments or Instruments()).counter(
            "tidemill_refused", "Requests refused before they became a query.", ("kind",)
        )
        super().__init__(
            routes=routes,
            limits=limits,
            clock=clock,
            guard=guard,
            cors=cors,
            hosts=hosts,
            pace=pace,
            refused=refused,
            coders=ThreadPoolExecutor(CODERS, "serving.edge"),
            log=log("serving.edge"),
        )
        self._sweeper: asyncio.TimerHandle | None = None

    def protocol(self) -> asyncio.Protocol:
        """Makes the protocol of a new connection."""
        return Connection(self)

    def start(self) -> None:
        """Begins to close connections that are idle or too slow."""
        self._sweep()

    def _sweep(self) -> None:
        """Looks at some connections, those first that were not looked at for longest.

        All have their turn within ``SWEEP_S``, in slices that hold up nobody.
        """
        slices = max(1, ceil(len(self.connections) / SWEPT_AT_ONCE))
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S / slices, self._sweep)
        now = self.clock.monotonic()
        if self.guard is not None:
            self.guard.sweep()
        for connection in list(islice(self.connections, ceil(len(self.connections) / slices))):
            self.connections.move_to_end(connection)
            connection.check_time(now)

    async def drain(self, timeout_s: float) -> None:
        """Ends every connection as soon as its requests are answered, for at most so long."""
        self.draining = True
        now = self.clock.monotonic()
        for connection in list(self.connections):
            if connection.owes:
                connection.close_when_idle()
        # A kept connection may have a request on its way: its answer is told to be the last one.
        await self._emptied(now + min(LAST_REQUEST_S, timeout_s))
        for connection in list(self.connections):
            connection.close_when_idle()
        await self._emptied(now + timeout_s)
        for connection in list(self.connections):
            connection.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.coders.shutdown(wait=False, cancel_futures=True)

    async def _emptied(self, until: float) -> None:
        """Waits until no connection is left, or until then."""
        while self.connections and self.clock.monotonic() < until:  # noqa: ASYNC110 - bounded
            await asyncio.sleep(0.01)
