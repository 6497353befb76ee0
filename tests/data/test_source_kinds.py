"""JSON Lines, Arrow IPC and Avro give the rows that CSV gives; what does not fit is held."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.data import arrow_source, avro_source, json_source
from tidemill.data.batches import SourceFile
from tidemill.data.catalog import list_datasets
from tidemill.data.held_rows import show_held
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions, Selection
from tidemill.data.reviews import release
from tidemill.data.schema import Column, Schema
from tidemill.data.snapshots import read_snapshot
from tidemill.data.sources import locate, read
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.home import Home

OPTIONS = DatasetOptions(max_bad_fraction=1)
ROWS = [
    {"id": i, "x": i / 4, "when": f"2020-01-{i % 28 + 1:02}", "ok": i % 2 == 0} for i in range(60)
]


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _csv(rows: list[dict[str, Any]]) -> bytes:
    return "".join(
        ",".join(map(str, line)) + "\n" for line in ([*rows[0]], *(row.values() for row in rows))
    ).encode()


def _arrow(rows: list[dict[str, Any]], *, stream: bool) -> bytes:
    table = pa.Table.from_pylist(
        [{**row, "when": datetime.fromisoformat(row["when"]).replace(tzinfo=UTC)} for row in rows]
    )
    sink = io.BytesIO()
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue()


def _avro(rows: list[dict[str, Any]], codec: str = "deflate") -> bytes:
    kinds = {"id": "long", "x": "double", "ok": "boolean"}
    day = {"type": "int", "logicalType": "date"}
    fields = [{"name": name, "type": kinds.get(name, day)} for name in rows[0]]
    sink = io.BytesIO()
    typed = [{**row, "when": date.fromisoformat(row["when"])} for row in rows]
    schema = fastavro.parse_schema({"type": "record", "name": "r", "fields": fields})
    fastavro.writer(sink, schema, typed, codec=codec, sync_interval=200)
    return sink.getvalue()


def _zip(data: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("rows", data)
    return sink.getvalue()


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _read(path: Path) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    (file,), _ = locate([path])
    rows: list[dict[str, Any]] = []
    held: list[tuple[int, str]] = []
    for batch in read(file, OPTIONS, lambda done, total: None):
        rows += batch.table.to_pylist()
        held += [(one.line, one.reason) for one in batch.unreadable]
    return rows, held


def test_every_form_gives_the_same_snapshot(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is called, and however small the pieces are in which it is read."""
    monkeypatch.setattr(json_source, "BLOCK_BYTES", 50)
    monkeypatch.setattr(arrow_source, "ROWS", 4)
    monkeypatch.setattr(avro_source, "ROWS", 5)
    forms = {
        "csv": _csv(ROWS),
        "jsonl": _lines(ROWS),
        "json.gz": gzip.compress(_lines(ROWS)),
        "jsonl.zip": _zip(_lines(ROWS)),
        "unnamed": b"\xef\xbb\xbf\r\n" + _lines(ROWS).replace(b"\n", b"\r\n\r\n"),
        "arrow": _arrow(ROWS, stream=False),
        "arrows": _arrow(ROWS, stream=True),
        "avro": _avro(ROWS),
        "plain": _avro(ROWS, "null"),
    }
    schema = Schema(columns=(Column(name="id", type="int64"), Column(name="x", type="float64")))
    expected = None
    told: list[int] = []

    def tell(done: int, _total: int) -> None:
        told.append(done)

    for number, (ending, data) in enumerate(forms.items()):
        path = _file(tmp_path / f"rows.{ending}", data)
        told.clear()
        result = ingest(home, f"d{number}", [path], schema=schema, progress=tell)
        assert (result.received, result.accepted) == (60, 60), ending
        assert told == sorted(told)
        assert told[-1] == len(data)
        assert result.snapshot is not None
        rows = read_snapshot(home, result.snapshot)
        assert expected is None or rows.equals(expected), ending
        expected = rows


