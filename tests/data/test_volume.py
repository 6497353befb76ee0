"""A batch that is far too small or too large is held whole, and released by the same command."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.data.held_rows import list_held
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions, IngestResult, Selection
from tidemill.data.reviews import release
from tidemill.data.schema import Column, DatasetRules, Schema
from tidemill.data.snapshot_checks import validate_snapshot
from tidemill.data.snapshot_drift import drift_between
from tidemill.data.snapshots import list_snapshots
from tidemill.data.volume import off_volume
from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.home import Home


def _schema(rules: DatasetRules | None) -> Schema:
    return Schema(columns=(Column(name="x", type="int64"),), dataset=rules)


def test_a_batch_far_off_is_held_and_released(home: Home, tmp_path: Path) -> None:
    """It is counted as held, leaves the median as it is, and is judged anew under another rule."""

    def take(rows: int, schema: Schema | None = None) -> IngestResult:
        path = tmp_path / f"{rows}.csv"
        path.write_text("x\n" + "1\n" * rows + "oops\n")
        return ingest(home, "d", [path], schema=schema)

    rules = DatasetRules(batch_min_ratio=0.5, batch_max_ratio=2, batch_window=3)
    assert take(10, _schema(rules)).accepted == 10
    assert take(12).accepted == 12
    small, large = take(4), take(30)
    for result, rows in ((small, 5), (large, 31)):
        assert (result.received, result.accepted, result.quarantined) == (rows, 0, rows)
        assert result.reasons == {"batch_refused": rows - 1, "wrong_type": 1}
        assert result.refused is not None
        assert "of the median of 2 ingests, 12;" in result.refused
    assert take(4).repeated
    done = release(home, "d", Selection(ingest=small.ingest), by="ann")
    assert done is not None
    assert (done.rows, done.accepted, done.held) == (5, 4, 1)
    assert sum(group.rows for group in list_held(home, "d")) == 2 + 1 + 31
    assert "of the median of 2 ingests, 12;" in str(take(31).refused)
    wide = _schema(DatasetRules(batch_max_ratio=4))
    assert take(30, wide).accepted == 30
    assert [one.rows for one in list_snapshots(home, "d")] == [10, 12, 4, 30]


def test_released_rows_are_no_reference(home: Home, tmp_path: Path) -> None:
    """Neither for the size of a batch nor for its drift: both compare with the last ingest."""

    def take(low: int, rows: int, bad: int = 0) -> IngestResult:
        path = tmp_path / f"{low}-{rows}.csv"
        path.write_text("x\n" + "".join(f"{low + i % 100}\n" for i in range(rows)) + "oops\n" * bad)
        options = DatasetOptions(max_drift=0.1)
        return ingest(home, "d", [path], options=options, schema=_schema(rules))

    rules = DatasetRules(batch_min_ratio=0.5, min_fraction_of_previous=0.5)
    first = take(0, 2000)
    assert take(0, 3).refused is not None
    done = release(home, "d", Selection(), by="ann")
    assert done is not None
    assert done.accepted == 3
    assert take(0, 400).refused is not None
    assert "0.4" not in str(take(0, 1999).refused)
    ids = [one.id for one in list_snapshots(home, "d")]
    assert ids[:2] == [first.snapshot, done.snapshot]
    assert drift_between(home, "d").against == first.snapshot
    assert drift_between(home, "d", against=done.snapshot).against == done.snapshot
    assert validate_snapshot(home, "d").previous == first.snapshot
    assert "have drifted" in str(take(300, 2000).refused)


@pytest.mark.parametrize(
    "text", ["batch_min_ratio = 1.5", "batch_max_ratio = 0.5", "batch_window = 0"]
)
def test_ratios_that_hold_everything_are_refused(text: str) -> None:
    """A batch like all others must pass."""
    with pytest.raises(InvalidInput, match="batch_"):
        Schema.from_toml(f"[dataset]\n{text}\n[columns.x]\n")


@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=30),
    st.integers(1, 10**9),
    st.floats(0, 1),
    st.floats(1, 100),
    st.integers(1, 20),
)
def test_only_the_last_ingests_count(
    earlier: list[int], rows: int, least: float, most: float, window: int
) -> None:
    """A batch like them passes; a larger one is not held for being small, nor the reverse."""
    rules = DatasetRules(batch_min_ratio=least, batch_max_ratio=most, batch_window=window)
    found = off_volume(rules, rows, earlier)
    assert found == off_volume(
        rules, rows, [7, *earlier][-window:] if len(earlier) >= window else earlier
    )
    assert off_volume(rules, earlier[-1], [earlier[-1]] * window) is None
    if found is not None and "at least" in found:
        assert rows < max(earlier)
    if found is not None and "at most" in found:
        assert rows > min(earlier)
    assert off_volume(DatasetRules(), rows, earlier) is None
    assert off_volume(rules, rows, []) is None
