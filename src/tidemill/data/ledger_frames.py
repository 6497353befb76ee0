r"""The bytes of a segment: a header, then frames of many records each, every one with its crc32.

    segment  = "TIDEMILL LEDGER\n" <u32 schema> frame*
    frame    = <u32 length> <u32 crc32 of the payload> payload                    (little-endian)
    payload  = msgpack [0, layouts, predictions] | [1, labels]
    layout   = the names of the input columns, null, the names of the output columns

A frame explains itself: losing one loses no other. A prediction holds the number of its layout, and
its columns' values in that order: a plain value (one row, scalar), a list (one entry per row), or
``{d: dtype, s: shape, b: bytes}`` for arrays of more than 32 numbers, which are faster to copy
than to convert.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill.data.ledger_floats import Columns, float_rows
from tidemill.data.ledger_records import (
    LabelRecord,
    Prediction,
    Problem,
    Shared,
    StoredRows,
)
from tidemill.data.ledger_rows import ENCODER
from tidemill.foundation.errors import InvalidInput, InvalidSettings, TooLarge

SCHEMA_VERSION = 1
"""The layout of segments; one written by a newer Tidemill is refused."""

MAGIC = b"TIDEMILL LEDGER\n"
HEADER_BYTES = len(MAGIC) + 4
MAX_PAYLOAD_BYTES = 1 << 28
"""No frame is larger; a length above it is damage."""

_SCHEMA = struct.Struct("<I")
_FRAME = struct.Struct("<II")
_SMALL = 32
_AS_LISTS = frozenset("OUSMm")

Layout = tuple[str | None, ...]


def segment_header() -> bytes:
    """Returns the first bytes of a segment."""
    return MAGIC + _SCHEMA.pack(SCHEMA_VERSION)


def frame(payload: bytes) -> bytes:
    """Returns the payload with its length and checksum before it.

    Raises:
        TooLarge: the payload has more than ``MAX_PAYLOAD_BYTES`` bytes.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise TooLarge(
            f"{len(payload)} bytes of ledger records were appended at once, "
            f"more than {MAX_PAYLOAD_BYTES}",
            remedy="Append fewer records in one call.",
        )
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


class _Rows:
    """Columns of one batch, turned once into what is stored of any of its rows.

    ``single`` holds that for each row alone; None if that takes long, and not all may be asked for.
    """

    __slots__ = ("_columns", "_lists", "single")

    def __init__(self, columns: Columns) -> None:
        self._columns = arrays = [*columns.values()]
        self._lists: list[list[Any]] = []
        self.single: list[tuple[Any, ...]] | None = None
        if all(c.size <= _SMALL * len(c) or c.dtype.kind in _AS_LISTS for c in arrays):
            self._lists = lists = [column.tolist() for column in arrays]
            scalar = all(column.ndim == 1 for column in arrays)
            self.single = [*zip(*(lists if scalar else map(zip, lists)), strict=True)]

    def each(self) -> list[tuple[Any, ...]]:
        """Returns the stored columns of each row alone."""
        if self.single is None:
            self.single = [*zip(*map(_each_stored, self._columns), strict=True)]
        return self.single

    def of(self, start: int, stop: int) -> Sequence[Any]:
        """Returns the stored columns of the rows from ``start`` up to ``stop``."""
        if not self._lists:
            return [_stored(column[start:stop]) for column in self._columns]
        return [values[start:stop] for values in self._lists]


def _one_row(columns: Columns) -> list[Any] | None:
    """Returns what ``_Rows`` stores of the only row, with less ado; None if it is not so plain."""
    lists: list[Any] = []
    scalar = True
    for column in columns.values():
        if len(column) != 1 or (column.size > _SMALL and column.dtype.kind not in _AS_LISTS):
            return None
        if column.ndim != 1:
            scalar = False
        lists.append(column.tolist())
    return [values[0] for values in lists] if scalar else lists


_NO_ROWS = _Rows({})


def stored_rows(columns: Columns) -> StoredRows:
    """Returns what is stored of each row of a batch, as ``PlainRow.stored`` has it.

    Raises:
        InvalidInput: a column is no array.
    """
    try:
        return float_rows(columns, _SMALL) or _Rows(columns).each()
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _unfit(error) from error