def test_lines_that_are_no_object_are_held(home: Home, tmp_path: Path) -> None:
    """With line and text; NaN, large numbers and what a row lacks are judged as in CSV."""
    lines = [
        b'{"id": 1, "x": 1.5}',
        b"",
        b'{"id": 2, "x": NaN}',
        b'{"id": 3}',
        b'{"id": 4, "x": 1e999}',
        b'{"id": 123456789012345678901234567890}',
        b"[1, 2]",
        b'"text"',
        b"wrong_type",
        b'"not_json"',
        b'{"id": 5, "x": "\xff"}',
        b'{"id": 6, "x": "\\ud800"}',
        b'{"id": "7", "x": "2.5", "more": {"a": [1, null, "\xc3\xa9"]}}',
        b"[" * 5000,
        b'{"id": 8, "x": "' + b"y" * (1 << 20) + b'"}',
        b'{"id": 9, "x": 3',
    ]
    path = _file(tmp_path / "1.jsonl", b"\n".join(lines))
    rules = Schema(columns=(Column(name="id", type="int64"),))
    result = ingest(home, "x", [path], options=OPTIONS, schema=rules)
    held = [(row["line"], row["reason"]) for row in show_held(home, "x", limit=100).to_pylist()]
    assert sorted(held) == [
        *((3, "not_finite"), (5, "not_finite"), (6, "wrong_type"), (7, "not_json")),
        *((8, "not_json"), (9, "not_json"), (10, "not_json"), (11, "encoding")),
        *((12, "encoding"), (14, "not_json"), (15, "too_long"), (16, "not_json")),
    ]
    assert (result.received, result.accepted) == (15, 3)
    assert result.snapshot is not None
    rows = read_snapshot(home, result.snapshot)
    assert rows.column("id").to_pylist() == [1, 3, 7]
    assert rows.column("x").to_pylist() == [1.5, None, 2.5]
    assert rows.column("more").to_pylist() == [None, None, '{"a":[1,null,"é"]}']


