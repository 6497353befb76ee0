"""A GET that differs from the last one of its connection in nothing but its query."""

from __future__ import annotations

from tidemill.serving.exchange import Head, KeyOf, KeyTaker, is_query


def _none(_: bytes) -> None:
    """Knows no keys."""


class SameGet:
    r"""Knows a request again whose query alone is another one.

    Args:
        head: what the parser made of it, without the query.
        cut: its bytes, without the query; all of the request, as it has no body.
        most: so many bytes with the query, no more.

    Example:
        >>> known = SameGet(Head(), b"GET /a? HTTP/1.1\r\n\r\n", 99)
        >>> known.query_of(b"GET /a?k=2 HTTP/1.1\r\n\r\n"), known.query_of(b"GET /a?")
        (b'k=2', b'')
    """

    __slots__ = ("_after", "_before", "_most", "_start", "_stop", "head", "key_of", "taker")

    def __init__(self, head: Head, cut: bytes, most: int) -> None:
        at = cut.index(b"?") + 1
        self._before, self._after = cut[:at], cut[at:]
        self._start, self._stop = at, at - len(cut)
        self.head = head
        self._most = most
        self.taker: KeyTaker | None = None
        """Takes the keys that ``key_of`` returns."""
        self.key_of: KeyOf = _none
        """Returns the key in the query of what came, if it is plain and somebody takes such."""
        self.learn()

    def learn(self) -> None:
        """Finds out who takes keys, by what was found for the head."""
        keys = self.head.keys
        if keys is not None and keys[0] is not self.taker:
            self.taker, reader_of = keys
            self.key_of = reader_of(self._before, self._after, self._most)

    def query_of(self, data: bytes) -> bytes:
        """Returns the query of what came; empty if it is another request, or has no plain one."""
        if not (data.endswith(self._after) and data.startswith(self._before)):
            return b""
        if len(data) > self._most or self.head.gate is not None:
            return b""
        query = data[self._start : self._stop]
        return query if is_query(query) else b""
