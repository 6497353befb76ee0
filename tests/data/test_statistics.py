from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.data.statistics import Slices, Statistics, describe, describe_slices
from tidemill.data.statistics.scan import BATCH_ROWS
from tidemill.data.statistics.sketches import Frequent, Quantiles
from tidemill.data.summaries import ColumnStatistics
from tidemill.foundation.errors import Corrupted, InvalidInput


def _of(*tables: pa.Table) -> ColumnStatistics:
    statistics = Statistics()
    for table in tables:
        statistics.update(table)
    found = statistics.result().column("x")
    assert found is not None
    return found


_numbers = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=50)


@settings(deadline=None, max_examples=40)
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


# --- the law: merged statistics are those of one pass ---------------------------------------------

_rows = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        st.one_of(st.none(), st.floats()),
        st.one_of(st.none(), st.booleans()),
        st.one_of(st.none(), st.text(max_size=5)),
        st.one_of(st.none(), st.integers(-(2**50), 2**50)),
        st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=4)),
        st.floats(0, 100),
    ),
    max_size=30,
)
_SCHEMA = pa.schema(
    [
        ("int", pa.int64()),
        ("float", pa.float64()),
        ("bool", pa.bool_()),
        ("text", pa.string()),
        ("time", pa.timestamp("us", "UTC")),
        ("list", pa.list_(pa.int64())),
        ("weight", pa.float64()),
    ]
)


def _table(rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(_SCHEMA)
    return pa.table(
        [pa.array(list(each), field.type) for each, field in zip(columns, _SCHEMA, strict=True)],
        schema=_SCHEMA,
    )


def _close(one: Any, other: Any) -> None:
    """Checks that two results are equal, sums of floats but for their order."""
    if isinstance(one, float) and isinstance(other, int | float):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-6)
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            _close(a, b)
    elif hasattr(one, "__struct_fields__"):
        for name in one.__struct_fields__:
            if name not in ("mean", "std"):
                _close(getattr(one, name), getattr(other, name))
    else:
        assert one == other


@settings(deadline=None, max_examples=25)
@given(_rows, _rows, _rows)
def test_merged_statistics_are_those_of_one_pass(
    first: list[Any], second: list[Any], third: list[Any]
) -> None:
    """Cut anywhere, merged in any grouping, kept on disk between: the same, for every type."""
    whole = describe(_table(first + second + third)).result()
    a, b, c = (describe(_table(part)) for part in (first, second, third))
    b.merge(Statistics.from_bytes(c.to_bytes()))
    a.merge(b)
    _close(a.result(), whole)
    floats = np.array([row[1] for row in first + second + third if row[1] is not None])
    seen = whole.column("float")
    assert seen is not None
    assert seen.nan == np.isnan(floats).sum()
    assert seen.infinite == np.isinf(floats).sum()
    finite = floats[np.isfinite(floats)]
    if len(finite):
        assert (seen.min, seen.max) == (finite.min(), finite.max())
        assert seen.histogram is not None
        assert sum(seen.histogram.counts) == len(finite)
        for q, value in seen.quantiles.items():
            middle = np.quantile(finite / 2, float(q), method="averaged_inverted_cdf")
            assert value / 2 == pytest.approx(middle, rel=1e-9)


@settings(deadline=None, max_examples=6)
@given(_rows, _rows)
def test_weights_and_slices_merge_too(first: list[Any], second: list[Any]) -> None:
    """The weighted statistics of each slice are those of one pass, and slices hold all rows."""
    one, other, both = (Slices("bool", weight="weight") for _ in range(3))
    one.update(_table(first))
    other.update(_table(second))
    both.update(_table(first + second))
    one.merge(other)
    whole = both.result()
    assert sum(each.statistics.rows for each in whole) == len(first + second)
    found = {each.value: each.statistics for each in one.result()}
    for each in whole:
        for column in each.statistics.columns:
            mine = found[each.value].column(column.name)
            assert mine is not None
            assert mine.weighted is not None
            assert column.weighted is not None
            assert mine.weighted.weight == pytest.approx(column.weighted.weight)
            assert dict(mine.weighted.top).keys() == dict(column.weighted.top).keys() or (
                len(column.weighted.top) == 20
            )


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 30_000), min_size=1, max_size=8), st.integers(0, 2**32))
def test_a_rank_is_within_its_stated_error(sizes: list[int], seed: int) -> None:
    """In large batches, in many small ones, merged, and kept on disk."""
    draw = np.random.default_rng(seed)
    parts = [np.sort(np.round(draw.normal(size=size), int(draw.integers(2, 9)))) for size in sizes]
    sketches = [Quantiles(), Quantiles(), Quantiles()]
    for part in parts:
        sketches[0].update(part, np.ones(len(part)))
        for small in np.array_split(part, max(1, len(part) // 100)):
            sketches[1].update(small, np.ones(len(small)))
        other = Quantiles()
        other.update(part, np.ones(len(part)))
        sketches[2].merge(Quantiles.unpacked(*other.packed()))
    every = np.sort(np.concatenate(parts))
    for sketch in sketches:
        assert sketch.rank_error < 0.01
        assert sketch.weight == pytest.approx(len(every))
        points, weights = sketch.points()
        kept = np.concatenate([[0.0], np.cumsum(weights)])
        at = draw.choice(every, 300)
        stated = kept[np.searchsorted(points, at, "right")]
        true = np.searchsorted(every, at, "right")
        assert np.abs(stated - true).max() <= sketch.rank_error * len(every) + 1e-6


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 3_000), min_size=1, max_size=6), st.integers(0, 2**32))
def test_a_count_is_too_low_by_at_most_its_stated_error(sizes: list[int], seed: int) -> None:
    """Of the frequent values among many, one-pass and merged, texts and numbers."""
    draw = np.random.default_rng(seed)
    parts = [draw.zipf(1.2, size=size).clip(max=10**6) for size in sizes]
    every = np.concatenate(parts)
    values, times = np.unique(every, return_counts=True)
    true = dict(zip(values.tolist(), times.tolist(), strict=True))
    merged = Statistics()
    for part in parts:
        merged.merge(describe(pa.table({"x": part, "t": part.astype(str)})))
    whole = describe(pa.table({"x": every, "t": every.astype(str)}))
    for statistics in (merged.result(), whole.result()):
        for seen in statistics.columns:
            counts = {int(value): count for value, count in seen.top}
            for value, count in counts.items():
                assert true[value] - seen.top_error <= count <= true[value]
            most = int(values[np.argmax(times)])
            assert most in counts or true[most] <= seen.top_error + min(counts.values(), default=0)


