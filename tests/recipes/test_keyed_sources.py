"""Tables are built from buckets and databases as from files, and go on where they were killed."""

from __future__ import annotations

import gzip
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tidemill.foundation.errors import InvalidInput, NotFound
from tidemill.foundation.home import Home
from tidemill.recipes.keyed_rows import KeyedRows, rows_of_files
from tidemill.recipes.keyed_sources import as_parquet, keyed_source
from tidemill.recipes.table import build_table
from tidemill.recipes.warehouse import rows_of_sql
from tidemill.tables.builds import list_builds
from tidemill.tables.catalog import list_tables
from tidemill.tables.table import TableInfo

KEY = ("carrier", "origin", "hour")


def made(n: int) -> pa.Table:
    """So many keyed rows, all different."""
    return pa.table(
        {"carrier": ["AA", "B6"] * (n // 2), "origin": ["JFK"] * n, "hour": np.arange(n)}
    )


def build(home: Home, rows: KeyedRows) -> TableInfo:
    """Builds a table with the trained version."""
    return build_table(
        home,
        application="trips",
        model="trips",
        version=1,
        key=KEY,
        source=rows,
        source_name=rows.name,
    )


def resumed(home: Home, table: TableInfo) -> bool:
    """Whether a table's build went on where another had ended."""
    return list_builds(home.store, table.id)[0].resumed


def lite(path: Path, rows: list[Mapping[str, Any]]) -> str:
    """Writes rows into a file of SQLite and returns its URL."""
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as connection:
        connection.execute(f"create table t ({', '.join(rows[0])})")
        marks = ", ".join("?" for _ in rows[0])
        connection.executemany(f"insert into t values ({marks})", [[*r.values()] for r in rows])
    connection.close()
    return f"sqlite:///{path}"


def test_a_table_is_the_same_from_everywhere(
    trained: Home, tmp_path: Path, postgres_url: str, s3_url: str, s3_client: Any
) -> None:
    """From each form of file, a prefix, and the queries of two databases."""
    rows = made(40)
    plain = rows.to_pylist()
    folder = tmp_path / "rows"
    (folder / "more").mkdir(parents=True)
    pq.write_table(rows.slice(0, 10), folder / "a.parquet")
    pyarrow.csv.write_csv(rows.slice(10, 10), folder / "more" / "b.csv")
    lines = "".join(json.dumps(row) + "\n" for row in plain[20:30])
    (folder / "more" / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    fields = [{"name": n, "type": "long" if n == "hour" else "string"} for n in KEY]
    with (folder / "d.avro").open("wb") as sink:
        schema: Any = fastavro.parse_schema({"type": "record", "name": "r", "fields": fields})
        fastavro.writer(sink, schema, plain[30:36])
    with pa.ipc.new_file(folder / "e.arrow", rows.schema) as writer:
        writer.write_table(rows.slice(36))
    (folder / "notes.txt").write_text("x")
    bucket, options = s3_url[5:].partition("/")[0], s3_url.partition("?")[2]
    for path in folder.rglob("*"):
        if path.is_file():
            key = f"in/{path.relative_to(folder)}"
            s3_client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("create table t (carrier text, origin char(3), hour smallint)")
        with connection.cursor() as cursor:
            cursor.executemany("insert into t values (%s, %s, %s)", [[*r.values()] for r in plain])
    expected = build(trained, rows_of_files(folder))
    assert expected.rows == 40
    for text, query, table in (
        (f"s3://{bucket}/in/?{options}", None, None),
        (postgres_url, "select * from t order by hour desc", None),
        (lite(tmp_path / "a.db", plain), None, "t"),
        (str(folder), None, None),
    ):
        with keyed_source(trained, text, query=query, table=table) as source:
            found = build(trained, source)
        assert (found.rows, found.sha256) == (40, expected.sha256), text
        assert found.source == source.name
    assert not list((trained.cache_path / "scratch").iterdir())


def test_rows_that_are_none_are_told(trained: Home, tmp_path: Path) -> None:
    """By file and line, or by column; nothing is built of the rest."""
    before = list_tables(trained.store)
    (tmp_path / "a.jsonl").write_text('{"carrier": "AA", "origin": "JFK", "hour": 1}\n[]\n')
    with pytest.raises(InvalidInput, match=r"line 2 of .*a\.jsonl is no row"):
        build(trained, rows_of_files(tmp_path / "a.jsonl"))
    good = [{"carrier": "AA", "origin": "JFK", "hour": 1}]
    url = lite(tmp_path / "a.db", [*good, {"carrier": "AA", "origin": "JFK", "hour": "noon"}])
    with (
        keyed_source(trained, url, table="t") as rows,
        pytest.raises(InvalidInput, match="'hour' does not convert"),
    ):
        build(trained, rows)
    with pytest.raises(InvalidInput, match="asked nothing"), keyed_source(trained, url):
        pass
    with pytest.raises(NotFound), keyed_source(trained, str(tmp_path / "none.csv")):
        pass
    assert list_tables(trained.store) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings
from tidemill.recipes import chunks, table
from tidemill.recipes.keyed_sources import keyed_source
from tidemill.recipes.warehouse import rows_of_sql

seen, arrow = [], chunks.answers_table
def dying(*given):
    seen.append(1)
    if len(seen) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return arrow(*given)
chunks.answers_table = dying

def build(home, rows):
    table.build_table(home, application="trips", model="trips", version=1,
        key=("carrier", "origin", "hour"), source=rows, source_name=rows.name)

with open_home(Settings(home=Path(sys.argv[1]))) as home:
    if sys.argv[2] == "warehouse":
        build(home, rows_of_sql(home, sys.argv[3]))
    else:
        with keyed_source(home, sys.argv[2], query=sys.argv[3]) as rows:
            build(home, rows)
"""


def test_a_build_from_a_query_goes_on_where_it_was_killed(trained: Home, postgres_url: str) -> None:
    """Where the database says the same; where it says another thing, the build begins anew."""
    where = postgres_url.replace("+psycopg", "")
    with psycopg.connect(where, autocommit=True) as connection:
        connection.execute(
            "create table t as select 'AA' as carrier, 'JFK' as origin, i as hour "
            "from generate_series(1, 100000) i"
        )
        query = "select * from t order by hour"
        command = (sys.executable, "-c", KILLED, str(trained.path), postgres_url, query)
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        with keyed_source(trained, postgres_url, query=query) as rows:
            found = build(trained, rows)
        assert (found.rows, resumed(trained, found)) == (100_000, True)
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        connection.execute("insert into t values ('AA', 'JFK', 0)")
        with keyed_source(trained, postgres_url, query=query) as rows:
            found = build(trained, rows)
        assert (found.rows, resumed(trained, found)) == (100_001, False)


def test_a_build_from_the_warehouse_goes_on_where_it_was_killed(trained: Home) -> None:
    """The same query of the same tables; a new table among them is another source."""
    query = (
        "select carrier, origin, i as hour from range(100000) r (i), "
        "(select carrier, origin from predictions.trips order by all limit 1)"
    )
    command = (sys.executable, "-c", KILLED, str(trained.path), "warehouse", query)
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    found = build(trained, rows_of_sql(trained, query))
    assert (found.rows, resumed(trained, found)) == (100_000, True)
    assert not resumed(trained, build(trained, rows_of_sql(trained, query)))


def run(home: Home, *words: str) -> Any:
    """What a command says in JSON."""
    command = (sys.executable, "-m", "tidemill", *words, "--home", str(home.path), "--json")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_commands_take_a_database(trained: Home, tmp_path: Path) -> None:
    """A table is built, and rescored, and a trace is measured, as from a file."""
    url = lite(tmp_path / "a.db", made(20).to_pylist())
    found = run(trained, "table", "build", "trips", "--from", url, "--table", "t")
    assert found["table"]["rows"] == 20
    assert found["table"]["source"] == f"{url}#t"
    asked = ("--from", url, "--query", "select * from t where hour < 6")
    assert run(trained, "table", "rescore", "trips", *asked)["whole"]["table"]["rows"] == 6
    trace = [{"time": i / 4, "user": f"u{i % 7}"} for i in range(200)]
    pyarrow.csv.write_csv(pa.Table.from_pylist(trace), tmp_path / "trace.csv")
    url = lite(tmp_path / "b.db", trace)
    profile = run(trained, "workload", "--trace", url, "--query", "select * from t")
    expected = run(trained, "workload", "--trace", str(tmp_path / "trace.csv"))
    assert profile.pop("source") == url
    assert expected.pop("source") == str(tmp_path / "trace.csv")
    assert profile == expected
    assert profile["requests"] == 200


def test_a_trace_of_several_types_is_told(home: Home, tmp_path: Path) -> None:
    """Where no type fits all that a column holds, the rows are not cut short."""
    rows: list[Mapping[str, Any]] = [{"time": i, "k": i} for i in range(20_000)]
    url = lite(tmp_path / "a.db", [*rows, {"time": 20_000, "k": "x"}])
    with (
        pytest.raises(InvalidInput, match="not all of the same columns and types"),
        as_parquet(home, url, table="t"),
    ):
        pass
