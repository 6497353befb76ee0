"""Rows that are recorded together, each of plain values, as the payload of one frame.

What a frame is, ``ledger_frames`` tells; what every query passes through stands here.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from tidemill.data.ledger_floats import FloatRows, blank_records, list_head
from tidemill.data.ledger_records import PlainRows
from tidemill.foundation.errors import InvalidInput

_ID_DIGITS: Final = 32
_BEFORE_ID: Final = b"\x9a\xd9\x20"  # a list of ten; it begins with a text of so many letters


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be kept in the ledger")


ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_plain)
"""Encodes what a frame holds."""


def encode_rows(rows: PlainRows) -> bytes:
    """Returns the payload of one frame, as ``encode_predictions`` does of the same queries.

    Raises:
        InvalidInput: one of them holds something else than plain values.
    """
    if isinstance(rows.asked, FloatRows) and isinstance(rows.said, FloatRows):
        return _encode_floats(rows, rows.asked, rows.said)
    when: Any = rows.time
    version: Any = rows.version
    application, source = rows.application, rows.source
    asked = rows.asked.cut() if isinstance(rows.asked, FloatRows) else rows.asked
    said = rows.said.cut() if isinstance(rows.said, FloatRows) else rows.said
    of_each = zip(rows.ids, asked, said, strict=True)
    records = [
        (name, when, None, application, version, source, 1, 0, of_asked, of_said)
        for name, of_asked, of_said in of_each
    ]
    names, answers = rows.columns
    try:
        return ENCODER.encode((0, [(*names, None, *answers)], records))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(
            f"a prediction cannot be kept in the ledger: {error}",
            remedy="Give numbers, booleans or strings.",
        ) from error


def _encode_floats(rows: PlainRows, asked: FloatRows, said: FloatRows) -> bytes:
    """Encodes rows that are numbers alone: records of one size, but for what differs the same."""
    names, answers = rows.columns
    count, ids = len(rows.ids), "".join(rows.ids).encode("ascii")
    if not len(asked) == len(said) == count or len(ids) != count * _ID_DIGITS:
        raise InvalidInput("a prediction cannot be kept in the ledger: it has no id or no answer")
    same = (rows.time, None, rows.application, rows.version, rows.source, 1, 0)
    between = ENCODER.encode(same)[1:]  # they are entries of a longer list
    blank = b"%b%b%b%b%b" % (_BEFORE_ID, bytes(_ID_DIGITS), between, asked.blank, said.blank)
    records = blank_records(blank, count)
    at = len(_BEFORE_ID)
    records[:, at : at + _ID_DIGITS] = np.frombuffer(ids, np.uint8).reshape(count, _ID_DIGITS)
    asked.fill(records, at + _ID_DIGITS + len(between))
    said.fill(records, len(blank) - len(said.blank))
    head = ENCODER.encode((0, [(*names, None, *answers)], ()))[:-1]  # but for the empty list
    return head + list_head(count) + records.tobytes()
