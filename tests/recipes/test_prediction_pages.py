"""Pages of predictions give every row once, in the order of the files, as SQL has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.files import put_content
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings
from tidemill.recipes import prediction_pages
from tidemill.recipes.prediction_pages import (
    Cursor,
    Filter,
    Page,
    PageRequest,
    read_cursor,
    read_filter,
    read_page,
)
from tidemill.recipes.refresh import DIGEST
from tidemill.recipes.warehouse import plain_rows, run_sql
from tidemill.tables.answer import encode_answer
from tidemill.tables.build import TableBuilder
from tidemill.tables.catalog import store_table
from tidemill.tables.key import KeyEncoder
from tidemill.tables.predictions import PredictionPart, keep_parts
from tidemill.tables.table import TableInfo

KEY = (("carrier", "string"), ("hour", "int64"), ("far", "bool"), ("share", "float32"))
ODD = "O'Hare\"; drop table predictions.app; --"


def predictions(rows: int, factor: float = 1.0) -> pa.Table:
    """Makes rows of a key, an output, and what a build keeps for itself."""
    at = np.arange(rows)
    carriers = np.array(["AA", "B6", "UA", ODD])[at % 4]
    return pa.table(
        {
            "carrier": pa.array(carriers),
            "hour": pa.array(at // 4, pa.int64()),
            "far": pa.array(at % 3 == 0),
            "share": pa.array((at % 7) / 10, pa.float32()),
            "late": pa.array(at * factor, pa.float32()),
            "scores": pa.array([[float(i), 0.5] for i in at], pa.list_(pa.float32())),
            DIGEST: pa.array(at, pa.int64()),
        }
    )


def keep(home: Home, folder: Path, parts: list[pa.Table], *, at: float, version: int) -> TableInfo:
    """Stores a table, and its predictions as Parquet in small row groups."""
    folder.mkdir()
    encoder = KeyEncoder(KEY)
    with TableBuilder(folder / "table", clock=FakeClock(at=at)) as builder:
        for part in parts:
            columns = [part.column(name).to_pylist() for name, _ in KEY]
            answers = [encode_answer({"late": [each]}) for each in part.column("late").to_pylist()]
            builder.put(encoder.many(columns), answers)
        builder.commit(TableInfo(application="app", model="m", version=version, key=KEY))
    info = store_table(home, folder / "table")
    kept = []
    for number, part in enumerate(parts):
        path = folder / f"{number}.parquet"
        pq.write_table(part, path, row_group_size=16)
        key = put_content(home.files, path, folder="predictions", suffix="parquet")
        kept.append(PredictionPart(file_key=key, rows=part.num_rows))
    keep_parts(home, info.id, kept)
    return info


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, list[TableInfo]]]:
    """A home with two tables of one application, the newest first; each in several files."""
    folder = tmp_path_factory.mktemp("pages")
    with open_home(Settings(home=folder / "home")) as home:
        rows = predictions(100)
        parts = [rows.slice(0, 40), rows.slice(40, 45), rows.slice(85)]
        old = keep(home, folder / "old", [predictions(30, 2.0)], at=1000.0, version=1)
        new = keep(home, folder / "new", parts, at=2000.0, version=2)
        yield home, [new, old]


def pages(home: Home, **asked: Any) -> list[Page]:
    """Returns all pages, each asked for by what the one before said."""
    found: list[Page] = []
    cursor: Cursor | None = None
    while not found or cursor is not None:
        found.append(read_page(home, PageRequest(application="app", cursor=cursor, **asked)))
        cursor = None if found[-1].next is None else read_cursor(str(found[-1].next))
    return found


def rows_of(found: list[Page]) -> list[list[Any]]:
    """Returns the rows of pages."""
    return [row for page in found for row in plain_rows(page.rows)]


VALUES = {
    "carrier": st.sampled_from(["AA", "B6", "UA", ODD, "", "Z"]),
    "hour": st.integers(-1, 26).map(str),
    "far": st.sampled_from(["true", "false"]),
    "share": st.sampled_from(["0.1", "0.3", "0", "-0.0", "inf", "nan", "1e9"]),
}
filters = st.sampled_from(sorted(VALUES)).flatmap(
    lambda name: st.builds(
        Filter,
        column=st.just(name),
        op=st.sampled_from(["eq", "lt", "le", "gt", "ge"]),
        value=VALUES[name],
    )
)
SIGNS = {"eq": "=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
CASTS = {"carrier": "varchar", "hour": "bigint", "far": "boolean", "share": "float"}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(filters, max_size=3), st.integers(1, 120))
def test_pages_are_what_sql_finds(
    stored: tuple[Home, list[TableInfo]], wanted: list[Filter], limit: int
) -> None:
    """Whatever the filters and the size of a page: the same rows, in the same order, once each."""
    home, _ = stored
    conditions = []
    for each in wanted:
        value = each.value.replace("'", "''")
        condition = f"{each.column} {SIGNS[each.op]} '{value}'::{CASTS[each.column]}"
        if each.column == "share":  # in DuckDB, NaN is equal to itself and above all else
            condition += f" and not isnan('{value}'::float)"
        conditions.append(condition)
    where = " and ".join(conditions) or "true"
    query = f"select carrier, hour, far, share, late from predictions.app where {where}"
    expected, _ = run_sql(home, query, limit=1000)
    columns = ("carrier", "hour", "far", "share", "late")
    found = pages(home, filters=tuple(wanted), limit=limit, columns=columns)
    assert rows_of(found) == plain_rows(expected)
    assert all(page.rows.num_rows <= limit for page in found)
    assert all(page.rows.column_names == list(columns) for page in found)


def test_all_columns_are_those_of_sql(stored: tuple[Home, list[TableInfo]]) -> None:
    """Key and outputs, with model, version, table and time; what a build keeps is not shown."""
    home, (new, _) = stored
    (page,) = pages(home, limit=1000)
    expected, _ = run_sql(home, "select * from predictions.app", limit=1000)
    assert page.rows.column_names == expected.column_names
    assert page.rows.select(page.rows.column_names[:-1]).to_pylist() == (
        expected.select(page.rows.column_names[:-1]).to_pylist()
    )
    times = set(page.rows.column("built_at").to_pylist())
    assert {each.timestamp() for each in times} == {2000.0}
    assert (page.info, page.next) == (new, None)


@pytest.mark.parametrize("limit", [1, 7, 30, 64, 1000])
def test_a_history_has_all_tables(stored: tuple[Home, list[TableInfo]], limit: int) -> None:
    """The newest first; each page is of one table."""
    home, (new, old) = stored
    found = pages(home, history=True, limit=limit, columns=("late", "table_id"))
    rows = rows_of(found)
    assert [row[1] for row in rows] == [new.id] * 100 + [old.id] * 30
    assert [row[0] for row in rows] == [*map(float, range(100)), *(2.0 * i for i in range(30))]
    assert all(set(page.rows.column("table_id").to_pylist()) <= {page.info.id} for page in found)


def test_a_cursor_stays_with_its_table(
    stored: tuple[Home, list[TableInfo]], tmp_path: Path
) -> None:
    """A table that is built between two pages changes nothing in those that follow."""
    with open_home(Settings(home=tmp_path / "home")) as home:
        first = keep(home, tmp_path / "first", [predictions(40)], at=1.0, version=1)
        page = read_page(home, PageRequest(application="app", limit=10))
        second = keep(home, tmp_path / "second", [predictions(40, 3.0)], at=2.0, version=2)
        rest = read_page(home, PageRequest(application="app", limit=100, cursor=page.next))
        assert (page.info.id, rest.info.id) == (first.id, first.id)
        assert rest.rows.column("late").to_pylist() == [float(i) for i in range(10, 40)]
        assert read_page(home, PageRequest(application="app")).info.id == second.id


def test_a_page_is_bounded_in_bytes_and_time(
    stored: tuple[Home, list[TableInfo]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends early and says where to go on; no row is lost by that."""
    home, _ = stored
    monkeypatch.setattr(prediction_pages, "_BATCH", 4)
    for name, value in (("MAX_BYTES", 100), ("WITHIN_S", -1.0)):
        with monkeypatch.context() as patch:
            patch.setattr(prediction_pages, name, value)
            found = pages(home, limit=1000, columns=("late",))
            assert len(found) > 3
            assert [row[0] for row in rows_of(found)] == [float(i) for i in range(100)]


