"""Where a table's keys come from, builds that were cut off, and the warehouse they fill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper

from tidemill.data.ingest import ingest
from tidemill.data.ledger import LedgerWriter, PredictionRecord
from tidemill.data.schema_files import read_schema
from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import Conflict, InvalidInput, NotFound, Unavailable
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.locks import hold
from tidemill.foundation.settings import Settings
from tidemill.models.packagers.onnx import package_onnx
from tidemill.models.registry import Registry
from tidemill.models.runtimes.onnx import OnnxRuntime
from tidemill.recipes import asked_keys, keyed_rows, table
from tidemill.recipes.asked_keys import AskedKeys
from tidemill.recipes.keyed_rows import (
    rows_of_domain,
    rows_of_files,
    rows_of_ledger,
    rows_of_snapshot,
)
from tidemill.recipes.representatives import Representing
from tidemill.recipes.table import build_table
from tidemill.recipes.warehouse import export_sql, rows_of_sql, run_sql
from tidemill.tables.answer import decode_answer
from tidemill.tables.builds import list_builds
from tidemill.tables.catalog import fetch_table, list_tables
from tidemill.tables.key import KeyEncoder
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.table import TableInfo

KEY = ("carrier", "origin", "hour")
INPUTS = {"carrier": "string", "origin": "string", "hour": "int64"}


FOLDED = Representing(columns={"hour": "step(4)"})


def made(n: int) -> pa.Table:
    """So many keyed rows, all different."""
    hours = np.arange(n)
    return pa.table({"carrier": ["AA", "B6"] * (n // 2), "origin": ["JFK"] * n, "hour": hours})


def build(home: Home, source: Any, **more: Any) -> TableInfo:
    """Builds a table with the trained version."""
    return build_table(
        home,
        application="trips",
        model="trips",
        version=1,
        key=KEY,
        source=source,
        source_name="rows",
        **more,
    )


def register(home: Home, folder: Path, name: str, node: Any) -> None:
    """Registers a model of one operator on numbers of 32 bits."""
    columns = [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["n"]) for x in node.input]
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph([node], name, columns, [answer])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(made, folder / f"{name}.onnx")
    package_onnx(folder / f"{name}.onnx", name, folder / name)
    Registry(home).register(folder / name, name, blessed=True)


def all_rows(source: Any) -> list[dict[str, Any]]:
    """Every row of a source."""
    return [row for batch in source.batches() for row in batch.to_pylist()]


def test_files_of_a_folder_are_one_source(trained: Home, tmp_path: Path) -> None:
    """CSV and Parquet together; a row that comes again is scored once."""
    folder = tmp_path / "rows"
    (folder / "more").mkdir(parents=True)
    pq.write_table(made(10), folder / "more" / "a.parquet")
    (folder / "b.csv").write_text("carrier,origin,hour\nAA,JFK,0\nUA,LGA,7\n")
    assert build(trained, folder).rows == 11
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="holds no keyed rows"):
        rows_of_files(tmp_path / "empty")


def test_a_part_with_other_columns_is_told(trained: Home, tmp_path: Path) -> None:
    """The second file lacks a column, or has another type: it is refused, and nothing is built."""
    pq.write_table(made(4), tmp_path / "a.parquet")
    pq.write_table(made(4).drop_columns(["hour"]), tmp_path / "b.parquet")
    before = list_tables(trained.store)
    with pytest.raises(InvalidInput, match="no column 'hour'"):
        build(trained, tmp_path)
    assert list_tables(trained.store) == before


def test_columns_that_differ_in_case_are_two(home: Home, tmp_path: Path) -> None:
    """The engine on whose disk rows are made distinct takes them for one."""
    register(home, tmp_path, "case", helper.make_node("Sub", ["a", "A"], ["y"]))
    rows = pa.table({"a": [1.0, 2.0, 2.0], "A": [5.0, 7.0, 7.0]})
    info = build_table(
        home,
        application="case",
        model="case",
        version=1,
        key=("A",),
        source=rows,
        source_name="rows",
    )
    with LmdbTable.open(fetch_table(home, info.id)) as found:
        keys = KeyEncoder(info.key).many([np.array([5.0, 7.0])])
        answers = [decode_answer(each or b"") for each in found.get(keys)]
    assert answers == [{"y": -4.0}, {"y": -5.0}]


def test_keys_are_proved_in_the_types_in_which_they_are_asked_for(
    home: Home, tmp_path: Path
) -> None:
    """Two numbers that are one in 32 bits are one key: scored once, or refused if more differs."""
    register(home, tmp_path, "narrow", helper.make_node("Add", ["a", "b"], ["y"]))

    def built(second: list[float]) -> TableInfo:
        return build_table(
            home,
            application="narrow",
            model="narrow",
            version=1,
            key=("a",),
            source=pa.table({"a": [0.1, 0.1 + 1e-11, 0.5], "b": second}),
            source_name="rows",
        )

    assert built([1.0, 1.0 + 1e-11, 2.0]).rows == 2
    counted, _ = run_sql(home, "select count(*) n from predictions.narrow", limit=1)
    assert counted.to_pylist() == [{"n": 2}]
    with pytest.raises(InvalidInput, match=r"\(a\) does not determine b: 1 keys"):
        built([1.0, 2.0, 2.0])


def test_domains_are_combined_and_bounded(home: Home, tmp_path: Path) -> None:
    """Values and bounded whole numbers; what has no domain, or too large a one, is refused."""
    (tmp_path / "d.csv").write_text("carrier,origin,hour\nAA,JFK,1\n")
    schema = tmp_path / "s.toml"
    rules = '[columns.{}]\ntype = "string"\nvalues = {}\n'
    bounded = '[columns.hour]\ntype = "int64"\nmin = 0\nmax = {}\n'
    text = rules.format("carrier", '["AA", "B6"]') + rules.format("origin", '["JFK"]')
    schema.write_text(text + bounded.format(23))
    ingest(home, "trips", [tmp_path / "d.csv"], schema=read_schema(schema))
    rows = all_rows(rows_of_domain(home, "trips", INPUTS))
    assert len(rows) == 48
    assert rows[0] == {"carrier": "AA", "origin": "JFK", "hour": 0}
    with pytest.raises(InvalidInput, match="'x' of 'trips' has no domain"):
        rows_of_domain(home, "trips", {**INPUTS, "x": "float64"})
    schema.write_text(text + bounded.format(99_999_999))
    (tmp_path / "e.csv").write_text("carrier,origin,hour\nAA,JFK,2\n")
    ingest(home, "trips", [tmp_path / "e.csv"], schema=read_schema(schema))
    with pytest.raises(InvalidInput, match=r"200,000,000 combinations \(2 carrier"):
        rows_of_domain(home, "trips", INPUTS)


def test_snapshots_are_a_source(home: Home, tmp_path: Path) -> None:
    """All of a dataset, or one of it."""
    for name, hour in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.csv").write_text(f"carrier,origin,hour\nAA,JFK,{hour}\n")
    first = ingest(home, "trips", [tmp_path / "a.csv"]).snapshot
    ingest(home, "trips", [tmp_path / "b.csv"])
    assert [row["hour"] for row in all_rows(rows_of_snapshot(home, "trips"))] == [1, 2]
    assert [row["hour"] for row in all_rows(rows_of_snapshot(home, f"trips@{first}"))] == [1]
    with pytest.raises(NotFound):
        rows_of_snapshot(home, "trips@0123456789abcdef")
    with pytest.raises(NotFound):
        rows_of_snapshot(home, "nothing")


def test_the_ledger_gives_what_was_asked_the_most_frequent_first(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question once; those by key alone are left out; a head is the first of them."""
    asked = ['{"a":1,"b":2}'] * 2 + ['{"a":1,"b":3}'] * 3 + ['{"a":9}'] * 5 + ['{"a":0,"b":0}']
    parts = [pa.table({"inputs": pa.array(asked[at::2], pa.large_string())}) for at in (0, 1)]
    monkeypatch.setattr(keyed_rows, "each_part", lambda *_: iter(parts))
    rows = all_rows(rows_of_ledger(home, "app", ("a", "b")))
    assert rows == [{"a": 1, "b": 3}, {"a": 1, "b": 2}, {"a": 0, "b": 0}]
    assert all_rows(rows_of_ledger(home, "app", ("a", "b"), head=2)) == rows[:2]
    with pytest.raises(InvalidInput, match="holds none"):
        rows_of_ledger(home, "app", ("a", "b"), head=0)


