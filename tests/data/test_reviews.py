"""Held rows are judged again, or discarded; whatever happens, every row counts once."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.data import held_rows, reviews
from tidemill.data.catalog import find_reviews, find_sources, get_schema, set_schema
from tidemill.data.held_rows import list_held, show_held
from tidemill.data.ingest import ingest
from tidemill.data.records import Counts, DatasetOptions, Selection
from tidemill.data.reviews import discard, release
from tidemill.data.schema import Column, Schema
from tidemill.data.snapshots import list_snapshots, read_snapshot
from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings

ALL = Selection()
STRICT = Schema(columns=(Column(name="x", type="float64", min=0, max=9),))
WIDE = Schema(columns=(Column(name="x", type="float64", min=0, max=1000),))


def _balanced(home: Home, name: str) -> Counts:
    """Returns where all received rows are, after looking for each of them."""
    counts = sum((source.counts for source in find_sources(home, name)), Counts())
    assert counts.received == sum(
        (counts.accepted, counts.quarantined, counts.duplicate, counts.late)
    )
    groups = list_held(home, name)
    assert sum(group.rows for group in groups) == counts.received - counts.accepted
    shown = show_held(home, name, limit=10_000)
    assert shown.num_rows == sum(group.rows - group.discarded for group in groups)
    for group in groups:
        mine = [
            row
            for row in shown.to_pylist()
            if (row["reason"], row["rule"], row["column"], row["kind"], row["ingest"])
            == (group.reason, group.rule, group.column, group.kind, group.ingest)
        ]
        assert len(mine) == group.rows - group.discarded
    assert sum(one.rows for one in list_snapshots(home, name)) == counts.accepted
    return counts


def _ids(home: Home, name: str, column: str = "id") -> list[object]:
    return [
        value
        for one in list_snapshots(home, name)
        for value in read_snapshot(home, one).column(column).to_pylist()
    ]


@pytest.fixture
def odd(home: Home, tmp_path: Path) -> Home:
    """A home with a dataset ``odd``: two rows accepted, five held."""
    path = tmp_path / "odd.csv"
    path.write_text('id,x\n1,1\n2,2\n3,300\n4,-4\n5,1,2\n1,5\n6,"7\n')
    options = DatasetOptions(key=("id",), max_bad_fraction=1)
    result = ingest(home, "odd", [path], options=options, schema=STRICT)
    assert (result.accepted, result.quarantined, result.duplicate) == (2, 4, 1)
    return home


def test_a_release_takes_what_passes_now(odd: Home) -> None:
    """Others are held on for the reason of today, since when they were; nothing is told twice."""
    since = {group.held_at for group in list_held(odd, "odd")}
    first = release(odd, "odd", Selection(reason="out_of_range"), by="ann", schema=WIDE, why="new")
    assert first is not None
    assert (first.rows, first.accepted, first.held, first.unreadable) == (2, 1, 1, 0)
    assert first.since == ((since.copy().pop(), 1),)
    assert _ids(odd, "odd") == [1, 2, 3]
    assert _balanced(odd, "odd") == Counts(received=7, accepted=3, quarantined=3, duplicate=1)
    again = [group for group in list_held(odd, "odd") if group.ingest == first.id]
    assert [(group.rule, group.rows, group.example) for group in again] == [("x >= 0", 1, "-4")]
    assert {group.held_at for group in list_held(odd, "odd")} == since
    assert release(odd, "odd", ALL, by="ann") is None
    snapshot = list_snapshots(odd, "odd")[-1]
    assert (snapshot.id, snapshot.sequence) == (first.snapshot, 2)
    assert find_reviews(odd, "odd") == [first]
    (row,) = show_held(odd, "odd", ingest=first.id).to_pylist()
    assert (row["line"], row["row"], Path(row["source"]).name) == (5, "4,-4", "odd.csv")


def test_a_released_row_is_judged_as_any_other(odd: Home, tmp_path: Path) -> None:
    """Its key may be there already; a row that came twice into quarantine is accepted once."""
    path = tmp_path / "more.csv"
    path.write_text("id,x\n3,400\n2,500\n7,1\n")
    ingest(odd, "odd", [path])
    done = release(odd, "odd", Selection(reason="out_of_range"), by="ann", schema=WIDE)
    assert done is not None
    assert (done.rows, done.accepted, done.held) == (4, 1, 3)
    assert _balanced(odd, "odd") == Counts(received=10, accepted=4, quarantined=3, duplicate=3)
    assert _ids(odd, "odd") == [1, 2, 7, 3]


def test_a_refused_batch_is_released_row_by_row(home: Home, tmp_path: Path) -> None:
    """From then on its file is known, and a first snapshot may come of it."""
    path = tmp_path / "1.csv"
    path.write_text("id,x\n1,1\n2,200\n3,300\n4,oops\n")
    result = ingest(home, "new", [path], schema=STRICT)
    assert (result.refused is None, result.quarantined) == (False, 4)
    done = release(home, "new", Selection(reason="batch_refused"), by="ann")
    assert done is not None
    assert (done.rows, done.accepted) == (1, 1)
    done = release(home, "new", ALL, by="ann", schema=WIDE)
    assert done is not None
    assert (done.rows, done.accepted) == (3, 2)
    assert _balanced(home, "new") == Counts(received=4, accepted=3, quarantined=1)
    assert ingest(home, "new", [path]).repeated
    assert _ids(home, "new") == [1, 2, 3]


def test_discarded_rows_stay_on_record(odd: Home) -> None:
    """They count as held, are shown no more, and no release or second discard takes them."""
    wanted = Selection(where="try_cast(data.x AS DOUBLE) > 100")
    seen: list[tuple[int, int]] = []
    done = discard(
        odd, "odd", wanted, by="ann", why="a test row", progress=lambda *at: seen.append(at)
    )
    assert done is not None
    assert seen[-1] == (done.rows, 5)
    assert done is not None
    assert (done.rows, done.held, done.accepted, done.selection) == (1, 1, 0, wanted)
    assert discard(odd, "odd", wanted, by="ann", why="again") is None
    assert _balanced(odd, "odd") == Counts(received=7, accepted=2, quarantined=4, duplicate=1)
    assert sum(group.discarded for group in list_held(odd, "odd")) == 1
    assert release(odd, "odd", Selection(reason="out_of_range"), by="bob", schema=WIDE) is None
    assert [(one.act, one.by, one.why) for one in find_reviews(odd, "odd")] == [
        ("discard", "ann", "a test row")
    ]
    assert get_schema(odd, "odd").column("x").max == 9  # type: ignore[union-attr]


def test_late_rows_are_released_under_another_lateness(home: Home, tmp_path: Path) -> None:
    """How late a row may be is a rule as any other, and holds from then on."""
    options = DatasetOptions(time="at", lateness_s=10)
    for name, rows in (("1", "1000\n"), ("2", "900\n995\n")):
        (tmp_path / name).write_text("at\n" + rows)
        ingest(home, "late", [tmp_path / name], options=options)
    assert release(home, "late", Selection(kind="late"), by="ann") is None
    done = release(home, "late", Selection(kind="late"), by="ann", lateness_s=100)
    assert done is not None
    assert done.accepted == 1
    assert _balanced(home, "late") == Counts(received=3, accepted=3)


def test_rows_that_were_not_kept_whole_stay(home: Home, tmp_path: Path) -> None:
    """What was cut or recoded is not what came: no release makes a row of it."""
    path = tmp_path / "1.csv"
    long = "y" * (1 << 16)
    path.write_bytes(
        b"id,name\n1,a\n2,b\n3,c\n4,d\n5,\xff\n"
        + f"6,{'z' * (2 << 20)}\n7,{long},8\n9,e,f\n10,g\0\n".encode()
    )
    result = ingest(home, "cut", [path], options=DatasetOptions(max_bad_fraction=1))
    assert (result.accepted, result.quarantined) == (4, 5)
    counts = _balanced(home, "cut")
    assert release(home, "cut", ALL, by="ann") is None
    assert _balanced(home, "cut") == counts
    rows = show_held(home, "cut", limit=100)
    whole = held_rows.read_again(rows, np.arange(rows.num_rows))
    assert sum(batch.received for batch in whole) == 5


def test_rows_that_changed_meanwhile_are_judged_again(
    odd: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine that releases the same rows first leaves nothing to do."""
    commit = reviews._commit_release
    selection = Selection(reason="out_of_range")
    done: list[object] = []

    def meddle(*args: object, **more: object) -> object:
        if not done:
            done.append(None)
            with monkeypatch.context() as patch:
                patch.setattr(reviews, "my_turn", lambda *_: nullcontext(tmp_path / "other"))
                done.append(release(odd, "odd", selection, by="bob", schema=WIDE))
        return commit(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(reviews, "_commit_release", meddle)
    assert release(odd, "odd", selection, by="ann", schema=WIDE) is None
    assert [one.by for one in find_reviews(odd, "odd")] == ["bob"]
    assert _balanced(odd, "odd").accepted == 3


@pytest.mark.parametrize(
    "where",
    [
        "",
        "line =",
        "true) OR (true); DROP TABLE rows; --",
        "line IN (SELECT 1)",
        "line IN (FROM read_csv('/etc/passwd'))",
        "exists(SELECT * FROM read_text('/etc/passwd'))",
        "max(line) > 1",
        "row_number() OVER () = 1",
        "data.nothing = '1'",
        "line = 1 UNION ALL FROM rows",
    ],
)
def test_a_condition_is_one_and_reaches_one_row(odd: Home, where: str) -> None:
    """Everything else is refused, and changes nothing."""
    with pytest.raises(InvalidInput, match="condition"):
        discard(odd, "odd", Selection(where=where), by="ann", why="x")
    assert not find_reviews(odd, "odd")


def test_a_condition_chooses_by_text_and_by_number(odd: Home) -> None:
    """Null is not true; a column that rows lack is null; words in quotes are no query."""

    def lines(where: str) -> list[int]:
        return show_held(odd, "odd", where=where).column("line").to_pylist()

    assert lines("try_cast(data.x AS DOUBLE) > 4") == [4, 7]
    assert lines("data.x IS NULL") == [6, 8]
    assert lines("data.x = 'select' OR reason = 'duplicate' -- a remark") == [7]
    with pytest.raises(NotFound):
        show_held(odd, "nothing")


def test_columns_that_sql_takes_for_one_do_no_harm(home: Home, tmp_path: Path) -> None:
    """The first of them is the one that a condition sees."""
    (tmp_path / "1.csv").write_text("a\n1\n1,2\n")
    ingest(home, "twins", [tmp_path / "1.csv"])
    (tmp_path / "2.csv").write_text("a,A\n1,2\nx,7\n")
    ingest(home, "twins", [tmp_path / "2.csv"])
    assert show_held(home, "twins", where="data.a = 'x'").num_rows == 1


TYPED = st.one_of(
    st.tuples(st.just(pa.int64()), st.integers(-(1 << 63), (1 << 63) - 1)),
    st.tuples(st.just(pa.uint64()), st.integers(0, (1 << 64) - 1)),
    st.tuples(st.just(pa.float32()), st.floats(width=32)),
    st.tuples(st.just(pa.float64()), st.floats()),
    st.tuples(st.just(pa.bool_()), st.booleans()),
    st.tuples(st.just(pa.string()), st.text(st.characters(codec="utf-8"))),
    st.tuples(
        st.just(pa.dictionary(pa.int8(), pa.string())), st.text(st.characters(codec="ascii"))
    ),
    st.tuples(st.just(pa.date32()), st.dates()),
    st.tuples(st.just(pa.time64("us")), st.times()),
    st.tuples(
        st.just(pa.decimal128(20, 4)),
        st.decimals(-(10**15), 10**15, places=4, allow_nan=False, allow_infinity=False),
    ),
    st.tuples(st.just(pa.timestamp("us")), st.datetimes()),
    st.tuples(
        st.sampled_from([pa.timestamp("us", "UTC"), pa.timestamp("ns", "Europe/Berlin")]),
        st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)).map(  # noqa: DTZ001 - next
            lambda at: at.replace(tzinfo=UTC)
        ),
    ),
)