def test_files_that_are_passed_over_take_time_too(
    stored: tuple[Home, list[TableInfo]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page may end between two of them, and the next one goes on there."""
    home, _ = stored
    monkeypatch.setattr(prediction_pages, "WITHIN_S", -1.0)
    found = pages(home, limit=1000, columns=("hour",), filters=(read_filter("hour:ge:22"),))
    assert [page.rows.num_rows for page in found[:2]] == [0, 0]
    assert [str(page.next)[16:] for page in found[:2]] == ["-1-0-0", "-2-0-0"]
    assert [row[0] for row in rows_of(found)] == [22] * 4 + [23] * 4 + [24] * 4


def test_columns_that_hold_nothing_count_as_well(
    stored: tuple[Home, list[TableInfo]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A history has nulls for what it does not know: a page of many ends early."""
    home, _ = stored
    monkeypatch.setattr(prediction_pages, "_BATCH", 4)
    monkeypatch.setattr(prediction_pages, "MAX_BYTES", 10_000)
    columns = ("late", *(f"no{at}" for at in range(99)))
    found = pages(home, history=True, limit=1000, columns=columns)
    assert max(page.rows.num_rows for page in found) <= 16
    assert len(rows_of(found)) == 130


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"application": "a/b"}, "application name"),
        ({"limit": 0}, "limit is 0"),
        ({"limit": 65_537}, "limit is 65537"),
        ({"columns": ("late", "early")}, "column 'early' is not among"),
        ({"columns": (DIGEST,)}, "is not among"),
        ({"columns": ("late", "late")}, "2 columns, 1 of them different"),
        ({"columns": tuple(map(str, range(1001))), "history": True}, "1001 columns"),
        ({"filters": (read_filter("late:eq:1"),)}, "column 'late' is not in the key"),
        ({"filters": (read_filter("hour:eq:five"),)}, "no value of type int64"),
        ({"filters": (read_filter(f"hour:eq:{10**30}"),)}, "no value of type int64"),
        ({"filters": (read_filter("far:eq:maybe"),)}, "no value of type bool"),
        ({"filters": (read_filter("share:lt:"),)}, "no value of type float"),
        ({"filters": (read_filter("hour:eq:1"),) * 101}, "101 filters"),
    ],
)
def test_what_cannot_be_asked_is_told(
    stored: tuple[Home, list[TableInfo]], asked: dict[str, Any], said: str
) -> None:
    """With the column or the value, and what is known instead."""
    home, _ = stored
    with pytest.raises(InvalidInput, match=said):
        read_page(home, PageRequest(**{"application": "app", **asked}))


