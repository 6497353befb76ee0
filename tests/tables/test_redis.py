"""Tables in Redis: they count when all of them is there, and go when nobody names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import Corrupted, InvalidSettings, NotFound, Unavailable
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import Settings, TablesSettings
from tidemill.tables.build import TableBuilder
from tidemill.tables.catalog import store_table
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.redis import UNUSED_S, RedisTable, publish_table, remove_unused
from tidemill.tables.table import TableInfo

CLOCK = FakeClock(at=1000.0)


@pytest.fixture
def home(tmp_path: Path, redis_url: str) -> Iterator[Home]:
    """An installation whose tables are in Redis."""
    with open_home(
        Settings(home=tmp_path / "home", tables=TablesSettings(url=redis_url)), clock=CLOCK
    ) as home:
        yield home


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    """The same database, as anybody sees it."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


def stored(home: Home, name: str = "a") -> str:
    """Stores a table of 50 rows and returns its id."""
    info = TableInfo(application=name, model="m", version=1, key=(("k", "int64"),))
    with TableBuilder(home.path / f"built-{name}", clock=CLOCK) as builder:
        builder.put([b"%02d" % at for at in range(50)], [b"v%d" % at for at in range(50)])
        builder.commit(info)
    return store_table(home, home.path / f"built-{name}").id


def test_publishing_again_changes_nothing(home: Home, client: Any) -> None:
    """Not even what somebody changed: readers would hear of it by the record alone."""
    table = stored(home)
    place = publish_table(home, table)
    client.delete(f"tidemill:{table}:07")
    assert publish_table(home, table) == place
    with RedisTable.open(place) as opened:
        assert opened.get([b"06", b"07"]) == [b"v6", None]
        assert (len(opened), table in repr(opened)) == (50, True)


def test_two_that_publish_at_once_publish_one(home: Home, client: Any) -> None:
    """All of it is there when the first of them is done."""
    table = stored(home)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: publish_table(home, table), range(4)))) == 1
    assert len(client.keys(f"tidemill:{table}:*")) == 50
    assert client.keys("tidemill-lock:*") == []


def test_one_that_was_killed_does_not_count_until_it_is_published_again(
    home: Home, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it ended: rows without an entry that is complete are no table."""
    table = stored(home)

    def killed(self: LmdbTable, rows: int) -> Iterator[list[tuple[bytes, bytes]]]:
        del self, rows
        yield [(b"00", b"v0")]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LmdbTable, "blocks", killed)
        with pytest.raises(KeyboardInterrupt):
            publish_table(home, table)
    assert len(client.keys(f"tidemill:{table}:*")) == 1
    place = f"{home.settings.tables.url}#{table}:0"
    with pytest.raises(NotFound, match="is not published"):
        RedisTable.open(place)
    with RedisTable.open(publish_table(home, table)) as opened:
        assert opened.get([b"49"]) == [b"v49"]


def test_another_record_than_was_told_is_refused(home: Home, client: Any) -> None:
    """By its sha256; so is what cannot be read."""
    place = publish_table(home, stored(home))
    url, _, rest = place.rpartition("#")
    with pytest.raises(Corrupted, match="not what was published"):
        RedisTable.open(f"{url}#{rest[:-1]}x")
    client.hset("tidemill:tables", rest.partition(":")[0], b"{")
    with pytest.raises(Corrupted, match="cannot be read"):
        RedisTable.open(place)


def test_a_redis_that_is_full_is_an_error_in_words(home: Home, client: Any) -> None:
    """What evicts what it has just taken, as well as what takes no more; nothing counts."""
    table = stored(home)
    client.config_set("maxmemory", "1")
    try:
        for policy in ("noeviction", "allkeys-random"):
            client.config_set("maxmemory-policy", policy)
            with pytest.raises(Unavailable):
                publish_table(home, table)
    finally:
        client.config_set("maxmemory", "0")
        client.config_set("maxmemory-policy", "noeviction")
    with RedisTable.open(publish_table(home, table)) as opened:
        assert opened.get([b"01"]) == [b"v1"]


def test_a_table_that_nobody_names_is_removed_after_a_while(home: Home, client: Any) -> None:
    """Not the ones in use, nor other installations', nor one that is used again meanwhile."""
    used, unused, again = (stored(home, name) for name in ("used", "unused", "again"))
    places = {table: publish_table(home, table) for table in (used, unused, again)}
    other = client.hget("tidemill:tables", used)
    client.hset("tidemill:tables", "f" * 16, other)
    client.set(f"tidemill:{'f' * 16}:00", b"other")
    assert remove_unused(home, {used}) == 0
    CLOCK.advance(UNUSED_S - 1)
    assert remove_unused(home, {used}) == 0
    assert publish_table(home, again) == places[again]
    CLOCK.advance(2)
    assert remove_unused(home, {used}) == 1
    assert client.keys(f"tidemill:{unused}:*") == []
    with pytest.raises(NotFound):
        RedisTable.open(places[unused])
    for table in (used, again):
        with RedisTable.open(places[table]) as opened:
            assert opened.get([b"00"]) == [b"v0"]
    assert client.get(f"tidemill:{'f' * 16}:00") == b"other"
    assert remove_unused(home, {used, again}) == 0


def test_a_redis_that_is_gone_is_named_without_its_password(
    tmp_path: Path, launch_redis: Callable[[], Any]
) -> None:
    """To whoever publishes, opens or asks."""
    url = "redis://me:hidden-word@127.0.0.1:1/0"
    assert "hidden" not in repr(TablesSettings(url=url))
    with open_home(Settings(home=tmp_path / "h", tables=TablesSettings(url=url))) as home:
        for act in (
            lambda: publish_table(home, stored(home)),
            lambda: RedisTable.open(f"{url}#a:b"),
            lambda: remove_unused(home, set()),
        ):
            with pytest.raises(Unavailable, match="cannot be used") as caught:
                act()
            assert "hidden" not in str(caught.value)
    with launch_redis() as path:
        settings = Settings(home=tmp_path / "g", tables=TablesSettings(url=f"unix://{path}"))
        with open_home(settings) as home:
            opened = RedisTable.open(publish_table(home, stored(home)))
    with pytest.raises(Unavailable):
        opened.get([b"00"])
    opened.close()


def test_without_a_url_nothing_is_published(tmp_path: Path) -> None:
    """Nor removed."""
    with open_home(Settings(home=tmp_path)) as home:
        assert remove_unused(home, set()) == 0
        with pytest.raises(InvalidSettings, match=r"tables\.url"):
            publish_table(home, "0" * 16)