@settings(max_examples=30, deadline=None)
@given(typed=st.lists(st.tuples(TYPED, st.booleans()), min_size=1, max_size=4))
def test_typed_rows_come_back_as_they_were(
    typed: list[tuple[tuple[pa.DataType, object], bool]],
) -> None:
    """Every value has its type and its bits again, nulls included."""
    from tidemill.data.batches import SourceFile, typed_batch
    from tidemill.data.held_texts import read_again, whole
    from tidemill.data.quarantine import HELD_SCHEMA, Origin
    from tidemill.data.records import SourceRecord

    table = pa.table(
        {
            f"c{i}": pa.array([value, None] if null else [value, value], kind)
            for i, ((kind, value), null) in enumerate(typed)
        }
    )
    batch = typed_batch(table, 0)
    record = SourceRecord(path="p", sha256="s", bytes=1)
    assert SourceFile(path=Path("p"), record=record, stamp=(0, 0, 0)).record == record
    origin = Origin.of(record, batch)
    texts = batch.texts(np.arange(2))
    rows = pa.Table.from_pylist(
        [{"row": text, "header": origin.header, "sha256": "s", "reason": "x"} for text in texts],
        HELD_SCHEMA,
    )
    assert whole(rows, frozenset()).all()
    (back,) = read_again(rows, np.arange(2))
    for name in table.column_names:
        was, now = table.column(name), back.table.column(name)
        if pa.types.is_dictionary(was.type):
            was = was.cast(pa.string())
        assert now.type == was.type
        assert str(now.to_pylist()) == str(was.to_pylist())


