"""Rows and a schema: every kind of anomaly, and the edit that mends it."""

from __future__ import annotations

import math
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.data.conformance import MOST_VALUES, check
from tidemill.data.frame_schemas import infer_schema
from tidemill.data.queries import Queries
from tidemill.data.schema import Column, Schema
from tidemill.data.schema_edits import apply_edits
from tidemill.data.snapshot_checks import find_rows
from tidemill.foundation.errors import InvalidInput

NAN, INF = math.nan, math.inf


def _schema(rules: str, more: str = "") -> Schema:
    return Schema.from_toml(f"{more}\n[columns.x]\n{rules}")


CASES: list[tuple[str, str, list[Any], int]] = [
    ("SCHEMA_MISSING_COLUMN", 'type = "int64"\n[columns.y]\ntype = "int64"', [1], 1),
    ("FEATURE_TYPE_NOT_PRESENT", 'type = "int64"\nmin_count = 1', [None, None], 2),
    ("FEATURE_TYPE_NOT_PRESENT", 'type = "int64"\nrequired = true', [None], 1),
    ("FEATURE_TYPE_LOW_FRACTION_PRESENT", 'type = "int64"\nrequired = true', [1, None], 1),
    (
        "FEATURE_TYPE_LOW_FRACTION_PRESENT",
        'type="int64"\nmax_missing_fraction=0.5',
        [1, *[None] * 2],
        2,
    ),
    ("FEATURE_TYPE_LOW_NUMBER_PRESENT", 'type = "int64"\nmin_count = 3', [1, 2, None], 3),
    ("FEATURE_TYPE_LOW_NUMBER_VALUES", 'type = "int64"\nmin_values = 1', [[1], [], None], 1),
    ("FEATURE_TYPE_HIGH_NUMBER_VALUES", 'type = "int64"\nmax_values = 1', [[1], [1, 2]], 1),
    ("FEATURE_TYPE_LOW_UNIQUE", 'type = "string"\nunique = true', ["a", "a", "b"], 3),
    ("FEATURE_TYPE_LOW_UNIQUE", 'type = "string"\nmin_unique = 3', ["a", "b"], 2),
    ("FEATURE_TYPE_HIGH_UNIQUE", 'type = "string"\nmax_unique = 1', ["a", "b"], 2),
    ("VALUE_NESTEDNESS_MISMATCH", 'type = "int64"\nmax = 1', [[1], [2, 3]], 2),
    ("VALUE_NESTEDNESS_MISMATCH", 'type = "int64"\nmax_values = 1', [1, 2], 2),
    ("UNEXPECTED_DATA_TYPE", 'type = "int64"\nmin = 0', ["a", "b"], 2),
    ("UNEXPECTED_DATA_TYPE", 'type = "string"\nvalues = ["1"]', [1, 2], 2),
    ("UNEXPECTED_DATA_TYPE", 'type = "bool"', [0, 1], 2),
    ("UNEXPECTED_DATA_TYPE", 'type = "int64"', [1.0, 1.5], 1),
    ("ENUM_TYPE_UNEXPECTED_STRING_VALUES", 'type = "string"\nvalues = ["a"]', ["a", "b'", "c"], 2),
    ("ENUM_TYPE_UNEXPECTED_STRING_VALUES", 'type = "int64"\nvalues = [1]', [1, 2], 1),
    ("ENUM_TYPE_UNEXPECTED_STRING_VALUES", 'type = "string"\nvalues = []', ["a"], 1),
    (
        "ENUM_TYPE_UNEXPECTED_STRING_VALUES",
        'type="int64"\nvalues=[1]\nmin_values=0',
        [[1, 2, 3]],
        1,
    ),
    ("ENUM_TYPE_PATTERN_MISMATCH", 'type = "string"\npattern = "[a-z]{2}|{x}"', ["ab", "abc"], 1),
    ("BOOL_TYPE_BIG_INT", 'type = "int64"\ndomain = "bool"', [0, 1, 2], 1),
    ("BOOL_TYPE_SMALL_INT", 'type = "int64"\ndomain = "bool"', [0, 1, -1], 1),
    ("BOOL_TYPE_UNEXPECTED_FLOAT", 'type = "float64"\ndomain = "bool"', [0.0, 0.5], 1),
    (
        "BOOL_TYPE_UNEXPECTED_STRING",
        'type="string"\ndomain="bool"\nvalues=["n", "y"]',
        ["y", "?"],
        1,
    ),
    ("INT_TYPE_BIG_INT", 'type = "int64"\nmax = 1', [1, 2, 3], 2),
    ("INT_TYPE_SMALL_INT", 'type = "int64"\nmin = 1', [1, 0], 1),
    ("INT_TYPE_BIG_INT", 'type = "string"\ndomain = "int"\nmax = 1', ["1", "7"], 1),
    ("INT_TYPE_NOT_INT_STRING", 'type = "string"\ndomain = "int"\nmax = 5', ["1", "x", "9"], 1),
    ("FLOAT_TYPE_BIG_FLOAT", 'type = "float64"\nmax = 1', [1.0, 1.5], 1),
    ("FLOAT_TYPE_SMALL_FLOAT", 'type = "float64"\nmin = 0.5', [0.5, 0.25], 1),
    ("FLOAT_TYPE_BIG_FLOAT", 'type = "float64"\nmax = 1\nallow_inf = true', [INF], 1),
    ("FLOAT_TYPE_BIG_FLOAT", 'type = "string"\ndomain = "float"\nmax = 1', ["1.5", "0"], 1),
    ("FLOAT_TYPE_STRING_NOT_FLOAT", 'type = "string"\ndomain = "float"', ["1.5", "x"], 1),
    ("FLOAT_TYPE_HAS_NAN", 'type = "float64"\nmax = 1', [1.0, NAN], 1),
    ("FLOAT_TYPE_HAS_INF", 'type = "float64"', [1.0, -INF], 1),
    (
        "TIMESTAMP_TYPE_LATE_TIME",
        'type = "timestamp"\nmax = 2013-01-01T00:00:00Z',
        [datetime(2014, 1, 1, tzinfo=UTC)],
        1,
    ),
    (
        "TIMESTAMP_TYPE_EARLY_TIME",
        'type = "timestamp"\nmin = 2013-01-01T00:00:00Z',
        [datetime(2012, 1, 1, tzinfo=UTC)],
        1,
    ),
]


