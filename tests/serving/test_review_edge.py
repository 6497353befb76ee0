"""The edge against clients that go on after they were refused, do not read, or send crumbs."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import ModelFailed
from tidemill.serving.connection import Connection
from tidemill.serving.edge import SWEPT_AT_ONCE, Edge
from tidemill.serving.exchange import Exchange
from tidemill.serving.limits import Limits

LIMITS = Limits(max_header_bytes=2048, max_body_bytes=4096)


class Handlers:
    """``/later`` waits for ``release``, ``/odd`` fails with text that has no UTF-8."""

    def __init__(self) -> None:
        self.waiting: list[Exchange] = []
        self.bodies: list[bytes] = []

    def find(self, method: bytes, target: bytes) -> Callable[[Exchange], None]:
        return {b"/later": self.waiting.append, b"/odd": self.odd}.get(target, self.now)

    def now(self, exchange: Exchange) -> None:
        self.bodies.append(exchange.body)
        exchange.answer(b"{}")

    def odd(self, exchange: Exchange) -> None:
        exchange.fail(ModelFailed("it said \ud800"))


@asynccontextmanager
async def served() -> AsyncIterator[tuple[int, Handlers, Edge]]:
    handlers = Handlers()
    edge = Edge(handlers, LIMITS)
    server = await asyncio.get_running_loop().create_server(edge.protocol, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], handlers, edge
    finally:
        server.close()
        await edge.drain(0.0)
        await server.wait_closed()


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def test_the_rest_of_a_refused_request_is_no_request() -> None:
    """While an earlier answer is due, a refused body is dropped, whatever it looks like."""

    async def main() -> None:
        async with served() as (port, handlers, edge):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /later HTTP/1.1\r\nhost: x\r\n\r\n")
            writer.write(b"POST /now HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n")
            async with asyncio.timeout(5):
                while not edge.refused.of("http_413").value:
                    await asyncio.sleep(0.01)
            for _ in range(20):
                writer.write(b"POST /now HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
                await asyncio.sleep(0.005)
            for exchange in handlers.waiting:
                exchange.answer(b"{}")
            async with asyncio.timeout(5):
                got = await reader.read()
            assert got.count(b"HTTP/1.1") == 2
            assert got.index(b" 200 OK") < got.index(b" 413 ")
            assert edge.refused.of("http_413").value == 1
            assert handlers.bodies == []
            writer.close()

    run(main())


def test_a_slow_request_behind_a_waiting_one_is_refused_once() -> None:
    """Each look at the clock does not add another refusal."""
    clock = FakeClock(at=100.0)
    handlers = Handlers()
    edge = Edge(handlers, LIMITS, clock)
    connection: Any = edge.protocol()
    transport = Transport()
    connection.connection_made(transport)
    connection.data_received(b"GET /later HTTP/1.1\r\nhost: x\r\n\r\nGET /sl")
    for _ in range(10):
        clock.advance(60.0)
        connection.check_time(clock.monotonic())
    handlers.waiting[0].answer(b"{}")
    assert transport.written.count(b"HTTP/1.1 408") == 1
    assert edge.refused.of("http_408").value == 1


class Transport:
    """A client that reads nothing: what is closed stays open until it is aborted."""

    def __init__(self) -> None:
        self.written = b""
        self.aborted = False

    def get_extra_info(self, name: str) -> Any:
        """There is no socket behind it."""

    def write(self, data: bytes) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Waits for the client, who never reads."""

    def close(self) -> None:
        """The same."""

    def abort(self) -> None:
        self.aborted = True


