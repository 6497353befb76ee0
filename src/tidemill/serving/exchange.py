"""One HTTP request and its one answer: what its head said, and which status an error becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from tidemill.foundation.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    InvalidModel,
    NotFound,
    NotOffered,
    NotReady,
    Overloaded,
    QuotaExceeded,
    Refused,
    TidemillError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    WorkerLost,
)
from tidemill.serving.encodings import (
    CODINGS,
    FOLD_AT_ONCE_BYTES,
    FOLD_FROM_BYTES,
    Coding,
    UnknownCoding,
    fold,
    preferred,
)
from tidemill.serving.hosts import is_host
from tidemill.serving.keys import Access, KeyTable, Principal


class WrongMethod(InvalidInput):
    """The resource exists and does not know this method, but those in ``allowed``."""

    def __init__(self, what: str, *, remedy: str = "", allowed: bytes = b"") -> None:
        super().__init__(what, remedy=remedy)
        self.allowed = allowed


_STATUS: tuple[tuple[type[TidemillError], int], ...] = (
    (TooLarge, 413),
    (UnknownCoding, 415),
    (InvalidModel, 500),
    (WrongMethod, 405),
    (InvalidInput, 400),
    (NotFound, 404),
    (Conflict, 409),
    (Unauthenticated, 401),
    (NotOffered, 501),
    (Refused, 403),
    (NotReady, 503),
    (QuotaExceeded, 429),
    (Overloaded, 503),
    (WorkerLost, 503),
    (Unavailable, 503),
    (DeadlineExceeded, 504),
)
_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    417: b"Expectation Failed",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}
_ERROR_HEADERS = {
    401: {b"www-authenticate": b'Bearer realm="tidemill"'},
    415: {b"accept-encoding": ", ".join(CODINGS).encode()},
    429: {b"retry-after": b"60"},
    503: {b"retry-after": b"1"},
}
_NOT_JUDGED = KeyTable()
"""Stands on a head that no guard has looked at; None says that no key was needed."""
_OTHER_SITES = frozenset({b"cross-site", b"same-site"})
_PLAIN = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~%&=+"
_LETTERS = bytes(ord("a") if byte in _PLAIN else 0 for byte in range(256))
_KEPT = b"connection: keep-alive\r\n"
_JSON = b"application/json"
_OK_JSON: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_OK_HEADS: Final = [b""] * FOLD_FROM_BYTES
"""What comes before a usual answer, by its size: those that are not folded."""
_MIXED = b"application/octet-stream"
_HEADER_LENGTH = b"inference-header-content-length"
_OK_MIXED: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %d\r\n"
    b"inference-header-content-length: %d\r\n\r\n%b"
)


def cut_query(head: bytes) -> tuple[bytes, bytes]:
    r"""Returns the head of a GET without the query in its path, and the query.

    The query is empty where there is none, or one of other bytes than any parser takes: the head
    is as it was then.

    Example:
        >>> cut_query(b"GET /a?k=1 HTTP/1.1\r\n\r\n")
        (b'GET /a? HTTP/1.1\r\n\r\n', b'k=1')
    """
    end = head.find(b" ", 4)
    start = head.find(b"?", 4, end) + 1
    query = head[start:end]
    if not start or not is_query(query) or not head.startswith(b"GET "):
        return head, b""
    return head[:start] + head[end:], query


def is_query(text: bytes) -> bool:
    """Says whether it is something, and that no more than what any parser takes as a query."""
    return text.translate(_LETTERS).isalpha()


class Load:
    """The bytes of requests that a gateway holds: those that arrive and those not answered yet."""

    __slots__ = ("nbytes",)

    def __init__(self) -> None:
        self.nbytes = 0


class Connection(Protocol):
    """What an exchange needs of its connection."""

    load: Load

    def flush(self) -> None:
        """Sends the answers that are ready and have none before them that is not."""

    def put(self, exchange: Exchange, out: bytes) -> None:
        """Takes the answer of an exchange that does not close, and does what ``flush`` does."""

    def failed(self, exchange: Exchange, error: BaseException) -> None:
        """Ends an exchange with an error that whoever served it has raised."""

    def beside(
        self, work: Callable[[], bytes], then: Callable[[bytes | BaseException], None]
    ) -> None:
        """Does work on another thread, and then, on the loop's, something with what came of it."""


