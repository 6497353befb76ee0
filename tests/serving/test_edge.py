"""The HTTP edge: hostile, slow and clumsy clients, against a real listening socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.foundation.errors import NotFound, Overloaded
from tidemill.serving.connection import MAX_PIPELINE
from tidemill.serving.edge import Edge
from tidemill.serving.exchange import Exchange, WrongMethod
from tidemill.serving.limits import Limits


class Echo:
    """Answers with what it got; ``/later`` answers when ``release`` is called, in reverse order."""

    def __init__(self) -> None:
        self.waiting: list[Exchange] = []
        self.served = 0

    def find(self, method: bytes, target: bytes) -> Callable[[Exchange], None]:
        if target == b"/nothing":
            raise NotFound("nothing is served there", remedy="Go elsewhere.")
        if target == b"/busy":
            raise Overloaded("the queue is full", remedy="Back off.")
        if target == b"/post" and method != b"POST":
            raise WrongMethod("GET is not served here", remedy="Use POST.")
        if target == b"/bug":
            return self.bug
        return self.later if target == b"/later" else self.now

    def now(self, exchange: Exchange) -> None:
        self.served += 1
        exchange.answer(json.dumps({"bytes": len(exchange.body)}).encode())

    def later(self, exchange: Exchange) -> None:
        self.waiting.append(exchange)

    def bug(self, exchange: Exchange) -> None:
        raise ZeroDivisionError

    def release(self) -> None:
        for number, exchange in reversed(list(enumerate(self.waiting))):
            exchange.answer(b"%d" % number)
        self.waiting.clear()


@asynccontextmanager
async def served(
    limits: Limits | None = None,
) -> AsyncIterator[tuple[int, Echo, Edge]]:
    echo = Echo()
    edge = Edge(echo, limits or Limits(max_header_bytes=2048, max_body_bytes=4096))
    edge.start()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(edge.protocol, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], echo, edge
    finally:
        server.close()
        await edge.drain(0.0)
        await server.wait_closed()


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


async def talk(port: int, data: bytes, *, eof: bool = False, wait_s: float = 5.0) -> bytes:
    """Sends bytes, returns all that comes back until the server closes or falls silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    try:
        writer.write(data)
        if eof:
            writer.write_eof()
        async with asyncio.timeout(wait_s):
            while chunk := await reader.read(65536):
                got += chunk
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return got


async def gone(edge: Edge) -> None:
    """Returns when the server holds no connection any more."""
    async with asyncio.timeout(5):
        while edge.connections:
            await asyncio.sleep(0.01)


def post(path: str, body: bytes, *headers: str, close: bool = True) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers]
    if close:
        lines.append("connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (post("/now", b"12345"), 200, b'{"bytes": 5}'),
        (post("/nothing", b""), 404, b"Go elsewhere"),
        (b"GET /post HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 405, b"Use POST"),
        (post("/busy", b""), 503, b"retry-after: 1"),
        (post("/bug", b""), 500, b"internal error"),
        (post("/now", b"x" * 5000), 413, b"4096"),
        (b"POST /now HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999\r\n\r\n", 413, b"4096"),
        (post("/" + "a" * 5000, b""), 431, b"2048"),
        (post("/now", b"", "x: " + "a" * 5000), 431, b"2048"),
        (post("/now", b"{}", "content-encoding: br"), 415, b"gzip or deflate"),
        (post("/now", b"{}", "inference-header-content-length: -1"), 400, b"not a number"),
        (post("/now", b"{}", "expect: the-unexpected"), 417, b"100-continue"),
        (b"\x16\x03\x01 not http at all\r\n\r\n", 400, b"not HTTP/1.1"),
        (
            b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            400,
            b"",
        ),
        (
            b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
            400,
            b"",
        ),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, b""),
    ],
)
def test_a_bad_request_gets_one_clear_answer(data: bytes, status: int, words: bytes) -> None:
    """Whatever is sent, one HTTP answer with a JSON error comes back and the server lives on."""

    async def main() -> None:
        async with served() as (port, _, edge):
            got = await talk(port, data)
            assert got.startswith(b"HTTP/1.1 %d " % status), got
            assert words in got
            head, _, body = got.partition(b"\r\n\r\n")
            assert b"content-type: application/json\r\n" in head + b"\r\n"
            assert status == 200 or set(json.loads(body)) == {"error"}
            assert b"200 OK" in await talk(port, post("/now", b""))

    run(main())


def test_pipelined_answers_come_in_order_whatever_ends_first() -> None:
    """Answers keep the order of the requests on their connection."""

    async def main() -> None:
        async with served() as (port, echo, _):
            many = b"".join(post("/later", b"", close=i == 9) for i in range(10))
            talking = asyncio.create_task(talk(port, many))
            while len(echo.waiting) < 10:
                await asyncio.sleep(0.005)
            echo.release()
            got = await talking
            bodies = [part.rpartition(b"\r\n\r\n")[2] for part in got.split(b"HTTP/1.1 200 OK")]
            assert bodies[1:] == [b"%d" % i for i in range(10)]

    run(main())


