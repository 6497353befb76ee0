"""What statistics or extremes show of a column is not asked of its rows, and changes no verdict."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.test_conformance import CASES

from tidemill.data.catalog import set_schema
from tidemill.data.conformance import check
from tidemill.data.ingest import ingest
from tidemill.data.schema import Column, Schema
from tidemill.data.snapshot_checks import pick_snapshot, validate_snapshot
from tidemill.data.snapshots import read_statistics
from tidemill.data.statistics import describe
from tidemill.foundation.errors import Corrupted, InvalidInput
from tidemill.foundation.home import Home


@pytest.mark.parametrize(("kind", "rules", "values", "rows"), CASES)
def test_statistics_change_no_verdict(kind: str, rules: str, values: list[Any], rows: int) -> None:
    """Each kind of anomaly is told alike, with its rows and its mend."""
    table = pa.table({"x": values})
    schema = Schema.from_toml(f"\n[columns.x]\n{rules}")
    found = check(table, schema, statistics=describe(table).result())
    assert found == check(table, schema)
    assert [(one.kind, one.rows) for one in found.anomalies] == [(kind, rows)]


_EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
_FLOATS = st.sampled_from([None, 0.0, -0.0, 1.0, 1.5, -3.25, 9.0, math.nan, math.inf, -math.inf])
_VALUES = {
    "float64": (_FLOATS, pa.float64()),
    "int64": (st.one_of(st.none(), st.integers(-3, 9)), pa.int64()),
    "string": (st.sampled_from([None, "a", "b", "c", "7", ""]), pa.string()),
    "timestamp": (
        st.one_of(st.none(), st.integers(-3, 9)).map(
            lambda n: None if n is None else _EPOCH + timedelta(microseconds=n)
        ),
        pa.timestamp("us", "UTC"),
    ),
}


@st.composite
def _judged(draw: st.DrawFn) -> tuple[pa.Table, Schema]:
    """Returns a column of a kind, and rules that some of its values are just within."""
    kind = draw(st.sampled_from(sorted(_VALUES)))
    values, arrow = _VALUES[kind]
    table = pa.table({"x": pa.array(draw(st.lists(values, min_size=1, max_size=12)), arrow)})
    low, high = draw(st.integers(-3, 3)), draw(st.integers(3, 9))
    rules: dict[str, object] = {"max_missing_fraction": draw(st.sampled_from([None, 0.0, 0.5]))}
    rules |= {"unique": draw(st.booleans()), "min_unique": draw(st.sampled_from([None, 2]))}
    if kind == "string":
        rules["values"] = draw(st.sampled_from([None, ("a", "b", "c", "7", ""), ("a", "7")]))
    elif kind == "timestamp":
        rules |= {"min": _EPOCH + timedelta(microseconds=low)}
        rules |= {"max": _EPOCH + timedelta(microseconds=high)}
    elif draw(st.booleans()):
        rules["domain"] = "bool"
    else:
        rules |= {"min": low, "max": high}
    if kind == "float64":
        rules |= {"allow_nan": draw(st.booleans()), "allow_inf": draw(st.booleans())}
    return table, Schema(columns=(Column(name="x", type=kind, **rules),))  # type: ignore[arg-type]


@given(_judged())
def test_statistics_change_nothing_at_the_edges(case: tuple[pa.Table, Schema]) -> None:
    """Also where values are just within a rule, or not finite, or missing."""
    table, schema = case
    by_rows = check(table, schema)
    assert check(table, schema, statistics=describe(table).result()) == by_rows
    rows = table.column("x").to_pylist()
    (column,) = schema.columns
    out = sum(
        isinstance(x, float)
        and not math.isfinite(x)
        and not (column.allow_nan if math.isnan(x) else column.allow_inf)
        for x in rows
    )
    told = sum(one.rows for one in by_rows.anomalies if one.kind.startswith("FLOAT_TYPE_HAS"))
    assert told == out


def test_times_far_off_are_compared_to_the_microsecond() -> None:
    """Statistics have seconds as floats, which far from 1970 can't tell microseconds apart."""
    far = datetime(9000, 1, 1, tzinfo=UTC)
    table = pa.table({"x": pa.array([far], pa.timestamp("us", "UTC"))})
    for offset, count in ((0, 0), (-1, 1)):
        most = far + timedelta(microseconds=offset)
        schema = Schema(columns=(Column(name="x", type="timestamp", max=most),))
        found = check(table, schema, statistics=describe(table).result())
        assert len(found.anomalies) == count


def test_distinct_values_that_statistics_count_otherwise_are_counted_in_the_rows() -> None:
    """Of lists, statistics count what is in them; times far off are one where floats are."""
    far = datetime(9000, 1, 1, tzinfo=UTC)
    times = [far, far + timedelta(microseconds=1)]
    for rows, column in (
        (pa.array([[1], [1, 1]]), Column(name="x", type="int64", max_values=2, unique=True)),
        (
            pa.array(times, pa.timestamp("us", "UTC")),
            Column(name="x", type="timestamp", unique=True),
        ),
    ):
        table, schema = pa.table({"x": rows}), Schema(columns=(column,))
        assert check(table, schema).ok
        assert check(table, schema, statistics=describe(table).result()) == check(table, schema)


def test_statistics_of_other_rows_are_refused() -> None:
    """Those of more or fewer rows would say what is not so."""
    table = pa.table({"x": [1, 2]})
    schema = Schema(columns=(Column(name="x", type="int64"),))
    with pytest.raises(InvalidInput, match="are of 1 rows, and there are 2"):
        check(table, schema, statistics=describe(table.slice(1)).result())


def test_a_snapshot_is_judged_without_its_statistics(home: Home, tmp_path: Path) -> None:
    """Where they are damaged the rows are asked, and the report is the same."""
    pq.write_table(pa.table({"x": [1, 2, 30]}), tmp_path / "rows.parquet")
    ingest(home, "d", [tmp_path / "rows.parquet"])
    set_schema(home, "d", Schema(columns=(Column(name="x", max=9),)))
    before = validate_snapshot(home, "d")
    assert [one.rows for one in before.report.anomalies] == [1]
    snapshot = pick_snapshot(home, "d", None)
    spoilt = home.files.get_bytes(snapshot.statistics_key).replace(b"30", b"3 ")
    home.files.delete(snapshot.statistics_key)
    home.files.put_bytes(snapshot.statistics_key, spoilt)
    with pytest.raises(Corrupted, match="not what was written"):
        read_statistics(home, snapshot)
    assert validate_snapshot(home, "d") == before
