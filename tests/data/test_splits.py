from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.data.splits import split_by_group, split_by_hash, split_by_time
from tidemill.foundation.errors import InvalidInput

PARTS = {"train": 0.7, "eval": 0.2, "test": 0.1}


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(-5, 5))
def test_parts_are_disjoint_and_complete(values: list[int], seed: int) -> None:
    """Every row is in exactly one part, and in its old order there."""
    table = pa.table(
        {"g": pa.array(values, pa.int64()), "row": pa.array(range(len(values)), pa.int64())}
    )
    for parts in (
        split_by_hash(table, ["row"], PARTS, seed=seed),
        split_by_group(table, "g", PARTS, seed=seed),
        split_by_time(table, "g", PARTS),
    ):
        assert list(parts) == list(PARTS)
        rows = [part.column("row").to_pylist() for part in parts.values()]
        assert sorted(row for part in rows for row in part) == list(range(len(values)))
        assert all(part == sorted(part) for part in rows)


def test_shares_are_kept_and_seeds_differ() -> None:
    """Parts have their shares of many rows; another seed cuts elsewhere."""
    table = pa.table({"id": list(range(20_000))})
    parts = split_by_hash(table, ["id"], PARTS)
    assert parts["train"].num_rows == pytest.approx(14_000, abs=300)
    assert parts["test"].num_rows == pytest.approx(2_000, abs=200)
    again = split_by_hash(table.slice(500), ["id"], PARTS)
    before = set(parts["train"].column("id").to_pylist())
    assert set(again["train"].column("id").to_pylist()) <= before
    other = split_by_hash(table, ["id"], PARTS, seed=1)
    assert len(before & set(other["train"].column("id").to_pylist())) < 11_000


def test_groups_stay_whole() -> None:
    """No group has rows in two parts."""
    table = pa.table({"g": np.arange(1000) % 37})
    parts = split_by_group(table, "g", PARTS)
    groups = [set(part.column("g").to_pylist()) for part in parts.values()]
    assert sum(map(len, groups)) == 37


def test_time_is_cut_between_instants() -> None:
    """Later parts are strictly later, near their shares."""
    table = pa.table({"t": pa.array([3, 1, 2, 2, 2, 9], pa.timestamp("us", "UTC"))})
    parts = split_by_time(table, "t", {"train": 0.6, "eval": 0.4})
    assert parts["train"].num_rows == 4
    assert parts["eval"].num_rows == 2


def test_what_makes_no_split_is_refused() -> None:
    """Shares that don't add up, unknown columns, missing times."""
    table = pa.table({"t": [1.0, None], "s": ["a", "b"]})
    with pytest.raises(InvalidInput, match="add up"):
        split_by_hash(table, ["s"], {"train": 0.5})
    with pytest.raises(InvalidInput, match="no column 'x'"):
        split_by_group(table, "x", PARTS)
    with pytest.raises(InvalidInput, match="no column to split"):
        split_by_hash(table, [], PARTS)
    with pytest.raises(InvalidInput, match="1 rows have no t"):
        split_by_time(table, "t", PARTS)
    with pytest.raises(InvalidInput, match="not a time"):
        split_by_time(table, "s", PARTS)


def test_frames_are_split_as_tables_are() -> None:
    """Arrow tables, Polars and pandas frames have the same parts, by hash, group and time."""
    table = pa.table({"id": list(range(200)), "g": [f"g{i % 7}" for i in range(200)]})
    splits: list[Callable[[Any], dict[str, pa.Table]]] = [
        lambda rows: split_by_hash(rows, ["id"], PARTS, seed=3),
        lambda rows: split_by_group(rows, "g", PARTS),
        lambda rows: split_by_time(rows, "id", PARTS),
    ]
    for split in splits:
        found = [split(one) for one in (table, pl.from_arrow(table), table.to_pandas())]
        for name in PARTS:
            assert found[0][name].to_pydict() == found[1][name].to_pydict()
            assert found[0][name].to_pydict() == found[2][name].to_pydict()
