"""Rows of a database go through the gate as those of a file do, and no password is left behind."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.data import sql_source
from tidemill.data.catalog import find_sources, list_datasets
from tidemill.data.held_rows import list_held, show_held
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions, Selection
from tidemill.data.reviews import release
from tidemill.data.schema import Column, Schema
from tidemill.data.snapshots import list_snapshots, read_snapshot
from tidemill.data.sources import named_sources
from tidemill.data.sql_source import SqlSource
from tidemill.foundation.errors import InvalidInput, NotFound, TooLarge, Unavailable
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import DataSettings, Settings

KEYED = DatasetOptions(key=("id",))
LOOSE = DatasetOptions(max_bad_fraction=1)


def plain(url: str) -> str:
    """What psycopg itself calls a database."""
    return url.replace("+psycopg", "")


def lite(path: Path, *statements: str) -> str:
    """Runs statements in a file of SQLite and returns its URL."""
    with sqlite3.connect(path) as connection:
        for each in statements:
            connection.execute(each)
    connection.close()
    return f"sqlite:///{path}"


def rows_of(home: Home, snapshot: str | None) -> list[dict[str, Any]]:
    """The rows of a snapshot."""
    assert snapshot is not None
    return list(read_snapshot(home, snapshot).to_pylist())


def test_types_of_postgresql_come_as_they_are(home: Home, postgres_url: str) -> None:
    """Nulls, decimals, times with zones, lists: each in its type, whatever the first rows hold."""
    with psycopg.connect(plain(postgres_url), autocommit=True) as connection:
        connection.execute(
            "create table t (small smallint, big bigint, cost numeric(12,2), free numeric, "
            "half real, ok boolean, day date, at timestamp, zoned timestamptz, code varchar(5), "
            "doc jsonb, many int[], who uuid, late time)"
        )
        connection.execute("insert into t values (" + "null," * 13 + "null)")
        connection.execute(
            "insert into t values (1, 9007199254740993, 19.99, 0.125, 0.5, true, '2024-02-29', "
            "'2024-02-29 12:00', '2024-02-29 12:00+05', 'x''y', '{\"a\": [1, \"ö\"]}', '{1,null}', "
            "'00000000-0000-0000-0000-000000000001', '23:59:59.5')"
        )
    found = ingest(home, "d", [SqlSource(url=postgres_url, query="select * from t")])
    assert (found.received, found.accepted) == (2, 2)
    first, second = rows_of(home, found.snapshot)
    assert set(first.values()) == {None}
    assert second == {
        "small": 1,
        "big": 9007199254740993,
        "cost": 19.99,
        "free": 0.125,
        "half": 0.5,
        "ok": True,
        "day": datetime(2024, 2, 29, tzinfo=UTC),
        "at": datetime(2024, 2, 29, 12, tzinfo=UTC),
        "zoned": datetime(2024, 2, 29, 7, tzinfo=UTC),
        "code": "x'y",
        "doc": '{"a":[1,"ö"]}',
        "many": "[1,null]",
        "who": "00000000-0000-0000-0000-000000000001",
        "late": "23:59:59.500000",
    }


def test_what_no_type_of_ours_has_is_held_and_can_be_released(
    home: Home, postgres_url: str
) -> None:
    """Infinite days, NaN among numbers, too large ones: held by row, with what they were."""
    rules = Schema(
        columns=(
            Column(name="id", type="int64"),
            Column(name="day", type="timestamp"),
            Column(name="n", type="float64", max=100),
        )
    )
    query = (
        "select * from (values (1, date '2024-01-01', 1.5), (2, 'infinity', 2), "
        "(3, '2024-01-03', 'NaN'), (4, null, 1e3), (5, '20000-01-01', 5)) as v (id, day, n)"
    )
    source = SqlSource(url=postgres_url, query=query)
    found = ingest(home, "d", [source], options=LOOSE, schema=rules)
    assert (found.received, found.accepted, found.quarantined) == (5, 1, 4)
    held = {row["line"]: row for row in show_held(home, "d").to_pylist()}
    assert {line: row["reason"] for line, row in held.items()} == {
        2: "wrong_type",
        3: "not_finite",
        4: "out_of_range",
        5: "wrong_type",
    }
    assert held[2]["value"] == "infinity"
    assert held[2]["source"] == source.name
    assert json.loads(held[4]["row"])["n"] in (1000, "1000")
    wide = Schema(columns=(Column(name="n", type="float64", max=10_000),))
    done = release(home, "d", Selection(reason="out_of_range"), by="ann", schema=wide)
    assert done is not None
    assert rows_of(home, done.snapshot) == [{"id": 4, "day": None, "n": 1000.0}]


def test_a_query_sees_one_moment(
    home: Home, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others commit while it is read is not in it, and it is read in small steps."""
    monkeypatch.setattr(sql_source, "ROWS", 100)
    with psycopg.connect(plain(postgres_url), autocommit=True) as other:
        other.execute("create table t as select i as id, 0 as x from generate_series(1, 1000) i")
        told: list[int] = []

        def meanwhile(done: int, _total: int) -> None:
            told.append(done)
            if len(told) == 2:
                other.execute("update t set x = 1")
                other.execute("delete from t where id > 900")

        source = SqlSource(url=postgres_url, table="public.t")
        found = ingest(home, "d", [source], options=KEYED, progress=meanwhile)
        assert (found.received, found.accepted) == (1000, 1000)
        assert {row["x"] for row in rows_of(home, found.snapshot)} == {0}
        assert len(told) > 10
        assert told == sorted(told)
        again = ingest(home, "d", [source])
        assert (again.received, again.duplicate, again.repeated) == (900, 900, False)