@pytest.mark.parametrize(("kind", "rules", "values", "rows"), CASES)
def test_each_anomaly_is_found_and_mended(
    kind: str, rules: str, values: list[Any], rows: int
) -> None:
    """It is the only one, counts and finds its rows, and its edit leaves none."""
    table = pa.table({"x": values})
    schema = _schema(rules)
    (found,) = check(table, schema).anomalies
    assert (found.kind, found.rows) == (kind, rows)
    if found.query is not None:
        assert find_rows(table, found, limit=1000).num_rows == rows
    assert found.fix is not None
    mended = apply_edits(schema, [found.fix])
    assert check(table, mended).anomalies == ()
    assert Schema.from_toml(mended.to_toml()) == mended


def test_bytes_that_are_no_text_are_found() -> None:
    """Nothing mends them but the rows."""
    table = pa.table({"x": pa.array([b"\xff", b"ok", None])})
    (found,) = check(table, _schema('type = "string"')).anomalies
    assert (found.kind, found.fix) == ("ENUM_TYPE_INVALID_UTF8", None)


def test_rows_are_counted() -> None:
    """Too few, too many and none are anomalies of the rows as a whole."""
    table = pa.table({"x": [1, 2]})
    for rules, kind in (("min_rows = 3", "LOW"), ("max_rows = 1", "HIGH")):
        schema = _schema('type = "int64"', f"[dataset]\n{rules}")
        (found,) = check(table, schema).anomalies
        assert found.kind == f"DATASET_{kind}_NUM_EXAMPLES"
        assert found.fix is not None
        assert check(table, apply_edits(schema, [found.fix])).anomalies == ()
    report = check(table.slice(0, 0), _schema('type = "int64"'))
    assert report.kinds() == [(None, "NO_DATA_IN_SPAN")]
    assert not report.ok


def test_a_domain_may_leave_room() -> None:
    """With ``min_domain_mass``, few strange values are none; too many new ones end the domain."""
    schema = _schema('type = "string"\nvalues = ["a"]\nmin_domain_mass = 0.75')
    assert check(pa.table({"x": ["a", "a", "a", "b"]}), schema).anomalies == ()
    assert len(check(pa.table({"x": ["a", "a", "b"]}), schema).anomalies) == 1
    many = pa.table({"x": [f"v{i}" for i in range(MOST_VALUES + 1)]})
    (found,) = check(many, schema).anomalies
    assert found.fix is not None
    assert apply_edits(schema, [found.fix]).columns[0].values is None


