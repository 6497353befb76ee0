"""Old tables and features go, with their files; what is needed, or may be, stays."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa

from tidemill.control.applications import apply, link, unlink
from tidemill.control.audit import read_audit
from tidemill.control.deployments import deploy, get_deployment, promote, rollback
from tidemill.control.documents import read_document
from tidemill.control.orphans import AT_ONCE
from tidemill.control.pruning import YOUNG_S, prune
from tidemill.control.rollout import build_live_table
from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import Conflict, InvalidInput, NotFound
from tidemill.foundation.files import put_content
from tidemill.foundation.files_local import LocalFiles
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings
from tidemill.foundation.store import Store
from tidemill.recipes.keyed_rows import rows_of_table
from tidemill.recipes.push import push_model
from tidemill.tables.catalog import TABLES as CATALOG
from tidemill.tables.catalog import fetch_table, get_table, list_tables
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.predictions import PredictionPart, keep_parts, list_parts

CLOCK = FakeClock(at=1e9)


@pytest.fixture
def sums(tmp_path: Path) -> Iterator[Home]:
    """An application ``sums`` of a and b, with version 2 live after version 1."""
    import joblib
    import numpy as np
    from sklearn.linear_model import LinearRegression

    x = np.arange(20.0).reshape(10, 2)
    import pandas as pd

    with open_home(Settings(home=tmp_path / "home"), clock=CLOCK) as home:
        for factor in (1.0, 2.0):
            model = LinearRegression().fit(
                pd.DataFrame(x, columns=["a", "b"]), factor * x.sum(axis=1)
            )
            joblib.dump(model, tmp_path / "m.joblib")
            pushed = push_model(home, tmp_path / "m.joblib", "sums", trust_code=True)
            deploy(home, "sums", model="sums", version=pushed.version, by="t", reason="t")
        yield home


def build(home: Home, rows: int) -> tuple[str, str]:
    """Builds a table with features and returns both ids."""
    made = pa.table({"a": [float(each) for each in range(rows)], "b": [1.0] * rows})
    source = rows_of_table(made, f"{rows} rows")
    done = build_live_table(home, "sums", source, key=("a",), by="t", features=True, full=True)
    CLOCK.advance(1.0)
    assert done.build.features is not None
    return done.table.id, done.build.features


def files(home: Home) -> set[str]:
    """All files of tables, features and the warehouse."""
    return {
        key
        for folder in ("tables/", "features/", "predictions/")
        for key in home.files.scan(folder)
    }


def test_old_tables_and_features_go_with_their_files(sums: Home) -> None:
    """Not what is live, what the newest deployments named, what is young, or a shared file."""
    old = build(sums, 3)
    first = files(sums)
    again = build(sums, 5)
    fetch_table(sums, old[0])
    live = build(sums, 7)
    everything = files(sums)
    assert prune(sums, "sums", by="t", keep=1).removed == ()  # all are young
    CLOCK.advance(YOUNG_S + 1.0)
    would = prune(sums, "sums", by="t", keep=2, dry_run=True)
    assert {each.id for each in would.removed} == set(old)
    assert {each.kind for each in would.removed} == {"answers", "features"}
    assert (files(sums), would.kept) == (everything, 4)
    done = prune(sums, "sums", by="ann", keep=2)
    assert (done.removed, done.bytes > 0) == (would.removed, True)
    assert files(sums) == everything - first
    assert not (sums.cache_path / "tables" / old[0]).exists()
    (entry, *_) = read_audit(sums.store, subject="sums")
    assert (entry.verb, entry.by) == ("prune_tables", "ann")
    assert {each["id"] for each in entry.detail["tables"]} == set(old)
    for table in (*again, *live):
        assert get_table(sums.store, table).id == table
        LmdbTable.open(fetch_table(sums, table), verify=True).close()
    assert prune(sums, "sums", by="t", keep=2).removed == ()


def test_a_version_whose_table_is_gone_comes_back_without_it(sums: Home) -> None:
    """By rollback and by promotion; and the table that is built again has its files again."""
    table, _ = build(sums, 3)
    promote(sums, "sums", 1, table=None, by="t", reason="t")
    CLOCK.advance(YOUNG_S + 1.0)
    assert [each.id for each in prune(sums, "sums", by="t", keep=1).removed][:1] == [table]
    assert rollback(sums, "sums", by="t", reason="t").table is None
    again, _ = build(sums, 3)
    LmdbTable.open(fetch_table(sums, again), verify=True).close()
    assert promote(sums, "sums", 2, table=None, by="t", reason="t").versions[0].table == again


def test_a_version_is_linked_without_the_table_that_is_gone(sums: Home) -> None:
    """By hand and by a document: its model answers until a table is built."""
    table, _ = build(sums, 3)
    promote(sums, "sums", 1, table=None, by="t", reason="t")
    CLOCK.advance(YOUNG_S + 1.0)
    assert table in {each.id for each in prune(sums, "sums", by="t", keep=1).removed}
    linked = link(sums, "sums", "sums:2", by="t", reason="t")
    assert [(each.version, each.table) for each in linked.versions] == [(1, None), (2, None)]
    unlink(sums, "sums", 2, by="t", reason="t")
    text = '[applications.sums]\nversions = [{ model = "sums", version = 2 }]\n'
    apply(sums, read_document(text.encode(), origin="a.toml"), by="t", reason="t")
    (version,) = get_deployment(sums, "sums").versions
    assert (version.version, version.table) == (2, None)


class Looking(LocalFiles):
    """Files that write to the store while somebody looks for them, and read it as they go."""

    def __init__(self, home: Home) -> None:
        super().__init__(Path(home.files.url))
        self._store = home.store
        self.seen: list[set[str]] = []

    def exists(self, key: str) -> bool:
        with self._store.write(CATALOG):
            return super().exists(key)

    def delete(self, key: str) -> None:
        self.seen.append({each.id for each in list_tables(self._store)})
        super().delete(key)


def test_others_may_write_while_files_are_looked_for(sums: Home, tmp_path: Path) -> None:
    """In a bucket that takes long: no build keeps the store while it looks for all of its files."""
    (tmp_path / "part").write_bytes(b"1")
    parts = [PredictionPart(file_key=put_content(sums.files, tmp_path / "part",
             folder="predictions", suffix="parquet"), rows=1)]  # fmt: skip
    sums.files = Looking(sums)
    keep_parts(sums, "0" * 16, parts)
    sums.files.delete(parts[0].file_key)
    with pytest.raises(Conflict, match="was removed while it was built"):
        keep_parts(sums, "0" * 16, parts)
    assert list_parts(sums, "0" * 16) == []


def test_each_table_goes_in_a_turn_of_its_own(sums: Home) -> None:
    """Others may write between: a table whose files go is off the books for everybody."""
    tables = {build(sums, rows)[0] for rows in (3, 4, 5)}
    CLOCK.advance(YOUNG_S + 1.0)
    sums.files = files = Looking(sums)
    removed = {each.id for each in prune(sums, "sums", by="t", keep=1).removed}
    assert len(removed & tables) == 2
    # Those of other tests are older, and go first.
    assert {len(seen & tables) for seen in files.seen if not tables <= seen} == {2, 1}


def test_many_files_go_in_several_turns(sums: Home, tmp_path: Path) -> None:
    """In a bucket each takes a while: others write to the store in between."""
    table, _ = build(sums, 3)
    build(sums, 5)
    parts = []
    for number in range(3 * AT_ONCE):
        (tmp_path / "part").write_bytes(b"%d" % number)
        key = put_content(sums.files, tmp_path / "part", folder="predictions", suffix="parquet")
        parts.append(PredictionPart(file_key=key, rows=1))
    keep_parts(sums, table, parts)
    CLOCK.advance(YOUNG_S + 1.0)
    with Turns(sums) as store:
        sums.store = store
        sums.files = counting = Counting(store, Path(sums.files.url))
        prune(sums, "sums", by="t", keep=0)
    assert not {each.file_key for each in parts} & set(counting.scan("predictions/"))
    assert len(counting.turns) > 3 * AT_ONCE
    assert max(Counter(counting.turns).values()) <= AT_ONCE


class Turns(Store):
    """The store of a home, which counts the turns of its writers."""

    def __init__(self, home: Home) -> None:
        super().__init__(f"sqlite:///{home.path / 'store.db'}")
        self.turns = 0

    @contextmanager
    def write(self, *tables: sa.MetaData) -> Iterator[sa.Connection]:
        self.turns += 1
        with super().write(*tables) as conn:
            yield conn


class Counting(LocalFiles):
    """Files that note in which turn of the store's writers each of them went."""

    def __init__(self, store: Turns, root: Path) -> None:
        super().__init__(root)
        self._turns = store
        self.turns: list[int] = []

    def delete(self, key: str) -> None:
        self.turns.append(self._turns.turns)
        super().delete(key)