def test_what_is_not_there_is_told(stored: tuple[Home, list[TableInfo]]) -> None:
    """An application without predictions, a table of another one, a place behind the last row."""
    home, (new, _) = stored
    with pytest.raises(NotFound, match="'other' has no predictions"):
        read_page(home, PageRequest(application="other"))
    with pytest.raises(NotFound, match="no table"):
        read_page(home, PageRequest(application="app", cursor=Cursor(table="0" * 16)))
    with pytest.raises(InvalidInput, match="behind the last row"):
        read_page(home, PageRequest(application="app", cursor=Cursor(table=new.id, part=3)))
    beyond = Cursor(table=new.id, part=2, group=9)
    assert read_page(home, PageRequest(application="app", cursor=beyond)).rows.num_rows == 0


@pytest.mark.parametrize("text", ["", "hour", "hour:eq", ":eq:1", "hour:like:1", "hour=1"])
def test_a_filter_has_three_parts(text: str) -> None:
    """Anything else is told how to be written; a value may have colons of its own."""
    with pytest.raises(InvalidInput, match="COLUMN:OP:VALUE"):
        read_filter(text)
    assert read_filter("at:ge:12:30") == Filter(column="at", op="ge", value="12:30")


@pytest.mark.parametrize("text", ["", "x", "0" * 16, f"{'0' * 16}-1-2", f"{'0' * 16}-1-2-x"])
def test_a_cursor_is_what_a_page_said(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidInput, match="cursor"):
        read_cursor(text)
