"""One kept HTTP/1.1 connection to another server: one request at a time, every size bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools

MAX_HEAD_BYTES = 32 << 10
MAX_BODY_BYTES = 256 << 20
_STALE_WITHIN_S = 0.1


class Response:
    """An answer as it came."""

    __slots__ = ("body", "header_length", "status")

    def __init__(self, status: int, body: bytes, header_length: int | None) -> None:
        self.status = status
        self.body = body
        self.header_length = header_length


Heard = Callable[["Response | str"], None]
"""Called once for each request: the response, or why there is none."""


class HttpConnection(asyncio.Protocol):
    """A connection that is idle, or has one request under way.

    Args:
        closed: called once when it is closed, after the request under way was told.
    """

    def __init__(self, closed: Callable[[HttpConnection], None]) -> None:
        self._closed = closed
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._heard: Heard | None = None
        self._body = bytearray()
        self._head_bytes = 0
        self._header_length: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asked_at = 0.0
        self._used = False
        self._answering = False

    @property
    def open(self) -> bool:
        """Says whether it can take a request."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def was_stale(self) -> bool:
        """Says whether it broke at once and without a word, as one that was kept for too long."""
        age_s = asyncio.get_running_loop().time() - self._asked_at
        return self._used and not self._answering and age_s < _STALE_WITHIN_S

    def ask(self, request: bytes, heard: Heard, *, within_s: float) -> None:
        """Sends a request; the connection must be open and idle."""
        assert self._transport is not None
        assert self._heard is None
        self._heard = heard
        self._parser = httptools.HttpResponseParser(self)
        self._body.clear()
        self._head_bytes, self._header_length = 0, None
        self._answering = False
        loop = asyncio.get_running_loop()
        self._asked_at = loop.time()
        self._timer = loop.call_later(within_s, self.fail, f"no answer within {within_s:g} s")
        self._transport.write(request)

    def fail(self, why: str) -> None:
        """Ends the request under way, if any, and the connection."""
        if self._transport is not None:
            self._transport.abort()
        self._end(why)

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio's
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._heard is None:
            self.fail("it spoke without having been asked")
            return
        self._answering = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(f"it does not answer in HTTP/1.1: {error}"[:300])

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._transport = None
        self._end("the connection broke" if exc is None else f"the connection broke: {exc}")
        self._closed(self)

    # the parser's callbacks

    def on_status(self, part: bytes) -> None:  # noqa: D102 - httptools'
        self._bound(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        self._bound(len(name) + len(value))
        if name.lower() == b"inference-header-content-length":
            self._header_length = int(value) if value.isdigit() and len(value) < 12 else -1
        elif name.lower() == b"content-length" and len(value) < 20 and value.isdigit():
            self._bound_body(int(value))

    def on_body(self, chunk: bytes) -> None:  # noqa: D102
        self._bound_body(len(self._body) + len(chunk))
        self._body += chunk

    def on_message_complete(self) -> None:  # noqa: D102
        status = self._parser.get_status_code()
        if status < 200:
            return  # "continue" is no answer yet
        keeps = self._parser.should_keep_alive()
        response = Response(status, bytes(self._body), self._header_length)
        self._body = bytearray()
        self._used = True
        if not keeps and self._transport is not None:
            self._transport.close()
        self._end(response)

    def _bound(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError(f"headers of over {MAX_HEAD_BYTES} bytes")

    def _bound_body(self, size: int) -> None:
        if size > MAX_BODY_BYTES:
            raise ValueError(f"a body of over {MAX_BODY_BYTES} bytes")

    def _end(self, result: Response | str) -> None:
        heard, self._heard = self._heard, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if heard is not None:
            heard(result)
