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
        >>> writer.write([0.5], "0a")
        b'{"predictions":[0.5],"prediction_ids":["0a"],"model_version":"3","sources":["table"]}'
        >>> writer.write_all([[0.5]], ["0a"]) == [writer.write([0.5], "0a")]
        True
    """

    __slots__ = ("_after", "_before", "_between", "_columns", "_names")

    def __init__(self, form: RowForm, *, version: int, source: str) -> None:
        self._names = None if len(form.names) == 1 else form.names
        self._columns = form.columns
        self._before, self._between = b'{"predictions":[', b'],"prediction_ids":["'
        self._after = b'"],"model_version":"%d","sources":["%b"]}' % (version, source.encode())

    def write(self, values: Sequence[Any], prediction_id: str) -> bytes:
        """Returns the body of such a row; byte for byte what ``wire.write_predict`` writes."""
        names, name = self._names, prediction_id.encode()
        said: Any = values[0] if names is None else dict(zip(names, values, strict=True))
        text: bytes = orjson.dumps(said)
        return b"%b%b%b%b%b" % (self._before, text, self._between, name, self._after)

    def write_all(
        self, rows: Sequence[Sequence[Any]], prediction_ids: Sequence[str]
    ) -> list[bytes] | None:
        """Returns what ``write`` does of each, written at once; None where it takes that."""
        shape = _shape_of_numbers(self._columns)
        if shape is None:
            return None
        before, between, after = self._before, self._between, self._after
        text: bytes = orjson.dumps([row[0] for row in rows])
        if shape:
            before, between = before + b"[", b"]" + between
            texts = text[2:-2].split(b"],[")
        else:
            texts = text[1:-1].split(b",")
        return [
            b"%b%b%b%b%b" % (before, each, between, name.encode(), after)
            for each, name in zip(texts, prediction_ids, strict=True)
        ]


def write_row(row: Row, prediction_id: str, *, version: int, source: str) -> bytes:
    """Writes what ``wire.write_predict`` writes of one row, byte for byte."""
    return RowWriter(row.form, version=version, source=source).write(row.values, prediction_id)


def _shape_of_numbers(columns: Sequence[Column]) -> tuple[int, ...] | None:
    """Returns the shape of the one column, if its rows are numbers, or lists of them, alone."""
    if len(columns) != 1 or columns[0].dtype.kind not in "biuf" or len(columns[0].shape) > 1:
        return None
    return columns[0].shape