def test_frequent_values_stay_bounded() -> None:
    """However many values come, few are kept, and the error says what was dropped."""
    frequent = Frequent()
    for start in range(0, 50_000, 500):
        frequent.update(["often", *range(start, start + 500)][:1], [5])
        frequent.update(map(str, range(start, start + 500)), [1] * 500)
    assert len(frequent.counts) <= 2_000
    assert frequent.ordered()[0][0] == "often"
    assert 500 - frequent.error <= frequent.counts["often"] <= 500


def test_many_long_and_different_texts(tmp_path: Path) -> None:
    """Texts that all differ are counted, long ones are told apart without being kept whole."""
    texts = [f"{'é' * (i % 40)}{i}" for i in range(60_000)] + ["twice"] * 400
    seen = _of(pa.table({"x": texts}))
    assert seen.distinct == pytest.approx(60_001, rel=0.05)
    assert seen.top[0][0] == "twice"
    assert seen.max_length == max(map(len, texts))
    long = _of(pa.table({"x": ["a" * 100_000 + "b", "a" * 100_000 + "c", None]}))
    assert (long.distinct, long.domain, long.max_length) == (2, None, 100_001)
    assert all(len(text) < 600 for text, _ in long.top)


def test_any_number_and_time_is_taken() -> None:
    """Narrow, unsigned, decimal, dates, naive times and categories have the types of a schema."""
    table = pa.table(
        {
            "i": pa.array([1, None], pa.int8()),
            "u": pa.array([1, 2**40], pa.uint64()),
            "f": pa.array([1.5, None], pa.float32()),
            "d": pa.array([1, 2], pa.date32()),
            "n": pa.array([1, 2], pa.timestamp("ns")),
            "c": pa.array(["a", "a"]).dictionary_encode(),
            "z": pa.nulls(2),
        }
    )
    found = describe(table).result()
    assert [one.type for one in found.columns] == [
        *("int64", "int64", "float64", "timestamp", "timestamp", "string", "string")
    ]
    assert found.columns[5].top == (("a", 2),)


def test_lists_have_lengths() -> None:
    """Rows, lists and the values in them are counted apart."""
    seen = _of(pa.table({"x": [[1, 2, 2], [], None, [None, 4]]}))
    assert (seen.count, seen.missing, seen.values, seen.mean) == (4, 1, 5, 2.25)
    assert seen.list_lengths == {"0": 0.0, "0.5": 2.0, "1": 3.0}
    assert seen.top[0] == (2, 2)


