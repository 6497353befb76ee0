"""The benchmark of statistics asks DuckDB an honest question about rows that come from a seed."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow.parquet as pq
from bench.data.bare import bare_query, run_bare
from bench.data.rows import write_rows


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
