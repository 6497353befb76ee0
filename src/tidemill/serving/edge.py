"""The HTTP/1.1 edge: asyncio.Protocol and httptools, as safe as it is fast.

Bounds the request line, headers, body, requests in flight, idle time, and the time a request may
take to arrive; keeps answers in order on a pipelined connection; stops reading from a client that
does not read. What a request means is the business of the routes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import httptools
import msgspec

from tidemill.foundation.clock import SYSTEM_CLOCK, Clock
from tidemill.foundation.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    InvalidModel,
    NotFound,
    NotReady,
    Overloaded,
    Refused,
    TidemillError,
    TooLarge,
    Unavailable,
    WorkerLost,
)
from tidemill.foundation.instruments import Instruments
from tidemill.foundation.logs import log

_STATUS: tuple[tuple[type[TidemillError], int], ...] = (
    (TooLarge, 413),
    (InvalidModel, 500),
    (InvalidInput, 400),
    (NotFound, 404),
    (Conflict, 409),
    (Refused, 403),
    (NotReady, 503),
    (Overloaded, 503),
    (WorkerLost, 503),
    (Unavailable, 503),
    (DeadlineExceeded, 504),
)
_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    413: b"Content Too Large",
    417: b"Expectation Failed",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}
_JSON = b"application/json"
_OTHER_SITES = frozenset({b"cross-site", b"same-site"})
_OK_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
MAX_PIPELINE = 64
"""Requests of one connection that may wait for their answers, at most."""

LAST_REQUEST_S = 0.3
"""How long a kept connection may send one more request once the edge is draining."""

LINGER_S = 2.0
"""How long a refused client may go on sending before the connection is cut."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may send, and how long it may take."""

    max_header_bytes: int = 32 << 10
    max_body_bytes: int = 8 << 20
    max_connections: int = 10_000
    idle_timeout_s: float = 75.0
    read_timeout_s: float = 15.0


class Handler(Protocol):
    """What serves a request: it answers or fails the exchange, now or later."""

    def __call__(self, exchange: Exchange) -> None:
        """Takes the exchange; raising a TidemillError fails it."""


class Routes(Protocol):
    """Finds who serves a method and target."""

    def find(self, method: bytes, target: bytes) -> Handler:
        """Returns the handler.

        Raises:
            NotFound: nothing is served there.
            WrongMethod: something is, by another method.
        """


class WrongMethod(InvalidInput):
    """The resource exists and does not know this method."""


class Exchange:
    """One request and its one answer; headers are those that a handler may need."""

    __slots__ = ("_connection", "body", "closes", "head_only", "header_length", "out")

    def __init__(self, connection: _Connection, *, closes: bool, head_only: bool) -> None:
        self._connection = connection
        self.closes = closes
        self.head_only = head_only
        self.body = b""
        self.header_length: int | None = None
        self.out: bytes | None = None

    def answer(
        self,
        body: bytes,
        *,
        content_type: bytes = _JSON,
        headers: Mapping[bytes, bytes] | None = None,
        status: int = 200,
    ) -> None:
        """Gives the answer; it is sent once the ones before it are. A second one is ignored."""
        if self.out is not None:
            return
        if status == 200 and content_type is _JSON and not (headers or self.closes):
            self.out = _OK_JSON % (len(body), b"" if self.head_only else body)
            self._connection.flush()
            return
        extra = b"".join(b"%s: %s\r\n" % item for item in headers.items()) if headers else b""
        self.out = b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s%s\r\n%s" % (
            status,
            _REASONS[status],
            content_type,
            len(body),
            extra,
            b"connection: close\r\n" if self.closes else b"",
            b"" if self.head_only else body,
        )
        self._connection.flush()

    def fail(self, error: TidemillError) -> None:
        """Answers with a typed error."""
        status = 500
        for kind, code in _STATUS:
            if isinstance(error, kind):
                status = code
                break
        if isinstance(error, WrongMethod):
            status = 405
        retry = {b"retry-after": b"1"} if status == 503 else None
        self.answer(_error_body(str(error)), headers=retry, status=status)


def _error_body(message: str) -> bytes:
    # A model may have raised anything, even text that has no UTF-8.
    return msgspec.json.encode({"error": message.encode(errors="replace").decode()})


