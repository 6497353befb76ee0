"""Skew is found between what a version was trained on and what it was asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidemill.control.skew import served_skew
from tidemill.data.catalog import get_schema, set_schema
from tidemill.data.ingest import ingest
from tidemill.data.ledger import LedgerWriter, PredictionRecord, compact
from tidemill.data.schema import Column, Comparator, Schema
from tidemill.data.snapshots import list_snapshots
from tidemill.foundation.errors import NotFound
from tidemill.foundation.home import Home

CARRIERS = np.array(["AA", "UA", "B6"])


def asked(home: Home, inputs: dict[str, Any], *, version: int = 1, at: float = 100.0) -> None:
    """Writes queries of a hundred rows each, as a gateway does."""
    rows = len(next(iter(inputs.values())))
    with LedgerWriter(home.ledger_path, "gateway-0") as writer:
        writer.append_predictions(
            [
                PredictionRecord(
                    request_id=f"{int(at):016x}{start:016x}",
                    time=at,
                    application="trips",
                    version=version,
                    source="model",
                    n=min(100, rows - start),
                    inputs={name: each[start : start + 100] for name, each in inputs.items()},
                    outputs={"value": np.zeros(min(100, rows - start))},
                )
                for start in range(0, rows, 100)
            ]
        )


def usual(rows: int, seed: int) -> dict[str, Any]:
    """Makes inputs as the recipe ``trips`` was trained on."""
    rng = np.random.default_rng(seed)
    return {
        "carrier": CARRIERS[rng.integers(0, 3, rows)].astype(object),
        "origin": np.array(["JFK", "EWR"])[rng.integers(0, 2, rows)].astype(object),
        "hour": rng.integers(5, 24, rows),
    }


def test_skew_is_found_and_only_where_it_is(trained: Home) -> None:
    """By version and time, before and after compaction."""
    with pytest.raises(NotFound, match="no answer of version 1"):
        served_skew(trained, "trips")
    asked(trained, usual(1500, 1))
    calm = served_skew(trained, "trips")
    assert calm.report.ok, calm.report
    assert (calm.model, calm.version, calm.reference) == ("trips", 1, "examples of run first")
    assert {one.name for one in calm.report.columns} == {"carrier", "origin", "hour"}
    assert calm.report.left_out["late"] == "it is no input of the model"
    assert calm.report.rows == (1500, 1500)

    asked(trained, {**usual(900, 2), "hour": np.full(900, 23)}, version=0, at=150.0)
    assert served_skew(trained, "trips").report.ok  # no version gave those answers
    compact(trained.ledger_path)
    moved = usual(1500, 3)
    moved["hour"] = np.minimum(moved["hour"] + 6, 23)
    asked(trained, moved, at=200.0)
    found = served_skew(trained, "trips", since=150.0)
    assert found.report.alarms == ["hour"]
    assert found.report.rows == (1500, 1500)
    assert served_skew(trained, "trips", until=150.0).report.ok
    assert served_skew(trained, "trips").report.rows == (1500, 3000)
    with pytest.raises(NotFound, match="in that time"):
        served_skew(trained, "trips", since=300.0)


def test_a_limit_in_the_schema_and_a_snapshot_as_the_reference(
    trained: Home, tmp_path: Path
) -> None:
    """A wide limit lets an input move; a snapshot without an input is no pass."""
    moved = usual(1500, 4)
    moved["hour"] = np.minimum(moved["hour"] + 6, 23)
    asked(trained, moved)
    (snapshot,) = list_snapshots(trained, "trips")
    assert served_skew(trained, "trips", against=snapshot.id).report.alarms == ["hour"]
    wide = Schema(columns=(Column(name="hour", skew=Comparator(ks=0.9)),))
    set_schema(trained, "trips", wide, expected=get_schema(trained, "trips"))
    assert served_skew(trained, "trips").report.ok
    path = tmp_path / "other.csv"
    path.write_text("carrier,origin\n" + "AA,JFK\nUA,EWR\nB6,JFK\n" * 300)
    ingest(trained, "other", [path])
    (other,) = list_snapshots(trained, "other")
    report = served_skew(trained, "trips", against=other.id).report
    assert set(report.errors) == {"hour"}
    assert not report.ok


def test_damage_in_the_ledger_is_no_pass(trained: Home) -> None:
    """The rest is compared, the place is named; where nothing is left, the error says so."""
    asked(trained, usual(1500, 5))
    assert served_skew(trained, "trips").ok
    (segment,) = (trained.ledger_path / "segments").iterdir()
    asked(trained, usual(1500, 6))
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.write_bytes(data)
    found = served_skew(trained, "trips")
    assert found.report.ok
    assert not found.ok
    assert [one.segment for one in found.problems] == [segment.stem]
    assert found.report.rows[1] < 3000
    for each in (trained.ledger_path / "segments").iterdir():
        data = bytearray(each.read_bytes())
        data[64] ^= 0xFF
        each.write_bytes(data)
    with pytest.raises(NotFound, match="2 places of it are damaged"):
        served_skew(trained, "trips")


def test_what_nobody_knows_is_refused(trained: Home) -> None:
    """Another application, version or snapshot."""
    for wrong in ({"application": "none"}, {"version": 7}, {"against": "0" * 16}):
        with pytest.raises(NotFound):
            served_skew(trained, **{"application": "trips", **wrong})  # type: ignore[arg-type]