class Head:
    """What a request line and headers say, as far as anybody here needs it."""

    __slots__ = (
        "accepts",
        "admitted_by",
        "answer_headers",
        "authorization",
        "bad_header",
        "coding",
        "expects",
        "foreign",
        "gate",
        "handler",
        "header_length",
        "host",
        "keys",
        "method",
        "origin",
        "principal",
        "query",
        "target",
        "traceparent",
    )

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.query = b""
        self.header_length: int | None = None
        self.bad_header: str | None = None
        self.coding: str | None = None
        self.accepts: Coding | None = None
        self.foreign = False
        self.expects = False
        self.traceparent = b""
        self.origin = b""
        self.host: bytes | None = None
        self.answer_headers = b""
        self.authorization = b""
        self.handler: Handler | None = None
        self.gate: Gate | None = None
        self.keys: tuple[KeyTaker, ReaderOf] | None = None
        self.admitted_by: KeyTable | None = _NOT_JUDGED
        self.principal: Principal | None = None

    def without_query(self) -> Head:
        """Returns the same head but for the query in its path."""
        other = Head()
        other.target = self.target.partition(b"?")[0]
        other.method = self.method
        other.header_length = self.header_length
        other.bad_header = self.bad_header
        other.coding = self.coding
        other.accepts = self.accepts
        other.foreign = self.foreign
        other.expects = self.expects
        other.traceparent = self.traceparent
        other.origin = self.origin
        other.host = self.host
        other.answer_headers = self.answer_headers
        other.authorization = self.authorization
        other.handler = self.handler
        other.gate = self.gate
        other.keys = self.keys
        other.admitted_by = self.admitted_by
        other.principal = self.principal
        return other

    def take(self, name: bytes, value: bytes) -> None:
        """Takes a header that says how the request is meant; names are in lower case."""
        match name:
            case b"inference-header-content-length":
                if value.isdigit() and len(value) < 12:
                    self.header_length = int(value)
                else:
                    self.bad_header = "Inference-Header-Content-Length is not a number of bytes"
            case b"sec-fetch-site":
                self.foreign = value.lower() in _OTHER_SITES
            case b"origin":
                if self.origin:
                    self.bad_header = "Origin was sent twice"
                self.origin = value
            case b"traceparent":  # of two, neither
                self.traceparent = b"twice" if self.traceparent else value
            case b"content-encoding" if value and value.lower() != b"identity":
                said = value.lower().decode("latin-1")
                self.coding = said if self.coding is None else f"{self.coding}, {said}"
            case b"accept-encoding":
                self.accepts = self.accepts or preferred(value)

    def call(self, host: bytes) -> tuple[int, str] | None:
        """Takes the name that the server was asked by; returns the refusal if it is none."""
        if self.host is not None:
            return 400, "Host was sent twice."
        self.host = host
        return None if is_host(host) else (400, "Host is no name or address of a server.")

    def end(self, *, old: bool, keeps: bool) -> tuple[int, str] | None:
        """Takes the end of the headers, ``old`` of HTTP/1.0; returns the refusal if one lacks.

        A client of HTTP/1.0 that ``keeps`` its connection waits to be told that it stays.
        """
        if keeps:
            self.answer_headers += _KEPT
        if self.host is None and not old:
            return 400, "a request of HTTP/1.1 names its Host, and once."
        return None

    def carry(self, authorization: bytes) -> None:
        """Takes the key that the client sent; of two, nobody could say which one counts."""
        if self.authorization:
            self.bad_header = "more than one key was sent"
        self.authorization = authorization


def check_head(head: Head) -> None:
    """Refuses what a head says, whatever it asks.

    Raises:
        Refused: it is a web page's of another site.
        InvalidInput: one of its headers is wrong.
    """
    if head.foreign and head.method == b"POST":
        # It could not read the answer, but leave its rows and labels in the ledger.
        raise Refused(
            "a web page of another site may not ask",
            remedy="Let your own server ask for the page, serve both from one origin, or name the "
            "page's origin in serve.cors_origins.",
        )
    if head.bad_header is not None:
        raise InvalidInput(head.bad_header, remedy="Mend the header or leave it out.")