class Edge:
    """Serves HTTP connections with handlers found by ``routes``.

    Args:
        routes: finds who serves a request.
        limits: what clients may do.
        clock: measures their time.
        instruments: count what is refused before it becomes a query.

    ``protocol`` is the factory for ``loop.create_server``; ``start`` begins watching the time;
    ``drain`` lets requests end.
    """

    def __init__(
        self,
        routes: Routes,
        limits: Limits,
        clock: Clock = SYSTEM_CLOCK,
        instruments: Instruments | None = None,
    ) -> None:
        self.refused = (instruments or Instruments()).counter(
            "tidemill_refused", "Requests refused before they became a query.", ("kind",)
        )
        self.routes = routes
        self.limits = limits
        self.clock = clock
        self.connections: set[_Connection] = set()
        self.draining = False
        self.log = log("serving.edge")
        self._sweeper: asyncio.TimerHandle | None = None

    def protocol(self) -> asyncio.Protocol:
        """Makes the protocol of a new connection."""
        return _Connection(self)

    def start(self) -> None:
        """Begins to close connections that are idle or too slow."""
        self._sweep()

    def _sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(1.0, self._sweep)
        now = self.clock.monotonic()
        for connection in list(self.connections):
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

    async def _emptied(self, until: float) -> None:
        """Waits until no connection is left, or until then."""
        while self.connections and self.clock.monotonic() < until:  # noqa: ASYNC110 - bounded
            await asyncio.sleep(0.01)


