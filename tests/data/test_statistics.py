from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.data.statistics import Statistics
from tidemill.data.summaries import ColumnStatistics


def _of(*tables: pa.Table) -> ColumnStatistics:
    statistics = Statistics()
    for table in tables:
        statistics.update(table)
    found = statistics.result().column("x")
    assert found is not None
    return found


_numbers = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=50)


@given(_numbers, _numbers)
def test_merging_is_as_good_as_seeing_everything(
    left: list[float | None], right: list[float | None]
) -> None:
    """Statistics of two parts, merged, are those of the whole, and those of NumPy."""
    tables = [pa.table({"x": pa.array(part, pa.float64())}) for part in (left, right)]
    one, other = Statistics(), Statistics()
    one.update(tables[0])
    other.update(tables[1])
    one.merge(other)
    merged = one.result().column("x")
    assert merged is not None
    whole = _of(*tables)
    values = np.array([v for v in left + right if v is not None])
    assert merged.count == len(left) + len(right)
    assert merged.missing == merged.count - len(values)
    assert merged.distinct == whole.distinct == len(set(values.tolist()))
    if len(values):
        assert merged.min == values.min()
        assert merged.max == values.max()
        assert merged.mean == pytest.approx(values.mean(), abs=1e-6)
    if len(values) > 1:
        assert merged.std == pytest.approx(values.std(ddof=1), rel=1e-9, abs=1e-6)


def test_quantiles_and_distinct_of_many_values_are_near() -> None:
    """Beyond the exact bounds, ranks are within half a percent and distinct within five."""
    values = np.random.default_rng(0).permutation(200_000)
    seen = _of(*(pa.table({"x": part}) for part in np.array_split(values, 13)))
    assert not seen.distinct_exact
    assert seen.distinct == pytest.approx(200_000, rel=0.05)
    for q, value in seen.quantiles.items():
        assert value / 200_000 == pytest.approx(float(q), abs=0.005)


def test_frequent_values_are_counted() -> None:
    """Few distinct values are counted exactly, the most frequent first."""
    seen = _of(pa.table({"x": ["a", "b", "a", None]}), pa.table({"x": ["b", "b"]}))
    assert seen.top == (("b", 3), ("a", 2))
    assert seen.domain == ("a", "b")
    assert (seen.min, seen.max, seen.mean_length) == ("a", "b", 1.0)


def test_booleans_and_times_are_numbers() -> None:
    """The mean of a bool is the part that is true; times are seconds since the epoch."""
    assert _of(pa.table({"x": [True, False, True, True]})).mean == 0.75
    times = pa.array([0, 2_000_000], pa.timestamp("us", "UTC"))
    seen = _of(pa.table({"x": times}))
    assert (seen.min, seen.max, seen.mean) == (0.0, 2.0, 1.0)


def test_an_empty_column_has_no_numbers() -> None:
    """Without values there is no minimum, mean or deviation, rather than a made-up one."""
    seen = _of(pa.table({"x": pa.array([None, None], pa.int64())}))
    assert (seen.min, seen.mean, seen.std, seen.quantiles) == (None, None, None, {})
    assert seen.missing_fraction == 1.0
    assert not math.isnan(seen.missing_fraction)