def test_a_head_of_the_ledger_is_of_keys(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """All questions about as many keys, whose questions count together, represented or not."""
    rows = [(1, 1), (1, 2), (1, 3), (2, 5), (2, 5), (8, 9)]
    asked = [f'{{"a":{a},"b":{b}}}' for a, b in rows] + ['{"a":9}'] * 9
    part = pa.table({"inputs": pa.array(asked, pa.large_string())})
    monkeypatch.setattr(asked_keys, "each_part", lambda *_: iter([part, part]))

    def of(head: int, key: tuple[str, ...], **represent: str) -> set[tuple[int, int]]:
        source = rows_of_ledger(home, "app", ("a", "b"), head=head, key=key, represent=represent)
        return {(row["a"], row["b"]) for row in all_rows(source)}

    assert of(1, ("a", "b")) == {(2, 5)}
    assert of(1, ("a",)) == {(1, 1), (1, 2), (1, 3)}
    assert of(2, ("a",)) == {(1, 1), (1, 2), (1, 3), (2, 5)}
    assert of(1, ("a",), a="step(10)") == {(1, 1), (1, 2), (1, 3), (2, 5)}
    counted = AskedKeys(home=home, application="app", inputs=("a", "b"), key=("a",))
    assert counted.count() == 3
    assert replace(counted, represent={"a": "step(10)"}).count() == 2


def asked(home: Home, first: int, last: int) -> None:
    """Writes to the ledger that the application was asked for these numbers."""
    with LedgerWriter(home.ledger_path, f"gateway-{first}") as ledger:
        ledger.append_predictions(
            [
                PredictionRecord(
                    request_id=f"a-{number}",
                    time=home.clock.now(),
                    application="app",
                    version=1,
                    source="model",
                    inputs={
                        "a": np.array([number], np.float32),
                        "b": np.array([1.0], np.float32),
                    },
                    outputs={"y": np.array([number], np.float32)},
                    n=1,
                )
                for number in range(first, last)
            ]
        )


def test_a_build_of_what_was_asked_goes_on_with_what_it_had_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a day, though more was asked meanwhile; after that it reads the ledger again."""
    clock = FakeClock(at=1e9)

    def built(home: Home) -> tuple[int, bool]:
        source = rows_of_ledger(home, "app", ("a", "b"))
        info = build_table(
            home, application="app", model="sums", version=1, key=("a",), source=source,
            source_name=source.name,
        )  # fmt: skip
        return info.rows, list_builds(home.store, info.id)[0].resumed

    def cut_off(home: Home) -> None:
        def full(*_: Any) -> Any:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as failing, pytest.raises(Unavailable, match="No space"):
            failing.setattr(OnnxRuntime, "predict", full)
            built(home)

    with open_home(Settings(home=tmp_path / "home"), clock=clock) as home:
        register(home, tmp_path, "sums", helper.make_node("Add", ["a", "b"], ["y"]))
        asked(home, 0, 3)
        cut_off(home)
        asked(home, 3, 6)
        clock.advance(80_000.0)
        assert built(home) == (3, True)
        cut_off(home)
        asked(home, 6, 9)
        clock.advance(90_000.0)
        assert built(home) == (9, False)


REMOVING = """
import os, shutil, signal, sys
from pathlib import Path
from tidemill.foundation.clock import FakeClock
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings
from tidemill.recipes.keyed_rows import rows_of_ledger
from tidemill.recipes.table import build_table

whole = shutil.rmtree
def half(folder, *given, **named):
    if not list(Path(folder).glob("scored-*.parquet")):
        return whole(folder, *given, **named)
    (Path(folder) / "began").unlink()
    (Path(folder) / "rows.parquet").unlink()
    os.kill(os.getpid(), signal.SIGKILL)

with open_home(Settings(home=Path(sys.argv[1])), clock=FakeClock(at=float(sys.argv[2]))) as home:
    shutil.rmtree = half
    build_table(home, application="app", model="sums", version=1, key=("a",),
        source=rows_of_ledger(home, "app", ("a", "b")), source_name="ledger")
"""


def test_a_build_that_was_killed_as_it_removed_an_old_one_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers to old questions are never taken for those to new ones: every key is there."""
    clock = FakeClock(at=1e9)

    def built(home: Home) -> tuple[int, bool]:
        info = build_table(
            home, application="app", model="sums", version=1, key=("a",), source_name="ledger",
            source=rows_of_ledger(home, "app", ("a", "b")),
        )  # fmt: skip
        return info.rows, list_builds(home.store, info.id)[0].resumed

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    with open_home(Settings(home=tmp_path / "home"), clock=clock) as home:
        register(home, tmp_path, "sums", helper.make_node("Add", ["a", "b"], ["y"]))
        asked(home, 0, 3)
        with monkeypatch.context() as failing, pytest.raises(Unavailable, match="No space"):
            failing.setattr(table, "store_table", full)  # all is scored by then
            built(home)
        clock.advance(90_000.0)
        asked(home, 3, 9)
        command = (sys.executable, "-c", REMOVING, str(home.path), str(clock.now()))
        killed = subprocess.run(command, capture_output=True, check=False, timeout=100)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert built(home) == (9, False)
        assert not list((home.cache_path / "builds").glob("*/"))


def test_a_build_that_failed_goes_on(
    trained: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was scored is not scored again; the table is the one of a build that was never cut."""
    pq.write_table(made(200_000), tmp_path / "rows.parquet")
    scored: list[int] = []
    predict = OnnxRuntime.predict

    def counted(self: Any, batch: Any) -> Any:
        scored.append(len(batch["hour"]))
        if len(scored) == 3:
            raise OSError(28, "No space left on device")
        return predict(self, batch)

    with monkeypatch.context() as failing:
        failing.setattr(OnnxRuntime, "predict", counted)
        with pytest.raises(Unavailable, match="No space left"):
            build(trained, tmp_path / "rows.parquet", threads=1)
    failed = scored[2]
    scored.clear()
    with monkeypatch.context() as counting:
        counting.setattr(
            OnnxRuntime, "predict", lambda s, b: scored.append(len(b["hour"])) or predict(s, b)
        )
        resumed = build(trained, tmp_path / "rows.parquet", threads=1)
    assert scored == [failed]
    whole = build(trained, made(200_000))
    assert resumed.rows == whole.rows == 200_000
    assert resumed.sha256 == whole.sha256


KILLED = """
import sys, os, signal
from pathlib import Path
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings
from tidemill.recipes import chunks, distinct_rows, table
from tidemill.tables import catalog
home, rows, stage = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if stage == "distinct":
    distinct_rows.KeyProof.check = die
elif stage == "score":
    seen = []
    arrow = chunks.answers_table
    chunks.answers_table = lambda *a: die() if len(seen) == 2 else (seen.append(1), arrow(*a))[1]
elif stage == "appended":
    seen = []
    append = table.TableBuilder.put
    table.TableBuilder.put = lambda *a: die() if len(seen) == 2 else (seen.append(1), append(*a))
elif stage == "chosen":
    table.choose_representatives = die
elif stage == "table":
    table.put_content = die
elif stage == "parts":
    table.store_table = die
with open_home(Settings(home=Path(home))) as opened:
    print(table.build_table(opened, application="trips", model="trips", version=1,
        key=("carrier", "origin", "hour"), source=Path(rows), source_name="rows",
        representing=table.Representing(columns={"hour": "step(4)"} if stage == "chosen" else {})
        ).sha256)
"""


@pytest.mark.parametrize("stage", ["distinct", "score", "appended", "chosen", "table", "parts"])
def test_killed_anywhere_it_goes_on(trained: Home, tmp_path: Path, stage: str) -> None:
    """Kill -9 in each stage: no table is there; the same build then gives the right one."""
    count = 20_000 if stage == "chosen" else 200_000
    pq.write_table(made(count), tmp_path / "rows.parquet")
    script = tmp_path / "build.py"
    script.write_text(KILLED)
    before = list_tables(trained.store)
    command = [sys.executable, str(script), str(trained.path), str(tmp_path / "rows.parquet")]
    killed = subprocess.run([*command, stage], capture_output=True, check=False, timeout=100)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list_tables(trained.store) == before
    if stage == "chosen":
        info = build(trained, tmp_path / "rows.parquet", representing=FOLDED)
        assert info.agreement is not None
        assert (info.rows, info.agreement.inputs) == (info.agreement.keys, count)
        assert info.rows < count
        return
    info = build(trained, tmp_path / "rows.parquet")
    assert info.rows == 200_000
    with LmdbTable.open(fetch_table(trained, info.id), verify=True) as whole:
        assert len(whole) == 200_000
    assert not list((trained.cache_path / "builds").glob("*/"))
    rows, _ = run_sql(
        trained, "select count(*), count(distinct hour) from predictions.trips", limit=1
    )
    assert [*rows.to_pylist()[0].values()] == [200_000, 200_000]


def test_the_same_build_twice_at_once_is_one(trained: Home, tmp_path: Path) -> None:
    """The second is told; a lock that nobody holds any more does no harm."""
    pq.write_table(made(4), tmp_path / "rows.parquet")
    build(trained, tmp_path / "rows.parquet")
    (lock,) = (trained.cache_path / "builds").glob("*.lock")
    with hold(lock), pytest.raises(Conflict, match="being built by another process"):
        build(trained, tmp_path / "rows.parquet")
    build(trained, tmp_path / "rows.parquet")
    ancient = trained.clock.now() - table._ABANDONED_S - 10.0
    os.utime(lock, (ancient, ancient))
    build(trained, made(4))
    build(trained, tmp_path / "rows.parquet")


def test_an_old_build_that_somebody_goes_on_with_stays(trained: Home, tmp_path: Path) -> None:
    """Its folder and its lock are left alone while the lock is held, and go afterwards."""
    builds = trained.cache_path / "builds"
    folder, lock, done = builds / "ab12", builds / "ab12.lock", builds / "cd34.lock"
    folder.mkdir(parents=True)
    (folder / "rows.parquet").write_bytes(b"of many hours")
    lock.touch()
    done.touch()
    ancient = trained.clock.now() - table._ABANDONED_S - 10.0
    for path in (folder, lock, done):
        os.utime(path, (ancient, ancient))
    pq.write_table(made(4), tmp_path / "rows.parquet")
    with hold(lock), hold(done):
        build(trained, tmp_path / "rows.parquet")
        assert (folder / "rows.parquet").read_bytes() == b"of many hours"
        assert lock.exists()
        assert done.exists()
    build(trained, tmp_path / "rows.parquet")
    build(trained, tmp_path / "rows.parquet")
    assert not folder.exists()
    assert not lock.exists()
    assert not done.exists()


def test_predictions_are_a_table_in_sql(trained: Home, tmp_path: Path) -> None:
    """Keys, answers, version and build; the newest alone or all; a wrong query is told."""
    first, second = build(trained, made(4)), build(trained, made(6))
    found, more = run_sql(trained, 'select * from predictions."trips" order by hour', limit=5)
    assert (found.num_rows, more) == (5, True)
    row = found.to_pylist()[1]
    assert (row["carrier"], row["hour"], row["version"]) == ("B6", 1, 1)
    assert row["table_id"] == second.id
    assert len(row["probabilities"]) == 2
    query = "select table_id, count(*) n from predictions_history.trips group by 1"
    counted = {row["table_id"]: row["n"] for row in run_sql(trained, query, limit=9)[0].to_pylist()}
    assert (counted[first.id], counted[second.id]) == (4, 6)
    assert export_sql(trained, "select * from predictions.trips", tmp_path / "out.csv") == 6
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 7
    again = build(
        trained, rows_of_sql(trained, "select carrier, origin, hour from predictions.trips")
    )
    assert again.rows == 6
    for query in ("select * from nowhere", "selec", "", "select * from home"):
        with pytest.raises(InvalidInput):
            run_sql(trained, query, limit=1)
    for query in ("select nonsense", "", "select cast(carrier as int) from predictions.trips"):
        with pytest.raises(InvalidInput, match="cannot be answered"):
            build(trained, rows_of_sql(trained, query))
