"""The benchmark of statistics asks DuckDB an honest question about rows that come from a seed."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow.parquet as pq
from bench.data.__main__ import checks, claims
from bench.data.bare import bare_query, run_bare
from bench.data.ours import run_ours
from bench.data.rows import write_rows

from tidemill.data.schema import Schema


def test_the_same_seed_gives_the_same_rows(tmp_path: Path) -> None:
    """Twenty columns of mixed types, equal each time, and others from another seed."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_rows(tmp_path / name, 1000, seed=seed)
    first, again, other = (pq.read_table(tmp_path / name) for name in "abc")
    assert first.num_columns == 20
    assert first.num_rows == 1000
    assert first.equals(again)
    assert not first.equals(other)


def test_the_bare_query_asks_about_every_column(tmp_path: Path) -> None:
    """It answers in one row, with the number of rows first."""
    path = tmp_path / "rows.parquet"
    write_rows(path, 1000)
    row = duckdb.connect().execute(bare_query(str(path))).fetchone()
    assert row is not None
    assert row[0] == 1000
    assert len(row) == run_bare(str(path))["aggregates"] > 150


def test_ours_describes_and_validates_the_same_rows(tmp_path: Path) -> None:
    """Every column, and every rule of the schema."""
    path, schema = tmp_path / "rows.parquet", tmp_path / "schema.toml"
    write_rows(path, 1000)
    columns = pq.read_schema(path).names
    schema.write_text('[columns.hour]\ntype = "int64"\nmax = 22\n')
    found = run_ours(path, schema)
    assert found["columns"] == len(columns)
    assert found["anomalies"] == len(columns)  # the range of one, and the others are new
    assert found["seconds"] >= found["statistics_s"]


def test_others_are_asked_for_the_same_rules() -> None:
    """Ranges, presence and values of a schema, and nothing else."""
    schema = Schema.from_toml(
        '[columns.a]\ntype = "int64"\nmin = 1\nmax = 9\nmax_missing_fraction = 0.25\n'
        '[columns.b]\ntype = "string"\nvalues = ["x"]\n'
    )
    assert list(checks(schema)) == [
        {"expect": "ExpectColumnValuesToNotBeNull", "mostly": 0.75, "column": "a"},
        {"expect": "ExpectColumnValuesToBeBetween", "min_value": 1, "max_value": 9, "column": "a"},
        {"expect": "ExpectColumnValuesToBeInSet", "value_set": ["x"], "column": "b"},
    ]


def test_claims_say_what_was_not_measured() -> None:
    """Ratios are within a turn; a peer that was left out meets and misses nothing."""
    ours = {"seconds": 3.0, "statistics_s": 2.0, "validation_s": 1.0, "peak_bytes": 10**9}
    turn = {"bare": {"seconds": 2.0}, "ours": ours, "ours_few": ours, "opening": {"seconds": None}}
    found = {one["claim"]: (one["found"], one["met"]) for one in claims([turn])}
    assert found["statistics and validation / bare query"] == (1.5, True)
    assert found["peak memory"] == (1000, True)
    assert found["ydata-profiling / statistics"] == (None, None)
    beside = claims([{**turn, "ydata": {"seconds": 40.0}}])
    assert next(one for one in beside if one["claim"].startswith("ydata"))["found"] == 20
