"""The usual v2 answer, put together from pieces that were made before."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat

import orjson

from tidemill.models.signature import Array, Column
from tidemill.serving.query import Answers, Query
from tidemill.serving.tensors import datatype_of, to_bytes

_FRAMES_KEPT = 64

_ID_FOLLOWS = b'parameters":{"prediction_id":"'

_Frame = tuple[bytes, list[bytes], bytes]
"""What stands before the parameters, before each column's data, and at the end of the JSON."""


@dataclass(frozen=True, slots=True)
class Halves:
    """The answers to a batch's queries of one row: what comes before each id, and after it.

    ``binary_bytes`` are what each ends with, after its JSON.
    """

    before: bytes
    after: list[bytes]
    binary_bytes: int


class AnswerWriter:
    """Writes the answers to requests that want the same outputs in the same form.

    It writes what ``wire.write_infer`` writes, byte for byte. What never changes is kept, and the
    rows of a batch become text once for all the queries that share it.

    Args:
        model: the name that clients use.
        wanted: the outputs, and whether each is wanted as a binary tensor.
    """

    def __init__(self, model: str, wanted: tuple[tuple[Column, bool], ...]) -> None:
        self._head = b'{"model_name":%s,"model_version":"' % orjson.dumps(model)
        self._wanted = wanted
        self._in_json = [column for column, binary in wanted if not binary]
        self._binary = [column for column, binary in wanted if binary]
        self._fixed = all(column.dtype.kind != "O" for column in self._binary)
        self._frames: dict[tuple[int, str], _Frame] = {}

    def write(self, query: Query, client_id: str | None) -> tuple[bytes, int | None]:
        """Returns the body, and the length of its JSON if binary tensors follow.

        Args:
            query: answered; all its rows have one source.
            client_id: what the client calls its request.
        """
        answers = query.answers
        if answers is not None and query.n == 1 and client_id is None and self._fixed:
            halves = self.halves(answers, query.version, query.source)
            body = b"%b%b%b" % (
                halves.before,
                query.request_id.encode(),
                halves.after[query.start],
            )
            return body, len(body) - halves.binary_bytes if self._binary else None
        return self._write(query, client_id)

    def halves(self, answers: Answers, version: int, source: str) -> Halves:
        """Writes all answers of a batch but for their ids; the next query finds its own."""
        found: Halves | None = answers.written.get(self)
        if found is not None:
            return found
        frame = self._frames.get((version, source))
        before, between, end = frame or self._keep(version, source)
        parts: list[Iterable[bytes]] = []
        for text, row in zip(between, self._rows_of(answers), strict=True):
            parts += repeat(text), row
        rows = len(next(iter(answers.outputs.values())))
        parts += [end] * rows, *map(answers.each_row, self._binary)
        after = [b"".join(said) for said in zip(*parts, strict=False)]  # repeats never end
        size = sum(column.row_bytes for column in self._binary)
        halves = Halves(before + b'"' + _ID_FOLLOWS, after, size)
        answers.written[self] = halves
        return halves

    def _write(self, query: Query, client_id: str | None) -> tuple[bytes, int | None]:
        n, source, blobs = query.n, query.source, self._blobs(query)
        if n == 1 and self._fixed:
            frame = self._frames.get((query.version, source)) or self._keep(query.version, source)
        else:
            frame = self._frame(n, query.version, source, blobs)
        before, between, end = frame
        said = b'"' if client_id is None else b'"id":%s,"' % orjson.dumps(client_id)
        parts = [before, said, _ID_FOLLOWS, query.request_id.encode()]
        if self._in_json:
            texts, start = self._texts(query)
            for text, rows in zip(between, texts, strict=True):
                parts.append(text)
                parts.append(rows[start] if n == 1 else b",".join(rows[start : start + n]))
        parts.append(end)
        json = b"".join(parts)
        return (json + b"".join(blobs), len(json)) if self._binary else (json, None)

    def _texts(self, query: Query) -> tuple[list[list[bytes]], int]:
        """Returns each column's rows as JSON, and where the query's own begin."""
        answers = query.answers
        if answers is None:
            outputs = query.outputs
            return [row_texts(outputs[column.name]) for column in self._in_json], 0
        return self._rows_of(answers), query.start

    def _rows_of(self, answers: Answers) -> list[list[bytes]]:
        """Returns each column's rows as JSON: of the whole batch."""
        known, texts = answers.texts, []
        for column in self._in_json:
            rows = known.get(column.name)
            if rows is None:
                rows = known[column.name] = row_texts(answers.outputs[column.name])
            texts.append(rows)
        return texts

    def _blobs(self, query: Query) -> list[bytes]:
        if not self._binary:
            return []
        answers = query.answers
        if answers is None or not self._fixed:
            outputs = query.outputs
            return [to_bytes(outputs[column.name]) for column in self._binary]
        start, stop = query.start, query.start + query.n
        return [answers.rows(column, start, stop) for column in self._binary]

    def _keep(self, version: int, source: str) -> _Frame:
        if len(self._frames) >= _FRAMES_KEPT:
            self._frames.clear()
        sizes = [b"\0" * column.row_bytes for column in self._binary]
        frame = self._frames[version, source] = self._frame(1, version, source, sizes)
        return frame

    def _frame(self, n: int, version: int, source: str, blobs: list[bytes]) -> _Frame:
        told = b'","source":%s,"version":%d},"outputs":[' % (orjson.dumps(source), version)
        between, sizes = [], iter(blobs)
        for column, binary in self._wanted:
            head = orjson.dumps({"name": column.name, "datatype": datatype_of(column)})[:-1]
            shape = b",".join(b"%d" % size for size in (n, *column.shape))
            told += head + b',"shape":[' + shape
            if binary:
                told += b'],"parameters":{"binary_data_size":%d}},' % len(next(sizes))
            else:
                between.append(told + b'],"data":[')
                told = b"]},"
        return b'%s%d",' % (self._head, version), between, told[:-1] + b"]}"


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
