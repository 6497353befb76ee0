"""One suite for every store: SQLite and a real PostgreSQL keep the same promises."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tidemill.foundation.errors import InvalidSettings, NotReady, Unavailable
from tidemill.foundation.store import SCHEMA_VERSION, Remembered, Store

TABLES = sa.MetaData()
counters = sa.Table(
    "counters",
    TABLES,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.Integer, nullable=False),
)

INCREMENT = """
import sys
import sqlalchemy as sa
from tidemill.foundation.store import Store

tables = sa.MetaData()
counters = sa.Table("counters", tables, sa.Column("name", sa.String, primary_key=True),
                    sa.Column("value", sa.Integer, nullable=False))
with Store(sys.argv[1]) as store:
    for _ in range(25):
        with store.write(tables) as conn:
            value = conn.execute(sa.select(counters.c.value)).scalar_one_or_none()
            if value is None:
                conn.execute(counters.insert().values(name="n", value=1))
            else:
                conn.execute(counters.update().values(value=value + 1))
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/folder/store.db"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """The store, closed after the test."""
    with Store(url) as store:
        yield store


def put(store: Store, name: str, value: int) -> None:
    """Writes one row."""
    with store.write(TABLES) as conn:
        conn.execute(counters.insert().values(name=name, value=value))


def values(store: Store) -> dict[str, int]:
    """Reads every row."""
    with store.read(TABLES) as conn:
        return {row.name: row.value for row in conn.execute(sa.select(counters))}


def test_what_a_block_wrote_is_there_for_every_other_store(url: str, store: Store) -> None:
    """A write is durable and visible to others when its block ends."""
    put(store, "a", 1)
    with Store(url) as other:
        assert values(other) == {"a": 1}


def test_a_block_that_raises_leaves_nothing(store: Store) -> None:
    """A write is undone, as a whole, if its block raises."""
    put(store, "a", 1)

    def fail() -> None:
        with store.write(TABLES) as conn:
            conn.execute(counters.insert().values(name="b", value=2))
            conn.execute(counters.update().values(value=1 // 0))

    with pytest.raises(ZeroDivisionError):
        fail()
    assert values(store) == {"a": 1}


def test_a_reader_sees_one_moment(store: Store) -> None:
    """What a reader sees does not change while it reads."""
    put(store, "a", 1)
    with store.read(TABLES) as conn:
        before = conn.execute(sa.select(sa.func.count()).select_from(counters)).scalar_one()
        thread = threading.Thread(target=put, args=(store, "b", 2))
        thread.start()
        thread.join()
        after = conn.execute(sa.select(sa.func.count()).select_from(counters)).scalar_one()
    assert (before, after) == (1, 1)
    assert values(store) == {"a": 1, "b": 2}


def test_writers_of_several_processes_take_turns(url: str) -> None:
    """Read, add one, write: no update of any process is lost, from the very first opening."""
    processes = [subprocess.Popen((sys.executable, "-c", INCREMENT, url)) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
    with Store(url) as store:
        assert values(store) == {"n": 100}


def test_writers_of_several_threads_take_turns(store: Store) -> None:
    """One store serves several threads, and none of their updates is lost."""
    put(store, "n", 0)

    def add() -> None:
        for _ in range(10):
            with store.write(TABLES) as conn:
                value = conn.execute(sa.select(counters.c.value)).scalar_one()
                conn.execute(counters.update().values(value=value + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values(store) == {"n": 40}


def test_a_writer_that_waits_too_long_is_told(url: str, store: Store) -> None:
    """Waiting for another writer ends with a typed error, and the other is not disturbed."""
    put(store, "a", 1)
    with Store(url, wait_s=0.1) as other:
        values(other)
        with store.write(TABLES) as conn:
            conn.execute(counters.update().values(value=2))
            with pytest.raises(NotReady, match="locked by another writer"):
                put(other, "b", 1)
    assert values(store) == {"a": 2}


def test_a_newer_schema_is_refused(url: str, store: Store) -> None:
    """A store that a newer Tidemill wrote is not touched."""
    values(store)
    with store.write() as conn:
        conn.execute(sa.text(f"update tidemill_schema set version = {SCHEMA_VERSION + 1}"))
    with (
        Store(url) as other,
        pytest.raises(InvalidSettings, match=f"schema {SCHEMA_VERSION + 1}, newer"),
        other.read(),
    ):
        pass


def test_a_killed_writer_leaves_nothing_and_holds_nobody(url: str, store: Store) -> None:
    """A process killed inside its block leaves neither rows nor a lock."""
    put(store, "a", 1)
    script = INCREMENT.replace(
        "value=value + 1))", "value=value + 1)); import os; os.kill(os.getpid(), 9)"
    )
    assert subprocess.run((sys.executable, "-c", script, url), check=False).returncode == -9
    put(store, "b", 2)
    assert values(store) == {"a": 1, "b": 2}


def test_a_store_can_be_used_again_after_it_was_closed(store: Store) -> None:
    """Closing gives connections back; the next transaction opens new ones."""
    put(store, "a", 1)
    store.close()
    assert values(store) == {"a": 1}


def test_a_password_is_never_shown() -> None:
    """The password of the URL is masked in the store's text and in its errors."""
    store = Store("postgresql+psycopg://tide:hunter2@127.0.0.1:1/nothing")
    assert "hunter2" not in repr(store)
    assert "tide" in repr(store)
    with pytest.raises(Unavailable) as caught, store.read():
        pass
    assert "hunter2" not in str(caught.value)