def _unfit(error: Exception) -> InvalidInput:
    return InvalidInput(
        f"a prediction cannot be kept in the ledger: {error}",
        remedy="Give NumPy arrays of numbers, booleans or strings.",
    )


def encode_predictions(predictions: Sequence[Prediction]) -> bytes:
    """Returns the payload of one frame of predictions.

    Raises:
        InvalidInput: a prediction holds something else than arrays of numbers and strings.
    """
    try:
        return _encoded(predictions)
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _unfit(error) from error


def _encoded(predictions: Sequence[Prediction]) -> bytes:
    # Hot: once per event-loop turn, half a microsecond for each of a batch's queries.
    layouts: dict[tuple[tuple[str, ...], tuple[str, ...]], int] = {}
    shared: Shared | None = None
    layout, inputs, outputs = 0, _NO_ROWS, _NO_ROWS
    ones = answered = _NO_ROWS.single
    rows: list[Any] = []
    for each in predictions:
        n, start, answers, plain = each.n, each.start, each.answers, each.plain
        if answers is None and n == 1:
            asked: Sequence[Any] | None
            said: Sequence[Any] | None
            if plain is not None:
                asked, said = plain[0].stored, plain[1].stored
                names = plain[0].names, plain[1].names
            else:
                asked, said = _one_row(each.inputs), _one_row(each.outputs)
                names = (*each.inputs,), (*each.outputs,)
            if asked is not None and said is not None:
                layout = layouts.setdefault(names, len(layouts))
                shared = None
                rows.append(
                    (
                        each.request_id,
                        each.time,
                        each.event_time,
                        each.application,
                        each.version,
                        each.row_sources or each.source,
                        1,
                        layout,
                        asked,
                        said,
                    )
                )
                continue
        batch: Prediction | Shared = each if answers is None else answers
        if answers is None:
            start = 0
        if answers is None or answers is not shared:  # those of one batch follow one another
            shared = answers
            names = (*batch.inputs,), (*batch.outputs,)
            layout = layouts.setdefault(names, len(layouts))
            inputs, outputs = _Rows(batch.inputs), _Rows(batch.outputs)
            ones = inputs.each() if n == 1 else inputs.single
            answered = outputs.each() if n == 1 else outputs.single
        rows.append(
            (
                each.request_id,
                each.time,
                each.event_time,
                each.application,
                each.version,
                each.row_sources or each.source,
                n,
                layout,
                ones[start] if ones and n == 1 else inputs.of(start, start + n),
                answered[start] if answered and n == 1 else outputs.of(start, start + n),
            )
        )
    named = [(*asked, None, *said) for asked, said in layouts]
    return ENCODER.encode((0, named, rows))


def encode_labels(records: Sequence[LabelRecord]) -> bytes:
    """Returns the payload of one frame of labels.

    Raises:
        InvalidInput: a label is not a boolean, a number or a string.
    """
    try:
        return ENCODER.encode((1, records))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(
            f"a label cannot be kept in the ledger: {error}",
            remedy="Give a boolean, a number or a string.",
        ) from error


def _stored(column: NDArray[Any]) -> Any:
    if column.size <= _SMALL or column.dtype.kind in _AS_LISTS:
        return column.tolist()
    return {"d": column.dtype.str, "s": column.shape, "b": column.tobytes()}


def _each_stored(column: NDArray[Any]) -> list[Any]:
    """Returns ``_stored`` of each row of a column; large ones stay where they are."""
    if column[:1].size <= _SMALL or column.dtype.kind in _AS_LISTS:
        return [[row] for row in column.tolist()]
    kind, shape, size = column.dtype.str, (1, *column.shape[1:]), column[:1].nbytes
    data = np.ascontiguousarray(column).reshape(-1).view(np.uint8).data
    starts = range(0, len(data), size)
    return [{"d": kind, "s": shape, "b": data[at : at + size]} for at in starts]