def test_a_client_of_http_1_0_is_told_that_its_connection_stays() -> None:
    """Else it waits for the end (``ab -k``); one that did not ask for it gets the end."""

    async def main() -> None:
        async with served() as (port, _, _edge):
            asks = b"GET /%b HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"
            got = await talk(port, asks % b"now" * 2 + asks % b"nothing", wait_s=0.3)
            assert got.count(b"connection: keep-alive\r\n") == got.count(b"HTTP/1.1 ") == 3
            for last in (b"GET /now HTTP/1.0\r\n\r\n", post("/now", b"")):
                got = await talk(port, asks % b"now" + last)
                heads = [part.partition(b"\r\n\r\n")[0] for part in got.split(b"HTTP/1.1 ")[1:]]
                said = [head.lower().count(b"connection: keep-alive") for head in heads]
                assert (said, heads[1].count(b"connection: close")) == ([1, 0], 1)

    run(main())


def test_a_request_may_arrive_byte_by_byte() -> None:
    """Where the network cuts the bytes makes no difference."""

    async def main() -> None:
        async with served() as (port, _, _edge):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for byte in post("/now", b"abc"):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0)
            assert b'{"bytes": 3}' in await reader.read()
            writer.close()

    run(main())


def test_chunked_bodies_are_read_and_bounded() -> None:
    """A chunked body is a body; one over the limit is refused while it arrives."""

    async def main() -> None:
        async with served() as (port, _, _edge):
            head = b"POST /now HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            assert b'{"bytes": 6}' in await talk(
                port, head + b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", eof=True
            )
            endless = b"400\r\n" + b"x" * 1024 + b"\r\n"
            assert b"HTTP/1.1 413 " in await talk(port, head + endless * 20)

    run(main())


def test_expect_continue_is_answered_before_the_body() -> None:
    """A client that asks first is told to go on."""

    async def main() -> None:
        async with served() as (port, _, _edge):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /now HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n")
            writer.write(b"content-length: 2\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 100 ")
            writer.write(b"ok")
            await reader.readline()
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            writer.close()

    run(main())


def test_a_slow_request_is_cut_and_an_idle_connection_closed() -> None:
    """Neither a trickling request nor a silent client holds a connection for ever."""
    limits = Limits(read_timeout_s=0.2, idle_timeout_s=0.2)

    async def main() -> None:
        async with served(limits) as (port, _, edge):
            slow, silent = await asyncio.gather(talk(port, b"POST /now HT"), talk(port, b""))
            assert slow.startswith(b"HTTP/1.1 408 ")
            assert silent == b""
            await gone(edge)

    run(main())


def test_a_client_that_does_not_read_is_not_read_from() -> None:
    """Answers that nobody takes stop the reading, and the connection is cut in time."""
    limits = Limits(read_timeout_s=0.3)

    async def main() -> None:
        async with served(limits) as (port, echo, edge):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            flood = post("/now", b"", close=False) * 2000
            with pytest.raises((ConnectionError, TimeoutError)):
                async with asyncio.timeout(20):
                    while True:
                        writer.write(flood)
                        await writer.drain()
            assert echo.served < 10_000_000
            await gone(edge)
            writer.close()

    run(main())


def test_waiting_requests_of_one_connection_are_bounded() -> None:
    """A connection that pipelines without end is not read beyond its share."""

    async def main() -> None:
        async with served() as (port, echo, _):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            one = post("/later", b"x" * 2000, close=False)
            for _ in range(400):
                writer.write(one)
            await asyncio.sleep(0.3)
            first = len(echo.waiting)
            assert MAX_PIPELINE <= first < 400
            echo.release()
            for _ in range(200):
                await asyncio.sleep(0.01)
                echo.release()
            writer.close()

    run(main())


def test_draining_answers_what_was_asked_and_closes() -> None:
    """A drain ends connections after their last answer, with ``connection: close``."""

    async def main() -> None:
        async with served() as (port, echo, edge):
            talking = asyncio.create_task(talk(port, post("/later", b"", close=False)))
            while not echo.waiting:
                await asyncio.sleep(0.005)
            draining = asyncio.create_task(edge.drain(5.0))
            await asyncio.sleep(0.02)
            echo.release()
            await draining
            got = await talking
            assert got.startswith(b"HTTP/1.1 200 ")
            assert b"connection: close" in got

    run(main())


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.sampled_from(
                [
                    b"POST /now HTTP/1.1\r\nhost: x\r\n",
                    b"content-length: 5\r\n",
                    b"transfer-encoding: chunked\r\n",
                    b"\r\n",
                    b"5\r\nhello\r\n",
                    b"0\r\n\r\n",
                    b"GET /later HTTP/1.0\r\n\r\n",
                    b"Expect: 100-continue\r\n",
                    b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
                ]
            ),
        ),
        max_size=12,
    )
)
def test_no_bytes_break_the_edge(parts: list[bytes]) -> None:
    """Fuzzed: any bytes in any pieces leave the server answering the next client."""

    async def main() -> None:
        async with served() as (port, echo, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                for part in parts:
                    writer.write(part)
                    await asyncio.sleep(0)
                writer.write_eof()
            except (ConnectionError, RuntimeError):
                pass
            echo.release()
            writer.close()
            assert b"200 OK" in await talk(port, post("/now", b""))

    run(main())


def test_a_request_that_was_on_its_way_is_answered_when_draining_begins() -> None:
    """A kept connection gets one more answer, told to be its last, rather than a reset."""

    async def main() -> None:
        async with served() as (port, echo, edge):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(post("/now", b"", close=False))
            assert b"200 OK" in await reader.readline()
            draining = asyncio.create_task(edge.drain(5.0))
            await asyncio.sleep(0.05)
            writer.write(post("/now", b"", close=False))
            rest = await reader.read()
            assert b"connection: close" in rest
            assert echo.served == 2
            await draining
            writer.close()

    run(main())
