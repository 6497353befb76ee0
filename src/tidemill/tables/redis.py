"""Tables in Redis: one copy that several hosts look up.

A table is published under its own id, from the file that was built: first its rows, each read back
as it is written, then its entry, which makes it count. Readers compare the sha256 of the entry's
record with the one that they were told. Rows never change; a table that no deployment names any
more is removed a while after. The hash ``tidemill:tables`` holds the entries; a row is the string
``tidemill:ID:KEY``, key and value with the very bytes that they have in LMDB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from tidemill.foundation.clock import Clock
from tidemill.foundation.errors import (
    Corrupted,
    InvalidInput,
    InvalidSettings,
    NotFound,
    NotReady,
    Unavailable,
)
from tidemill.foundation.settings import mask_url
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.table import TableInfo, info_decoder

if TYPE_CHECKING:
    from tidemill.foundation.home import Home

CONNECTIONS = 16
"""Questions that one gateway has on their way to Redis, at most."""

UNUSED_S = 600.0
"""A table is removed when nobody has named it for so long: gateways have moved on by then."""

PASS_BY_S = 30.0
"""A Redis that did not answer is not asked again for so long by whom others wait for."""

_TABLES = "tidemill:tables"
_SCHEMES = ("redis://", "rediss://", "unix://")
_BLOCK = 5000
_CONNECT_S, _ANSWER_S = 2.0, 30.0
_SOON_S = 5.0
_LOCK_S, _PATIENCE_S = 60.0, 900.0


class PassBy:
    """Whether a Redis that did not answer is passed by for a while, however many tables it has.

    Args:
        clock: measures the while.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until = 0.0

    @property
    def on(self) -> bool:
        """Says whether it is not to be asked now."""
        return self._clock.monotonic() < self._until

    def begin(self) -> None:
        """Says that it did not answer just now."""
        self._until = self._clock.monotonic() + PASS_BY_S


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What Redis says of a table.

    Args:
        record: the table's, in JSON; see ``TableInfo``.
        state: it counts once it is complete.
        unused_since: when nobody was found to name it, seconds since the epoch.
    """

    record: str
    state: Literal["writing", "complete", "removing"]
    unused_since: float | None = None


_entry_decoder = msgspec.json.Decoder(Entry)


class RedisTable:
    """A table in Redis, read-only. ``get`` waits; ``fetch`` is for an event loop.

    One that was not opened need not be there yet: each question looks for it, until it is found.

    Args:
        place: its URL, and which table of which record; see ``place_of``.
        info: what it holds.
    """

    def __init__(self, place: str, info: TableInfo) -> None:
        self._url, _, told = place.rpartition("#")
        self._digest = told.partition(":")[2]
        self._found = False
        self._prefix = _prefix(info.id)
        self._info = info
        self._client: Any = None
        self._pool: Any = None
        self._closed = False

    @classmethod
    def open(cls, place: str, *, soon: bool = False) -> RedisTable:
        """Finds the table that was published; the caller closes it.

        Args:
            place: see ``place_of``.
            soon: somebody waits: a Redis that hangs is given up within seconds.

        Raises:
            NotFound: it was not published there, or not to its end.
            Corrupted: it is another one than was told.
            Unavailable: Redis does not answer.
        """
        url, _, told = place.rpartition("#")
        table, _, digest = told.partition(":")
        with _connected(url, soon=soon) as client:
            entry = _entry(client.hget(_TABLES, table), table)
        record = _record_of(entry, table, digest, url)
        opened = cls(place, info_decoder.decode(record))
        opened._found = True
        return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._info.rows

    def __repr__(self) -> str:
        return f"RedisTable({self._info.id!r}, rows={self._info.rows})"

    @property
    def info(self) -> TableInfo:
        """What it holds."""
        return self._info

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the answer to each key, None where there is none.

        Raises:
            NotReady: the table is closed.
            InvalidInput: a key is empty; no encoder makes such a key.
            Unavailable: Redis does not answer.
            NotFound, Corrupted: as ``open``.
        """
        names = self._names(keys)
        with _explained(self._url):
            if self._client is None:
                self._client = _client(self._url)
            if not self._found:
                self._take(self._client.hget(_TABLES, self._info.id))
            return _got(self._client.mget(names)) if names else []

    async def fetch(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the answer to each key, None where there is none, without holding up the loop.

        All calls are of one loop. One that is cancelled spoils nothing for the others.

        Raises:
            NotReady: the table is closed.
            InvalidInput: a key is empty.
            Unavailable: Redis does not answer.
            NotFound, Corrupted: as ``open``.
        """
        names = self._names(keys)
        if not names:
            return []
        with _explained(self._url):
            if self._pool is None:
                self._pool = _asyncio_client(self._url)
            if not self._found:
                self._take(await self._pool.hget(_TABLES, self._info.id))
            return _got(await self._pool.mget(names))

    def close(self) -> None:
        """Gives the connection of ``get`` back; closing twice does nothing."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        """Gives all connections back."""
        self.close()
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()

    def _take(self, found: bytes | None) -> None:
        """Takes an entry for the table's, if it is one of this very table."""
        entry = _entry(found, self._info.id)
        _record_of(entry, self._info.id, self._digest, self._url)
        self._found = True

    def _names(self, keys: Sequence[bytes]) -> list[bytes]:
        if self._closed:
            raise NotReady(f"table {self._info.id} is closed", remedy="Open it again.")
        if not all(keys):
            raise InvalidInput("a table was asked for an empty key")
        return [self._prefix + key for key in keys]


def is_place(text: str) -> bool:
    """Says whether a table's place is in Redis, and no folder.

    Example:
        >>> is_place("redis://cache.internal#0123:4567"), is_place("/srv/cache/tables/0123")
        (True, False)
    """
    return text.startswith(_SCHEMES)


def place_of(url: str, info: TableInfo) -> str:
    """Returns what names a table in Redis: the URL, its id, and the sha256 of its record."""
    return f"{url}#{info.id}:{_digest(_record(info))}"


def publish_table(home: Home, table: str, *, soon: bool = False) -> str:
    """Has a stored table in Redis, and returns its place; one that is there already is left alone.

    Killed anywhere, or two at once: it counts once all of it is there.

    Args:
        home: the installation.
        table: its id.
        soon: somebody waits: a Redis that hangs is given up within seconds while it is written
            to, as it always is before.

    Raises:
        NotFound: there is no such table.
        Unavailable: Redis does not answer, or takes no more.
        Corrupted: its data is not what was stored.
    """
    url = home.settings.tables.url
    if url is None:
        raise InvalidSettings("tables.url is not set", remedy="Give the URL of a Redis.")
    from tidemill.tables.catalog import fetch_table, get_table  # noqa: PLC0415 - a gateway has no store

    info = get_table(home.store, table)
    place = place_of(url, info)
    with _connected(url, soon=True) as client:
        if _stands(client, info):
            return place
    folder = fetch_table(home, table)
    with _connected(url, soon=soon) as client:
        lock = client.lock(_lock_name(info.id), timeout=_LOCK_S, blocking_timeout=_PATIENCE_S)
        with lock, LmdbTable.open(folder) as source:
            if not _stands(client, info):
                _write(client, source, lock, mask_url(url))
    return place


def check_library() -> None:
    """Does nothing where tables can be in Redis at all.

    Raises:
        Unavailable: the extra ``redis`` is not installed.
    """
    _library()


def is_published(home: Home, info: TableInfo) -> bool:
    """Says whether a table is in Redis, whole.

    Raises:
        Unavailable: Redis does not answer.
    """
    url = home.settings.tables.url
    if url is None:
        return False
    with _connected(url, soon=True) as client:
        return _is_whole(_entry(client.hget(_TABLES, info.id), info.id), info)


def published(home: Home) -> set[str]:
    """Returns the ids of the tables that Redis holds, whole or not; none where none is used.

    Raises:
        Unavailable: Redis does not answer.
    """
    url = home.settings.tables.url
    if url is None:
        return set()
    with _connected(url, soon=True) as client:
        return {field.decode() for field in client.hkeys(_TABLES)}


def remove_unused(home: Home, live: Collection[str]) -> int:
    """Removes this installation's tables from Redis that nobody has named for a while.

    Args:
        home: the installation.
        live: the ids of the tables that deployments name.

    Returns:
        How many were removed. Tables of other installations are left alone.

    Raises:
        Unavailable: Redis does not answer.
    """
    url = home.settings.tables.url
    if url is None:
        return 0
    from tidemill.tables.catalog import list_tables  # noqa: PLC0415 - a gateway has no store

    known, now = {each.id for each in list_tables(home.store)}, home.clock.now()
    removed = 0
    with _connected(url, soon=True) as client:
        for field in client.hkeys(_TABLES):
            table = field.decode()
            lock = client.lock(_lock_name(table), timeout=_LOCK_S)
            if table not in known or not lock.acquire(blocking=False):
                continue
            try:
                removed += _remove_if_unused(client, table, lock, used=table in live, now=now)
            finally:
                lock.release()
    return removed


def _remove_if_unused(client: Any, table: str, lock: Any, *, used: bool, now: float) -> bool:
    entry = _entry(client.hget(_TABLES, table), table)
    if entry is None:
        return False
    since = entry.unused_since
    if used or since is None:
        if used != (since is None):
            changed = msgspec.structs.replace(entry, unused_since=None if used else now)
            _put(client, table, changed)
        return False
    if now - since < UNUSED_S:
        return False
    _put(client, table, msgspec.structs.replace(entry, state="removing"))
    block: list[bytes] = []
    for name in client.scan_iter(match=_prefix(table) + b"*", count=_BLOCK):
        block.append(name)
        if len(block) == _BLOCK:
            client.unlink(*block)
            lock.extend(_LOCK_S, replace_ttl=True)
            block = []
    if block:
        client.unlink(*block)
    client.hdel(_TABLES, table)
    return True


def _stands(client: Any, info: TableInfo) -> bool:
    """Says whether the table is there; one that was unused is used again."""
    entry = _entry(client.hget(_TABLES, info.id), info.id)
    if entry is None or not _is_whole(entry, info):
        return False
    if entry.unused_since is not None:
        _put(client, info.id, msgspec.structs.replace(entry, unused_since=None))
    return True


def _is_whole(entry: Entry | None, info: TableInfo) -> bool:
    return entry is not None and entry.state == "complete" and entry.record == _record(info)


def _write(client: Any, source: LmdbTable, lock: Any, shown: str) -> None:
    info, rows = source.info, 0
    prefix = _prefix(info.id)
    _put(client, info.id, Entry(record=_record(info), state="writing"))
    for block in source.blocks(_BLOCK):
        named = {prefix + key: value for key, value in block}
        client.mset(named)
        if client.mget(list(named)) != list(named.values()):
            raise Unavailable(
                f"{shown} does not keep the rows of table {info.id}",
                remedy="Give it more memory, and the policy noeviction.",
            )
        rows += len(named)
        lock.extend(_LOCK_S, replace_ttl=True)
    if rows != info.rows:
        raise Corrupted(
            f"table {info.id} gave {rows} rows, and {info.rows} were written",
            remedy="Build the table again.",
        )
    _put(client, info.id, Entry(record=_record(info), state="complete"))


def _record_of(entry: Entry | None, table: str, digest: str, url: str) -> str:
    """Returns the record of a whole table that has the sha256 that was told.

    Raises:
        NotFound: it is not there, or not whole.
        Corrupted: it is another one.
    """
    if entry is None or entry.state != "complete":
        raise NotFound(
            f"table {table} is not published in {mask_url(url)}",
            remedy="A server that needs it publishes it: see its log.",
        )
    if _digest(entry.record) != digest:
        raise Corrupted(
            f"table {table} in {mask_url(url)} is not what was published",
            remedy="See who else writes there.",
        )
    return entry.record


def _entry(found: bytes | None, table: str) -> Entry | None:
    if found is None:
        return None
    try:
        return _entry_decoder.decode(found)
    except msgspec.MsgspecError as error:
        raise Corrupted(
            f"what Redis holds of table {table} cannot be read: {error}",
            remedy=f"Remove the field {table} of {_TABLES}, and deploy it again.",
        ) from error


def _put(client: Any, table: str, entry: Entry) -> None:
    client.hset(_TABLES, table, msgspec.json.encode(entry))


def _record(info: TableInfo) -> str:
    return msgspec.json.encode(info).decode()


def _digest(record: str) -> str:
    return hashlib.sha256(record.encode()).hexdigest()


def _prefix(table: str) -> bytes:
    return b"tidemill:%b:" % table.encode()


def _lock_name(table: str) -> str:
    return f"tidemill-lock:{table}"


def _got(values: list[bytes | None]) -> list[bytes | None]:
    return list(values)


@contextmanager
def _connected(url: str, *, soon: bool = False) -> Iterator[Any]:
    with _explained(url):
        client = _client(url, soon=soon)
        try:
            yield client
        finally:
            client.close()


@contextmanager
def _explained(url: str) -> Iterator[None]:
    redis = _library()
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise Unavailable(
            f"the tables in {mask_url(url)} cannot be used: {error}",
            remedy="See whether Redis runs there, and has memory left.",
        ) from error


def _client(url: str, *, soon: bool = False) -> Any:
    redis = _library()
    from redis.backoff import NoBackoff  # noqa: PLC0415 - an extra
    from redis.retry import Retry  # noqa: PLC0415

    return redis.Redis.from_url(
        url,
        socket_connect_timeout=_CONNECT_S,
        socket_timeout=_SOON_S if soon else _ANSWER_S,
        retry=Retry(NoBackoff(), 0 if soon else 1),  # who is told that it is down goes on without
    )


def _asyncio_client(url: str) -> Any:
    _library()
    from redis import asyncio  # noqa: PLC0415 - an extra
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    pool = asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        socket_connect_timeout=_CONNECT_S,
        socket_timeout=_CONNECT_S,
        retry=Retry(NoBackoff(), 0),
    )
    return asyncio.Redis.from_pool(pool)


def _library() -> Any:
    try:
        import redis  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise Unavailable(
            "tables are in Redis, and the extra 'redis' is not installed",
            remedy="pip install 'tidemill[redis]'.",
        ) from error
    return redis
