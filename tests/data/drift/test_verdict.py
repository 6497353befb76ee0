"""Drift is found where there is some, and chance is not taken for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tidemill.data.drift.reference import count, freeze
from tidemill.data.drift.verdict import DriftReport, DriftRules, judge
from tidemill.data.schema import Comparator
from tidemill.foundation.errors import InvalidInput

ZIPF = 1 / np.arange(1, 3001) ** 1.1
WORDS = np.array([f"v{i}" for i in range(3000)])


def compared(first: Any, second: Any, rules: DriftRules | None = None) -> DriftReport:
    """Judges rows against others."""
    reference = freeze(first)
    return judge(reference, count(reference, second), rules)


def fifty(rng: np.random.Generator, n: int) -> dict[str, Any]:
    """Makes rows of fifty columns: smooth, heavy-tailed, tied, rare, of few words and of many."""
    found: dict[str, Any] = {}
    for i in range(10):
        found[f"normal{i}"] = rng.normal(i, 1 + i, n)
        found[f"wide{i}"] = rng.lognormal(0, 0.5 + i / 4, n)
        found[f"whole{i}"] = rng.poisson(2 ** (i / 2), n)
        found[f"mostly0_{i}"] = np.where(rng.random(n) < 0.1 * i, 0, rng.exponential(size=n))
    for i in range(5):
        found[f"words{i}"] = WORDS[rng.choice(len(ZIPF), n, p=ZIPF / ZIPF.sum())]
    found["two"] = rng.random(n) < 0.01
    found["few"] = WORDS[rng.integers(0, 9, n)]
    found["flat"] = WORDS[rng.integers(0, 1000, n)]
    found["constant"] = np.full(n, 3.5)
    found["gaps"] = pa.array(rng.normal(size=n), mask=rng.random(n) < 0.2)
    return found


@pytest.mark.parametrize(("rows", "times"), [(100, 20), (1000, 10)])
def test_chance_is_no_drift(rows: int, times: int) -> None:
    """No alarm on resamplings of one distribution; bench/drift does it 200 times, to a million."""
    rng = np.random.default_rng(rows)
    for _ in range(times):
        report = compared(pa.table(fifty(rng, rows)), pa.table(fifty(rng, rows)))
        assert len(report.columns) == 50
        assert report.ok, (report.alarms, report.errors)


def test_a_fifth_of_a_deviation_is_found_among_fifty_columns() -> None:
    """At 10,000 rows, and nothing else is."""
    rng = np.random.default_rng(3)
    now = fifty(rng, 10_000)
    now["normal3"] = now["normal3"] + 0.2 * 4
    report = compared(pa.table(fifty(rng, 10_000)), pa.table(now))
    assert report.alarms == ["normal3"]
    assert report.columns[0].name == "normal3"
    assert report.columns[0].severity == "warning"


def test_much_data_makes_no_alarm_of_nothing_that_matters() -> None:
    """A hundredth of a deviation in 400,000 rows is significant, and is only told."""
    rng = np.random.default_rng(4)
    report = compared(
        pa.table({"x": rng.normal(size=400_000)}), pa.table({"x": rng.normal(size=400_000) + 0.02})
    )
    assert report.ok
    assert report.columns[0].severity == "info"


def test_every_kind_of_change_is_found() -> None:
    """A new value, a gone one, more missing, a spread, a constant, another unit."""
    rng = np.random.default_rng(5)
    n = 4000
    plain = rng.normal(size=n)
    first = {
        "same": plain,
        "spread": plain,
        "unit": np.abs(plain),
        "constant": np.ones(n),
        "gaps": plain,
        "emptied": plain,
        "word": WORDS[rng.integers(0, 4, n)],
        "many": WORDS[rng.integers(0, 3000, n)],
        "flag": rng.random(n) < 0.5,
    }
    second = {
        "same": rng.permutation(plain),
        "spread": plain * 2,
        "unit": np.abs(plain) * 1000,
        "constant": np.where(rng.random(n) < 0.3, 2.0, 1.0),
        "gaps": pa.array(plain, mask=rng.random(n) < 0.1),
        "emptied": pa.nulls(n, pa.float64()),
        "word": np.where(rng.random(n) < 0.3, "new", first["word"]),
        "many": np.where(rng.random(n) < 0.3, "v7", first["many"]),
        "flag": rng.random(n) < 0.7,
    }
    report = compared(pa.table(first), pa.table(second))
    assert set(report.alarms) == set(first) - {"same"}
    found = {column.name: column for column in report.columns}
    assert found["gaps"].checks[-1].part == "missing"
    assert found["emptied"].severity == "error"
    assert found["unit"].severity == "error"
    message = found["word"].checks[0].message
    assert message is not None
    assert "other values: 0.00% of the values before" in message
    assert (found["constant"].checks[0].message or "").startswith("1: 100.00%")


def test_a_limit_of_the_columns_own_counts() -> None:
    """Its measure, and an error over it; a measure without a meaning is an error."""
    rng = np.random.default_rng(6)
    first = {"x": rng.normal(size=3000), "t": WORDS[rng.integers(0, 4, 3000)]}
    second = {"x": rng.normal(size=3000) + 0.3, "t": WORDS[rng.integers(0, 4, 3000)]}
    tight = DriftRules(columns={"x": Comparator(psi=0.02), "t": Comparator(ks=0.1)})
    report = compared(pa.table(first), pa.table(second), tight)
    assert report.errors == {"t": "ks is not defined for its values"}
    assert [check.measure for check in report.columns[0].checks] == ["psi"]
    assert report.columns[0].severity == "error"
    wide = DriftRules(columns={"x": Comparator(wasserstein=0.5)})
    assert compared(pa.table(first), pa.table(second), wide).ok


def test_what_could_not_be_compared_is_no_pass() -> None:
    """A column that is gone, one of another type, one without values that has a limit."""
    first = pa.table({"x": [1.0, 2.0], "y": [1, 2], "z": pa.nulls(2, pa.float64())})
    second = pa.table({"y": ["a", "b"], "z": [1.0, 2.0]})
    report = compared(first, second, DriftRules(columns={"z": Comparator(ks=0.1)}))
    assert set(report.errors) == {"x", "y", "z"}
    assert not report.ok
    with pytest.raises(InvalidInput, match="no rows"):
        compared(first, first.slice(0, 0))


@given(st.integers(0, 2**32), st.integers(50, 400), st.integers(50, 400))
@settings(max_examples=15)
def test_distances_are_near_those_of_the_raw_values(seed: int, n: int, m: int) -> None:
    """KS on cells is never over SciPy's; both are shares of the rows."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=n), rng.normal(0.5, 1.5, m)
    column = compared(pa.table({"x": first}), pa.table({"x": second})).columns[0]
    raw = stats.ks_2samp(first, second, method="asymp").statistic
    assert column.distances["ks"] <= raw + 1e-12
    assert column.distances["ks"] >= raw - 2 / (n // 20 + 1) - 0.05
    assert 0 <= column.distances["jensen_shannon"] <= 1


def test_rows_are_at_no_distance_from_themselves() -> None:
    """All distances are 0, all chances 1."""
    table = pa.table(fifty(np.random.default_rng(7), 500))
    for column in compared(table, table).columns:
        assert all(
            distance == pytest.approx(0, abs=1e-12) for distance in column.distances.values()
        )
        assert all(check.chance == pytest.approx(1) for check in column.checks)


def test_infinite_numbers_are_counted() -> None:
    """They are the largest; only wasserstein is not defined for them."""
    first = pa.table({"x": [1.0, 2.0, np.inf, -np.inf] * 50})
    report = compared(first, first)
    assert report.ok
    assert "wasserstein" not in report.columns[0].distances
