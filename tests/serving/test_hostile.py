"""The edge against who means it harm: each attempt ends in one refusal or a closed connection.

Whatever was tried, nothing stays: no connection, no byte that is held, no file, no request that
nobody sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import resource
import selectors
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
import uvloop

from tidemill.foundation.settings import ServeSettings
from tidemill.serving.connection import MAX_PIPELINE, SLICE_BYTES
from tidemill.serving.edge import Edge
from tidemill.serving.exchange import Exchange
from tidemill.serving.http_front import limits_for
from tidemill.serving.limits import Limits

LIMITS = Limits(max_header_bytes=4096, max_body_bytes=8192, read_timeout_s=0.4, idle_timeout_s=0.4)
PATIENT = Limits(max_header_bytes=4096, max_body_bytes=8192)
LARGE = b"x" * 100_000
GET = b"GET /now HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /now HTTP/1.1\r\nhost: x\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"


class Witness:
    """Knows what was served. ``/later`` waits for ``release``; ``/large`` answers 100 kB."""

    def __init__(self) -> None:
        self.served: list[tuple[bytes, bytes]] = []
        self.waiting: list[Exchange] = []

    def find(self, method: bytes, target: bytes) -> Callable[[Exchange], None]:
        return self.serve

    def serve(self, exchange: Exchange) -> None:
        target = exchange.head.target
        self.served.append((target, exchange.body))
        if target == b"/later":
            self.waiting.append(exchange)
        else:
            exchange.answer(LARGE if target == b"/large" else b"{}")

    def release(self) -> None:
        waiting, self.waiting = self.waiting, []
        for exchange in waiting:
            exchange.answer(b"{}")


@asynccontextmanager
async def attacked(limits: Limits = LIMITS) -> AsyncIterator[tuple[int, Witness, Edge]]:
    """An edge; at the end nothing of what was done to it is left."""
    witness = Witness()
    edge = Edge(witness, limits)
    server = await asyncio.get_running_loop().create_server(edge.protocol, "127.0.0.1", 0)
    watching = asyncio.create_task(watch(edge))
    try:
        yield server.sockets[0].getsockname()[1], witness, edge
        witness.release()
        async with asyncio.timeout(10):
            while edge.connections:
                await asyncio.sleep(0.01)
        assert edge.load.nbytes == 0
    finally:
        watching.cancel()
        server.close()
        await edge.drain(0.0)
        await server.wait_closed()


async def watch(edge: Edge) -> None:
    """Looks at the clock as the edge does each second, only oftener."""
    while True:
        await asyncio.sleep(0.05)
        for connection in list(edge.connections):
            connection.check_time(edge.clock.monotonic())


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


async def talk(port: int, *parts: bytes, pause_s: float = 0.0, eof: bool = False) -> bytes:
    """Sends parts one after the other; returns all that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError, RuntimeError):  # the server has closed
            for part in parts:
                writer.write(part)
                await asyncio.sleep(pause_s)
            if eof:
                writer.write_eof()
        got = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                while chunk := await reader.read(65536):
                    got += chunk
        return got
    finally:
        writer.close()


