"""Limits to distances hold for more numbers than memory is to hold."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from scipy import stats

from tidemill.data import comparators
from tidemill.data.comparators import Measurement, compare_rows
from tidemill.data.drift.measures import MEASURES
from tidemill.data.queries import Queries
from tidemill.data.schema import Column, Comparator
from tidemill.foundation.errors import InvalidInput

EVERYTHING = Comparator(**dict.fromkeys(MEASURES, 0.0))


def distances(first: pa.Table, second: pa.Table, column: Column) -> dict[str, float]:
    """Measures a column of rows against others."""
    with Queries(second) as now, Queries(first) as other:
        found = list(compare_rows(now, other, [column], "previous"))
    return {one.measure: one.value for one in found if isinstance(one, Measurement)}


@pytest.mark.parametrize("kind", ["normal", "wide", "whole", "zeros", "lists"])
def test_many_numbers_are_as_far_apart_as_they_are(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """In cells, each measure is what it is on the numbers themselves, nearly."""
    rng = np.random.default_rng(1)
    n = 40_000

    def values(shift: float) -> np.ndarray:
        drawn = rng.normal(shift, 1, n)
        if kind == "wide":
            return np.exp(2 * drawn)
        if kind in ("whole", "lists"):
            return np.round(10 * drawn)
        return np.where(drawn < 0, 0.0, drawn) if kind == "zeros" else drawn

    first, second = (pa.array(values(shift)) for shift in (0, 0.3))
    column = Column(name="x", type="float64", drift=EVERYTHING)
    if kind == "lists":
        first, second = (each.to_pylist() for each in (first, second))
        first, second = (pa.array([x[i : i + 3] for i in range(0, n, 3)]) for x in (first, second))
        column = Column(name="x", type="float64", min_values=1, drift=EVERYTHING)
    tables = pa.table({"x": first}), pa.table({"x": second})
    exact = distances(*tables, column)
    monkeypatch.setattr(comparators, "EXACT", 1000)
    cells = distances(*tables, column)
    assert set(cells) == set(exact)
    for measure, value in exact.items():
        assert cells[measure] == pytest.approx(value, rel=0.01, abs=0.002), measure
    if kind == "normal":
        theirs = stats.ks_2samp(*(t["x"].to_numpy() for t in tables), method="asymp").statistic
        assert theirs - 2 / comparators.FINE <= cells["ks"] <= theirs + 1e-12


def test_rows_come_in_batches() -> None:
    """All of them, in order; what is no query is refused as elsewhere."""
    with Queries(pl.DataFrame({"x": range(300_000)})) as queries:
        parts = list(queries.batches("SELECT x FROM rows"))
        assert sum(part.num_rows for part in parts) == 300_000
        for wrong in ("SELECT nothing FROM rows", "DROP VIEW rows", "SELECT 1; SELECT 2"):
            with pytest.raises(InvalidInput):
                list(queries.batches(wrong))
        assert queries.select("SELECT max(x) AS m FROM rows")["m"][0].as_py() == 299_999
