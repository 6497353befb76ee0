"""Whatever is wrong with a file, each of its rows is accounted for, and each fault is found."""

from __future__ import annotations

import csv
import gzip
import io
import random
import secrets
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.conservation import check_conserved
from tests.data.corruption import (
    HEADER,
    ROW_FAULTS,
    clean_rows,
    swapped_header,
    whole_delimiter,
    written,
)

from tidemill.data.held_rows import show_held
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions, IngestResult
from tidemill.data.schema import Column, Schema
from tidemill.data.snapshots import read_snapshot
from tidemill.data.sources import Source
from tidemill.data.sql_source import SqlSource
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings

OPTIONS = DatasetOptions(key=("id",))
SCHEMA = Schema(
    columns=(
        Column(name="id", type="int64"),
        Column(name="at", type="timestamp"),
        Column(name="carrier", type="string", values=("AA", "UA", "B6"), domain_strict=True),
        Column(name="share", type="float64", min=0, max=100),
        Column(name="distance", type="int64", min=0, max=12_500, required=True),
        Column(name="note", type="string"),
    )
)


def _ingest(home: Home, folder: Path, data: bytes) -> IngestResult:
    path = folder / "spoilt.csv"
    path.write_bytes(data)
    return ingest(home, "x", [path], options=OPTIONS, schema=SCHEMA)


@pytest.mark.parametrize("fault", ROW_FAULTS)
def test_each_spoilt_row_is_held_and_no_other(home: Home, tmp_path: Path, fault: str) -> None:
    """For a reason that fits, with its line."""
    draw = random.Random(f"{fault} 7")
    rows = clean_rows(draw, 60)
    spoilt = ROW_FAULTS[fault](draw, rows)
    assert spoilt.lines
    result = _ingest(home, tmp_path, spoilt.data)
    held = show_held(home, "x", limit=100).to_pylist()
    assert sorted(row["line"] for row in held) == list(spoilt.lines)
    assert {row["reason"] for row in held} <= set(spoilt.reasons)
    assert result.snapshot is not None
    expected = {row[0] for i, row in enumerate(rows) if i + 2 not in spoilt.lines}
    kept = read_snapshot(home, result.snapshot).column("id").to_pylist()
    assert sorted(kept) == sorted(int(one) for one in expected)


def test_a_spoilt_file_is_refused_or_named(home: Home, tmp_path: Path) -> None:
    """Whole files: nothing of them is accepted, whatever is said."""
    rows = clean_rows(random.Random(1), 50)
    with pytest.raises(InvalidInput, match="has one column"):
        _ingest(home, tmp_path, whole_delimiter(rows))
    headless = _ingest(home, tmp_path, written(rows)[len(",".join(HEADER)) + 1 :])
    assert headless.accepted == 0
    assert headless.refused is not None
    with pytest.raises(InvalidInput, match="broken archive"):
        _ingest(home, tmp_path, gzip.compress(written(rows))[:-20])
    result = _ingest(home, tmp_path, swapped_header(rows))
    assert (result.accepted, result.quarantined) == (0, 50)
    assert result.refused is not None


UNDETECTABLE = {
    "a value within its column's limits": lambda row: [*row[:4], str(int(row[4]) + 1), row[5]],
    "columns of one type and like values that change places": lambda row: [
        *row[:3],
        row[4] if float(row[4]) <= 100 else row[3],
        *row[4:],
    ],
}


def test_what_no_gate_finds_is_in_the_docs(home: Home, tmp_path: Path) -> None:
    """And is really not found: what looks like good data passes as such."""
    page = (Path(__file__).parents[2] / "docs/guide/data.md").read_text("utf-8")
    page = " ".join(page.split())
    rows = clean_rows(random.Random(2), 20)
    for number, (what, change) in enumerate(UNDETECTABLE.items()):
        assert what in page, what
        folder = tmp_path / str(number)
        folder.mkdir()
        with open_home(Settings(home=folder / "home")) as other:
            assert _ingest(other, folder, written([change(row) for row in rows])).accepted == 20
    assert "a file that was cut at the end of a line" in page
    assert _ingest(home, tmp_path, written(rows[:10])).accepted == 10
    assert "rows that came twice, where no key is declared" in page
    (tmp_path / "twice.csv").write_bytes(written([*rows, *rows]))
    assert ingest(home, "free", [tmp_path / "twice.csv"]).accepted == 40


def _in_bucket(endpoint: str, client: Any, name: str, data: bytes) -> str:
    bucket = f"corruption-{name}"
    client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="spoilt.csv", Body=data)
    return f"s3://{bucket}/?endpoint={endpoint}"


def _in_database(path: Path, data: bytes) -> SqlSource:
    """Puts what is in a spoilt file into a table without types, as far as its rows have fields."""
    lines = io.StringIO(data.replace(b"\0", b"").decode("latin-1"), newline="")
    rows = [row for row in csv.reader(lines) if len(row) == len(HEADER)][1:]
    with sqlite3.connect(path) as connection:
        connection.execute(f"create table t ({', '.join(HEADER)})")
        connection.executemany("insert into t values (?, ?, ?, ?, ?, ?)", rows)
    connection.close()
    return SqlSource(url=f"sqlite:///{path}", table="t")


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    files=st.lists(st.sampled_from([*ROW_FAULTS]), min_size=1, max_size=4),
    damage=st.sampled_from([0, 2]),
    place=st.sampled_from(["folder", "bucket", "database"]),
)
def test_received_is_the_sum_of_the_rest(
    tmp_path_factory: pytest.TempPathFactory,
    s3_endpoint: str,
    s3_client: Any,
    *,
    seed: int,
    files: list[str],
    damage: int,
    place: str,
) -> None:
    """Over faults of every kind, wherever the rows lie, with random bytes, through a release."""
    draw = random.Random(seed)
    folder = tmp_path_factory.mktemp("corruption")
    options = DatasetOptions(key=("id",), time="at", lateness_s=86_400.0 * 60, max_bad_fraction=0.4)
    with open_home(Settings(home=folder / "home")) as home:
        received = 0
        for number, fault in enumerate(files):
            rows = clean_rows(draw, draw.randint(5, 30), first=number * 20)
            data = ROW_FAULTS[fault](draw, rows).data
            if damage:
                at = draw.randrange(len(data))
                data = data[:at] + draw.randbytes(damage) + data[at + draw.randint(0, 3) :]
            path = folder / f"{number}.csv"
            path.write_bytes(data)
            source: Source = path
            if place == "bucket":
                source = _in_bucket(s3_endpoint, s3_client, secrets.token_hex(8), data)
            elif place == "database":
                source = _in_database(folder / f"{number}.db", data)
            try:
                received += ingest(home, "x", [source], options=options, schema=SCHEMA).received
            except InvalidInput:
                continue
        if not received:
            return
        check_conserved(home, "x", received)