def test_parquet_is_released_with_its_types(home: Home, tmp_path: Path) -> None:
    """Times, decimals and dates pass as they would have; what JSON cannot say stays held."""
    table = pa.table(
        {
            "at": pa.array([datetime(2020, 1, 1, tzinfo=UTC)] * 3, pa.timestamp("ns", "UTC")),
            "cost": pa.array([Decimal("1.50"), Decimal("200.25"), None], pa.decimal128(9, 2)),
            "day": pa.array([date(2020, 1, 1)] * 3),
            "hour": pa.array([time(1, 2)] * 3),
            "extra": pa.array([[1], [2], [3]]),
        }
    )
    rules = Schema(columns=(Column(name="cost", type="float64", max=100, required=True),))
    pq.write_table(table.drop_columns("extra"), tmp_path / "1.parquet")
    result = ingest(
        home,
        "typed",
        [tmp_path / "1.parquet"],
        schema=rules,
        options=DatasetOptions(max_bad_fraction=1),
    )
    assert (result.accepted, result.quarantined) == (1, 2)
    wide = Schema(columns=(Column(name="cost", type="float64", max=1000, required=True),))
    assert release(home, "typed", ALL, by="ann", schema=wide) is not None
    assert _balanced(home, "typed") == Counts(received=3, accepted=2, quarantined=1)
    first, second = (
        read_snapshot(home, one).to_pylist()[0] for one in list_snapshots(home, "typed")
    )
    assert {**second, "cost": 1.5} == first
    blobs = table.set_column(3, "hour", pa.array([b"x", b"y", b"z"]))
    pq.write_table(blobs, tmp_path / "2.parquet")
    assert ingest(home, "typed", [tmp_path / "2.parquet"]).quarantined == 3
    free = Schema(columns=(Column(name="hour", type="string"),))
    counts = _balanced(home, "typed")
    assert release(home, "typed", ALL, by="ann", schema=free) is None
    assert _balanced(home, "typed") == counts


