"""Correlations and associations: equal to NumPy's and to their formula, and mergeable."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.data.statistics import associate, correlate, describe
from tidemill.data.statistics.association import Associations, Correlations
from tidemill.foundation.errors import InvalidInput

_number = st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(float("nan")))
_pairs = st.lists(st.tuples(_number, _number), max_size=40)


def _table(pairs: list[tuple[float | None, float | None]]) -> pa.Table:
    columns = list(zip(*pairs, strict=True)) or [(), ()]
    return pa.table([pa.array(list(each), pa.float64()) for each in columns], names=["x", "y"])


@settings(deadline=None, max_examples=40)
@given(_pairs, _pairs)
def test_merged_correlations_are_numpys(first: list[object], second: list[object]) -> None:
    """Over the rows that have both, cut anywhere; columns that don't vary have none."""
    one, other = Correlations(), Correlations()
    one.update(_table(first))  # type: ignore[arg-type]
    other.update(_table(second))  # type: ignore[arg-type]
    one.merge(other)
    rows = np.array(first + second, np.float64).reshape(-1, 2)
    rows = rows[np.isfinite(rows).all(axis=1)]
    found = one.result()
    # Where a column hardly varies beside its size, neither way of counting has digits left.
    if len(rows) > 1 and (rows.std(axis=0) > 1e-3 + 1e-4 * np.abs(rows).max(axis=0)).all():
        assert found[0].rows == len(rows)
        assert found[0].r == pytest.approx(np.corrcoef(rows.T)[0, 1], abs=1e-6)


def test_large_offsets_lose_nothing() -> None:
    """Times in seconds since the epoch correlate as their differences do, booleans as numbers."""
    draw = np.random.default_rng(0)
    noise, step = draw.normal(size=5000), np.arange(5000)
    table = pa.table(
        {
            "at": pa.array(1_700_000_000_000_000 + step, pa.timestamp("us", "UTC")),
            "y": 1e9 + step + 100 * noise,
            "late": step > 2500,
            "flat": np.zeros(5000),
            "text": ["a"] * 5000,
        }
    )
    found = {(one.first, one.second): one.r for one in correlate(table).result()}
    assert set(found) == {("at", "y"), ("at", "late"), ("y", "late")}
    assert found["y", "late"] == pytest.approx(
        np.corrcoef(step + 100 * noise, step > 2500)[0, 1], abs=1e-9
    )


def test_a_copy_tells_all_and_chance_tells_nothing() -> None:
    """Numbers by their deciles, texts by value, missing ones too; merged parts are the whole."""
    draw = np.random.default_rng(0)
    label = draw.choice(["a", "b", "c"], 4000)
    table = pa.table(
        {
            "copy": label,
            "number": np.where(label == "a", 1.0, 2.0),
            "holes": pa.array(np.ones(4000), mask=label == "b"),
            "chance": draw.normal(size=4000),
            "label": label,
        }
    )
    statistics = describe(table).result()
    whole = associate(table, "label", statistics).result()
    shares = {one.column: one.share for one in whole}
    assert shares["copy"] == pytest.approx(1, abs=0.01)
    assert 0.4 < shares["number"] < 0.7
    assert 0.4 < shares["holes"] < 0.7
    assert shares["chance"] < 0.005
    one, other = Associations(statistics, "label"), Associations(statistics, "label")
    one.update(table.slice(0, 1000))
    other.update(table.slice(1000))
    one.merge(other)
    assert one.result() == whole


def test_what_does_not_belong_together_is_refused() -> None:
    """Other columns, no such label, a label of lists; no rows tell nothing."""
    table = pa.table({"x": [1, 2], "l": [[1], [2]]})
    statistics = describe(table).result()
    with pytest.raises(InvalidInput, match="no column"):
        associate(table, "nope", statistics)
    with pytest.raises(InvalidInput, match="lists"):
        associate(table, "l", statistics)
    with pytest.raises(InvalidInput, match="cannot be merged"):
        correlate(table).merge(correlate(pa.table({"y": [1]})))
    with pytest.raises(InvalidInput, match="cannot be merged"):
        Associations(statistics, "x").merge(Associations(statistics, "l"))
    empty = pa.table({"x": pa.array([], pa.int64()), "y": pa.array([], pa.string())})
    assert [one.share for one in associate(empty, "y", describe(empty).result()).result()] == [0.0]