def test_severities_are_the_schemas() -> None:
    """What was inferred warns, what was declared is an error, and a schema may say otherwise."""
    table = pa.table({"x": ["b"]})
    soft = _schema('type = "string"\nvalues = ["a"]')
    strict = _schema('type = "string"\nvalues = ["a"]\ndomain_strict = true')
    told = _schema(
        'type="string"\nvalues=["a"]', '[severities]\nENUM_TYPE_UNEXPECTED_STRING_VALUES="info"'
    )
    found = [check(table, schema).anomalies[0].severity for schema in (soft, strict, told)]
    assert found == ["warning", "error", "info"]
    assert [check(table, schema).ok for schema in (soft, strict, told)] == [True, False, True]
    with pytest.raises(InvalidInput, match="no anomaly 'NOPE'"):
        _schema('type = "int64"', '[severities]\nNOPE = "info"')
    with pytest.raises(InvalidInput, match="never occurs here"):
        _schema('type = "int64"', '[severities]\nINT_TYPE_NOT_STRING = "info"')


@pytest.mark.parametrize(
    ("sql", "kinds"),
    [
        ("x < 3", []),
        ("x < 2 -- a comment", ["CUSTOM_VALIDATION"]),
        ("SELECT x FROM rows GROUP BY x HAVING count(*) > 1", []),
        ("SELECT * FROM rows WHERE x = 1;", ["CUSTOM_VALIDATION"]),
        ("y > 1", ["STATS_NOT_AVAILABLE"]),
        ("x <", ["STATS_NOT_AVAILABLE"]),
        ("true); DROP VIEW rows; --", ["STATS_NOT_AVAILABLE"]),
        ("SELECT * FROM read_text('/etc/passwd')", ["STATS_NOT_AVAILABLE"]),
        ("SELECT * FROM '/etc/passwd'", ["STATS_NOT_AVAILABLE"]),
        ("SELECT * FROM glob('/*')", ["STATS_NOT_AVAILABLE"]),
        ("SELECT * FROM read_parquet('/tmp/*.parquet')", ["STATS_NOT_AVAILABLE"]),
        ("COPY rows TO 'y.csv'", ["STATS_NOT_AVAILABLE"]),
        ("SELECT getenv('HOME')", ["STATS_NOT_AVAILABLE"]),
        (
            "SELECT * FROM range(100000000) a, range(100000000) b ORDER BY random()",
            ["STATS_NOT_AVAILABLE"],
        ),
        ("\ud800", ["STATS_NOT_AVAILABLE"]),
    ],
)
def test_expectations_are_run_where_nothing_is_in_reach(
    sql: str, kinds: list[str], tmp_path: Path
) -> None:
    """They see the rows alone, in bounded memory; one that can't run is an error, not a pass."""
    schema = Schema(columns=(Column(name="x", type="int64"),), expectations=(_expectation(sql),))
    table = pa.table({"x": [1, 2]})
    pq.write_table(table, tmp_path / "x.parquet")
    for data in (table, tmp_path / "x.parquet"):
        report = check(data, schema)
        assert [kind for _, kind in report.kinds()] == kinds
        assert report.ok == (not kinds)
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_a_query_ends_in_time() -> None:
    """One that would go on for ever is stopped, and the next is answered."""
    endless = (
        "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t WHERE x < 1e12) "
        "SELECT count(*) FROM t"
    )
    with Queries(pa.table({"x": [1]}), time_s=0.3) as queries:
        with pytest.raises(InvalidInput, match=r"more than 0\.3 s"):
            queries.select(endless)
        assert queries.select("SELECT x FROM rows").to_pylist() == [{"x": 1}]


def _expectation(sql: str) -> Any:
    from tidemill.data.schema import Expectation

    return Expectation(name="one", sql=sql)