def statuses(got: bytes) -> list[int]:
    """The statuses of the answers, in order."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", got)]


def head(*lines: bytes) -> bytes:
    """A request of these header lines."""
    return POST + b"\r\n".join([*lines, b"", b""])


MALFORMED = {
    "bare word": b"hello\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\n\r\n",
    "two spaces of target": b"GET /now /now HTTP/1.1\r\nhost: x\r\n\r\n",
    "method in lower case": b"get /now HTTP/1.1\r\nhost: x\r\n\r\n",
    "unknown method": b"BREW /now HTTP/1.1\r\nhost: x\r\n\r\n",
    "http 2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version 3": b"GET /now HTTP/3.0\r\nhost: x\r\n\r\n",
    "version of no number": b"GET /now HTTP/x.y\r\nhost: x\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    "nul in the target": b"GET /n\0w HTTP/1.1\r\nhost: x\r\n\r\n",
    "control character in the target": b"GET /n\x1fow HTTP/1.1\r\nhost: x\r\n\r\n",
    "nul in a value": head(b"a: b\0c"),
    "nul in a name": head(b"a\0b: c"),
    "carriage return in a value": head(b"a: b\rc"),
    "no colon": head(b"a b"),
    "space before the colon": head(b"content-length : 5") + b"hello",
    "space before chunked's colon": head(b"transfer-encoding : chunked") + b"0\r\n\r\n",
    "no name": head(b": a"),
    "space in a name": head(b"a b: c"),
    "folded": head(b"a: b", b" c"),
    "folded framing": head(b"transfer-encoding:", b" chunked") + b"0\r\n\r\n",
    "no host": b"GET /now HTTP/1.1\r\na: b\r\n\r\n",
    "two hosts": head(b"host: y"),
    "the same host twice": head(b"Host: x"),
    "host of two": b"GET /now HTTP/1.1\r\nhost: x y\r\n\r\n",
    "host in a user's name": b"GET /now HTTP/1.1\r\nhost: x@y\r\n\r\n",
    "host with a path": b"GET /now HTTP/1.1\r\nhost: x/y\r\n\r\n",
    "connect": b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    "upgrade": head(b"connection: upgrade", b"upgrade: websocket", b"content-length: 0"),
}

SMUGGLING = {
    "length and chunked": head(b"content-length: 4", b"transfer-encoding: chunked")
    + b"0\r\n\r\n"
    + SMUGGLED,
    "chunked and length": head(b"transfer-encoding: chunked", b"content-length: 4")
    + b"0\r\n\r\n"
    + SMUGGLED,
    "two lengths": head(b"content-length: 0", b"content-length: 35") + SMUGGLED,
    "the same length twice": head(b"content-length: 0", b"content-length: 0") + SMUGGLED,
    "lengths in a list": head(b"content-length: 0, 35") + SMUGGLED,
    "signed length": head(b"content-length: +0") + SMUGGLED,
    "negative length": head(b"content-length: -1") + SMUGGLED,
    "hexadecimal length": head(b"content-length: 0x0") + SMUGGLED,
    "empty length": head(b"content-length:") + SMUGGLED,
    "length beyond 64 bits": head(b"content-length: 18446744073709551616") + SMUGGLED,
    "unknown coding": head(b"transfer-encoding: xchunked") + b"0\r\n\r\n" + SMUGGLED,
    "chunked in quotes": head(b'transfer-encoding: "chunked"') + b"0\r\n\r\n" + SMUGGLED,
    "chunked, then another": head(b"transfer-encoding: chunked, identity")
    + b"0\r\n\r\n"
    + SMUGGLED,
    "chunked twice": head(b"transfer-encoding: chunked", b"transfer-encoding: identity")
    + b"0\r\n\r\n"
    + SMUGGLED,
    "vertical tab": head(b"transfer-encoding: \x0bchunked") + b"0\r\n\r\n" + SMUGGLED,
    "bare line feeds": b"POST /now HTTP/1.1\nhost: x\ncontent-length: 0\n\n" + SMUGGLED,
    "bare line feed in the end": POST + b"a: b\n\r\n" + SMUGGLED,
    "chunk size that overflows": CHUNKED + b"10000000000000000\r\n" + SMUGGLED,
    "signed chunk size": CHUNKED + b"+0\r\n\r\n" + SMUGGLED,
    "chunk size with a space": CHUNKED + b"0 0\r\n\r\n" + SMUGGLED,
    "chunk size in a prefix": CHUNKED + b"0x0\r\n\r\n" + SMUGGLED,
    "chunk without its end": CHUNKED + b"2\r\nabc\r\n0\r\n\r\n" + SMUGGLED,
    "chunk ended by a line feed": CHUNKED + b"2\nab\n0\n\n" + SMUGGLED,
    "extension with a line feed": CHUNKED + b"2;\nxx\r\nab\r\n0\r\n\r\n" + SMUGGLED,
}


@pytest.mark.parametrize("case", [*MALFORMED, *SMUGGLING])
def test_what_is_no_request_is_refused_once_and_ends_the_connection(case: str) -> None:
    """One 400, then the end; what was hidden in it is not served, however the bytes are split."""
    data = MALFORMED.get(case) or SMUGGLING[case]

    async def main() -> None:
        async with attacked(PATIENT) as (port, witness, _):
            whole = await talk(port, data)
            split = await talk(port, *(data[at : at + 7] for at in range(0, len(data), 7)))
            for got in (whole, split):
                assert statuses(got) == [400], got
                assert b"connection: close\r\n" in got
            assert witness.served == []

    run(main())


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /" + b"a" * 5000, 431),
        (head(b"a: " + b"b" * 5000), 431),
        (head(b"a" * 5000 + b": b"), 431),
        (head(*(b"a%d: b" % at for at in range(1000))), 431),
        (b"\r\n" * 3000, 431),
        (head(b"content-length: 8193"), 413),
        (head(b"content-length: 9223372036854775807"), 413),
        (CHUNKED + b"2001\r\n" + b"x" * 8193, 413),
        (CHUNKED + b"2;" + b"x" * 20_000 + b"\r\nab\r\n0\r\n\r\n", 431),
        (CHUNKED + (b"1;" + b"x" * 200 + b"\r\na\r\n") * 200, 431),
        (CHUNKED + b"0\r\n" + b"a: b\r\n" * 3000 + b"\r\n", 431),
        (CHUNKED + b"0\r\na: " + b"b" * 9000 + b"\r\n\r\n", 431),
    ],
    ids=[
        *("long target", "target without end", "long value", "long name", "many headers"),
        *("empty lines", "announced body", "body of 63 bits", "large chunk"),
        *("chunk extension", "many chunk extensions", "many trailers", "long trailer"),
    ],
)
def test_nothing_is_taken_beyond_its_bound(data: bytes, status: int) -> None:
    """Whatever part of a request is too large is refused by what it is, and not kept."""

    async def main() -> None:
        async with attacked() as (port, witness, _):
            assert statuses(await talk(port, data)) == [status]
            assert witness.served == []

    run(main())


def test_a_trailer_says_nothing() -> None:
    """What decides about a request stands in its head: trailers are read, and change nothing."""
    said = b"sec-fetch-site: cross-site", b"expect: x", b"origin: y", b"content-encoding: br"
    trailers = b"\r\n".join([*said, b""])

    async def main() -> None:
        async with attacked() as (port, witness, _):
            got = await talk(port, CHUNKED + b"2\r\nab\r\n0\r\n" + trailers + b"\r\n" + GET)
            assert statuses(got) == [200, 200]
            assert witness.served == [(b"/now", b"ab"), (b"/now", b"")]

    run(main())


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET /", *[b"a"] * 14],
        [POST, *[b"a: b\r\n"] * 14],
        [head(b"content-length: 1000"), *[b"x"] * 14],
        [CHUNKED, *[b"1\r\nx\r\n"] * 14],
        [CHUNKED + b"3e8\r\n", *[b"x"] * 14],
        [CHUNKED + b"0\r\n", *[b"a: b\r\n"] * 14],
    ],
    ids=["line", "headers", "body", "chunks", "one chunk", "trailers"],
)
def test_a_request_that_trickles_is_cut_in_time(parts: list[bytes]) -> None:
    """A byte now and then holds a connection no longer than a request may take: 408."""

    async def main() -> None:
        async with attacked() as (port, witness, edge):
            began = time.monotonic()
            got = await talk(port, *parts, pause_s=0.05)
            assert statuses(got) in ([408], [])  # who goes on sending may be reset before it reads
            assert edge.refused.of("http_408").value == 1
            assert time.monotonic() - began < 8
            assert witness.served == []

    run(main())


def test_empty_lines_now_and_then_hold_nothing() -> None:
    """What a parser skips between requests does not count as activity."""

    async def main() -> None:
        async with attacked() as (port, _, _edge):
            began = time.monotonic()
            assert await talk(port, *[b"\r\n"] * 40, pause_s=0.05) == b""
            assert time.monotonic() - began < 4

    run(main())


def test_who_stops_sending_is_answered_all_the_same() -> None:
    """A client that shuts down its side after its requests gets every answer, then the end."""

    async def main() -> None:
        async with attacked(PATIENT) as (port, witness, _):
            asked = b"GET /later HTTP/1.1\r\nhost: x\r\n\r\n"
            talking = asyncio.create_task(talk(port, asked + GET + asked, eof=True))
            while len(witness.waiting) < 2:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            witness.release()
            assert statuses(await talking) == [200, 200, 200]
            flood = await talk(port, GET * 1000, eof=True)
            assert statuses(flood) == [200] * 1000
            for half in (POST, head(b"content-length: 5") + b"he", CHUNKED + b"5\r\nhel"):
                assert await talk(port, half, eof=True) == b""

    run(main())


def test_a_connection_that_breaks_anywhere_leaves_nothing() -> None:
    """Reset in the head, in the body, while an answer is due, while it is sent: all is let go."""

    async def main() -> None:
        async with attacked(PATIENT) as (port, witness, _):
            for data in (
                b"",
                b"POST /no",
                head(b"content-length: 5000") + b"x" * 4000,
                CHUNKED + b"1000\r\n" + b"x" * 4000,
                b"POST /later HTTP/1.1\r\nhost: x\r\ncontent-length: 4000\r\n\r\n" + b"x" * 4000,
                b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n" * 50,
                GET * 500,
            ):
                for linger in (True, False):
                    with socket.create_connection(("127.0.0.1", port)) as client:
                        client.setblocking(False)
                        with contextlib.suppress(BlockingIOError):
                            client.send(data)
                        if linger:  # reset, not closed
                            option = (socket.SOL_SOCKET, socket.SO_LINGER)
                            client.setsockopt(*option, b"\1\0\0\0\0\0\0\0")
                        await asyncio.sleep(0.02)
            assert statuses(await talk(port, GET, eof=True)) == [200]
            witness.release()  # who asked is gone

    run(main())


def test_a_flood_of_small_requests_is_parsed_no_further_than_it_is_answered() -> None:
    """However many requests one read brings, only so many wait; the rest stays counted bytes."""
    one = b"GET /later HTTP/1.1\r\nhost: x\r\n\r\n"
    most = MAX_PIPELINE + SLICE_BYTES // len(one) + 1
    times = 3000

    async def main() -> None:
        async with attacked(PATIENT) as (port, witness, edge):
            talking = asyncio.create_task(talk(port, one * times, eof=True))
            answered = 0
            while answered < times:
                async with asyncio.timeout(5):
                    while not witness.waiting:
                        await asyncio.sleep(0)
                await asyncio.sleep(0.002)
                assert len(witness.waiting) <= most
                assert edge.load.nbytes <= len(one) * times
                answered += len(witness.waiting)
                witness.release()
            assert statuses(await talking) == [200] * times

    run(main())


def test_who_asks_for_much_and_reads_nothing_holds_little() -> None:
    """Thousands of pipelined requests for a large answer: what is written waits for the reader."""
    one = b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n"

    async def main() -> None:
        async with attacked() as (port, witness, edge):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(one * 5000)  # half a gigabyte of answers
            await asyncio.sleep(0.2)
            assert 0 < len(witness.served) <= 2 * (SLICE_BYTES // len(one)) + MAX_PIPELINE
            async with asyncio.timeout(5):
                while edge.connections:
                    await asyncio.sleep(0.02)
            writer.close()

    run(main())


@pytest.fixture
def many_files() -> Iterator[int]:
    """How many sockets this process may open: as many as the machine allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield min(hard, 1 << 16)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def few_files(soft: int) -> Iterator[None]:
    """Gives what is started meanwhile a soft limit of so many files, as a login shell does."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def gateway_of(server: Any) -> psutil.Process:
    """The one gateway."""
    children = psutil.Process(server.process.pid).children()
    return next(each for each in children if "tidemill.serving.gateway" in each.cmdline())


def connected(port: int, n: int, source: str, within_s: float = 20.0) -> list[socket.socket]:
    """Opens connections all at once; returns when the server's machine has taken them."""
    opened = []
    with selectors.DefaultSelector() as selector:
        for _ in range(n):
            each = socket.socket()
            opened.append(each)
            each.setblocking(False)
            each.bind((source, 0))
            each.connect_ex(("127.0.0.1", port))
            selector.register(each, selectors.EVENT_WRITE)
        deadline = time.monotonic() + within_s
        while selector.get_map():
            assert time.monotonic() < deadline, f"{len(selector.get_map())} are not connected"
            for key, _ in selector.select(1.0):
                selector.unregister(key.fileobj)
    assert not any(each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for each in opened)
    return opened