def test_a_database_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    """A path that cannot hold a database is an error that names it."""
    (tmp_path / "store.db").mkdir()
    with (
        Store(f"sqlite:///{tmp_path}/store.db") as store,
        pytest.raises(Unavailable, match="store"),
    ):
        put(store, "a", 1)


@pytest.mark.parametrize("url", ["not a url", "mysql://root@localhost/x"])
def test_a_url_of_no_store_is_refused(url: str) -> None:
    """A URL that names no store is refused with the two forms that do."""
    with pytest.raises(InvalidSettings, match="sqlite:///PATH"), Store(url).read():
        pass


def test_a_stamp_changes_with_every_commit(tmp_path: Path) -> None:
    """What has the same stamp holds the same facts; where that is not sure, there is no stamp."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with Store(url) as store, Store(url) as other:
        assert store.stamp() is None  # nothing was read yet
        with store.read(TABLES):
            pass
        seen = {store.stamp()}
        for number in range(5):
            with (store if number % 2 else other).write(TABLES) as conn:
                conn.execute(counters.insert().values(name=f"n{number}", value=number))
            stamp = store.stamp()
            assert stamp == store.stamp()
            assert stamp not in seen
            seen.add(stamp)
    assert None not in seen
    with Store("sqlite://") as store, store.read(TABLES):
        assert store.stamp() is None


def test_a_commit_is_seen_although_no_file_tells_of_it(tmp_path: Path) -> None:
    """On a slow disk the files were written long before the commit could be seen: it counts."""
    path = tmp_path / "store.db"
    url, files = f"sqlite:///{path}", (path, tmp_path / "store.db-wal")

    def total(conn: sa.Connection) -> int:
        return int(conn.execute(sa.select(sa.func.count()).select_from(counters)).scalar_one())

    def insert(store: Store, name: str) -> None:
        with store.write(TABLES) as conn:
            conn.execute(counters.insert().values(name=name, value=1))

    with Store(url) as store, Store(url) as other:
        remembered = Remembered(store, TABLES, total)
        for number in range(8):
            insert(other, f"n{number}")
        with contextlib.closing(sqlite3.connect(path)) as conn:
            conn.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        insert(other, "one")
        time.sleep(0.15)
        assert remembered.read() == 9
        before = [file.stat() for file in files]
        insert(other, "another")
        for file, stat in zip(files, before, strict=True):
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert [file.stat().st_size for file in files] == [stat.st_size for stat in before]
        assert remembered.read() == 10


def test_what_is_remembered_is_what_the_store_holds(url: str) -> None:
    """Whoever commits, from whatever connection, the next reading sees it; else nothing is read."""
    read = 0

    def total(conn: sa.Connection) -> int:
        nonlocal read
        read += 1
        return int(conn.execute(sa.select(sa.func.count()).select_from(counters)).scalar_one())

    with Store(url) as store, Store(url) as other:
        remembered = Remembered(store, TABLES, total)
        for number in range(20):
            with other.write(TABLES) as conn:
                conn.execute(counters.insert().values(name=f"n{number}", value=number))
            assert remembered.read() == number + 1
        time.sleep(0.15)
        assert remembered.read() == 20
        before = read
        for _ in range(10):
            assert remembered.read() == 20
        assert read - before == (0 if url.startswith("sqlite") else 10)
