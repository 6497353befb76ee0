"""A refresh scores what is new or changed, and leaves the table that a full build leaves."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.foundation.clock import FakeClock
from tidemill.foundation.durable import sha256_file
from tidemill.foundation.errors import Conflict, Corrupted, InvalidInput, NotFound
from tidemill.foundation.home import Home
from tidemill.models.runtimes.onnx import OnnxRuntime
from tidemill.recipes import merging, pieces, refresh, table
from tidemill.recipes.table import build_table
from tidemill.recipes.warehouse import run_sql
from tidemill.tables.answer import decode_answer
from tidemill.tables.builds import Build, list_builds
from tidemill.tables.catalog import fetch_table, list_tables
from tidemill.tables.key import KeyEncoder
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.predictions import list_parts
from tidemill.tables.table import TableInfo

Rows = dict[int, float]
"""The feature of each key."""


def source(rows: Rows) -> pa.Table:
    """The rows of a source."""
    return pa.table({"id": pa.array(rows, pa.int64()), "x": pa.array(rows.values(), pa.float32())})


def build(home: Home, rows: Rows | Path, **more: Any) -> TableInfo:
    """Builds a table of them."""
    made = rows if isinstance(rows, Path) else source(rows)
    given = {"version": 1, "key": ("id",), "source_name": "rows", "source": made, **more}
    return build_table(home, application="ratio", model="ratio", **given)


def last(home: Home, info: TableInfo) -> Build:
    """What its last build came to."""
    return list_builds(home.store, info.id)[0]


def answers(home: Home, info: TableInfo, keys: list[int]) -> list[Any]:
    """What the table holds."""
    with LmdbTable.open(fetch_table(home, info.id), verify=True) as table:
        found = table.get(KeyEncoder(info.key).many([np.array(keys, np.int64)]))
    return [each and decode_answer(each)["y"] for each in found]


features = st.sampled_from([0.0, -0.0, 1.0, 2.0, float("inf")])
sources = st.dictionaries(st.integers(-3, 12), features, min_size=1, max_size=12)


@pytest.fixture(params=[4, 1 << 16])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many rows are a file of answers: few, so that a small table has several, or as ever."""
    size: int = request.param
    for module in (pieces, merging, refresh):
        monkeypatch.setattr(module, "CHUNK", size)
    monkeypatch.setattr(merging, "_SMALL", size // 2)
    return size


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(before=sources, after=sources, keep=st.booleans())
def test_a_refresh_is_a_full_build_byte_for_byte(
    ratios: Home,
    chunk: int,
    before: Rows,
    after: Rows,
    keep: bool,  # noqa: FBT001 - of the property
) -> None:
    """Whatever changed; with ``keep`` it is one of both sources, the new one preferred."""
    assert chunk
    base = build(ratios, before)
    refreshed = build(ratios, after, base=base.id, keep=keep)
    keys = last(ratios, refreshed).keys
    whole = build(ratios, {**before, **after} if keep else after)
    assert refreshed.sha256 == whole.sha256
    same = [key for key in after if key in before and repr(after[key]) == repr(before[key])]
    assert keys.unchanged == len(same)
    assert keys.changed == len(after.keys() & before.keys()) - len(same)
    assert keys.new == len(after.keys() - before.keys())
    gone = len(before.keys() - after.keys())
    assert (keys.kept, keys.dropped) == ((gone, 0) if keep else (0, gone))
    parts = list_parts(ratios, refreshed.id)
    assert sum(part.rows for part in parts) == refreshed.rows
    counted, _ = run_sql(ratios, "select * from predictions_history.ratio", limit=1)
    shown = {"id", "y", "model", "version", "table_id", "built_at"}
    assert set(counted.column_names) - {"x"} == shown  # x is a key column of others' tables
    again = build(ratios, {**before, **after}, base=refreshed.id)  # of taken and scored files
    assert last(ratios, again).keys.unchanged == refreshed.rows


def test_files_without_a_change_are_taken_as_they_are(
    ratios: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many files only those are written anew in which something changed; small ones join."""
    for module in (pieces, merging, refresh):
        monkeypatch.setattr(module, "CHUNK", 100)
    monkeypatch.setattr(merging, "_SMALL", 50)
    rows = dict.fromkeys(range(1000), 1.0)
    info = build(ratios, rows)
    before = {part.file_key for part in list_parts(ratios, info.id)}
    assert len(before) == 10
    random = np.random.default_rng(0)
    for _ in range(6):
        at = int(random.integers(0, 900))
        rows = {key: x for key, x in rows.items() if not at <= key < at + 60} | {at + 70: 3.0}
        rows |= dict.fromkeys(range(2000 + at, 2000 + at + 30), 1.0)
        info = build(ratios, rows, base=info.id)
        parts = list_parts(ratios, info.id)
        now = {part.file_key for part in parts}
        assert len(before - now) <= 4
        assert min(part.rows for part in parts[:-1]) >= 50
        assert max(part.rows for part in parts) <= 200
        before = now
    assert info.sha256 == build(ratios, rows).sha256
    keys = [*range(0, 1000, 7), *range(2000, 3000, 7)]
    assert answers(ratios, info, keys) == [key / rows[key] if key in rows else None for key in keys]


def test_a_key_with_two_rows_of_which_one_is_known_is_refused(ratios: Home) -> None:
    """As by a full build, with all that varies and how many keys; equal rows are one, as ever."""
    rows = dict.fromkeys(range(100), 1.0)
    base = build(ratios, rows)
    for twice in ({5: 2.0}, {5: 2.0, 6: 3.0}):
        both = pa.concat_tables([source(rows), source(twice)])
        with pytest.raises(InvalidInput, match=f"determine x: {len(twice)} keys"):
            build(ratios, {}, source=both, base=base.id)
    same = build(ratios, {}, source=pa.concat_tables([source(rows), source(rows)]), base=base.id)
    assert (last(ratios, same).keys.unchanged, same.rows) == (100, 100)


def test_zeros_of_both_signs_are_one_key(ratios: Home) -> None:
    """Though they are two inputs, of which one is known: the table is that of a full build."""
    base = build(ratios, {1: 0.0, 2: 3.0}, key=("id", "x"))
    both = pa.concat_tables([source({1: 0.0, 2: 3.0}), source({1: -0.0, 4: 1.0})])
    info = build(ratios, {}, source=both, key=("id", "x"), base=base.id)
    assert info.rows == 3
    assert info.sha256 == build(ratios, {}, source=both, key=("id", "x")).sha256


def test_all_is_scored_where_that_is_cheaper(ratios: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first rows are new and the model is quick; a kept key needs its table."""
    monkeypatch.setattr(refresh, "_JUDGED_AT", 50)
    monkeypatch.setattr(refresh, "_LOOKING_US", 1e9)
    monkeypatch.setattr(refresh, "_DEAR_US", 1e12)
    base = build(ratios, dict.fromkeys(range(100), 1.0))
    rows = dict.fromkeys(range(50, 200), 1.0)
    info = build(ratios, rows, base=base.id)
    done = last(ratios, info)
    assert (done.base, done.keys.new, done.keys.unchanged) == (None, 150, 0)
    kept = last(ratios, build(ratios, rows, base=base.id, keep=True))
    assert (kept.base, kept.keys.kept, kept.keys.unchanged) == (base.id, 50, 50)
    monkeypatch.setattr(refresh, "_LOOKING_US", 0.0)
    done = last(ratios, build(ratios, rows, base=base.id))
    assert (done.base, done.keys.unchanged) == (base.id, 50)


def test_only_what_changed_is_scored(ratios: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is asked for the new and the changed rows, and for nothing where none is."""
    base = build(ratios, dict.fromkeys(range(1000), 1.0))
    scored: list[list[int]] = []
    predict = OnnxRuntime.predict

    def counted(self: Any, batch: Any) -> Any:
        scored.append(sorted(batch["id"].tolist()))
        return predict(self, batch)

    monkeypatch.setattr(OnnxRuntime, "predict", counted)
    rows = dict.fromkeys(range(10, 1001), 1.0) | {20: 4.0}
    info = build(ratios, rows, base=base.id)
    assert scored == [[20, 1000]]
    assert answers(ratios, info, [9, 10, 20, 1000]) == [None, 10.0, 5.0, 1000.0]
    scored.clear()
    same = build(ratios, rows, base=info.id)
    assert scored == []
    assert same.sha256 == info.sha256


def test_what_cannot_be_taken_over_is_scored(ratios: Home) -> None:
    """Another version, another key, a table without a warehouse; one that is not there is told."""
    rows = dict.fromkeys(range(5), 2.0)
    base = build(ratios, rows)
    assert last(ratios, build(ratios, rows, version=2, base=base.id)).base is None
    other = build(ratios, rows, key=("id", "x"), base=base.id)
    assert last(ratios, other).base is None
    again = build(ratios, {**rows, 7: -0.0}, key=("id", "x"), base=other.id)
    assert last(ratios, again).keys.unchanged == 5
    with pytest.raises(NotFound):
        build(ratios, rows, base="0" * 16)
    with pytest.raises(InvalidInput, match="cannot be kept"):
        build(ratios, rows, base=other.id, keep=True)


KILLED = """
import sys, os, signal
from pathlib import Path
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings
from tidemill.recipes import refresh, table
home, rows, base, stage = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if stage == "split written":
    refresh.write_atomic = die
elif stage == "table":
    table.put_content = die
elif stage == "files stored":
    table.keep_parts = die
with open_home(Settings(home=Path(home))) as opened:
    table.build_table(opened, application="ratio", model="ratio", version=1, key=("id",),
        source=Path(rows), source_name="rows", base=base)
"""


def stored(home: Home) -> dict[str, tuple[int, int]]:
    """Which file is under each key of an answer, and when it was written."""
    found = {key: home.files.fetch(key).stat() for key in home.files.scan("predictions/")}
    return {key: (each.st_ino, each.st_mtime_ns) for key, each in found.items()}


@pytest.mark.parametrize("stage", ["split written", "table", "files stored"])
def test_killed_anywhere_it_goes_on(ratios: Home, tmp_path: Path, stage: str) -> None:
    """Kill -9 in each stage: no table is there; the same refresh then gives the right one."""
    base = build(ratios, dict.fromkeys(range(100), 1.0))
    at = 7.0 + len(stage)
    rows = dict.fromkeys(range(50), at) | dict.fromkeys(range(50, 120), 1.0)
    pq.write_table(source(rows), tmp_path / "rows.parquet")
    before = list_tables(ratios.store)
    (tmp_path / "refresh.py").write_text(KILLED)
    command = [sys.executable, tmp_path / "refresh.py", ratios.path, tmp_path / "rows.parquet"]
    killed = subprocess.run(
        [*map(str, command), base.id, stage], capture_output=True, check=False, timeout=100
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list_tables(ratios.store) == before
    files = stored(ratios)
    linked = {path.stat().st_ino for path in (ratios.cache_path / "builds").rglob("merged-*")}
    assert bool(linked & {inode for inode, _ in files.values()}) == (stage == "files stored")
    info = build(ratios, tmp_path / "rows.parquet", base=base.id)
    now = stored(ratios)
    assert {key: now[key] for key in files} == files  # what is stored is never written to
    done = last(ratios, info)
    assert (done.resumed, done.keys.changed, done.keys.new) == (True, 50, 20)
    assert info.sha256 == build(ratios, rows).sha256
    assert not list((ratios.cache_path / "builds").glob("*/"))


def damage(home: Home, info: TableInfo) -> Path:
    """Puts other answers in place of those in a table's only file, as whole rows; returns it."""
    (part,) = list_parts(home, info.id)
    path = home.files.fetch(part.file_key)
    rows = pq.read_table(path)
    at = rows.schema.get_field_index("y")
    wrong = pa.array([123456.0] * rows.num_rows, pa.float32())
    path.unlink()  # it may be a build's file, too
    pq.write_table(rows.set_column(at, "y", wrong), path)
    return path


def given_up(home: Home, rows: Path, base: TableInfo) -> Path:
    """A refresh that ended once all was scored and its files were stored; returns its folder."""

    def full(*_: object) -> None:
        raise Conflict("it ended here")

    with pytest.MonkeyPatch.context() as failing:
        failing.setattr(table, "keep_parts", full)
        with pytest.raises(Conflict, match="ended here"):
            build(home, rows, base=base.id)
    (folder,) = (home.cache_path / "builds").glob("*/")
    return folder


def test_damaged_answers_are_not_taken_over(
    ratios: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    """All is scored, the log and the build say so, and what is damaged is stored anew."""
    rows = dict.fromkeys(range(60), 23.0)
    base = build(ratios, rows)
    path = damage(ratios, base)
    after = {**rows, 3: 24.0, 70: 23.0}
    with pytest.raises(Corrupted, match=f"1 of 1 files of answers of table {base.id}"):
        build(ratios, after, base=base.id, keep=True)
    info = build(ratios, after, base=base.id)
    assert "table.base_damaged" in capfd.readouterr().err
    done = last(ratios, info)
    assert (done.damaged, done.base, done.keys.new) == (base.id, None, 61)
    assert answers(ratios, info, [3, 4, 70]) == [np.float32(x) for x in (3 / 24, 4 / 23, 70 / 23)]
    assert build(ratios, rows).sha256 == base.sha256
    assert sha256_file(path) == path.stem
    done = last(ratios, build(ratios, after, base=base.id))
    assert (done.damaged, done.base, done.keys.unchanged) == (None, base.id, 59)


def test_answers_to_what_was_new_are_not_those_to_all(ratios: Home, tmp_path: Path) -> None:
    """Where the base was damaged since a refresh was killed: what it had scored is not all."""
    before = dict.fromkeys(range(60), 25.0)
    base = build(ratios, before)
    after = {**before, **dict.fromkeys(range(30, 90), 26.0)}
    pq.write_table(source(after), tmp_path / "rows.parquet")
    given_up(ratios, tmp_path / "rows.parquet", base)
    damage(ratios, base)
    info = build(ratios, tmp_path / "rows.parquet", base=base.id)
    done = last(ratios, info)
    assert (done.resumed, done.damaged, info.rows) == (True, base.id, 90)
    assert info.sha256 == build(ratios, after).sha256


def test_a_plan_is_of_the_files_that_it_was_made_beside(
    ratios: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the base was built again since a refresh was killed, in other files: it begins anew."""
    monkeypatch.setattr(ratios, "clock", FakeClock(at=ratios.clock.now()))  # it has the same id
    before = dict.fromkeys(range(60), 27.0)
    base = build(ratios, before)
    after = {**before, **dict.fromkeys(range(30, 90), 28.0)}
    pq.write_table(source(after), tmp_path / "rows.parquet")
    given_up(ratios, tmp_path / "rows.parquet", base)
    files = list_parts(ratios, base.id)
    monkeypatch.setattr(pieces, "CHUNK", 10)
    assert build(ratios, before).id == base.id
    assert len(list_parts(ratios, base.id)) == 6 > len(files)
    info = build(ratios, tmp_path / "rows.parquet", base=base.id)
    done = last(ratios, info)
    assert (done.resumed, done.base, done.keys.unchanged) == (True, base.id, 30)
    assert info.sha256 == build(ratios, after).sha256


@pytest.mark.parametrize(("rows", "told"), [(-1, "1 more were to be"), (1, "1 that were scored")])
def test_answers_that_the_plan_does_not_have_are_told(
    ratios: Home, tmp_path: Path, rows: int, told: str
) -> None:
    """Neither a row too many nor one too few makes a table."""
    before = dict.fromkeys(range(60), 29.0 + rows)
    base = build(ratios, before)
    after = {**before, **dict.fromkeys(range(60, 90), 1.0)}
    pq.write_table(source(after), tmp_path / "rows.parquet")
    folder = given_up(ratios, tmp_path / "rows.parquet", base)
    (scored,) = folder.rglob("scored-*.parquet")
    found = pq.read_table(scored)
    more = pa.concat_tables([found, found.slice(0, 1)]) if rows > 0 else found.slice(1)
    scored.unlink()
    pq.write_table(more, scored)
    tables = list_tables(ratios.store)
    with pytest.raises(Corrupted, match=told):
        build(ratios, tmp_path / "rows.parquet", base=base.id)
    assert list_tables(ratios.store) == tables
    shutil.rmtree(folder)
