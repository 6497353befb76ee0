"""One suite for every kind of table: what is built once is looked up alike everywhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tidemill.foundation.errors import InvalidInput, NotReady
from tidemill.foundation.home import open_home
from tidemill.foundation.settings import Settings, TablesSettings
from tidemill.tables.build import TableBuilder
from tidemill.tables.catalog import fetch_table, store_table
from tidemill.tables.key import KeyEncoder
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.redis import RedisTable, publish_table
from tidemill.tables.table import Table, TableInfo

COLUMNS = (("k", "int64"), ("s", "string"))
ENCODER = KeyEncoder(COLUMNS)
ROWS = {
    **{ENCODER.one([at, "é"]): b"%d" % at for at in range(12_000)},
    ENCODER.one([1, ""]): b"",
    ENCODER.one([2, "*?[:\r\n\0"]): bytes(range(256)),
    ENCODER.one([3, "x" * 5000]): b"z" * 100_000,
}


class Fetched:
    """A table in Redis, asked as a gateway asks it."""

    def __init__(self, table: RedisTable) -> None:
        self._table = table
        self._runner = asyncio.Runner()
        self._closed = False

    @property
    def info(self) -> TableInfo:
        """What it holds."""
        return self._table.info

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Asks on the loop."""
        if self._closed:
            return asyncio.run(self._table.fetch(keys))
        return self._runner.run(self._table.fetch(keys))

    def close(self) -> None:
        """Gives everything back."""
        if not self._closed:
            self._closed = True
            self._runner.run(self._table.aclose())
            self._runner.close()


@pytest.fixture(scope="module", params=["lmdb", "redis", "redis on a loop"])
def opened(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: Path,
    redis_databases: Iterator[int],
) -> Iterator[Callable[[], Table]]:
    """Opens the same rows in each kind of table."""
    folder, kind = tmp_path_factory.mktemp("tables"), request.param
    info = TableInfo(application="x", model="m", version=1, key=COLUMNS)
    url = f"unix://{redis_server}?db={next(redis_databases)}"
    settings = Settings(home=folder / "home", tables=TablesSettings(url=url))
    with open_home(settings) as home:
        with TableBuilder(folder / "table") as builder:
            builder.put(list(ROWS), list(ROWS.values()))
            builder.commit(info)
        stored = store_table(home, folder / "table")
        if kind == "lmdb":
            place = fetch_table(home, stored.id)
            yield lambda: LmdbTable.open(place)
            return
        published = publish_table(home, stored.id)
        if kind == "redis":
            yield lambda: RedisTable.open(published)
        else:
            yield lambda: Fetched(RedisTable.open(published))


def closing(opened: Callable[[], Table]) -> Any:
    """Opens a table for one test."""
    return contextlib.closing(opened())


def test_every_row_is_found_with_its_very_bytes(opened: Callable[[], Table]) -> None:
    """In the order of the keys, however many at once."""
    with closing(opened) as table:
        assert table.get(list(ROWS)) == list(ROWS.values())
        assert table.get(list(ROWS)[::-1][:7]) == list(ROWS.values())[::-1][:7]
        assert (table.info.rows, table.info.key) == (len(ROWS), COLUMNS)


def test_what_is_not_there_is_none_at_its_place(opened: Callable[[], Table]) -> None:
    """Beside what is, twice where it is asked twice; nothing is found by a part of a key."""
    known, missing = ENCODER.one([5, "é"]), ENCODER.one([5, "e"])
    with closing(opened) as table:
        assert table.get([missing, known, known, missing]) == [None, b"5", b"5", None]
        assert table.get([known[:-1], known + b"\0", b":", b"*"]) == [None] * 4
        assert table.get([]) == []


def test_an_empty_key_is_refused(opened: Callable[[], Table]) -> None:
    """No encoder makes one."""
    with closing(opened) as table, pytest.raises(InvalidInput, match="empty key"):
        table.get([b""])


def test_a_closed_table_says_so_and_another_is_none_the_worse(opened: Callable[[], Table]) -> None:
    """Closing twice does nothing."""
    first = opened()
    first.get([b"a"])
    with closing(opened) as other:
        first.close()
        first.close()
        with pytest.raises(NotReady, match="closed"):
            first.get([b"a"])
        assert other.get([ENCODER.one([7, "é"])]) == [b"7"]