@pytest.fixture(scope="module")
def lone(launch: Callable[..., Any]) -> Iterator[Any]:
    """A server of one gateway, started where a process may open few files unless it asks."""
    with few_files(1024), launch() as server:
        yield server


def test_an_absolute_target_is_the_same_path(lone: Any) -> None:
    """A request as it is sent to a proxy, which a server must take, is answered as any other."""
    for target, status in (
        (f"http://{lone.address}/v2", 200),
        ("HTTP://x/v2?a=b", 200),
        (f"http://{lone.address}/nothing", 404),
        (f"http://{lone.address}", 404),
        ("ftp://x/v2", 404),
    ):
        connection = lone.connection()
        connection.putrequest("GET", target)
        connection.endheaders()
        assert connection.getresponse().status == status, target
        connection.close()


def test_ten_thousand_idle_connections_hold_up_nobody(lone: Any, many_files: int) -> None:
    """One gateway keeps them all and answers in time; one more is told so; none leaves a trace."""
    limits = limits_for(ServeSettings(), many_files)
    room = min(limits.max_connections, many_files - 300)
    gateway = gateway_of(lone)
    files, memory = gateway.num_fds(), gateway.memory_info().rss
    held: list[socket.socket] = []
    with contextlib.closing(lone.connection()) as client:
        try:
            while len(held) < room - 1:
                source = f"127.0.0.{2 + len(held) // 4000}"
                held += connected(lone.port, min(1000, room - 1 - len(held)), source)
            lone.until(lambda: gateway.num_fds() >= files + len(held), "all are accepted")
            slowest = max(asked(client) for _ in range(200))
            assert slowest < 1.0
            used = gateway.memory_info().rss - memory
            assert used < 16_384 * len(held), f"{used / len(held):.0f} bytes a connection"
            if room == limits.max_connections:
                (extra,) = connected(lone.port, 1, "127.0.0.1")
                held.append(extra)
                extra.settimeout(20)
                assert extra.recv(4096).startswith(b"HTTP/1.1 503 ")
        finally:
            for each in held:
                each.close()
        lone.until(lambda: gateway.num_fds() <= files + 8, "all are let go")
        asked(client)


