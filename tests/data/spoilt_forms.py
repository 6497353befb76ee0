"""Spoils rows of JSON Lines, Parquet, Arrow and Avro, each fault with the rows that it touched.

As ``corruption`` does for CSV: everything is drawn from the given generator. Parquet, Arrow and
Avro give each column one type, so that a fault of another type cannot be written there.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
from tests.data.corruption import HEADER, clean_rows

Row = dict[str, Any]
KINDS = {"id": int, "share": float, "distance": int}
ARROW = pa.schema(
    [
        ("id", pa.int64()),
        ("at", pa.string()),
        ("carrier", pa.string()),
        ("share", pa.float64()),
        ("distance", pa.int64()),
        ("note", pa.string()),
    ]
)
_AVRO = {"id": "long", "share": "double", "distance": "long"}
_PIECE = 7
"""Rows in a row group, a batch or a block: small, so that a file has several."""


def typed_rows(draw: random.Random, count: int, first: int = 0) -> list[Row]:
    """Returns rows with nothing wrong, their ids from ``first`` on; times are texts."""
    rows = [dict(zip(HEADER, row, strict=True)) for row in clean_rows(draw, count, first)]
    return [{name: KINDS.get(name, str)(value) for name, value in row.items()} for row in rows]


def _json_lines(rows: Sequence[Row]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _parquet(rows: Sequence[Row]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), ARROW), sink, row_group_size=_PIECE)
    return sink.getvalue()


def _arrow(rows: Sequence[Row]) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, ARROW) as writer:
        writer.write_table(pa.Table.from_pylist(list(rows), ARROW), max_chunksize=_PIECE)
    return sink.getvalue()


def _avro(rows: Sequence[Row]) -> bytes:
    fields = [{"name": name, "type": ["null", _AVRO.get(name, "string")]} for name in HEADER]
    schema = fastavro.parse_schema({"type": "record", "name": "r", "fields": fields})
    sink = io.BytesIO()
    fastavro.writer(sink, schema, rows, codec="deflate", sync_interval=200)
    return sink.getvalue()


FORMS: dict[str, Callable[[Sequence[Row]], bytes]] = {
    "jsonl": _json_lines,
    "parquet": _parquet,
    "arrow": _arrow,
    "avro": _avro,
}
ENDED = ("parquet", "arrow", "avro")
"""Forms that say where they end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault of single rows.

    Attributes:
        change: spoils a row; rows of JSON Lines may become other text.
        reasons: what such a row may be held for.
        forms: in which it can be written.
    """

    change: Callable[[random.Random, Row], Row | bytes]
    reasons: tuple[str, ...]
    forms: tuple[str, ...] = tuple(FORMS)


def spoilt(
    draw: random.Random, rows: Sequence[Row], form: str, name: str
) -> tuple[bytes, list[int]]:
    """Returns a file of rows with a fault in a tenth of them, and which rows those are, from 1."""
    if name == DUPLICATES:
        again = draw.sample(list(rows), max(1, len(rows) // 10))
        places = list(range(len(rows) + 1, len(rows) + 1 + len(again)))
        return FORMS[form]([*rows, *again]), places
    fault = FAULTS[name]
    touched = sorted(draw.sample(range(len(rows)), max(1, len(rows) // 10)))
    changed: list[Row | bytes] = [dict(row) for row in rows]
    for place in touched:
        changed[place] = fault.change(draw, dict(rows[place]))
    places = [place + 1 for place in touched]
    if form != "jsonl":
        return FORMS[form]([row for row in changed if isinstance(row, dict)]), places
    lines = [row + b"\n" if isinstance(row, bytes) else _json_lines([row]) for row in changed]
    return b"".join(lines), places


def _set(name: str, *values: Any) -> Callable[[random.Random, Row], Row]:
    return lambda draw, row: row | {name: draw.choice(values)}


def _lacks(_: random.Random, row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "distance"}


def _swap(_: random.Random, row: Row) -> Row:
    return row | {"carrier": row["share"], "share": row["carrier"]}


def _line(change: Callable[[random.Random, bytes], bytes]) -> Callable[[random.Random, Row], bytes]:
    return lambda draw, row: change(draw, _json_lines([row]).rstrip())


DUPLICATES = "duplicate rows"
_LINES = ("jsonl",)
FAULTS = {
    "another unit": Fault(
        change=lambda _, row: row | {"distance": row["distance"] * 1609}, reasons=("out_of_range",)
    ),
    "a billion percent": Fault(change=_set("share", 1e9), reasons=("out_of_range",)),
    "NaN": Fault(change=_set("share", float("nan")), reasons=("not_finite",)),
    "infinity": Fault(change=_set("share", float("inf"), float("-inf")), reasons=("not_finite",)),
    "no value": Fault(change=_set("distance", None), reasons=("missing",)),
    "a day in no calendar": Fault(
        change=_set("at", "2024-02-30", "2024-13-01", "2024-01-01T25:00:00"),
        reasons=("wrong_type",),
    ),
    "a word outside the domain": Fault(change=_set("carrier", "ZZ"), reasons=("not_in_domain",)),
    "a name that is not there": Fault(change=_lacks, reasons=("missing",), forms=_LINES),
    "swapped columns": Fault(change=_swap, reasons=("wrong_type", "not_in_domain"), forms=_LINES),
    "an object in a column of numbers": Fault(
        change=_set("share", {"of": 1}, [1, 2]), reasons=("wrong_type",), forms=_LINES
    ),
    "a cut line": Fault(
        change=_line(lambda draw, line: line[: draw.randint(1, len(line) - 1)]),
        reasons=("not_json", "encoding"),
        forms=_LINES,
    ),
    "another encoding": Fault(
        change=lambda _, row: (
            _json_lines([row | {"note": "é"}]).rstrip().decode().encode("latin-1")
        ),
        reasons=("encoding",),
        forms=_LINES,
    ),
    "two objects on a line": Fault(
        change=_line(lambda _, line: line + line), reasons=("not_json",), forms=_LINES
    ),
    "a list in place of the object": Fault(
        change=_line(lambda _, line: b"[" + line + b"]"), reasons=("not_json",), forms=_LINES
    ),
}
CASES = [
    *((form, name) for name, fault in FAULTS.items() for form in fault.forms),
    *((form, DUPLICATES) for form in FORMS),
]
