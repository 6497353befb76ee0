"""A stored dataset's drift: snapshot to snapshot, with a reference that is frozen once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidemill.data import snapshot_drift
from tidemill.data.catalog import get_schema, set_schema
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions, IngestResult
from tidemill.data.schema import Column, Comparator, Schema
from tidemill.data.snapshot_drift import drift_between, frozen_reference
from tidemill.data.snapshots import list_snapshots
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.home import Home


@pytest.fixture
def days(home: Home, tmp_path: Path) -> Home:
    """A home with three days of orders, on the last of which amounts have moved."""
    for day in range(3):
        rng = np.random.default_rng(day)
        n = 2000
        table = pa.table(
            {
                "id": np.arange(n) + day * n,
                "at": pa.array((np.arange(n) + day * n) * 10**6, pa.timestamp("us", "UTC")),
                "seen": pa.array((np.arange(n) + day * n) * 10**6, pa.timestamp("us", "UTC")),
                "amount": rng.normal(50 + 4 * (day == 2), 10, n),
                "Shop": np.array(["a", "b", "c"])[rng.integers(0, 3, n)],
            }
        )
        pq.write_table(table, tmp_path / f"{day}.parquet")
        options = DatasetOptions(key=("id",), time="at")
        ingest(home, "orders", [tmp_path / f"{day}.parquet"], options=options)
    return home


def test_the_newest_is_compared_with_the_one_before(days: Home) -> None:
    """Or with another; what moves on by itself is left out, with the reason."""
    first, second, third = (one.id for one in list_snapshots(days, "orders"))
    found = drift_between(days, "orders")
    assert (found.snapshot, found.against) == (third, second)
    assert found.report.alarms == ["amount"]
    assert set(found.report.left_out) == {"id", "at", "seen"}
    assert drift_between(days, "orders", snapshot=second).report.ok
    assert drift_between(days, "orders", against=first).report.alarms == ["amount"]


def test_a_limit_in_the_schema_counts(days: Home) -> None:
    """Also of a time, which is compared because somebody limits it."""
    schema = get_schema(days, "orders")
    edited = Schema(
        columns=(
            Column(name="amount", drift=Comparator(ks=0.5)),
            Column(name="seen", drift=Comparator(wasserstein=60.0)),
        )
    )
    set_schema(days, "orders", edited, expected=schema)
    report = drift_between(days, "orders").report
    assert report.alarms == ["seen"]
    assert report.columns[0].distances["wasserstein"] == pytest.approx(2000, rel=0.01)


def test_a_reference_is_frozen_once(days: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept; a damaged one is made again, and is the same."""
    snapshots = list_snapshots(days, "orders")[:2]
    reference = frozen_reference(days, snapshots)
    assert reference.rows == 4000
    key = next(days.files.scan("data/references/"))
    stored = days.files.get_bytes(key)
    with monkeypatch.context() as patch:
        patch.delattr(snapshot_drift, "freeze")
        assert frozen_reference(days, snapshots) == reference
    days.files.delete(key)
    days.files.put_bytes(key, stored[:-5])
    assert frozen_reference(days, snapshots) == reference
    assert days.files.get_bytes(key) == stored


def test_a_comparison_with_nothing_is_refused(days: Home) -> None:
    """With itself, with none before, with another dataset's, with one that is not there."""
    first = list_snapshots(days, "orders")[0].id
    with pytest.raises(InvalidInput, match="itself"):
        drift_between(days, "orders", snapshot=first, against=first)
    with pytest.raises(NotFound, match="before"):
        drift_between(days, "orders", snapshot=first)
    for name, against in (("orders", "0" * 16), ("nothing", None)):
        with pytest.raises(NotFound):
            drift_between(days, name, against=against)


def test_a_batch_that_has_drifted_is_held_whole(days: Home, tmp_path: Path) -> None:
    """Every row is held with the reason; once the limit is raised, the same file is accepted."""
    rng = np.random.default_rng(9)
    table = pa.table(
        {
            "id": np.arange(10_000, 12_000),
            "at": pa.array(np.arange(10_000, 12_000) * 10**6, pa.timestamp("us", "UTC")),
            "seen": pa.array(np.arange(10_000, 12_000) * 10**6, pa.timestamp("us", "UTC")),
            "amount": rng.normal(90, 10, 2000),
            "Shop": np.array(["a", "b", "c"])[rng.integers(0, 3, 2000)],
        }
    )
    path = tmp_path / "moved.parquet"
    pq.write_table(table, path)

    def taken(most: float) -> IngestResult:
        options = DatasetOptions(key=("id",), time="at", max_drift=most)
        return ingest(days, "orders", [path], options=options)

    held = taken(0.3)
    assert (held.accepted, held.quarantined, held.snapshot) == (0, 2000, None)
    assert held.refused is not None
    assert held.refused.startswith("columns have drifted since snapshot ")
    assert "amount: ks 0.9" in held.refused
    assert taken(0.3).repeated
    accepted = taken(1.0)
    assert (accepted.accepted, accepted.quarantined, accepted.refused) == (2000, 0, None)


def test_a_first_batch_and_one_like_it_are_not_held(home: Home, tmp_path: Path) -> None:
    """There is nothing to compare the first with."""
    options = DatasetOptions(max_drift=0.0)
    for day in range(2):
        rng = np.random.default_rng(day)
        path = tmp_path / f"{day}.csv"
        path.write_text("x\n" + "".join(f"{x}\n" for x in rng.normal(size=500)))
        assert ingest(home, "calm", [path], options=options).accepted == 500
