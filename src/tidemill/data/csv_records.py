"""Cuts CSV bytes into records without losing one: offsets, line numbers and field counts.

The grammar is RFC 4180's, read generously: lines end with LF, CRLF or CR; blank lines aren't
rows; a quote is special only at the start of a field. A record that can't be read (an open quote,
text after a closing quote) gives up its first line, with the reason, and reading goes on at the
next line: one stray quote costs one row, not the rest of the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

MAX_RECORD_BYTES = 1 << 20
"""A longer record is held; an open quote is given up on after so much."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Records inside one piece of bytes.

    Attributes:
        data: the bytes.
        starts: offset of each record.  # (records,)
        ends: offset behind it, without its line end.
        lines: number of the line that it starts on; the file's first is 1.
        fields: how many fields it has; 0 where it could not be read.
        problems: why, by index of the record.
        used: how many bytes were consumed; the rest belongs before the next piece.
        line: the number of the line at ``used``.
    """

    data: bytes
    starts: Ints
    ends: Ints
    lines: Ints
    fields: Ints
    problems: dict[int, str]
    used: int
    line: int

    def bytes_of(self, index: int) -> bytes:
        """Returns one record's bytes, without its line end."""
        return self.data[int(self.starts[index]) : int(self.ends[index])]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grammar:
    record: re.Pattern[bytes]
    fields: re.Pattern[bytes]
    open_quote: re.Pattern[bytes]


@lru_cache(maxsize=8)
def _grammar(delimiter: bytes) -> _Grammar:
    d = re.escape(delimiter)
    quoted = rb'"(?:[^"]++|"")*+"'
    field = rb"(?:" + quoted + rb'|[^"' + d + rb"\r\n][^" + d + rb"\r\n]*+|)"
    row = field + rb"(?:" + d + field + rb")*+"
    return _Grammar(
        record=re.compile(row + rb"(?=[\r\n]|\Z)"),
        fields=re.compile(rb"(?:\A|" + d + rb")" + field),
        open_quote=re.compile(rb"(?:" + field + d + rb')*?"(?:[^"]++|"")*+\Z'),
    )


def split(data: bytes, *, delimiter: str = ",", final: bool, line: int = 1) -> Records:
    r"""Returns the whole records of a piece of a file.

    Args:
        data: the bytes, starting at the start of a record.
        delimiter: one ASCII character.
        final: no bytes follow: what is left at the end is a record too.
        line: the number of the first line.

    Example:
        >>> records = split(b"1,2\n3,4,5\n6", final=False)
        >>> records.fields.tolist(), records.used
        ([2, 3], 10)
    """
    array = np.frombuffer(data, np.uint8)
    breaks = _line_breaks(data, array, final=final)
    if b'"' in data:
        starts, ends, fields, problems, used = _split_quoted(data, delimiter, final=final)
    else:
        starts, ends, used = _split_lines(data, array, breaks, final=final)
        commas = np.flatnonzero(array == ord(delimiter))
        fields = np.searchsorted(commas, ends) - np.searchsorted(commas, starts) + 1
        problems = {}
    for index in np.flatnonzero(ends - starts > MAX_RECORD_BYTES).tolist():
        problems[index] = "too_long"
    return Records(
        data=data,
        starts=starts,
        ends=ends,
        lines=line + np.searchsorted(breaks, starts),
        fields=fields.astype(np.int64),
        problems=problems,
        used=used,
        line=line + int(np.searchsorted(breaks, used)),
    )


def _line_breaks(data: bytes, array: npt.NDArray[np.uint8], *, final: bool) -> Ints:
    """Returns the offset of the last byte of every line end."""
    if b"\r" not in data:
        return np.flatnonzero(array == 10)
    following = np.append(array[1:], np.uint8(0 if final else 10))
    return np.flatnonzero((array == 10) | ((array == 13) & (following != 10)))


def _split_lines(
    data: bytes, array: npt.NDArray[np.uint8], breaks: Ints, *, final: bool
) -> tuple[Ints, Ints, int]:
    used = int(breaks[-1]) + 1 if len(breaks) else 0
    starts = np.concatenate([np.zeros(1, np.int64), breaks + 1])
    ends = np.append(breaks, len(data))
    if not final:
        starts, ends = starts[:-1], ends[:-1]
    else:
        used = len(data)
    crlf = (ends > starts) & (array[np.maximum(ends - 1, 0)] == 13) if len(array) else False
    ends = ends - crlf
    rows = ends > starts
    return starts[rows], ends[rows], used


def _split_quoted(
    data: bytes, delimiter: str, *, final: bool
) -> tuple[Ints, Ints, Ints, dict[int, str], int]:
    grammar = _grammar(delimiter.encode())
    starts: list[int] = []
    ends: list[int] = []
    fields: list[int] = []
    problems: dict[int, str] = {}
    at = 0
    while at < len(data):
        stop = min(at + MAX_RECORD_BYTES, len(data))
        found = grammar.record.match(data, at, stop)
        if found and found.end() == stop < len(data):
            found = None  # too long to be looked at whole
        end = found.end() if found else _give_up(grammar, data, at, final=final)
        if end is None or (not final and _at_edge(data, end)):
            break  # the record, or its line end, goes on in the next piece
        if end > at:
            if found is None:
                problems[len(starts)] = "open_quote"
            starts.append(at)
            ends.append(end)
            fields.append(len(grammar.fields.findall(found.group())) if found else 0)
        at = end + (2 if data.startswith(b"\r\n", end) else 1)
    as_ints = [np.asarray(values, np.int64) for values in (starts, ends, fields)]
    return as_ints[0], as_ints[1], as_ints[2], problems, min(at, len(data))


def _at_edge(data: bytes, end: int) -> bool:
    return end == len(data) or (end + 1 == len(data) and data.endswith(b"\r"))


_LINE_END = re.compile(rb"[\r\n]|\Z")


def _give_up(grammar: _Grammar, data: bytes, at: int, *, final: bool) -> int | None:
    """Returns where the first line of an unreadable record ends; None if more bytes may help."""
    limit = at + MAX_RECORD_BYTES
    if not final and len(data) <= limit and grammar.open_quote.match(data, at):
        return None
    found = _LINE_END.search(data, at)
    end = found.start() if found else len(data)
    return None if end == len(data) and not final else end
