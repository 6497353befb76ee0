"""A frozen reference counts every row once, whatever it holds and however it is read."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.data.drift.cells import CELLS, Cells, NumberCounter, hash_texts, number_cells
from tidemill.data.drift.reference import SAMPLE, Reference, count, freeze
from tidemill.foundation.errors import Corrupted, InvalidInput

numbers = st.one_of(
    st.floats(allow_nan=False), st.integers(-3, 3).map(float), st.floats(-1, 1).map(lambda x: x / 8)
)


@given(st.lists(numbers, min_size=1, max_size=200), st.lists(numbers, max_size=200))
@settings(max_examples=50)
def test_the_grid_counts_as_a_search_does(sample: list[float], now: list[float]) -> None:
    """For denormals, infinities, ties and the widest ranges."""
    cells = number_cells(np.array(sample))
    everything = np.array([*sample, *now, *cells.edges, 0.0, -np.inf, np.inf, 1e308, -1e308])
    place = np.searchsorted(cells.edges, everything)
    expected = np.bincount(place, minlength=cells.count)
    assert (NumberCounter(cells).count(everything) == expected).all()
    inside = NumberCounter(cells).count(np.array(sample))
    assert inside[-1] == 0  # nothing of the sample is out of its range
    assert inside[0] == sample.count(-math.inf)  # nothing lies below that
    assert inside.sum() == len(sample)


def test_a_frequent_number_has_a_cell_of_its_own() -> None:
    """Half of the rows are 0: the cell that holds them holds nothing else."""
    sample = np.concatenate([np.zeros(500), np.random.default_rng(0).random(500) + 1e-300])
    found = freeze(pa.table({"x": sample})).columns[0]
    assert 500 in found.tally.counts


@given(st.lists(st.text(max_size=9), min_size=1, max_size=9, unique=True))
@settings(max_examples=30)
def test_a_hash_is_of_the_text_alone(texts: list[str]) -> None:
    """Neither its neighbours nor its place in memory matter; different texts differ."""
    whole = hash_texts(pa.array(texts))
    assert len(set(whole.tolist())) == len(texts)
    for i, text in enumerate(texts):
        assert hash_texts(pa.array([text]))[0] == whole[i]
    assert (hash_texts(pa.array(["x", *texts]).slice(1)) == whole).all()


def test_hashes_stay_what_they_are() -> None:
    """Stored references depend on them."""
    assert hash_texts(pa.array(["", "a", "JFK"])).tolist() == [
        0,
        15154452856141135343,
        14668897141102965535,
    ]


def rows(n: int, seed: int = 0) -> pa.Table:
    """Makes rows of every kind of column that is compared, with values missing."""
    rng = np.random.default_rng(seed)
    gap = rng.random(n) < 0.1
    return pa.table(
        {
            "real": pa.array(rng.normal(size=n), mask=gap),
            "whole": rng.poisson(3, n),
            "truth": pa.array(rng.random(n) < 0.3, mask=gap),
            "few": pa.array(np.array(["a", "b", "c"])[rng.integers(0, 3, n)], mask=gap),
            "many": [f"v{i}" for i in rng.integers(0, 5000, n)],
            "time": pa.array(rng.integers(0, 10**15, n), pa.timestamp("us", "UTC")),
        }
    )


def test_frames_and_files_give_the_same_reference(tmp_path: Path) -> None:
    """Arrow, Polars, pandas and Parquet in one file or two; byte by byte, and counted alike."""
    table = rows(3000)
    one, two, three = (tmp_path / f"{i}.parquet" for i in range(3))
    pq.write_table(table, one, row_group_size=700)
    pq.write_table(table.slice(0, 1000), two)
    pq.write_table(table.slice(1000), three, use_dictionary=False)
    reference = freeze(table)
    kinds = {column.name: column.cells.kind for column in reference.columns}
    assert kinds == {
        "real": "numbers",
        "whole": "numbers",
        "truth": "values",
        "few": "values",
        "many": "hashes",
        "time": "numbers",
    }
    for data in (pl.from_arrow(table), table.to_pandas(), one, [two, three]):
        assert freeze(data).to_bytes() == reference.to_bytes()
        found = count(reference, data)
        assert found.tallies == {column.name: column.tally for column in reference.columns}
    assert Reference.from_bytes(reference.to_bytes()) == reference


def test_more_rows_than_the_sample_are_all_counted() -> None:
    """Cells come from every second row, counts from each."""
    n = SAMPLE + 5
    found = freeze(pa.table({"x": np.arange(n), "t": ["a", "b", "a", "a", "b"] * (n // 5) + ["a"]}))
    assert sum(found.columns[0].tally.counts) == sum(found.columns[1].tally.counts) == n
    assert len(found.columns[0].tally.counts) == CELLS + 2
    assert max(found.columns[0].tally.counts) < n / CELLS * 1.1


def test_what_has_no_value_is_missing() -> None:
    """None, NaN, a column of nothing; in a pandas frame and in Arrow."""
    reference = freeze(
        pa.table({"x": [1.0, np.nan, None], "y": pa.nulls(3), "t": ["a", None, "b"]})
    )
    missing = {column.name: column.tally.missing for column in reference.columns}
    assert missing == {"x": 2, "y": 3, "t": 1}
    frame = pd.DataFrame({"x": [np.nan, 2.0], "y": [np.nan, 1.0], "t": pd.Categorical(["a", None])})
    found = count(reference, frame)
    assert {name: tally.missing for name, tally in found.tallies.items()} == {
        "x": 1,
        "y": 1,
        "t": 1,
    }
    nothing = count(reference, pa.table({"x": pa.nulls(2), "y": pa.nulls(2), "t": pa.nulls(2)}))
    assert all(tally.missing == 2 for tally in nothing.tallies.values())


def test_odd_types_are_counted_or_left_out_by_name() -> None:
    """Decimals, dates, half floats, large strings and unsigned numbers are; lists are not."""
    reference = freeze(
        pa.table(
            {
                "decimal": [Decimal("1.5"), Decimal("2.5")],
                "date": [dt.date(2024, 1, 1), dt.date(2024, 1, 2)],
                "half": pa.array(np.array([1, 2], np.float16)),
                "unsigned": pa.array([1, 2**64 - 1], pa.uint64()),
                "large": pa.array(["a", "b"], pa.large_string()),
                "view": pa.array(["a", "b"], pa.string_view()),
                "coded": pa.array([5, 6]).dictionary_encode(),
                "list": [[1], [2]],
                "bytes": [b"a", b"b"],
            }
        )
    )
    assert all(column.tally.present == 2 for column in reference.columns)
    assert set(reference.left_out) == {"list", "bytes"}
    assert "list" in reference.left_out["list"]


def test_other_columns_are_told() -> None:
    """A column that is gone or of another type is an error, a new one is named."""
    reference = freeze(pa.table({"x": [1.0], "y": [1.0], "z": ["a"]}))
    found = count(reference, pa.table({"y": ["text"], "z": ["b"], "new": [1]}))
    assert set(found.errors) == {"x", "y"}
    assert "numbers" in found.errors["y"]
    assert found.new == ("new",)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """No rows, no file, no frame, damaged bytes."""
    for data in (pa.table({"x": pa.array([], pa.int64())}), tmp_path / "none.parquet", 7, [7]):
        with pytest.raises(InvalidInput):
            freeze(data)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(InvalidInput):
        freeze([tmp_path / "bad.parquet"])
    good = freeze(pa.table({"x": [1]})).to_bytes()
    for bad in (b"", good[:-1], good[:30] + b"x" + good[31:], b"y" + good):
        with pytest.raises(Corrupted):
            Reference.from_bytes(bad)


def test_cells_without_values_hold_nothing_apart() -> None:
    """A reference without a number has one cell, and counts in it what comes."""
    assert NumberCounter(Cells(kind="numbers")).count(np.array([1.0, 2.0])).tolist() == [2]