def left_behind(home: Home, folder: Path, days: float) -> set[str]:
    """Files of a build that was killed so long ago: some were known already, some not yet."""
    keys = []
    for number, place in enumerate(("predictions", "predictions", "tables", "features")):
        (folder / "part").write_bytes(b"%g %d" % (days, number))
        keys.append(put_content(home.files, folder / "part", folder=place, suffix="parquet"))
        at = home.clock.now() - days * 86_400.0
        os.utime(home.files.fetch(keys[-1]), (at, at))
    keep_parts(home, f"{int(days):016x}", [PredictionPart(file_key=keys[0], rows=1)])
    return set(keys)


def test_what_a_killed_build_left_goes_when_it_is_old(sums: Home, tmp_path: Path) -> None:
    """Its known parts, too; what is younger than a week may be of a build that goes on."""
    build(sums, 3)
    for key in files(sums):
        os.utime(sums.files.fetch(key), (1.0, 1.0))
    named = files(sums)
    young, old = left_behind(sums, tmp_path, 6.9), left_behind(sums, tmp_path, 7.1)
    assert prune(sums, "sums", by="t", dry_run=True).abandoned == 4
    assert files(sums) == named | young | old
    assert prune(sums, "sums", by="t").abandoned == 4
    assert files(sums) == named | young
    assert list_parts(sums, f"{7:016x}") == []
    assert len(list_parts(sums, f"{6:016x}")) == 1
    CLOCK.advance(86_400.0)
    assert prune(sums, "another", by="t").abandoned == 4, "whose they were is not known"
    assert files(sums) == named


def test_what_cannot_be_pruned_is_told(sums: Home) -> None:
    """An application without tables, and a number that is none."""
    with pytest.raises(NotFound, match="has no tables"):
        prune(sums, "nobody", by="t")
    with pytest.raises(InvalidInput, match="keep is -1"):
        prune(sums, "sums", by="t", keep=-1)


def test_files_that_another_table_has_stay(sums: Home) -> None:
    """Two tables of the same answers, built one after the other, share their files."""
    old, _ = build(sums, 3)
    live, _ = build(sums, 3)
    assert old != live
    assert get_table(sums.store, old).sha256 == get_table(sums.store, live).sha256
    CLOCK.advance(YOUNG_S + 1.0)
    before = files(sums)
    assert old in {each.id for each in prune(sums, "sums", by="t", keep=0).removed}
    assert [each.id for each in list_tables(sums.store, "sums")] == [live]
    assert files(sums) == before
    LmdbTable.open(fetch_table(sums, live), verify=True).close()