LINES = st.sampled_from(
    [
        "1,1",
        "2,2",
        "3,300",
        "4,-4",
        "5",
        "6,7,8",
        '7,"8',
        "8,nan",
        "9,oops",
        "10,5",
        ",1",
        "11,",
        "",
    ]
)
DEEDS = st.lists(
    st.tuples(
        st.sampled_from(["release", "discard"]),
        st.sampled_from(
            [
                *(None, "reason = 'out_of_range'", "try_cast(data.id AS INT) % 2 = 1"),
                *("kind = 'duplicate'", "line < 4", "data.x IS NULL"),
            ]
        ),
        st.sampled_from([None, WIDE, STRICT, Schema(columns=(Column(name="x", type="float64"),))]),
    ),
    min_size=1,
    max_size=4,
)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(files=st.lists(st.lists(LINES, min_size=1, max_size=8), min_size=1, max_size=3), deeds=DEEDS)
def test_whatever_is_reviewed_every_row_counts_once(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[list[str]],
    deeds: list[tuple[str, str | None, Schema | None]],
) -> None:
    """Received is accepted, quarantined, duplicate and late; accepted keys are there once."""
    folder = tmp_path_factory.mktemp("deeds")
    options = DatasetOptions(key=("id",), max_bad_fraction=0.6)
    with open_home(Settings(home=folder / "home")) as home:
        for number, lines in enumerate(files):
            path = folder / f"{number}.csv"
            path.write_text("\n".join(["id,x", *lines, f"{100 + number},1"]) + "\n")
            ingest(home, "x", [path], options=options, schema=STRICT)
        received = _balanced(home, "x").received
        for act, where, schema in deeds:
            if act == "release":
                release(home, "x", Selection(where=where), by="ann", schema=schema)
            else:
                discard(home, "x", Selection(where=where), by="ann", why="x")
            assert _balanced(home, "x").received == received
        ids = _ids(home, "x")
        assert len(ids) == len(set(ids))