def test_files_are_described_as_tables_are(tmp_path: Path) -> None:
    """Parquet files, an empty one among them, give what their rows in memory give, byte by byte."""
    draw = np.random.default_rng(0)
    table = pa.table(
        {"x": draw.normal(size=200_000), "t": draw.integers(0, 9, 200_000).astype(str)}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "b.parquet")
    told: list[tuple[int, int]] = []
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    found = describe(paths, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (200_000, 200_000)
    again = describe(table)
    assert found.to_bytes() == again.to_bytes() == describe(table, threads=1).to_bytes()
    pq.write_table(table, tmp_path / "c.parquet", row_group_size=BATCH_ROWS)
    assert describe(tmp_path / "c.parquet").to_bytes() == again.to_bytes()
    pieces = Statistics()
    for start in range(0, len(table), BATCH_ROWS):
        pieces.update(table.slice(start, BATCH_ROWS))
    assert pieces.to_bytes() == again.to_bytes()
    (tmp_path / "a.parquet").write_bytes(b"PAR1nothing")
    with pytest.raises(InvalidInput, match="cannot be read"):
        describe(paths)


def test_many_row_groups_and_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is read span by span, column by column, however columns are called; all is told."""
    monkeypatch.setattr("tidemill.data.statistics.scan.BATCH_ROWS", 1_000)
    monkeypatch.setattr("tidemill.data.statistics.scan.SPAN_ROWS", 4_000)
    draw = np.random.default_rng(0)
    columns = {
        "a": pa.array(draw.integers(0, 9, 10_000)),
        "a.b": pa.array(draw.normal(size=10_000)),
        "a.b.list.element": pa.array(draw.integers(0, 99, 10_000).astype(str)),
        "list": pa.array([[1, 2], None, [3, None], []] * 2_500),
        "": pa.array([True, None] * 5_000),
    }
    table = pa.table(columns)
    path = tmp_path / "rows.parquet"
    pq.write_table(table, path, row_group_size=1_500)
    told: list[tuple[int, int]] = []
    found = describe(path, progress=lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {10_000}
    steps = np.diff([0, *(done for done, _ in told)])
    assert told[-1][0] == 10_000
    assert {4_500, 9_000} <= {done for done, _ in told}
    assert steps.min() > 0
    assert steps.max() < 2_000  # about each batch, wherever columns are
    pieces = Statistics()
    for start in range(0, 10_000, 500):
        if start % 1_500 != 500:  # groups of 1,500 rows are read as 1,000 and 500
            pieces.update(table.slice(start, 500 if start % 1_500 else 1_000))
    assert found.to_bytes() == pieces.to_bytes()
    damaged = path.read_bytes()
    path.write_bytes(damaged[:4] + b"\xff" * 20_000 + damaged[20_004:])
    with pytest.raises(InvalidInput, match="cannot be read"):
        describe(path)


def test_what_cannot_be_described_is_refused() -> None:
    """Other types, changing types, twice the same name, bad weights, too many slices."""
    with pytest.raises(InvalidInput, match="can't be kept"):
        describe(pa.table({"x": [b"bytes"]}))
    with pytest.raises(InvalidInput, match="cannot be merged"):
        _of(pa.table({"x": [1]}), pa.table({"x": ["a"]}))
    with pytest.raises(InvalidInput, match="one name"):
        Statistics().update(pa.table([[1], [2]], names=["x", "x"]))
    for weights in ([-1.0], [math.nan], [None], [math.inf]):
        with pytest.raises(InvalidInput, match="weight"):
            describe(pa.table({"w": pa.array(weights, pa.float64())}), weight="w")
    with pytest.raises(InvalidInput, match="more than 100"):
        describe_slices(pa.table({"x": range(101)}), "x")
    with pytest.raises(InvalidInput, match="cannot be merged"):
        Statistics(weight="w").merge(Statistics())
    with pytest.raises(InvalidInput, match="cannot be merged"):
        Slices("a").merge(Slices("b"))


_REFUSED = {
    "another type": {"a": [5, 6], "b": ["q", "r"], "new": [1, 2], "w": [1.0, 1.0]},
    "too large": {"a": [5, 6], "b": pa.array([2**63, 1], pa.uint64()), "w": [1.0, 1.0]},
    "no type of ours": {"a": [5, 6], "new": [1, 2], "z": [b"q", b"r"], "w": [1.0, 1.0]},
    "a bad weight": {"a": [5, 6], "new": [1, 2], "b": [3, 4], "w": [1.0, -1.0]},
}


@pytest.mark.parametrize("refused", _REFUSED)
@pytest.mark.parametrize("threads", [None, 2])
def test_a_refused_piece_leaves_no_trace(refused: str, threads: int | None) -> None:
    """Rows come in whole or not at all, and statistics go on as if they had not been there."""
    good = pa.table({"a": [1, 2], "b": [None, 2], "c": ["x", "y"], "w": [1.0, 2.0]})
    kept, spared = Statistics(weight="w"), Statistics(weight="w")
    bad = pa.table(_REFUSED[refused])
    with ThreadPoolExecutor(threads) as executor:
        pool = None if threads is None else executor
        kept.update(good, pool=pool)
        with pytest.raises(InvalidInput):
            kept.update(bad, pool=pool)
        kept.update(good, pool=pool)
    spared.update(good)
    spared.update(good)
    assert kept.to_bytes() == spared.to_bytes()


def test_refused_statistics_leave_no_trace() -> None:
    """Where one column can't be merged, none is."""
    kept, other = (
        describe(pa.table({"a": [1], "b": values, name: [1]}))
        for values, name in (([1], "c"), (["x"], "d"))
    )
    before = kept.to_bytes()
    with pytest.raises(InvalidInput, match="cannot be merged"):
        kept.merge(other)
    assert kept.to_bytes() == before


@pytest.mark.parametrize("damage", [b"", b"12345678", b"\x00" * 40, None])
def test_damaged_statistics_are_told(damage: bytes | None) -> None:
    """What was cut, or is something else, is never taken for statistics."""
    whole = describe(pa.table({"x": [1, 2]})).to_bytes()
    with pytest.raises(Corrupted):
        Statistics.from_bytes(whole[:-3] if damage is None else damage)
