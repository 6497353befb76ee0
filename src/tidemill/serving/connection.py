"""One client's HTTP/1.1 connection: asyncio.Protocol and httptools, as safe as it is fast.

Bounds the request line, headers, body, requests in flight, idle time, and the time a request may
take to arrive; keeps answers in order on a pipelined connection; stops reading from a client that
does not read. What a request means is the business of the routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import httptools

from tidemill.foundation.errors import TidemillError
from tidemill.serving.encodings import UNFOLD_AT_ONCE_BYTES, Unfolding
from tidemill.serving.exchange import (
    Exchange,
    Handler,
    Head,
    check_head,
    cut_query,
    error_body,
)
from tidemill.serving.key_turn import KeyTurn
from tidemill.serving.same_get import SameGet
from tidemill.serving.sending import Sender
from tidemill.serving.shared import Shared

_KNOWN = (
    "content-length inference-header-content-length sec-fetch-site authorization x-api-key expect "
    "content-encoding accept-encoding host traceparent"  # and origin, which is as long as expect
)
_KNOWN_SIZES = frozenset(map(len, _KNOWN.split()))
MAX_PIPELINE: Final = 64
"""Requests of one connection that may wait for their answers, at most, but for one slice's."""

SLICE_BYTES: Final = 1024
"""How much is parsed before it is seen whether the connection is to be read at all."""

MAX_REMEMBERED_HEAD_BYTES: Final = 1024
"""How long a request head may be to be known again when the same bytes come."""

_CHUNK_BYTES = len(b"1\r\n\r\n")

LINGER_S = 2.0
"""How long a refused client may go on sending before the connection is cut."""


