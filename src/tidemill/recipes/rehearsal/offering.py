"""Offers queries in an open loop: each leaves when it is due, whatever became of others.

A latency counts from the moment when the query was due, so that neither a server nor this client is
excused for falling behind. Clients keep their connections: some are open before the first query.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httptools
import numpy as np

from tidemill.foundation.clock import SYSTEM_CLOCK
from tidemill.foundation.errors import WorkerLost
from tidemill.models.signature import Array

MAX_CONNECTIONS = 256
"""Each query that is out has a connection of its own; beyond, queries wait for one."""

READY_CONNECTIONS = 8
"""So many are open before the first query, as those of clients that ask all day."""

WAITS_S = 10.0
"""What is out at the end is waited for so long; then it counts as failed."""

_SOURCE = b'"source":"'
_SETTLES_S = 0.05


@dataclass
class Offered:
    """What became of the queries.

    Attributes:
        taken_s: latency of each query, (queries,), NaN for one that failed.
        sources: how many were answered by the table, the cache, the model, the default.
        failures: what the failed ones were told, by number.
        seconds: from the first query to the last answer.
    """

    taken_s: Array
    sources: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """How many queries got no answer."""
        return sum(self.failures.values())


def offer(
    port: int,
    requests: Sequence[bytes],
    due_s: Array,
    *,
    begins: Callable[[], None] = lambda: None,
) -> Offered:
    """Sends each request when it is due and returns what became of all of them.

    Args:
        port: of a server on this machine.
        requests: whole HTTP/1.1 requests.
        due_s: when each is sent, in seconds from now, rising; (requests,).
        begins: called when connections are open, just before the first second passes.

    Raises:
        WorkerLost: the server does not listen.
    """
    offered = Offered(np.full(len(requests), np.nan))
    if not len(requests):
        return offered
    loop = _Loop(port, requests, due_s.tolist(), offered)
    was_on = gc.isenabled()
    gc.disable()  # nothing is collected first: where much is alive, that takes seconds
    try:
        loop.open()
        begins()
        loop.run()
    except ConnectionRefusedError as error:
        raise WorkerLost(
            f"nobody listens on port {port} any more", remedy="See the server's log."
        ) from error
    finally:
        if was_on:
            gc.enable()
        loop.close()
    return offered


class _Connection:
    """One kept connection; it parses one answer at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAITS_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.query = -1
        self.body = b""
        self.complete = False
        self._parser: Any = httptools.HttpResponseParser(self)

    def fileno(self) -> int:
        return self.socket.fileno()

    def ask(self, query: int, request: bytes) -> None:
        self.query, self.body, self.complete = query, b"", False
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Reads what has come; False if the server has closed."""
        data = self.socket.recv(1 << 18)
        if not data:
            return False
        self._parser.feed_data(data)
        return True

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True

    @property
    def status(self) -> int:
        return int(self._parser.get_status_code())


class _Loop:
    def __init__(
        self, port: int, requests: Sequence[bytes], due_s: list[float], offered: Offered
    ) -> None:
        self._port = port
        self._requests = requests
        self._due_s = due_s
        self._offered = offered
        self._idle: list[_Connection] = []
        self._busy: list[_Connection] = []

    def open(self) -> None:
        """Connects as many as are ready from the start, and lets the server take them in."""
        opened = [_Connection(self._port) for _ in self._requests[:READY_CONNECTIONS]]
        self._idle += reversed(opened)  # the last is used first
        time.sleep(_SETTLES_S)

    def run(self) -> None:
        now = SYSTEM_CLOCK.monotonic
        start, at, count = now(), 0, len(self._requests)
        while at < count or self._busy:
            passed = now() - start
            while at < count and self._due_s[at] <= passed:
                connection = self._free()
                if connection is None:
                    break
                connection.ask(at, self._requests[at])
                self._busy.append(connection)
                at += 1
            if at == count and passed > self._due_s[-1] + WAITS_S:
                self._give_up(count)
                break
            wait_s = WAITS_S if at == count or not self._may_open() else self._due_s[at] - passed
            ready, _, _ = select.select(self._busy, (), (), max(0.0, wait_s))
            for connection in ready:
                self._receive(connection, start)
        self._offered.seconds = now() - start

    def close(self) -> None:
        for connection in (*self._idle, *self._busy):
            connection.socket.close()

    def _may_open(self) -> bool:
        return bool(self._idle) or len(self._busy) < MAX_CONNECTIONS

    def _free(self) -> _Connection | None:
        if self._idle:
            return self._idle.pop()
        return _Connection(self._port) if self._may_open() else None

    def _receive(self, connection: _Connection, start: float) -> None:
        try:
            alive = connection.receive()
        except (OSError, httptools.HttpParserError):
            alive = False
        if not alive:
            self._busy.remove(connection)
            connection.socket.close()
            self._fail("the connection was closed")
        elif connection.complete:
            self._busy.remove(connection)
            self._idle.append(connection)
            self._count(connection, SYSTEM_CLOCK.monotonic() - start)

    def _count(self, connection: _Connection, passed: float) -> None:
        if connection.status != 200:
            said = connection.body[:200].decode(errors="replace")
            self._fail(f"{connection.status}: {said}")
            return
        self._offered.taken_s[connection.query] = passed - self._due_s[connection.query]
        _, _, after = connection.body.partition(_SOURCE)
        source = after.partition(b'"')[0].decode(errors="replace")
        self._offered.sources[source] = self._offered.sources.get(source, 0) + 1

    def _fail(self, why: str) -> None:
        self._offered.failures[why] = self._offered.failures.get(why, 0) + 1

    def _give_up(self, count: int) -> None:
        known = self._offered.failed + sum(self._offered.sources.values())
        self._offered.failures["no answer came"] = count - known