def test_held_objects_are_released(home: Home, tmp_path: Path) -> None:
    """They are read again as they were, of JSON Lines and of Avro alike."""
    strict = Schema(columns=(Column(name="x", type="float64", max=1),))
    wide = Schema(columns=(Column(name="x", type="float64", max=10),))
    for name, data in (("json", _lines(ROWS)), ("avro", _avro(ROWS))):
        path = _file(tmp_path / f"1.{name}", data)
        assert ingest(home, name, [path], schema=strict, options=OPTIONS).accepted == 5
        some = Selection(where="try_cast(data.x AS DOUBLE) <= 2 OR data.id = '59'")
        done = release(home, name, some, by="ann", schema=wide)
        assert done is not None
        assert (done.rows, done.accepted, done.held) == (5, 4, 1)
        assert done.snapshot is not None
        assert read_snapshot(home, done.snapshot).column("id").to_pylist() == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.json", b'[{"a": 1}]', "is one JSON list"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n \n", "is empty"),
        ("a.jsonl", b"a,b\n1,2\n", "is a JSON object"),
        ("a.jsonl", b"{}\n{}\n", "is a JSON object"),
        ("a.jsonl", b'{"": 1}\n', "no name"),
        ("a.jsonl.gz", gzip.compress(_lines(ROWS))[:-9], "broken archive"),
        ("a.arrow", b"a,b\n1,2\n", "is not Arrow"),
        ("a.avro", b"PAR1", "is not Avro"),
        ("a.avro", b"", "is empty"),
        ("a.avro", b"Obj\x01\x00\x01\x02", "broken Avro"),
        ("a.avro", _avro(ROWS)[:-30], "broken Avro"),
        ("a.arrow", _arrow(ROWS, stream=False)[:-30], "broken Arrow"),
        ("a.arrows", _arrow(ROWS, stream=True)[:-80], "broken Arrow stream"),
        ("a.arrow", b"ARROW1\0\0", "broken Arrow"),
    ],
)
def test_broken_files_are_named_and_nothing_is_recorded(
    home: Home, tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    """A file that cannot be read to its end is an error."""
    path = _file(tmp_path / name, data)
    with pytest.raises(InvalidInput, match=words):
        ingest(home, "x", [path], options=OPTIONS)
    assert not list_datasets(home)


def test_avro_has_more_than_numbers(home: Home, tmp_path: Path) -> None:
    """Decimals, times, unions and nested values are told by their texts; bytes are refused."""
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
    at = {"type": "long", "logicalType": "timestamp-micros"}
    fields: list[Any] = [
        {"name": "cost", "type": ["null", decimal]},
        {"name": "at", "type": at},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ]
    schema = fastavro.parse_schema({"type": "record", "name": "r", "fields": fields})
    when = datetime(2020, 1, 1, 12, tzinfo=UTC)
    rows: list[Any] = [
        {"cost": Decimal("1.50"), "at": when, "tags": ["a"]},
        {"cost": None, "at": when, "tags": []},
    ]
    sink = io.BytesIO()
    fastavro.writer(sink, schema, rows)
    result = ingest(home, "x", [_file(tmp_path / "1.avro", sink.getvalue())])
    assert result.snapshot is not None
    assert read_snapshot(home, result.snapshot).to_pylist() == [
        {"cost": 1.5, "at": when, "tags": '["a"]'},
        {"cost": None, "at": when, "tags": "[]"},
    ]
    blob = fastavro.parse_schema(
        {"type": "record", "name": "r", "fields": [{"name": "b", "type": "bytes"}]}
    )
    sink = io.BytesIO()
    fastavro.writer(sink, blob, [{"b": b"x"}])
    with pytest.raises(InvalidInput, match="'b' holds bytes"):
        ingest(home, "y", [_file(tmp_path / "2.avro", sink.getvalue())])
    sink = io.BytesIO()
    fastavro.writer(sink, "long", [1, 2])
    with pytest.raises(InvalidInput, match="holds no records"):
        ingest(home, "y", [_file(tmp_path / "3.avro", sink.getvalue())])


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.lists(st.integers(), max_size=2),
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.sampled_from("abc"), VALUES, min_size=1), min_size=1),
    damage=st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=2)), max_size=3),
)
def test_no_line_is_lost(
    rows: list[dict[str, Any]],
    damage: list[tuple[int, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Each line that is not blank is a row or is held, whatever the bytes are."""
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    for at, what in damage:
        data = data[:at] + what + data[at + 1 :]
    path = _file(tmp_path_factory.mktemp("lines") / "1.jsonl", data)
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    try:
        found, held = _read(path)
    except InvalidInput:
        return
    assert len(found) + len(held) == len(lines)
    if not damage:
        assert not held or any("\ud800" <= c <= "\udfff" for c in data.decode())
        for row, was in zip(found, rows, strict=True):
            for name, value in was.items():
                if isinstance(value, str | None):
                    assert row[name] == value


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([_arrow(ROWS, stream=False), _arrow(ROWS, stream=True), _avro(ROWS)]),
    st.integers(4, 3000),
    st.binary(min_size=1, max_size=4),
)
def test_damaged_bytes_are_an_error_or_rows(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int, what: bytes
) -> None:
    """No other error, and no crash, comes of any bytes."""
    at %= len(data)
    path = _file(tmp_path_factory.mktemp("bytes") / "1", data[:at] + what + data[at + len(what) :])
    (file,), _ = locate([path])
    found = 0
    try:
        for batch in read(file, OPTIONS, lambda done, total: None):
            assert not batch.unreadable
            assert len(batch.texts(np.arange(batch.received))) == batch.received
            found += batch.received
    except InvalidInput:
        return
    assert found <= 60


def test_a_read_file_is_a_source(tmp_path: Path) -> None:
    """What ``locate`` finds says what it is by its content."""
    path = _file(tmp_path / "1.jsonl", _lines(ROWS))
    (file,), notes = locate([tmp_path])
    assert isinstance(file, SourceFile)
    assert (file.path, file.record.bytes, notes) == (path, len(_lines(ROWS)), [])
    lines = np.concatenate([b.lines for b in read(file, OPTIONS, lambda done, total: None)])
    assert lines.tolist() == list(range(1, 61))