def test_frames_of_every_kind_and_files_are_judged_alike(tmp_path: Path) -> None:
    """Arrow, Polars, pandas and Parquet give the same anomalies; what is no frame is refused."""
    table = pa.table({"x": [1, 200]})
    pq.write_table(table, tmp_path / "x.parquet")
    schema = _schema('type = "int64"\nmax = 99')
    pq.write_table(table, tmp_path / "x [*].parquet")
    files = [tmp_path / "x.parquet", tmp_path / "x [*].parquet"]
    frames = [table, pl.from_arrow(table), table.to_pandas(), *files]
    expected = check(table, schema)
    assert [check(frame, schema) for frame in frames] == [expected] * 5
    assert check(files, schema).rows == 4
    (tmp_path / "broken.parquet").write_text("no Parquet")
    for path in ("broken.parquet", "nowhere.parquet"):
        with pytest.raises(InvalidInput, match=path):
            check([tmp_path / path], schema)
    for wrong in (None, 3, [1], pa.Table.from_arrays([[1], [2]], ["x", "x"])):
        with pytest.raises(InvalidInput):
            check(wrong, schema)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"x": [1], "X": [200]}),
        pa.table({"": [1]}),
        pa.table({}),
    ],
)
def test_rows_that_sql_cannot_tell_are_an_error(table: pa.Table) -> None:
    """Never a pass: names that differ in case alone, no name, no column."""
    with pytest.raises(InvalidInput):
        check(table, _schema('type = "int64"\nmax = 99'))


def test_integers_with_missing_values_from_pandas_are_integers() -> None:
    """They come as floats, and missing ones as NaN."""
    frame = pa.table({"x": [1, None]}).to_pandas()
    schema = _schema('type = "int64"\nmax = 1')
    assert check(frame, schema).anomalies == ()


def test_one_column_of_pandas_is_a_frame_of_it() -> None:
    """By its name; without one it is refused as anything else is that has no columns."""
    series = pa.table({"x": [1, 100]}).to_pandas()["x"]
    schema = _schema('type = "int64"\nmax = 99')
    (found,) = check(series, schema).anomalies
    assert (found.kind, found.column) == ("INT_TYPE_BIG_INT", "x")
    with pytest.raises(InvalidInput, match="without a name"):
        check(series.rename(None), schema)


# --- laws ------------------------------------------------------------------------------------

_COLUMNS = st.one_of(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)).map(lambda x: pa.array(x, pa.int64())),
    st.lists(st.none() | st.floats()).map(lambda x: pa.array(x, pa.float64())),
    st.lists(st.none() | st.booleans()).map(lambda x: pa.array(x, pa.bool_())),
    st.lists(st.none() | st.text(st.characters(codec="utf-8"), max_size=3)).map(
        lambda x: pa.array(x, pa.string())
    ),
    st.lists(st.none() | st.sampled_from(["yes", "no", "1", "-2", "+3"])).map(
        lambda x: pa.array(x, pa.string())
    ),
    st.lists(st.none() | st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30))).map(  # noqa: DTZ001
        lambda x: pa.array(x, pa.timestamp("us", "UTC"))
    ),
    st.lists(st.none() | st.lists(st.integers(0, 9), max_size=3)).map(
        lambda x: pa.array(x, pa.list_(pa.int64()))
    ),
)


@given(values=_COLUMNS, ranges=st.booleans())
def test_an_inferred_schema_accepts_its_data(*, values: pa.Array, ranges: bool) -> None:
    """Whatever the rows are, they conform to what was learnt from them."""
    table = pa.table({"x": values})
    schema = infer_schema(table, ranges=ranges)
    assert Schema.from_toml(schema.to_toml()) == schema
    kinds = check(table, schema).kinds()
    assert kinds == ([] if len(values) else [(None, "NO_DATA_IN_SPAN")])


@given(before=_COLUMNS, after=_COLUMNS, ranges=st.booleans())
def test_accepting_every_mend_leaves_no_anomaly(
    *, before: pa.Array, after: pa.Array, ranges: bool
) -> None:
    """Rows of any type, judged by the schema of others: the mends are enough, and bring no new."""
    schema = infer_schema(pa.table({"x": before}), ranges=ranges)
    table = pa.table({"x": after, "new": after}) if len(after) else pa.table({"x": [None]})
    found = check(table, schema).anomalies
    assert all(one.fix is not None for one in found)
    mended = apply_edits(schema, [one.fix for one in found if one.fix is not None])
    assert check(table, mended).anomalies == ()


def test_a_schema_of_many_rows_is_learned_in_little_memory() -> None:
    """What is counted is counted piece by piece, however many rows a frame has."""
    rows = 2_000_000
    table = pa.table({"x": np.random.default_rng(0).normal(size=rows)})
    tracemalloc.start()
    try:
        column = infer_schema(table, ranges=True).columns[0]
        most_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    values = table["x"].to_numpy()
    assert (column.min, column.max) == (values.min(), values.max())
    assert most_bytes < 64 << 20