class Exchange:
    """One request and its one answer.

    ``head`` may be shared with other requests that began with the same bytes: nobody changes it,
    but what was found for these bytes is written on it, by the edge and the guard. ``query`` is
    what follows the question mark in the path. Of one that ``closes``, the connection ends with
    the answer.
    """

    __slots__ = (
        "_connection",
        "answered",
        "arrived",
        "body",
        "closes",
        "head",
        "nbytes",
        "out",
        "query",
    )

    def __init__(
        self,
        connection: Connection,
        head: Head,
        body: bytes,
        arrived: float,
        query: bytes = b"",
    ) -> None:
        self._connection = connection
        self.query = query
        self.head = head
        self.body = body
        self.nbytes = len(body)
        self.arrived = arrived
        self.closes = False
        self.answered = False
        self.out: bytes | None = None

    @property
    def header_length(self) -> int | None:
        """The bytes of JSON before binary tensors, as the client said."""
        return self.head.header_length

    @property
    def traceparent(self) -> bytes:
        """The client's span that the request belongs to, as it said."""
        return self.head.traceparent

    @property
    def principal(self) -> Principal | None:
        """Whose key it came with, where keys are needed."""
        return self.head.principal

    def answer(
        self,
        body: bytes,
        *,
        content_type: bytes = _JSON,
        headers: Mapping[bytes, bytes] | None = None,
        status: int = 200,
    ) -> None:
        """Gives the answer; it is sent once the ones before it are. A second one is ignored."""
        if self.answered:
            return
        self.answered = True
        self._connection.load.nbytes -= self.nbytes
        self.body = b""
        if len(body) < FOLD_FROM_BYTES or status != 200:
            self._put(body, content_type, headers, status)
            return
        if self.head.method != b"POST":  # what a shared cache may keep says what it depends on
            headers = {**(headers or {}), b"vary": b"accept-encoding"}
        if self.head.accepts is None:
            self._put(body, content_type, headers, status)
        else:
            self._fold(body, self.head.accepts, content_type, headers or {})

    def say(self, body: bytes, header_length: int | None = None) -> None:
        """Gives the usual answer, as ``answer`` does: JSON, of which there is no more to say.

        Args:
            body: the JSON, and the binary tensors that follow it.
            header_length: the bytes of the JSON where tensors follow.
        """
        head, size = self.head, len(body)
        if (
            self.answered
            or self.closes
            or head.answer_headers
            or size >= FOLD_FROM_BYTES
            or head.method == b"HEAD"
        ):
            if header_length is None:
                self.answer(body)
            else:
                headers = {_HEADER_LENGTH: b"%d" % header_length}
                self.answer(body, content_type=_MIXED, headers=headers)
            return
        self.answered = True
        connection = self._connection
        if self.nbytes:
            connection.load.nbytes -= self.nbytes
            self.body = b""
        if header_length is not None:
            connection.put(self, _OK_MIXED % (size, header_length, body))
            return
        before = _OK_HEADS[size]
        if not before:
            before = _OK_HEADS[size] = _OK_JSON % size
        connection.put(self, before + body)

    def _fold(
        self, body: bytes, coding: Coding, content_type: bytes, headers: Mapping[bytes, bytes]
    ) -> None:
        """Gives the answer in the coding that the client likes; a large one is folded elsewhere."""

        def put(folded: bytes | BaseException) -> None:
            if isinstance(folded, BaseException):
                self._put(body, content_type, headers, 200)
            else:
                self._put(
                    folded, content_type, {**headers, b"content-encoding": coding.encode()}, 200
                )

        if len(body) <= FOLD_AT_ONCE_BYTES:
            put(fold(body, coding))
        else:
            self._connection.beside(partial(fold, body, coding), put)

    def _put(
        self,
        body: bytes,
        content_type: bytes,
        headers: Mapping[bytes, bytes] | None,
        status: int,
    ) -> None:
        head = self.head
        lines = _lines(headers) + head.answer_headers
        if self.closes:
            lines = lines.replace(_KEPT, b"") + b"connection: close\r\n"
        self.out = _response(status, body, content_type, lines, sent=head.method != b"HEAD")
        self._connection.flush()

    def hold(self, nbytes: int) -> None:
        """Says that the request now holds so many bytes."""
        self._connection.load.nbytes += nbytes - self.nbytes
        self.nbytes = nbytes

    def fail(self, error: TidemillError) -> None:
        """Answers with a typed error."""
        status, headers = _status_of(error)
        self.answer(error_body(str(error)), headers=headers, status=status)

    def failed(self, error: BaseException) -> None:
        """Ends as if whoever serves it had raised the error at once."""
        self._connection.failed(self, error)

    def refuse(self, refusal: Refusal) -> None:
        """Answers with an error that many get, and that was written once for all of them."""
        if self.closes or self.head.answer_headers or self.answered:
            self.fail(refusal.error)
            return
        self.answered = True
        self._connection.load.nbytes -= self.nbytes
        self.body, self.out = b"", refusal.response
        self._connection.flush()