class Connection(asyncio.Protocol):
    """One client's connection: parses, keeps order, holds the bounds."""

    __slots__ = (
        "_arriving_bytes",
        "_backlog",
        "_body",
        "_closing",
        "_edge",
        "_fault",
        "_fed_bytes",
        "_fields_bytes",
        "_head",
        "_in_head",
        "_known_bytes",
        "_last_active",
        "_left",
        "_limits",
        "_lingers_until",
        "_overload",
        "_parser",
        "_parses",
        "_paused",
        "_pipeline",
        "_reading_since",
        "_refusal",
        "_refused",
        "_same",
        "_sender",
        "_told",
        "_transport",
        "_unread",
        "_write_blocked_since",
        "load",
    )

    def __init__(self, edge: Shared) -> None:
        self._edge = edge
        self._limits, self.load = edge.limits, edge.load
        self._transport: Any = None
        self._sender: Sender
        self._parser = httptools.HttpRequestParser(self)
        self._pipeline: list[Exchange] = []
        self._head = Head()
        self._body: bytes | bytearray = b""
        self._left = 0
        self._backlog = b""
        self._fed_bytes = 0
        self._fields_bytes = 0
        self._in_head = True
        self._known_bytes = 0  # of the last head that was known: the next one mostly has as many
        self._arriving_bytes = 0
        self._unread = False
        self._fault: tuple[int, str] | None = None
        self._overload: TidemillError | None = None
        self._told: tuple[Head, bytes] | None = None
        self._parses = False
        self._refusal: tuple[int, str] | None = None
        self._refused = False
        self._reading_since: float | None = None
        self._last_active = 0.0
        self._same: SameGet | None = None
        self._closing = False
        self._paused = False
        self._write_blocked_since: float | None = None
        self._lingers_until: float | None = None

    # Life of the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - promised by asyncio.Protocol
        self._transport = transport
        self._sender = Sender(transport)
        self._last_active = self._edge.clock.monotonic()
        self._edge.connections[self] = None
        if len(self._edge.connections) > self._limits.max_connections:
            self._refuse(503, "too many connections. Retry in a moment.")

    def connection_lost(self, _: Exception | None) -> None:  # noqa: D102
        self._end()
        self._edge.connections.pop(self, None)
        self._pipeline.clear()
        self._drop_body()
        self._drop_backlog()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        # Between two requests, a client mostly sends one whole request of a known head.
        same = self._same
        if same is None:
            self._receive(data)
        elif (key := same.key_of(data)) is not None and self._look_up(same, key):
            pass
        elif query := same.query_of(data):
            self._last_active = now = self._edge.arrival()
            self._ask(same.head, b"", now, query)
            same.learn()
        else:
            self._receive(data)
        pace = self._edge.pace
        if pace is not None and pace.late:
            pace.catch_up()

    def _receive(self, data: bytes) -> None:
        if self._closing or self._refused:
            return  # what follows a refused request is its rest, and no request
        if self._reading_since is not None or self._fed_bytes or self._parses:
            self._parse(data)
            return
        size = self._known_bytes
        known = self._edge.heads.get(data[:size]) if size else None
        if known is not None and known[1] == len(data) - size:
            self._ask_known(known[0], data[size:], b"")
            return
        end = data.find(b"\r\n\r\n") + 4
        head_bytes = data[:end] if 4 <= end <= MAX_REMEMBERED_HEAD_BYTES else b""
        cut, query = cut_query(head_bytes) if data.startswith(b"G") else (head_bytes, b"")
        known = self._edge.heads.get(cut)
        if known is not None and known[1] == len(data) - end:
            if query and end == len(data):
                self._same = SameGet(known[0], cut, MAX_REMEMBERED_HEAD_BYTES)
            self._known_bytes = 0 if query else end
            self._ask_known(known[0], data[end:], query)
            return
        self._told = None  # what came before is none of it
        self._parse(data)
        told = self._take_told()
        if head_bytes and told is not None and told[1] == data[end:]:
            # It held this one request, framed by its length: the same bytes say the same again.
            self._edge.remember(head_bytes, told[0], len(told[1]))

    def _ask_known(self, head: Head, body: bytes, query: bytes) -> None:
        """Takes a whole request of a head that came before, but for its query."""
        self._last_active = now = self._edge.arrival()
        gate = head.gate
        if gate is not None and self._may_turn_away(head) and gate.turns_away(now):
            self._sender.send(gate.response)
            return
        self._ask(head, body, now, query or head.query)

    def _take_told(self) -> tuple[Head, bytes] | None:
        told, self._told = self._told, None
        return told

    def _parse(self, data: bytes) -> None:
        """Parses what came, or keeps what comes after the requests that may wait already.

        The parser cannot be stopped between two requests: it gets a slice at a time, and the rest
        of a body whose length is known at once.
        """
        self._same = None  # it is of whole requests, and this may be a part of one
        if len(data) <= SLICE_BYTES and not self._paused:
            self._feed(data)
            return
        if self._backlog:
            self.load.nbytes += len(data)
            self._backlog += data
            return
        at, end = 0, len(data)
        while at < end and not (self._closing or self._refused):
            if self._paused:
                self._backlog, self._parses = data[at:], True
                self.load.nbytes += end - at
                return
            size = min(max(SLICE_BYTES, self._left), end - at)
            self._feed(data[at : at + size])
            at += size

    def _catch_up(self) -> None:
        """Parses what was kept."""
        backlog = self._drop_backlog()
        if backlog:
            self._parse(backlog)

    def _drop_backlog(self) -> bytes:
        backlog, self._backlog = self._backlog, b""
        self.load.nbytes -= len(backlog)
        return backlog

    def _feed(self, data: bytes) -> None:
        self._fed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except _Refusal:
            pass
        except httptools.HttpParserError as error:
            cause = error.__context__
            if not isinstance(cause, _Refusal):
                self._refusal = (400, f"the request is not HTTP/1.1: {error}")
        if self._fed_bytes > self._limits.max_header_bytes:
            self._check_frame()
        if self._refusal is not None:
            self._refuse(*self._refusal)

    def eof_received(self) -> bool:  # noqa: D102
        if self._lingers_until is not None:
            return False
        self.close_when_idle()
        return bool(self._pipeline)

    def pause_writing(self) -> None:  # noqa: D102
        self._write_blocked_since = self._edge.clock.monotonic()
        self._set_reading()

    def resume_writing(self) -> None:  # noqa: D102
        self._write_blocked_since = None
        self._set_reading()

    # The parser's callbacks

    def on_message_begin(self) -> None:  # noqa: D102 - promised to httptools
        self._head = Head()
        self._body = b""
        self._fields_bytes = 0
        self._arriving_bytes = 0
        self._unread = False
        self._overload = None
        self._told = None
        self._reading_since = self._edge.clock.monotonic()

    def on_url(self, part: bytes) -> None:  # noqa: D102
        self._head.target += part
        self._fields_bytes += len(part)
        if self._fields_bytes > self._limits.max_header_bytes:
            self._stop(431, self._head_text())

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        head = self._head
        size = len(name)
        self._fields_bytes += size + len(value)
        if self._fields_bytes > self._limits.max_header_bytes:
            self._stop(431, self._head_text())
        if size in _KNOWN_SIZES and self._in_head:  # a trailer comes too late to say anything
            self._take_header(head, name.lower(), value)

    def _take_header(self, head: Head, name: bytes, value: bytes) -> None:
        match name:
            case b"content-length":
                self._left = size = int(value)  # the parser has seen that it is a number
                if size > self._limits.max_body_bytes:
                    self._fault = (413, self._body_text(size))
            case b"authorization" | b"x-api-key":
                head.carry(value if name == b"authorization" else b"Bearer " + value)
            case b"host":
                self._fault = self._fault or head.call(value)
            case b"expect":
                head.expects = value.lower() == b"100-continue"
                if not head.expects:
                    self._fault = (417, "only 'Expect: 100-continue' is known.")
            case _:
                head.take(name, value)

    def on_headers_complete(self) -> None:  # noqa: D102
        if self._parser.should_upgrade():  # the parser would not read its body
            self._stop(400, "protocol upgrades are not supported. Ask for HTTP/1.1 only.")
        self._in_head = False
        self._fed_bytes = 0
        cors, guard = self._edge.cors, self._edge.guard
        if cors is not None:
            cors.mark(self._head)
        old = self._parser.get_http_version() == "1.0"
        keeps = old and self._parser.should_keep_alive()
        self._fault = self._fault or self._head.end(old=old, keeps=keeps)
        if self._fault is not None:
            self._stop(*self._fault)
        self._unread = guard is not None and not guard.knows(self._head)
        if self._head.expects and not self._pipeline:
            self._sender.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, chunk: bytes) -> None:  # noqa: D102
        got = len(chunk)
        self._left -= got
        self._arriving_bytes = size = self._arriving_bytes + got
        if size > self._limits.max_body_bytes:
            self._stop(413, self._body_text(size))
        if self._unread:
            return  # it will be refused: nothing of it is kept
        self.load.nbytes += got
        if self.load.nbytes > self._edge.max_held_bytes:
            self._overload, self._unread = self._edge.too_much(), True
            self.load.nbytes -= got
            self._drop_body()
            return
        if not self._body:
            self._body = chunk  # mostly all of it
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += chunk

    def on_message_complete(self) -> None:  # noqa: D102
        head, body = self._head, bytes(self._body)
        head.method, head.query = self._parser.get_method(), head.target.partition(b"?")[2]
        keeps = self._parser.should_keep_alive()
        self._in_head = True
        self._fed_bytes, self._reading_since = 0, None
        self._parses = not keeps
        self._drop_body()
        self._told = (head, body) if keeps and not head.expects else None
        self._last_active = now = self._edge.arrival()
        self._ask(head, body, now, head.query, self._overload)

    def _drop_body(self) -> None:
        self.load.nbytes -= len(self._body)
        self._body = b""

    def _ask(
        self,
        head: Head,
        body: bytes,
        arrived: float,
        query: bytes,
        overload: TidemillError | None = None,
    ) -> None:
        exchange = Exchange(self, head, body, arrived, query)
        edge, load, pipeline = self._edge, self.load, self._pipeline
        if self._parses or edge.draining:
            exchange.closes = True
        load.nbytes += exchange.nbytes
        pipeline.append(exchange)
        if len(pipeline) >= MAX_PIPELINE:
            self._set_reading()
        guard = edge.guard
        try:
            if overload is not None or load.nbytes > edge.max_held_bytes:
                self._check_load(overload)
            handler = head.handler or self._find(head)
            if guard is not None and head.admitted_by is not guard.table:
                guard.admit(head, edge.routes.access(handler), edge.hosts)
            if head.coding is None:
                handler(exchange)
            else:
                self._unfold(exchange, head.coding, handler)
        except Exception as error:  # noqa: BLE001 - one request's, whatever it is
            self.failed(exchange, error)

    def _look_up(self, same: SameGet, key: Sequence[Any]) -> bool:
        """Does with a key what ``_ask`` comes to do, if nothing else is to be asked."""
        head, edge, taker = same.head, self._edge, cast("KeyTurn | None", same.taker)
        guard = edge.guard
        if (
            taker is None
            or not taker.open
            or head.gate is not None
            or (guard is not None and head.admitted_by is not guard.table)
            or edge.draining
            or self.load.nbytes > edge.max_held_bytes
        ):
            return False
        self._last_active = now = edge.arrival()
        exchange, pipeline = Exchange(self, head, b"", now), self._pipeline
        pipeline.append(exchange)
        if len(pipeline) >= MAX_PIPELINE:
            self._set_reading()
        taker.add(exchange, key, now)
        return True

    def _may_turn_away(self, head: Head) -> bool:
        """Says whether a request of this head may be refused unread, and at once."""
        edge, guard = self._edge, self._edge.guard
        return not (self._pipeline or edge.draining or head.answer_headers) and (
            guard is None or head.admitted_by is guard.table
        )

    def failed(self, exchange: Exchange, error: BaseException) -> None:
        """Tells the client of an error that its request ended with."""
        if isinstance(error, TidemillError):
            self._edge.refused.of(type(error).__name__).value += 1
            exchange.fail(error)
            return
        # A bug costs one request, not the server.
        self._edge.refused.of("internal").value += 1
        self._edge.log.error("request.failed", error=repr(error), exc_info=error)
        exchange.answer(error_body("internal error; the log says more"), status=500)

    def _unfold(self, exchange: Exchange, coding: str, handler: Handler) -> None:
        """Serves a request whose body is coded; what takes long is unfolded beside the loop."""
        limit = self._limits.max_body_bytes
        unfolding = Unfolding(coding, exchange.body, limit)

        def serve(body: bytes | BaseException) -> None:
            if isinstance(body, BaseException):
                self.failed(exchange, body)
                return
            try:
                exchange.hold(len(body))
                self._check_load(None)
                exchange.body = body
                handler(exchange)
            except Exception as error:  # noqa: BLE001 - one request's, whatever it is
                self.failed(exchange, error)

        body = unfolding.more(UNFOLD_AT_ONCE_BYTES)
        if body is not None:
            serve(body)
            return
        exchange.hold(limit)  # the most that it may become
        self._check_load(None)
        self.beside(unfolding.rest, serve)

    def beside(
        self, work: Callable[[], bytes], then: Callable[[bytes | BaseException], None]
    ) -> None:
        """Does work on another thread, and then, on the loop's, something with what came of it."""
        working = asyncio.get_running_loop().run_in_executor(self._edge.coders, work)

        def done(future: asyncio.Future[bytes]) -> None:
            if future.cancelled():
                return  # the edge has ended
            error = future.exception()
            then(future.result() if error is None else error)

        working.add_done_callback(done)

    def _find(self, head: Head) -> Handler:
        check_head(head)
        head.handler = handler = self._edge.routes.find(head.method, head.target)
        return handler

    # Answers, in order

    def put(self, exchange: Exchange, out: bytes) -> None:
        """Takes an answer; see ``exchange.Connection``."""
        pipeline = self._pipeline
        if len(pipeline) == 1 and pipeline[0] is exchange and not self._closing:
            pipeline.pop()
            self._sender.send(out)
        else:
            exchange.out = out
            self.flush()

    def flush(self) -> None:
        """Sends the answers that are ready and have none before them that is not."""
        pipeline = self._pipeline
        waiting = len(pipeline)
        while pipeline and (out := pipeline[0].out) is not None and not self._closing:
            exchange = pipeline.pop(0)
            self._sender.send(out)
            if exchange.closes:
                self._close(linger=self._refusal is not None)
        if waiting >= MAX_PIPELINE:
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
        self._end()
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

    def _end(self) -> None:
        self._closing, self._same = True, None

    # Bounds

    def _stop(self, status: int, message: str) -> None:
        self._refusal = (status, message)
        raise _Refusal

    def _refuse(self, status: int, message: str) -> None:
        """Answers a request that cannot be read to its end, and closes."""
        if self._closing or self._refused:
            return
        self._refused, self._same, self._reading_since = True, None, None
        self._drop_body()
        self._drop_backlog()
        self._parser = httptools.HttpRequestParser(self)
        head = Head()
        head.answer_headers = self._head.answer_headers
        refusal = Exchange(self, head, b"", self._last_active)
        refusal.closes = True
        self._refusal = (status, message)
        self._edge.refused.of(f"http_{status}").value += 1
        self._pipeline.append(refusal)
        refusal.answer(error_body(message), status=status)

    def _check_load(self, overload: TidemillError | None) -> None:
        if overload is not None or self.load.nbytes > self._edge.max_held_bytes:
            raise overload or self._edge.too_much()

    def _head_text(self) -> str:
        return f"the request line and headers are over {self._limits.max_header_bytes} bytes."

    def _check_frame(self) -> None:
        """Bounds what the parser skips: beside headers, what surrounds a body, chunk by chunk."""
        limit = self._limits.max_header_bytes
        if self._in_head:
            self._refusal = self._refusal or (431, self._head_text())
        elif self._fed_bytes - (1 + _CHUNK_BYTES) * self._arriving_bytes > limit:
            said = f"the chunks' extensions and the trailers are over {limit} bytes."
            self._refusal = self._refusal or (431, said)

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
            self._catch_up()

    def _close(self, *, linger: bool = False) -> None:
        """Closes; lingering, it first lets a client that still sends read what it was told.

        A client that does not take what is left is cut off after a while.
        """
        if self._closing:
            return
        self._end()
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