def test_who_does_not_take_the_last_answer_is_cut_off() -> None:
    """A closed connection that cannot get rid of its last bytes keeps its place only so long."""
    clock = FakeClock(at=100.0)
    edge = Edge(Handlers(), LIMITS, clock)
    for data in (b"GET /now HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b""):
        connection: Any = edge.protocol()
        transport = Transport()
        connection.connection_made(transport)
        connection.data_received(data)
        clock.advance(LIMITS.idle_timeout_s + 1)
        connection.check_time(clock.monotonic())
        clock.advance(LIMITS.read_timeout_s + 1)
        connection.check_time(clock.monotonic())
        assert transport.aborted


def test_a_crowd_is_looked_at_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection as often as the others, a few in one go, whoever comes and goes."""
    looked: list[Connection] = []
    at_once: Counter[float] = Counter()

    def check_time(self: Connection, now: float) -> None:
        looked.append(self)
        at_once[now] += 1

    monkeypatch.setattr(Connection, "check_time", check_time)

    def crowd(edge: Edge) -> list[Any]:
        made: list[Any] = [edge.protocol() for _ in range(700)]
        for each in made:
            each.connection_made(Transport())
        return made

    async def main() -> None:
        edge = Edge(Handlers(), LIMITS)
        stay, go = crowd(edge), crowd(edge)
        edge.start()
        assert looked
        await asyncio.sleep(0.3)
        for each in go:
            each.connection_lost(None)
        before = len(looked)
        late = crowd(edge)
        began = time.monotonic()
        async with asyncio.timeout(20):
            while min((times := Counter(looked))[each] for each in [*stay, *late]) < 2:
                await asyncio.sleep(0.02)
        assert max(at_once.values()) <= SWEPT_AT_ONCE
        assert time.monotonic() - began > 1.0  # a round takes a second
        assert max(times[each] for each in stay) <= min(times[each] for each in stay) + 1
        assert not set(go) & set(looked[before:])
        await edge.drain(0.0)

    run(main())


def test_a_body_in_crumbs_takes_no_more_than_a_body() -> None:
    """A megabyte in chunks of two bytes is kept as a megabyte, not as half a million objects."""
    size = 1 << 20
    handlers = Handlers()
    edge = Edge(handlers, Limits(max_body_bytes=size))
    connection: Any = edge.protocol()
    connection.connection_made(Transport())
    connection.data_received(b"POST /now HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    crumbs = b"2\r\nab\r\n" * (size // 64)
    tracemalloc.start()
    try:
        for _ in range(32):
            connection.data_received(crumbs)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 3 * size
    connection.data_received(b"0\r\n\r\n")
    assert handlers.bodies == [b"ab" * (size // 2)]


def test_an_error_in_odd_text_is_an_answer() -> None:
    """What a model says in its exception may not be UTF-8; the client is told all the same."""
    edge = Edge(Handlers(), LIMITS, FakeClock())
    connection: Any = edge.protocol()
    transport = Transport()
    connection.connection_made(transport)
    connection.data_received(b"GET /odd HTTP/1.1\r\nhost: x\r\n\r\n")
    head, _, body = transport.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500")
    assert json.loads(body) == {"error": "it said ?"}


def test_an_upgrade_is_refused_once_and_nothing_is_served() -> None:
    """The parser reads no body after an upgrade: such a request is not served without its body."""
    head = b"POST /now HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: h2c\r\n"
    handlers = Handlers()
    edge = Edge(handlers, LIMITS, FakeClock())
    connection: Any = edge.protocol()
    transport = Transport()
    connection.connection_made(transport)
    connection.data_received(head + b"content-length: 5\r\n\r\nhello")
    assert handlers.bodies == []
    assert transport.written.count(b"content-length:") == 1
    assert transport.written.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("method", "site", "status"),
    [
        ("POST", "cross-site", 403),
        ("POST", "same-site", 403),
        ("POST", "same-origin", 200),
        ("POST", "none", 200),
        ("GET", "cross-site", 200),
    ],
)
def test_a_page_in_somebodys_browser_leaves_nothing_here(
    method: str, site: str, status: int
) -> None:
    """What another site's page sends is not served: it would get into the ledger, or be a label."""
    handlers = Handlers()
    edge = Edge(handlers, LIMITS, FakeClock())
    connection: Any = edge.protocol()
    transport = Transport()
    connection.connection_made(transport)
    head = f"{method} /now HTTP/1.1\r\nhost: x\r\nsec-fetch-site: {site}\r\n\r\n"
    connection.data_received(head.encode() * 2)
    assert transport.written.count(b"HTTP/1.1 %d " % status) == 2
    assert len(handlers.bodies) == (2 if status == 200 else 0)
