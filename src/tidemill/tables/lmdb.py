"""Tables in LMDB: a memory-mapped file that any number of processes read without a lock."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import lmdb

from tidemill.foundation.durable import sha256_file
from tidemill.foundation.errors import Corrupted, InvalidInput, NotReady
from tidemill.tables.table import DATA_FILE, TableInfo, read_info

LARGE_BYTES = 1 << 30
"""From this size on nothing is read ahead: it would push what is hot out of memory."""


MAX_READERS = 64
"""Threads whose transactions are kept."""


class LmdbTable:
    """A table on this machine, read-only; safe to share between threads and with child processes.

    ``open`` checks that the file is whole. After that it must not change: nobody writes a table in
    place, and new contents are a new table.

    Example:
        >>> import tempfile
        >>> from tidemill.tables.build import TableBuilder
        >>> folder = Path(tempfile.mkdtemp()) / "table"
        >>> with TableBuilder(folder) as builder:
        ...     builder.put([b"a"], [b"1"])
        ...     info = TableInfo(application="x", model="x", version=1, key=(("k", "int64"),))
        ...     _ = builder.commit(info)
        >>> with LmdbTable.open(folder) as table:
        ...     table.get([b"a", b"b"])
        [b'1', None]
    """

    def __init__(self, mapping: _Mapping, info: TableInfo) -> None:
        self._mapping: _Mapping | None = mapping
        self._environment: Any = mapping.environment
        self._info = info

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> LmdbTable:
        """Maps the table in the folder; the caller closes it.

        Args:
            folder: as a builder left it.
            verify: also read the whole file and compare its sha256.

        Raises:
            Corrupted: the folder's record or data is missing, truncated or not what was written.
        """
        info = read_info(folder)
        path = folder / DATA_FILE
        check_data(path, info, verify=verify)
        return cls(_open_mapping(path, info), info)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._info.rows

    def __repr__(self) -> str:
        return f"LmdbTable({self._info.id!r}, rows={self._info.rows})"

    @property
    def info(self) -> TableInfo:
        """What it holds."""
        return self._info

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the answer to each key, None where there is none; all from one transaction.

        Raises:
            NotReady: the table is closed.
            InvalidInput: a key is empty; no encoder makes such a key.
            Corrupted: its bytes are not what was written.
        """
        if self._mapping is None:
            raise self._closed()
        try:
            get = self._mapping.readers.get(threading.get_ident()) or self._mapping.reader()
            return [get(key) for key in keys]
        except lmdb.BadValsizeError as error:
            raise InvalidInput("a table was asked for an empty key") from error
        except lmdb.Error as error:
            mapping = self._mapping
            if mapping is None:
                raise self._closed() from error
            mapping.readers.pop(threading.get_ident(), None)  # once failed, it fails for every key
            raise _corrupted(mapping.path, str(error)) from error

    def blocks(self, rows: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """Yields all keys with their answers in the order of the keys, so many at a time.

        Raises:
            NotReady: the table is closed.
            Corrupted: its bytes are not what was written.
        """
        if self._mapping is None:
            raise self._closed()
        try:
            with self._environment.begin() as transaction, transaction.cursor() as cursor:
                items = iter(cursor)
                while block := list(itertools.islice(items, rows)):
                    yield block
        except lmdb.Error as error:
            raise _corrupted(self._mapping.path, str(error)) from error

    def close(self) -> None:
        """Gives the mapping back."""
        mapping, self._mapping = self._mapping, None
        if mapping is not None:
            _close_mapping(mapping)

    def _closed(self) -> NotReady:
        return NotReady(f"table {self._info.id} is closed", remedy="Open it again.")


def check_data(path: Path, info: TableInfo, *, verify: bool) -> None:
    """Checks that the data file is whole: its size always, its sha256 if asked.

    A mapped file that is shorter than its pages say kills the process that reads them, so this is
    no courtesy.

    Raises:
        Corrupted: it is missing, or not what was written.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _corrupted(path, f"cannot be read: {error.strerror}") from error
    if size != info.bytes:
        raise _corrupted(path, f"has {size} bytes, and {info.bytes} were written")
    if verify and sha256_file(path) != info.sha256:
        raise _corrupted(path, f"has not the sha256 {info.sha256[:16]}… that was written")


def _corrupted(path: Path, what: str) -> Corrupted:
    return Corrupted(f"table file {str(path)!r} {what}", remedy="Fetch or build the table again.")


@dataclass(slots=True)
class _Mapping:
    """One mapped file; LMDB allows a process to map a file once, so tables share it."""

    path: Path
    file: tuple[int, int]
    environment: Any
    users: int = 1
    readers: dict[int, Callable[[bytes], bytes | None]] = field(default_factory=dict)

    def reader(self) -> Callable[[bytes], bytes | None]:
        """Returns what reads on this thread, from one transaction for good.

        Nobody changes the file, so that a new one would find the same; no two threads at a time
        may use one.
        """
        if len(self.readers) >= MAX_READERS:
            self.readers.clear()  # of threads that have ended, most likely
        get: Callable[[bytes], bytes | None] = self.environment.begin().get
        self.readers[threading.get_ident()] = get
        return get


_mappings: dict[tuple[int, int], _Mapping] = {}
_mappings_lock = threading.Lock()


def _open_mapping(path: Path, info: TableInfo) -> _Mapping:
    status = path.stat()
    file = (status.st_dev, status.st_ino)
    with _mappings_lock:
        mapping = _mappings.get(file)
        if mapping is not None:
            mapping.users += 1
            return mapping
        try:
            environment = lmdb.open(
                os.fspath(path),
                subdir=False,
                readonly=True,
                lock=False,
                readahead=info.bytes < LARGE_BYTES,
                max_spare_txns=4,
            )
            entries = environment.stat()["entries"]
        except lmdb.Error as error:
            raise _corrupted(path, f"cannot be opened: {error}") from error
        if entries != info.rows:
            environment.close()
            raise _corrupted(path, f"holds {entries} rows, and {info.rows} were written")
        mapping = _mappings[file] = _Mapping(path, file, environment)
        return mapping


def _close_mapping(mapping: _Mapping) -> None:
    with _mappings_lock:
        mapping.users -= 1
        if mapping.users == 0:
            del _mappings[mapping.file]
            mapping.readers.clear()
            mapping.environment.close()