class _Connection(asyncio.Protocol):
    """One client's connection: parses, keeps order, holds the bounds."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._limits = edge.limits
        self._transport: Any = None
        self._parser = httptools.HttpRequestParser(self)
        self._pipeline: deque[Exchange] = deque()
        self._target = b""
        self._body: bytes | bytearray = b""
        self._head_bytes = 0
        self._fields_bytes = 0
        self._in_head = True
        self._refusal: tuple[int, str] | None = None
        self._refused = False
        self._header_length: int | None = None
        self._bad_header: str | None = None
        self._foreign = False
        self._expects = False
        self._reading_since: float | None = None
        self._last_active = 0.0
        self._closing = False
        self._paused = False
        self._write_blocked_since: float | None = None
        self._lingers_until: float | None = None

    # Life of the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._last_active = self._edge.clock.monotonic()
        self._edge.connections.add(self)
        if len(self._edge.connections) > self._limits.max_connections:
            self._refuse(503, "too many connections. Retry in a moment.")

    def connection_lost(self, _: Exception | None) -> None:
        self._closing = True
        self._edge.connections.discard(self)
        self._pipeline.clear()

    def data_received(self, data: bytes) -> None:
        if self._closing or self._refused:
            return  # what follows a refused request is its rest, and no request
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except _Refusal:
            pass
        except httptools.HttpParserError as error:
            cause = error.__context__
            if not isinstance(cause, _Refusal):
                self._refusal = (400, f"the request is not HTTP/1.1: {error}")
        if self._in_head and self._head_bytes > self._limits.max_header_bytes:
            self._refusal = self._refusal or (431, self._head_text())
        if self._refusal is not None:
            self._refuse(*self._refusal)

    def eof_received(self) -> bool:
        if self._lingers_until is not None:
            return False
        self.close_when_idle()
        return bool(self._pipeline)

    def pause_writing(self) -> None:
        self._write_blocked_since = self._edge.clock.monotonic()
        self._set_reading()

    def resume_writing(self) -> None:
        self._write_blocked_since = None
        self._set_reading()

    # The parser's callbacks

    def on_message_begin(self) -> None:
        self._target = b""
        self._body = b""
        self._fields_bytes = 0
        self._header_length = None
        self._bad_header = None
        self._foreign = False
        self._expects = False
        self._reading_since = self._edge.clock.monotonic()

    def on_url(self, part: bytes) -> None:
        self._target += part
        self._fields_bytes += len(part)
        if self._fields_bytes > self._limits.max_header_bytes:
            self._stop(431, self._head_text())

    def on_header(self, name: bytes, value: bytes) -> None:
        size = len(name)
        self._fields_bytes += size + len(value)
        if self._fields_bytes > self._limits.max_header_bytes:
            self._stop(431, self._head_text())
        if size == 14 and name.lower() == b"content-length":
            if value.isdigit() and int(value) > self._limits.max_body_bytes:
                self._stop(413, self._body_text(int(value)))
        elif size == 31 and name.lower() == b"inference-header-content-length":
            if value.isdigit() and len(value) < 12:
                self._header_length = int(value)
            else:
                self._bad_header = "Inference-Header-Content-Length is not a number of bytes"
        elif size == 14 and name.lower() == b"sec-fetch-site":
            self._foreign = value.lower() in _OTHER_SITES
        elif size == 6 and name.lower() == b"expect":
            self._expects = value.lower() == b"100-continue"
            if not self._expects:
                self._stop(417, "only 'Expect: 100-continue' is known.")
        elif size == 16 and name.lower() == b"content-encoding" and value.lower() != b"identity":
            self._bad_header = f"content encoding {value[:20].decode('latin-1')!r} is not accepted"

    def on_headers_complete(self) -> None:
        if self._parser.should_upgrade():  # the parser would not read its body
            self._stop(400, "protocol upgrades are not supported. Ask for HTTP/1.1 only.")
        self._in_head = False
        self._head_bytes = 0
        if self._expects and not self._pipeline:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, chunk: bytes) -> None:
        size = len(self._body) + len(chunk)
        if size > self._limits.max_body_bytes:
            self._stop(413, self._body_text(size))
        if not self._body:
            self._body = chunk  # mostly all of it
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += chunk

    def on_message_complete(self) -> None:
        parser = self._parser
        method = parser.get_method()
        self._in_head = True
        self._reading_since = None
        self._last_active = self._edge.clock.monotonic()
        closes = self._edge.draining or not parser.should_keep_alive()
        exchange = Exchange(self, closes=closes, head_only=method == b"HEAD")
        exchange.body = bytes(self._body)
        exchange.header_length = self._header_length
        self._body = b""
        self._pipeline.append(exchange)
        if len(self._pipeline) >= MAX_PIPELINE:
            self._set_reading()
        self._serve(method, exchange)

    def _serve(self, method: bytes, exchange: Exchange) -> None:
        try:
            self._check_headers(method)
            self._edge.routes.find(method, self._target)(exchange)
        except TidemillError as error:
            self._edge.refused.of(type(error).__name__).value += 1
            exchange.fail(error)
        except Exception as error:  # a bug costs one request, not the server
            self._edge.refused.of("internal").value += 1
            self._edge.log.exception("request.failed", error=repr(error))
            exchange.answer(_error_body("internal error; the log says more"), status=500)

    def _check_headers(self, method: bytes) -> None:
        if self._foreign and method == b"POST":
            # It could not read the answer, but leave its rows and labels in the ledger.
            raise Refused(
                "a web page of another site may not ask",
                remedy="Let your own server ask for the page, or serve both from one origin.",
            )
        if self._bad_header is not None:
            raise InvalidInput(self._bad_header, remedy="Mend the header or leave it out.")

    # Answers, in order

    def flush(self) -> None:
        """Sends the answers that are ready and have none before them that is not."""
        pipeline = self._pipeline
        full = len(pipeline) >= MAX_PIPELINE
        while pipeline and (out := pipeline[0].out) is not None and not self._closing:
            exchange = pipeline.popleft()
            self._transport.write(out)
            if exchange.closes:
                self._close(linger=self._refusal is not None)
        if full:
            self._set_reading()

    @property
    def owes(self) -> bool:
        """Says whether requests wait for their answers."""
        return bool(self._pipeline)

    def close_when_idle(self) -> None:
        """Closes now if nothing is owed, else after the last answer."""
        if self._pipeline:
            self._pipeline[-1].closes = True
        elif self._reading_since is None or not self._edge.draining:
            self._close()

    def abort(self) -> None:
        """Drops the connection."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def check_time(self, now: float) -> None:
        """Closes the connection if its client is idle or slow beyond the limits."""
        limits = self._limits
        blocked, reading = self._write_blocked_since, self._reading_since
        if self._lingers_until is not None:
            if now > self._lingers_until:
                self.abort()
        elif blocked is not None and now - blocked > limits.read_timeout_s:
            self.abort()
        elif reading is not None and now - reading > limits.read_timeout_s:
            self._refuse(408, f"the request took over {limits.read_timeout_s:g} s to arrive.")
        elif not self._pipeline and now - self._last_active > limits.idle_timeout_s:
            self._close()

    # Bounds

    def _stop(self, status: int, message: str) -> None:
        self._refusal = (status, message)
        raise _Refusal

    def _refuse(self, status: int, message: str) -> None:
        """Answers a request that cannot be read to its end, and closes."""
        if self._closing or self._refused:
            return
        self._refused = True
        self._reading_since = None
        self._body = b""
        self._parser = httptools.HttpRequestParser(self)
        refusal = Exchange(self, closes=True, head_only=False)
        self._refusal = (status, message)
        self._edge.refused.of(f"http_{status}").value += 1
        self._pipeline.append(refusal)
        refusal.answer(_error_body(message), status=status)

    def _head_text(self) -> str:
        return f"the request line and headers are over {self._limits.max_header_bytes} bytes."

    def _body_text(self, size: int) -> str:
        limit = self._limits.max_body_bytes
        return f"the body has {size} bytes or more, {limit} are allowed. Send less at once."

    def _set_reading(self) -> None:
        blocked = self._write_blocked_since is not None or len(self._pipeline) >= MAX_PIPELINE
        if self._closing or blocked == self._paused:
            return
        self._paused = blocked
        if blocked:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _close(self, *, linger: bool = False) -> None:
        """Closes; lingering, it first lets a client that still sends read what it was told.

        A client that does not take what is left is cut off after a while.
        """
        if self._closing:
            return
        self._closing = True
        self._pipeline.clear()
        now = self._edge.clock.monotonic()
        if linger and self._transport.can_write_eof():
            self._lingers_until = now + LINGER_S
            self._transport.write_eof()
        else:
            self._lingers_until = now + self._limits.read_timeout_s
            self._transport.close()


class _Refusal(Exception):  # noqa: N818 - stops the parser, never leaves this module
    """Stops the parser: the request is not read to its end."""