def asked(client: http.client.HTTPConnection) -> float:
    """Asks, on a kept connection; returns how long the answer took."""
    began = time.monotonic()
    client.request("POST", "/v1/models/add:predict", b'{"instances": [[1]]}')
    answer = client.getresponse()
    assert (answer.status, json.load(answer)["predictions"]) == (200, [1001])
    return time.monotonic() - began


def test_a_crowd_that_comes_at_once_waits_in_the_queue(lone: Any) -> None:
    """Hundreds of clients at a busy gateway are connected by the machine, and none is turned away.

    A full queue would drop them, each to try again a second later.
    """
    gateway = gateway_of(lone)
    gateway.suspend()
    try:
        crowd = connected(lone.port, 600, "127.0.0.1", within_s=10.0)
    finally:
        gateway.resume()
    for each in crowd:
        each.setblocking(True)
        each.settimeout(20)
        each.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: [::1]\r\nconnection: close\r\n\r\n")
    for each in crowd:
        assert each.recv(4096).startswith(b"HTTP/1.1 200 ")
        each.close()


def test_a_storm_of_all_of_it_leaves_a_server_as_it_was(lone: Any) -> None:
    """Every attempt of this page at a real gateway, many times: it still answers, and has grown
    by no file and little memory.
    """
    gateway, attempts = gateway_of(lone), [*MALFORMED.values(), *SMUGGLING.values(), GET * 300]
    client = lone.connection()
    asked(client)
    files = gateway.num_fds()
    memory = 0
    for round_ in range(3):
        for data in attempts * 3:
            attacker = socket.create_connection(("127.0.0.1", lone.port), timeout=20)
            with attacker, contextlib.suppress(ConnectionError):
                attacker.sendall(data)
                if round_ % 2:
                    attacker.recv(1)
        memory = memory or gateway.memory_info().rss
    asked(client)
    lone.until(lambda: gateway.num_fds() <= files + 2, "all files are closed")
    assert gateway.memory_info().rss < memory + (8 << 20)
    client.request("GET", "/metrics")
    told = client.getresponse().read().decode()
    assert 'tidemill_refused_total{kind="http_400"}' in told
    assert 'kind="internal"' not in told
    client.close()
