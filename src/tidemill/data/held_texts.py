"""Reads held rows again, from the texts that were kept of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidemill.data.batches import Batch
from tidemill.data.casting import Mask, supported
from tidemill.data.csv_records import Ints
from tidemill.data.csv_source import HELD_TEXT_BYTES, read_rows
from tidemill.data.json_source import read_objects

_ALTERED = ("too_long", "encoding")
"""Reasons whose rows were not kept as they were."""


def read_again(rows: pa.Table, lines: Ints) -> Iterator[Batch]:
    """Yields held rows as batches, each of rows of one form; rows of no known form are left out.

    Args:
        rows: a table of ``HELD_SCHEMA``.
        lines: a number for each row, which it keeps.  # (rows,)
    """
    for places, header, delimiter in _forms(rows):
        texts = rows.column("row").take(pa.array(places)).to_pylist()
        if _is_typed(header):
            yield _typed_batch(texts, lines[places], _schema(header))
            continue
        names = json.loads(header)
        if delimiter is None:
            yield read_objects(texts, lines[places], names)
        else:
            yield read_rows(texts, lines[places], names=names, delimiter=delimiter)


def whole(rows: pa.Table, names: AbstractSet[str]) -> Mask:
    """Tells which held rows can be read again as they were: all of it was kept, in a known form.

    Args:
        rows: a table of ``HELD_SCHEMA``.
        names: the columns that matter; none means all.
    """
    found: Mask = np.zeros(rows.num_rows, np.bool_)
    for places, header, _ in _forms(rows):
        mine = rows.take(pa.array(places))
        if _is_typed(header):
            texts = mine.column("row").to_pylist()
            found[places] = _typed(texts, _schema(header), names)[1]
        else:
            size = pc.binary_length(mine.column("row").cast(pa.binary()))
            cut = pc.greater_equal(size, HELD_TEXT_BYTES)
            altered = pc.is_in(mine.column("reason"), pa.array(_ALTERED))
            found[places] = ~np.asarray(pc.or_(cut, altered), np.bool_)
    return found


def _forms(rows: pa.Table) -> Iterator[tuple[Ints, str, str | None]]:
    """Yields the indices of rows whose texts are of one form, with its header and delimiter."""
    headers = rows.column("header").to_pylist()
    pairs = list(zip(headers, rows.column("delimiter").to_pylist(), strict=True))
    for header, delimiter in dict.fromkeys(pairs):
        if header is not None:
            same = np.fromiter((one == (header, delimiter) for one in pairs), np.bool_, len(pairs))
            yield np.flatnonzero(same), header, delimiter


def _is_typed(header: str) -> bool:
    return not header.startswith("[")  # base64 has none


@lru_cache(maxsize=64)
def _schema(header: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(header)))


def _typed_batch(texts: Sequence[str], lines: Ints, schema: pa.Schema) -> Batch:
    def some(indices: Ints) -> list[str]:
        return [texts[index] for index in indices.tolist()]

    return Batch(table=_typed(texts, schema, frozenset())[0], lines=lines, texts=some)


def _typed(
    texts: Sequence[str], schema: pa.Schema, names: AbstractSet[str]
) -> tuple[pa.Table, Mask]:
    """Returns rows that were kept as JSON with the types they had, and which came back whole."""
    found = [json.loads(text) for text in texts]
    came_back: Mask = np.ones(len(texts), np.bool_)
    columns: dict[str, pa.Array] = {}
    for field in schema:
        values = [row.get(field.name) for row in found]
        if supported(field.type):
            columns[field.name], good = _column(values, field.type)
        else:
            good = np.asarray([value is None for value in values], np.bool_)
        if not names or field.name in names:
            came_back &= good
    if not columns:
        return pa.table({"_": pa.nulls(len(texts))}).select([]), came_back
    return pa.table(columns), came_back


def _column(values: list[object], kind: pa.DataType) -> tuple[pa.Array, Mask]:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_float16(kind):
        kind = pa.float32()
    text = next((isinstance(value, str) for value in values if value is not None), False)
    raw = pa.string() if text else kind
    try:
        return _cast(pa.array(values, raw), kind), np.ones(len(values), np.bool_)
    except pa.ArrowInvalid:  # a time that is in no calendar: look at every value
        parts = [_one(value, raw, kind) for value in values]
    good = [part is not None for part in parts]
    filled = [pa.nulls(1, kind) if part is None else part for part in parts]
    return pa.concat_arrays(filled), np.asarray(good, np.bool_)


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_time(kind) and pa.types.is_string(values.type):
        day = pc.binary_join_element_wise("1970-01-01 ", values, "")
        return day.cast(pa.timestamp(kind.unit)).cast(kind)
    return values.cast(kind)


def _one(value: object, raw: pa.DataType, kind: pa.DataType) -> pa.Array | None:
    try:
        return _cast(pa.array([value], raw), kind)
    except pa.ArrowInvalid:
        return None