CHILD = """
import os, signal, sys
from pathlib import Path
from tidemill.data import gate, reviews
from tidemill.data.records import Selection
from tidemill.data.schema import Column, Schema
from tidemill.foundation.files import LocalFiles
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings

folder, where, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def dying(function):
    calls = [0]
    def wrapper(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapper

if where == "admit":
    gate.Gate.admit = dying(gate.Gate.admit)
elif where == "put":
    LocalFiles.put = dying(LocalFiles.put)
elif where != "ended":
    setattr(reviews, where, dying(getattr(reviews, where)))
wide = Schema(columns=(Column(name="x", type="float64", min=0, max=1000),))
with open_home(Settings(home=folder / "home")) as home:
    reviews.release(home, "odd", Selection(), by="ann", schema=wide)
    if where == "ended":
        os.kill(os.getpid(), signal.SIGKILL)
"""

POINTS = [("admit", 1), ("put", 3), ("save_review", 1)]


def test_a_killed_release_happens_once(odd: Home, tmp_path: Path) -> None:
    """After SIGKILL at any point all rows are there, and the same call does what is left."""
    for where, count in POINTS:
        words = [sys.executable, "-c", CHILD, str(tmp_path), where, str(count)]
        assert subprocess.run(words, check=False, timeout=60).returncode == -9
        assert _balanced(odd, "odd") == Counts(received=7, accepted=2, quarantined=4, duplicate=1)
        assert not find_reviews(odd, "odd")
    words = [sys.executable, "-c", CHILD, str(tmp_path), "ended", "1"]
    assert subprocess.run(words, check=False, timeout=60).returncode == -9
    assert _balanced(odd, "odd") == Counts(received=7, accepted=3, quarantined=3, duplicate=1)
    assert release(odd, "odd", ALL, by="ann", schema=WIDE) is None
    assert set_schema(odd, "odd", WIDE).column("x").max == 1000  # type: ignore[union-attr]
