"""The usual v2 answer, all outputs in JSON, put together from pieces that were made before."""

from __future__ import annotations

import math

import orjson

from tidemill.models.signature import Array, Column
from tidemill.serving.query import Query
from tidemill.serving.tensors import datatype_of

_FRAMES_KEPT = 64
_END = b"]}]}"


class PlainAnswer:
    """Writes the answers of one application.

    It writes what ``wire.write_infer`` writes, byte for byte. What never changes is kept, and the
    rows of a batch become text once for all the queries that share it.

    Args:
        model: the name that clients use.
        columns: the outputs.
    """

    def __init__(self, model: str, columns: tuple[Column, ...]) -> None:
        self._head = b'{"model_name":%s,"model_version":"' % orjson.dumps(model)
        self._columns = columns
        self._frames: dict[tuple[int, str], tuple[bytes, list[bytes]]] = {}

    def write(self, query: Query, client_id: str | None) -> bytes:
        """Returns the body of the answer to a query whose rows all have one source."""
        n, source = query.n, query.source
        if n == 1:
            frame = self._frames.get((query.version, source)) or self._keep(query.version, source)
        else:
            frame = self._frame(n, query.version, source)
        before, between = frame
        said = b'"' if client_id is None else b'"id":%s,"' % orjson.dumps(client_id)
        parts = [before, said, b'parameters":{"prediction_id":"', query.request_id.encode()]
        answers, start = query.answers, query.start
        if answers is None:
            columns, start = self._texts(query), 0
        else:
            columns = answers.texts
            if columns is None:
                columns = answers.texts = [
                    row_texts(answers.arrays[column.name]) for column in self._columns
                ]
        for text, rows in zip(between, columns, strict=True):
            parts.append(text)
            parts.append(rows[start] if n == 1 else b",".join(rows[start : start + n]))
        parts.append(_END)
        return b"".join(parts)

    def _texts(self, query: Query) -> list[list[bytes]]:
        outputs = query.outputs
        return [row_texts(outputs[column.name]) for column in self._columns]

    def _keep(self, version: int, source: str) -> tuple[bytes, list[bytes]]:
        if len(self._frames) >= _FRAMES_KEPT:
            self._frames.clear()
        frame = self._frames[version, source] = self._frame(1, version, source)
        return frame

    def _frame(self, n: int, version: int, source: str) -> tuple[bytes, list[bytes]]:
        """Returns what stands before the parameters, and before each column's data."""
        told = b'","source":%s,"version":%d},"outputs":[' % (orjson.dumps(source), version)
        between = []
        for column in self._columns:
            described = {"name": column.name, "datatype": datatype_of(column)}
            shape = b",".join(b"%d" % size for size in (n, *column.shape))
            head = orjson.dumps(described)[:-1]
            between.append(told + head + b',"shape":[' + shape + b'],"data":[')
            told = b"]},"
        return b'%s%d",' % (self._head, version), between


def row_texts(array: Array) -> list[bytes]:
    """Returns each row's elements as JSON, without brackets.

    Example:
        >>> import numpy as np
        >>> row_texts(np.array([[1.5, 2.0], [3.0, 4.0]]))
        [b'1.5,2.0', b'3.0,4.0']
    """
    rows = len(array)
    if array.dtype.kind in "OUS":
        flat = array.reshape(rows, math.prod(array.shape[1:])).tolist()
        return [orjson.dumps(row)[1:-1] for row in flat]
    if array.ndim > 1:
        array = array.reshape(rows, -1)
    text = orjson.dumps(_contiguous(array), option=orjson.OPT_SERIALIZE_NUMPY)
    return text[1:-1].split(b",") if array.ndim == 1 else text[2:-2].split(b"],[")


def _contiguous(array: Array) -> Array:
    return array if array.flags.c_contiguous else array.copy()