def test_the_same_rows_again_change_nothing(home: Home, tmp_path: Path) -> None:
    """By their content, whatever the query says; new rows are a new snapshot."""
    url = lite(tmp_path / "a.db", "create table t (id, x)", "insert into t values (1, 'a')")
    first = ingest(home, "d", [SqlSource(url=url, table="t")], options=KEYED)
    (record,) = first.sources
    assert record.path.endswith("a.db#t")
    assert record.version is not None
    assert record.version.startswith("query:")
    again = ingest(home, "d", [SqlSource(url=url, query="select id, x from t order by id")])
    assert (again.repeated, again.accepted) == (True, 1)
    lite(tmp_path / "a.db", "insert into t values (2, null)")
    more = ingest(home, "d", [SqlSource(url=url, table="t")])
    assert (more.accepted, more.duplicate) == (1, 1)
    assert [one.counts.accepted for one in list_snapshots(home, "d")] == [1, 1]


def test_sqlite_holds_any_value_in_any_column(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is judged by itself: a text among numbers is held, and no row beside it."""
    monkeypatch.setattr(sql_source, "ROWS", 4)
    values = [1, 2, None, 3, "4", "x", 5, 6, 7.5, 8, 10**15, "9"]
    url = lite(tmp_path / "a.db", "create table t (id, v)")
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.executemany("insert into t values (?, ?)", list(enumerate(values)))
    connection.close()
    found = ingest(home, "d", [SqlSource(url=url, table="t")], options=KEYED)
    assert (found.received, found.accepted, found.quarantined) == (12, 10, 2)
    held = {row["line"]: (row["value"], row["reason"]) for row in show_held(home, "d").to_pylist()}
    assert held == {6: ("x", "wrong_type"), 9: ("7.5", "wrong_type")}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("selec 1", "refuses the query: syntax error"),
        ("select * from nowhere", '"nowhere" does not exist'),
        ("select 1/0 as x", "division by zero"),
        ("select 1/(i-900) as x from generate_series(1,1000) i", "division by zero"),
        ("select 1 as a; drop table t", "refuses the query"),
        ("delete from t returning *", "refuses the query"),
        ("with x as (delete from t returning *) select * from x", "refuses the query"),
        ("select set_config('transaction_read_only', 'off', false), spoil()", "refuses the query"),
        ("select 1 as a, 2 as a", "two columns 'a'"),
        ("select '\\x00'::bytea as b", "'b' holds bytes"),
        ("select 1 as x where false", "no rows"),
        ("  ", "characters"),
    ],
)
def test_wrong_queries_are_told_and_change_nothing(
    home: Home, postgres_url: str, query: str, words: str
) -> None:
    """In the database's own words; the table is as it was, and no dataset is there."""
    with psycopg.connect(plain(postgres_url), autocommit=True) as connection:
        connection.execute("create table t as select 1 as id")
        connection.execute(
            "create function spoil() returns int language sql as 'delete from t returning 1'"
        )
        with pytest.raises(InvalidInput, match=words.replace("(", r"\(")):
            ingest(home, "d", [SqlSource(url=postgres_url, query=query)])
        assert connection.execute("select count(*) from t").fetchone() == (1,)
    assert not list_datasets(home)
    assert not list((home.cache_path / "scratch").iterdir())


def test_a_database_that_gives_up_is_told(
    home: Home, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query that is ended from outside, or a locked file, is no wrong query; nothing is kept."""
    monkeypatch.setattr(sql_source, "ROWS", 100)
    source = SqlSource(url=postgres_url, query="select i as id from generate_series(1, 10000) i")
    with psycopg.connect(plain(postgres_url), autocommit=True) as other:

        def end(done: int, _total: int) -> None:
            if done < 3000:
                other.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where application_name = 'tidemill' and datname = current_database()"
                )

        with pytest.raises(Unavailable, match="ended the query"):
            ingest(home, "d", [source], progress=end)
    url = lite(tmp_path / "a.db", "create table t (id)", "insert into t values (1)")
    with sqlite3.connect(tmp_path / "a.db", isolation_level=None) as locking:
        locking.execute("begin exclusive")
        with pytest.raises(Unavailable, match="database is locked"):
            ingest(home, "d", [SqlSource(url=url, table="t")])
    locking.close()
    assert not list_datasets(home)
    assert ingest(home, "d", [SqlSource(url=url, query="select id from t; -- all")]).accepted == 1


def test_a_sign_of_a_parameter_is_no_parameter(home: Home, postgres_url: str) -> None:
    """Percent signs and colons in a query stay what they are."""
    query = "select 'a%sb:c' as x, '12:30'::time as t where 'abc' like 'a%';"
    found = ingest(home, "d", [SqlSource(url=postgres_url, query=query)])
    assert rows_of(home, found.snapshot) == [{"x": "a%sb:c", "t": "12:30:00.000000"}]


def test_sqlite_is_read_and_never_made_or_written(home: Home, tmp_path: Path) -> None:
    """A file that is not there stays away; statements that write are refused."""
    with pytest.raises(NotFound, match=r"no\.db does not exist"):
        ingest(home, "d", [SqlSource(url=f"sqlite:///{tmp_path}/no.db", table="t")])
    assert not (tmp_path / "no.db").exists()
    url = lite(tmp_path / "a#b?.db", "create table t (id)", "insert into t values (1)")
    for query in (
        "delete from t returning id",
        f"attach '{tmp_path}/new.db' as n",
        "create table u (x)",
        "select 1; delete from t",
    ):
        with pytest.raises(InvalidInput):
            ingest(home, "d", [SqlSource(url=url.replace("?", "%3F"), query=query)])
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["a#b?.db"]
    for bad in ("sqlite://", "sqlite:///file:x.db?uri=true"):
        with pytest.raises(InvalidInput, match=r"sqlite:///PATH"):
            ingest(home, "d", [SqlSource(url=bad, table="t")])


def test_no_password_is_shown_or_stored(
    home: Home, postgres_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in what the command prints, nor in its errors, nor anywhere in the home."""
    secret = "pa55-word:@/x"
    quoted = "pa55-word%3A%40%2Fx"
    url = postgres_url.replace("tidemill@", f"tidemill:{quoted}@")
    command = (sys.executable, "-m", "tidemill", "ingest", "d", url, "--home", str(tmp_path / "h"))
    done = [
        subprocess.run((*command, *more), capture_output=True, text=True, check=False)
        for more in (
            ("--query", "select 1 as id", "--json"),
            ("--query", "select 1/0 as id"),
            ("--query", "select 1 as id"),
            ("--table", "nope"),
            (),
        )
    ]
    assert [each.returncode for each in done] == [0, 2, 0, 2, 2]
    record = json.loads(done[0].stdout)["sources"][0]
    assert record["path"].startswith("postgresql+psycopg://tidemill@/test_")
    gone = url.replace("/test_", "/no_such_")
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        ingest(home, "d", [SqlSource(url=gone, table="t")])
    text = "".join(each.stdout + each.stderr for each in done) + str(caught.value)
    text += repr(SqlSource(url=gone, table="t"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for hidden in (secret, quoted):
        assert hidden not in text
        assert not [path for path in files if hidden.encode() in path.read_bytes()]


def test_a_password_comes_from_the_environment(
    postgres_server: Path, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the setting's variable, the driver's own, or its file; none or a wrong one is told."""
    rules = postgres_server / "cluster/pg_hba.conf"
    line = "local all careful scram-sha-256\n"
    if line not in rules.read_text():
        rules.write_text(line + rules.read_text())
    with psycopg.connect(plain(postgres_url), autocommit=True) as connection:
        connection.execute("drop role if exists careful")
        connection.execute("create role careful login password 'open sesame'")
        connection.execute("select pg_reload_conf()")
    source = SqlSource(url=postgres_url.replace("tidemill@", "careful@"), query="select 1 as id")
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))

    def read(name: str, password: str = "") -> int:
        data = DataSettings(sql_password=password)
        with open_home(Settings(home=tmp_path / name, data=data)) as home:
            return ingest(home, "d", [source]).accepted

    for attempt in range(50):  # the server reads its rules again in a moment
        with contextlib.suppress(Unavailable):
            read(f"early-{attempt}")
            continue
        break
    with pytest.raises(Unavailable, match="PGPASSWORD"):
        read("none")
    with pytest.raises(Unavailable, match="password authentication failed"):
        read("wrong", "open barley")
    assert read("setting", "open sesame") == 1
    (tmp_path / "pgpass").write_text("*:*:*:careful:open sesame\n")
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    assert read("file") == 1
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    monkeypatch.setenv("PGPASSWORD", "open sesame")
    assert read("variable") == 1


@pytest.mark.parametrize(
    ("sources", "query", "table", "words"),
    [
        (["sqlite:///a.db"], None, None, "asked nothing"),
        (["sqlite:///a.db"], "select 1", "t", "a query and for a table"),
        (["a.csv"], "select 1", None, "no database"),
        (["s3://lake/a.csv"], None, "t", "no database"),
    ],
)
def test_a_database_is_asked_one_thing(
    sources: list[str], query: str | None, table: str | None, words: str
) -> None:
    """A query or a table, and neither without a database."""
    with pytest.raises(InvalidInput, match=words):
        named_sources(sources, query=query, table=table)


def test_other_urls_are_refused_without_showing_them(home: Home, tmp_path: Path) -> None:
    """By their scheme; a driver that is not there is named."""
    for url in ("ftp://u:secret@h/x.csv", "https://h/x.csv?token=secret"):
        with pytest.raises(InvalidInput, match="is not read here") as caught:
            ingest(home, "d", list(named_sources([url])))
        assert "secret" not in str(caught.value)
    with pytest.raises(Unavailable, match="needs the driver"):
        ingest(home, "d", [SqlSource(url="mysql+pymysql://u:secret@h/x", table="t")])
    url = lite(tmp_path / "a.db", "create table t (id)", "insert into t values (1)")
    with pytest.raises(InvalidInput, match="names no table"):
        ingest(home, "d", [SqlSource(url=url, table="a.b.c.d")])


def test_the_spool_is_bounded(tmp_path: Path) -> None:
    """More rows than it may hold are an error that names the setting, and nothing stays."""
    data = DataSettings(spool_bytes=100_000)
    rows = "with recursive n(i) as (select 1 union all select i+1 from n where i<100000)"
    url = lite(tmp_path / "a.db", "create table t (id)")
    with open_home(Settings(home=tmp_path / "h", data=data)) as home:
        with pytest.raises(TooLarge, match=r"more than 100,000 bytes.*data\.spool_bytes"):
            ingest(home, "d", [SqlSource(url=url, query=f"{rows} select i from n")])
        assert not list((home.cache_path / "scratch").iterdir())


CHILD = """
import resource, sys
from pathlib import Path
from tidemill.data.spool import copying
from tidemill.data.sql_source import SqlSource, spool_query

source = SqlSource(url=sys.argv[1], query=sys.argv[2])
with copying(Path(sys.argv[3]), "rows") as copy:
    small = SqlSource(url=sys.argv[1], query="select repeat('x', 1000) as t, 1 as id")
    spool_query(small, copy, password="", told=lambda _: None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spool_query(source, copy, password="", told=lambda _: None)
    print(copy.bytes, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_does_not_grow_with_the_rows(postgres_url: str, tmp_path: Path) -> None:
    """400 MB come through less than 150."""
    assert resource.RUSAGE_SELF is not None
    query = "select repeat('x', 4000) as t, i as id from generate_series(1, 100000) i"
    path = tmp_path / "rows"
    command = (sys.executable, "-c", CHILD, postgres_url, query, str(path))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    written, grown = map(int, done.stdout.split())
    assert written > 400e6
    assert grown < 150e6


@pytest.mark.parametrize(
    "value", ["jsonb_build_object('t', repeat('x', 1000))", "array_fill(i, array[1000])"]
)
def test_documents_and_lists_end_a_batch_as_texts_do(
    home: Home, postgres_url: str, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """Memory is bounded by what they hold, not by how many rows they are."""
    monkeypatch.setattr(sql_source, "BYTES", 10_000)
    told: list[int] = []
    query = f"select i as id, {value} as v from generate_series(1, 320) i"
    source = SqlSource(url=postgres_url, query=query)
    ingest(home, "d", [source], progress=lambda done, total: told.append(total))
    assert told.count(0) > 10


def test_bytes_end_a_batch_too(home: Home, tmp_path: Path) -> None:
    """What is refused is not read by the thousand before."""
    url = lite(tmp_path / "a.db", "create table t (x)")
    numbers = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 200)"
    source = SqlSource(url=url, query=f"{numbers} select zeroblob(1000000) as b from n")
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match="'b' holds bytes"):
            ingest(home, "d", [source])
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_a_password_among_the_parameters_is_not_shown() -> None:
    """Drivers take it there, too, under names of their own."""
    for more in ("odbc_connect=DRIVER%3Dx%3BPWD%3Dsecret", "driver=x&passwd=secret&pwd=secret"):
        assert "secret" not in SqlSource(url=f"mssql+pyodbc://me@db/shop?{more}", table="t").name


KILLED = """
import os, signal, sys
from pathlib import Path
from tidemill.data.ingest import ingest
from tidemill.data.records import DatasetOptions
from tidemill.data.sql_source import SqlSource
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings

calls = [int(sys.argv[3])]
def told(done, total):
    calls[0] -= 1
    if not calls[0]:
        os.kill(os.getpid(), signal.SIGKILL)

with open_home(Settings(home=Path(sys.argv[1]))) as home:
    source = SqlSource(url=sys.argv[2], table="t")
    ingest(home, "d", [source], options=DatasetOptions(key=("id",)), progress=told)
"""


@pytest.mark.parametrize("at", [1, 3, 5])
def test_killed_while_it_is_read_nothing_happened(tmp_path: Path, at: int) -> None:
    """The same call does it then, once; what the dead process left is removed."""
    url = lite(
        tmp_path / "a.db",
        "create table t (id)",
        "insert into t with recursive n(i) as "
        "(select 1 union all select i+1 from n where i<50000) select i from n",
    )
    command = (sys.executable, "-c", KILLED, str(tmp_path / "h"), url, str(at))
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with open_home(Settings(home=tmp_path / "h")) as home:
        assert not list_datasets(home)
        found = ingest(home, "d", [SqlSource(url=url, table="t")], options=KEYED)
        assert (found.received, found.accepted) == (50_000, 50_000)
        assert not list((home.cache_path / "scratch").iterdir())


VALUES = st.one_of(
    st.none(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(),
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    st.sampled_from(["1", "2.5", "nan", "2024-01-01", "true", date(2024, 1, 1).isoformat()]),
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 9), VALUES, VALUES), min_size=1, max_size=30))
def test_no_row_of_a_database_is_lost(
    rows: list[tuple[Any, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever its values are: received is the sum of the rest, and a release moves rows only."""
    folder = tmp_path_factory.mktemp("rows")
    url = lite(folder / "a.db", "create table t (id, a, b)")
    with sqlite3.connect(folder / "a.db") as connection:
        connection.executemany("insert into t values (?, ?, ?)", rows)
    connection.close()
    options = DatasetOptions(key=("id",), max_bad_fraction=1)
    with open_home(Settings(home=folder / "home")) as home:
        found = ingest(home, "d", [SqlSource(url=url, table="t")], options=options)
        for _ in range(2):
            (source,) = find_sources(home, "d")
            counts = source.counts
            held = counts.quarantined + counts.duplicate + counts.late
            assert counts.received == len(rows) == found.received
            assert counts.received == counts.accepted + held
            assert sum(one.rows for one in list_held(home, "d")) == held
            assert show_held(home, "d", limit=100).num_rows == held
            release(home, "d", Selection(), by="ann")
