"""v1 answers of one row each: the same text around ever new values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from tidemill.models.signature import Column
from tidemill.serving.row import Row, RowForm


class RowWriter:
    """Writes v1 answers of one row each, of one form, version and source.

    Example:
        >>> form = RowForm([Column("y", "float64")])
        >>> writer = RowWriter(form, version=3, source="table")
        >>> writer.write(writer.text([0.5]), "0a")
        b'{"predictions":[0.5],"prediction_ids":["0a"],"model_version":"3","sources":["table"]}'
        >>> writer.texts([[0.5], [1.0]])
        [b'0.5', b'1.0']
    """

    __slots__ = ("_after", "_names", "_numbers")

    def __init__(self, form: RowForm, *, version: int, source: str) -> None:
        self._names = None if len(form.names) == 1 else form.names
        self._numbers = _shape_of_numbers(form.columns)
        self._after = b'"],"model_version":"%d","sources":["%b"]}' % (version, source.encode())

    def write(self, text: bytes, prediction_id: str) -> bytes:
        """Returns the body of such a row; byte for byte what ``wire.write_predict`` writes."""
        return b'{"predictions":[%b],"prediction_ids":["%b%b' % (
            text,
            prediction_id.encode(),
            self._after,
        )

    def text(self, values: Sequence[Any]) -> bytes:
        """Returns the values of a row as JSON."""
        names = self._names
        said: Any = values[0] if names is None else dict(zip(names, values, strict=True))
        return orjson.dumps(said)

    def texts(self, rows: Sequence[Sequence[Any]]) -> list[bytes] | None:
        """Returns what ``text`` does of each, written at once; None where it takes that."""
        shape = self._numbers
        if shape is None:
            return None
        text: bytes = orjson.dumps([row[0] for row in rows])
        if not shape:
            return text[1:-1].split(b",")
        return [b"[%b]" % each for each in text[2:-2].split(b"],[")]


def write_row(row: Row, prediction_id: str, *, version: int, source: str) -> bytes:
    """Writes what ``wire.write_predict`` writes of one row, byte for byte."""
    writer = RowWriter(row.form, version=version, source=source)
    return writer.write(writer.text(row.values), prediction_id)


def _shape_of_numbers(columns: Sequence[Column]) -> tuple[int, ...] | None:
    """Returns the shape of the one column, if its rows are numbers, or lists of them, alone."""
    if len(columns) != 1 or columns[0].dtype.kind not in "biuf" or len(columns[0].shape) > 1:
        return None
    return columns[0].shape