class StoredPrediction(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A prediction record as it is stored."""

    request_id: Any  # bytes | str, which msgspec does not tell apart
    time: float
    event_time: float | None
    application: str
    version: int
    source: str | list[str]
    n: int
    layout: int
    inputs: list[Any]
    outputs: list[Any]


class PredictionFrame(msgspec.Struct, frozen=True, array_like=True, tag=0, gc=False):
    """The payload of a frame of predictions."""

    layouts: list[Layout]
    records: list[StoredPrediction]


class LabelFrame(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """The payload of a frame of labels."""

    records: list[LabelRecord]


_decoder = msgspec.msgpack.Decoder(PredictionFrame | LabelFrame)


def decode(payload: bytes | memoryview) -> PredictionFrame | LabelFrame:
    """Returns what ``encode_predictions`` or ``encode_labels`` was given.

    Raises:
        msgspec.DecodeError: the payload is none.
    """
    # Strict decoding keeps the kinds apart: true stays a boolean, 1 an integer, 1.0 a float.
    decoded: PredictionFrame | LabelFrame = _decoder.decode(payload)
    return decoded


def per_row(stored: Any, n: int) -> list[Any]:
    """Returns a stored column as n values, one per row: plain ones, or the rows of a large array.

    Raises:
        ValueError: it does not have n rows.

    Example:
        >>> per_row(3, 1), per_row([[1, 2], [3, 4]], 2)
        ([3], [[1, 2], [3, 4]])
    """
    values: Any = stored
    if isinstance(stored, Mapping):
        array = np.frombuffer(stored["b"], np.dtype(stored["d"])).reshape(stored["s"])
        values = array.tolist() if array.ndim == 1 else array
    elif not isinstance(stored, list):
        values = [stored]
    if len(values) != n:
        raise ValueError(f"{len(values)} values for {n} rows")
    return list(values)


@dataclass(slots=True)
class Scan:
    """What is in a segment: whole frames, damage, and where the last whole frame ends.

    ``torn_bytes`` lie behind it: a frame that is being written, or that a crash cut short.
    """

    frames: list[tuple[int, memoryview]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    end: int = HEADER_BYTES
    torn_bytes: int = 0


def scan(data: bytes, segment: str, *, sealed: bool) -> Scan:
    """Finds the whole frames of a segment.

    A frame whose checksum is wrong is stepped over if a whole frame comes after it. We do not
    search for frames inside damage: a client's own bytes could look like one. What follows the
    last whole frame is damage in a sealed segment, and a torn tail in an open one.

    Raises:
        InvalidSettings: a newer Tidemill wrote the segment.
    """
    found = Scan()
    if not _check_header(data, segment, sealed, found):
        return found
    view, size, offset = memoryview(data), len(data), HEADER_BYTES
    bad: list[Problem] = []
    while size - offset >= _FRAME.size:
        length, crc = _FRAME.unpack_from(data, offset)
        start = offset + _FRAME.size
        if not 0 < length <= min(MAX_PAYLOAD_BYTES, size - start):
            break
        payload = view[start : start + length]
        if zlib.crc32(payload) == crc:
            found.frames.append((offset, payload))
            found.problems += bad
            bad, found.end = [], start + length
        else:
            bad.append(_problem(segment, offset, start + length, "a frame's checksum is wrong"))
        offset = start + length
    if sealed:
        found.problems += bad
        if offset < size:
            found.problems.append(_problem(segment, offset, size, "a frame's length is wrong"))
    else:
        found.torn_bytes = size - found.end
    return found


def _check_header(data: bytes, segment: str, sealed: bool, found: Scan) -> bool:  # noqa: FBT001
    head = data[:HEADER_BYTES]
    if head == segment_header():
        return True
    if head.startswith(MAGIC) and len(head) == HEADER_BYTES:
        schema = _SCHEMA.unpack_from(head, len(MAGIC))[0]
        if schema > SCHEMA_VERSION:
            raise InvalidSettings(
                f"ledger segment {segment} has schema {schema}, "
                f"newer than {SCHEMA_VERSION} known here",
                remedy="Upgrade Tidemill on this machine.",
            )
    found.end = 0
    if not sealed and (segment_header().startswith(data) or not any(data)):
        found.torn_bytes = len(data)
    else:
        found.problems.append(_problem(segment, 0, len(data), "it does not start as a segment"))
    return False


def _problem(segment: str, offset: int, end: int, what: str) -> Problem:
    return Problem(segment=segment, offset=offset, size_bytes=end - offset, what=what)


def whole_segment(payloads: Iterable[bytes]) -> bytes:
    """Returns the bytes of a segment with those payloads, one frame each."""
    return segment_header() + b"".join(map(frame, payloads))
