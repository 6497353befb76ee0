"""Content codings: gzip and deflate bodies, unfolded within a bound, and folded for who asks."""

from __future__ import annotations

import zlib
from typing import Final, Literal

from tidemill.foundation.errors import InvalidInput, TooLarge

Coding = Literal["gzip", "deflate"]

CODINGS: tuple[Coding, ...] = ("gzip", "deflate")
"""The codings that are known; deflate is zlib's format, as in HTTP."""

FOLD_FROM_BYTES: Final = 4096
"""Answers smaller than this go as they are: a packet or two gain nothing."""

UNFOLD_AT_ONCE_BYTES = 256 << 10
FOLD_AT_ONCE_BYTES = 64 << 10
"""Work of about a millisecond; what takes longer is done beside the event loop."""

_EITHER = zlib.MAX_WBITS | 32  # the stream says which of the two it is, as Triton takes it
_WBITS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
_LEVEL = 1
_SLICE_BYTES = 64 << 10


class UnknownCoding(InvalidInput):
    """The body is coded in a way that nobody here reads."""


def preferred(accept: bytes) -> Coding | None:
    """Returns the coding that an Accept-Encoding header likes best; None for a body as it is.

    Example:
        >>> preferred(b"identity;q=0.5, gzip;q=0.8, br"), preferred(b"gzip;q=0"), preferred(b"*")
        ('gzip', None, None)
    """
    best: Coding | None = None
    most = 0.0
    for part in accept.decode("latin-1").lower().split(","):
        name, _, weight = part.partition(";")
        name, liked = name.strip(), _weight(weight)
        if not liked > most or name not in {"identity", *CODINGS}:
            continue
        most = liked
        best = "gzip" if name == "gzip" else "deflate" if name == "deflate" else None
    return best


def _weight(text: str) -> float:
    name, _, value = text.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


def fold(body: bytes, coding: Coding) -> bytes:
    """Returns a body as a gzip or zlib stream, made quickly rather than small."""
    folder = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WBITS[coding])
    return folder.compress(body) + folder.flush()


class Unfolding:
    """A body on its way out of its coding: a few bytes at a time, never more than the limit.

    Args:
        coding: as the client said.
        body: what it sent.
        limit: the bytes that it may unfold to.

    Raises:
        UnknownCoding: it is none that is known.
    """

    def __init__(self, coding: str, body: bytes, limit: int) -> None:
        if coding not in CODINGS:
            raise UnknownCoding(
                f"content encoding {coding[:20]!r} is not known",
                remedy=f"Send {' or '.join(CODINGS)}, or the body as it is.",
            )
        self._coding = coding
        self._body = body
        self._limit = limit
        self._stream = zlib.decompressobj(_EITHER)
        self._at = 0
        self._rest = b""
        self._parts: list[bytes] = []
        self._size = 0

    def more(self, work_bytes: int) -> bytes | None:
        """Reads and writes about so many bytes; returns the whole body once it is there.

        Raises:
            InvalidInput: it is no such stream, or ends too soon, or something follows it.
            TooLarge: it unfolds to more than the limit.
        """
        while work_bytes > 0:
            read, unfolded = self._step()
            work_bytes -= read + len(unfolded)
            if self._size > self._limit:
                raise TooLarge(
                    f"the body unfolds to more than {self._limit} bytes",
                    remedy="Send less at once.",
                )
            if self._stream.eof:
                if self._stream.unused_data or self._at < len(self._body):
                    raise self._wrong("something follows its end")
                return b"".join(self._parts)
            if not read and not unfolded:
                raise self._wrong("it ends too soon")
        return None

    def rest(self) -> bytes:
        """Returns the whole body.

        Raises:
            InvalidInput: as ``more``.
            TooLarge: as ``more``.
        """
        while (body := self.more(_SLICE_BYTES)) is None:
            pass
        return body

    def _step(self) -> tuple[int, bytes]:
        """Returns how many bytes were taken, and what came of them."""
        if not self._rest:  # slices: zlib copies what it has not read yet
            self._rest = self._body[self._at : self._at + _SLICE_BYTES]
            self._at += len(self._rest)
        offered = len(self._rest)
        try:
            part = self._stream.decompress(
                self._rest, min(_SLICE_BYTES, self._limit + 1 - self._size)
            )
        except zlib.error as error:
            raise self._wrong(str(error)) from error
        self._rest = self._stream.unconsumed_tail
        self._size += len(part)
        self._parts.append(part)
        return offered - len(self._rest), part

    def _wrong(self, why: str) -> InvalidInput:
        return InvalidInput(
            f"the body is not {self._coding}, as its Content-Encoding says: {why}",
            remedy="Send one whole stream, or leave the header out.",
        )