class Refusal:
    """A typed error, written as it is answered to a POST on a connection that stays."""

    __slots__ = ("error", "response")

    def __init__(self, error: TidemillError) -> None:
        status, headers = _status_of(error)
        self.error = error
        self.response = _response(status, error_body(str(error)), _JSON, _lines(headers))


def _status_of(error: TidemillError) -> tuple[int, Mapping[bytes, bytes] | None]:
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    if isinstance(error, WrongMethod):
        return status, {b"allow": error.allowed}
    return status, _ERROR_HEADERS.get(status)


def _lines(headers: Mapping[bytes, bytes] | None) -> bytes:
    return b"".join(b"%s: %s\r\n" % item for item in headers.items()) if headers else b""


def _response(
    status: int, body: bytes, content_type: bytes, lines: bytes, *, sent: bool = True
) -> bytes:
    return b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s\r\n%s" % (
        status,
        _REASONS[status],
        content_type,
        len(body),
        lines,
        body if sent else b"",
    )


def error_body(message: str) -> bytes:
    """Returns the body of an error."""
    # A model may have raised anything, even text that has no UTF-8.
    return msgspec.json.encode({"error": message.encode(errors="replace").decode()})


class Caller(Protocol):
    """Whoever asked for an operation, by whatever protocol: answered or failed, once."""

    body: bytes

    @property
    def principal(self) -> Principal | None:
        """Whose key it came with, where keys are needed."""

    def answer(self, body: bytes) -> None:
        """Gives the answer, as JSON."""

    def fail(self, error: TidemillError) -> None:
        """Gives a typed error instead."""


class Handler(Protocol):
    """What serves a request: it answers or fails the exchange, now or later."""

    def __call__(self, exchange: Exchange) -> None:
        """Takes the exchange; raising a TidemillError fails it."""


class Gate(Protocol):
    """Whoever may turn a request away before anybody has read it."""

    @property
    def response(self) -> bytes:
        """What is said then to a POST on a connection that stays."""

    def turns_away(self, arrived: float) -> bool:
        """Says whether one that arrived then is refused; it is counted as that."""


class KeyTaker(Protocol):
    """Whoever answers the keys of one turn together, while what they ask is live."""

    @property
    def open(self) -> bool:
        """Says whether it takes keys."""

    def add(self, context: Exchange, key: Sequence[Any], arrived: float) -> None:
        """Takes a key that was read; the exchange ends with the turn, or later."""


KeyOf = Callable[[bytes], Sequence[Any] | None]
"""Returns the key in the query of a whole request, None for what needs a closer look."""

ReaderOf = Callable[[bytes, bytes, int], KeyOf]
"""Returns what reads keys between such bytes, in so many at most."""


class Routes(Protocol):
    """Finds who serves a method and target, and what that demands of a key."""

    def access(self, handler: Handler) -> Access:
        """Returns what a handler that ``find`` gave demands."""

    def find(self, method: bytes, target: bytes) -> Handler:
        """Returns the handler.

        Raises:
            NotFound: nothing is served there.
            WrongMethod: something is, by another method.
        """
