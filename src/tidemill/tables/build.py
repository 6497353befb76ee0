"""Builds a table: sorted, whole or not there at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

import lmdb
import msgspec
import numpy as np
import pyarrow as pa

from tidemill.foundation.clock import SYSTEM_CLOCK, Clock
from tidemill.foundation.durable import make_folder, sha256_file, sync_folder
from tidemill.foundation.errors import Conflict, Corrupted, InvalidInput, Unavailable
from tidemill.tables import runs
from tidemill.tables.answer import decode_answer
from tidemill.tables.key import MAX_KEY_BYTES
from tidemill.tables.packing import Packed
from tidemill.tables.represented import keys_of
from tidemill.tables.runs import Item, SortedRuns
from tidemill.tables.table import (
    DATA_FILE,
    INFO_FILE,
    PLAIN_FORMAT,
    REPRESENTED_FORMAT,
    TableInfo,
)
from tidemill.tables.writing import Appending

_VALUE = "value"


class TableBuilder:
    """Takes keys and answers in any order and leaves a table's folder, durable and complete.

    Until ``commit`` has returned, the folder does not exist (or is empty, as it was). A build that
    was killed leaves a hidden folder beside it, which the next build of that name removes. Memory
    is bounded. Rows that come in the order of their keys are written as they come; as soon as one
    does not, all are sorted, on disk where they are more than ``buffer_bytes``.

    Args:
        path: the table's folder to be; it must not exist, or be empty: tables never change.
        buffer_bytes: keys and values held in memory while they are sorted.
        clock: dates the table.

    Example:
        >>> import tempfile
        >>> with TableBuilder(Path(tempfile.mkdtemp()) / "table") as builder:
        ...     builder.put([b"b", b"a", b"a"], [b"2", b"1", b"1"])
        ...     info = TableInfo(application="x", model="x", version=1, key=(("k", "int64"),))
        ...     builder.commit(info).rows
        2
    """

    def __init__(
        self, path: Path, *, buffer_bytes: int = 64 << 20, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._path = path
        self._buffer_bytes = buffer_bytes
        self._clock = clock
        self._folder: Path | None = None
        self._lock: int | None = None
        self._appending: Appending | None = None
        self._last: bytes | None = None
        self._runs: SortedRuns | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Self:
        """Makes the hidden folder that becomes the table's.

        Raises:
            Conflict: there is something at the path.
            Unavailable: the disk is full or cannot be written.
        """
        with _explained(self._path):
            if self._path.exists() and (not self._path.is_dir() or any(self._path.iterdir())):
                raise Conflict(
                    f"{str(self._path)!r} exists", remedy="Build into a new folder: tables stay."
                )
            make_folder(self._path.parent)
            with _turn(self._path.parent):
                _remove_abandoned(self._path)
                name = f".{self._path.name}.{secrets.token_hex(8)}.tmp"
                self._folder = self._path.parent / name
                self._folder.mkdir()
                self._lock = _try_lock(self._folder)
            self._appending = Appending(self._folder / DATA_FILE)
        return self

    def put(self, keys: Sequence[bytes] | Packed, values: Sequence[bytes] | Packed) -> None:
        """Takes rows; a key may come again with the very same value.

        Args:
            keys: as a ``KeyEncoder`` makes them.
            values: as ``encode_answer`` makes them.

        Raises:
            InvalidInput: a key is empty or too long, or there are more keys than values.
            Unavailable: the disk is full or cannot be written.
        """
        if len(keys) != len(values):
            raise InvalidInput(f"{len(keys)} keys were put with {len(values)} values")
        if not keys:
            return
        rows, answers = _packed(keys), _packed(values)
        _check_keys(rows)
        with _explained(self._path):
            if self._runs is None and not self._is_next(rows):
                self._sort_from_now_on()
            if self._runs is not None:
                self._runs.add(_block(rows, answers))
                return
            assert self._appending is not None, "start() comes before put()"
            self._appending.append(rows, answers)
            self._last = _last(rows)

    def commit(self, info: TableInfo) -> TableInfo:
        """Writes the table and returns its record, complete with id, rows, bytes and sha256.

        Args:
            info: application, model, version, key columns and source.

        Raises:
            InvalidInput: a key came with two different values: the key columns do not determine
                the answer.
            Conflict: somebody made the folder meanwhile.
            Unavailable: the disk is full or cannot be written; nothing is left.
        """
        assert self._folder is not None, "start() comes before commit()"
        with _explained(self._path):
            data = self._folder / DATA_FILE
            rows = self._write(data, info)
            complete = _complete(info, data, rows, built_at=self._clock.now())
            _write_durably(self._folder / INFO_FILE, msgspec.json.encode(complete))
            sync_folder(self._folder)
            self._rename()
        self.close()
        return complete

    def close(self) -> None:
        """Removes what was not committed; closing twice does nothing."""
        folder, self._folder, self._runs = self._folder, None, None
        if self._appending is not None:
            self._appending.close()
            self._appending = None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _is_next(self, rows: Packed) -> bool:
        """Tells whether keys are above all before, in order, and each there once."""
        if self._last is not None and rows.data[: rows.sizes[0]] <= self._last:
            return False
        keys = runs.bytes_array(rows)
        return runs.key_order(keys) is None and not runs.repeated(keys).any()

    def _sort_from_now_on(self) -> None:
        """Takes what was written as the first rows to be sorted."""
        written, self._appending = self._appending, None
        assert written is not None, "start() comes before put()"
        assert self._folder is not None
        folder = self._folder / "runs"
        folder.mkdir()
        self._runs = SortedRuns(folder, buffer_bytes=self._buffer_bytes)
        with closing(written):
            for keys, values in written.items():
                if keys:
                    self._runs.add(_block(Packed.of(keys), Packed.of(values)))
        (self._folder / DATA_FILE).unlink()

    def _write(self, data: Path, info: TableInfo) -> int:
        """Completes the data file; returns how many rows it has."""
        if self._runs is not None:
            self._appending = Appending(data)
            for block in _distinct(self._runs.merged(), info):
                found = (block.column(name).chunk(0) for name in (runs.KEY, _VALUE))
                self._appending.append(*map(runs.packed_bytes, found))
            shutil.rmtree(data.parent / "runs")
        assert self._appending is not None
        self._appending.finish()
        return self._appending.rows

    def _rename(self) -> None:
        assert self._folder is not None
        try:
            self._folder.rename(self._path)
        except OSError as error:
            if self._path.exists():
                raise Conflict(f"{str(self._path)!r} was made meanwhile") from error
            raise
        self._folder = None
        sync_folder(self._path.parent)


def _complete(info: TableInfo, data: Path, rows: int, *, built_at: float) -> TableInfo:
    digest = sha256_file(data)
    origin: tuple[object, ...] = (
        info.application,
        info.model,
        info.version,
        info.key,
        info.source,
        rows,
        digest,
    )
    if info.as_of is not None:  # the same answers of later are another table: a younger one
        origin = (*origin, info.as_of)
    if info.represent:
        origin = (*origin, info.represent)
    return msgspec.structs.replace(
        info,
        format=REPRESENTED_FORMAT if info.represent else PLAIN_FORMAT,
        id=hashlib.sha256(msgspec.json.encode(origin)).hexdigest()[:16],
        rows=rows,
        bytes=data.stat().st_size,
        sha256=digest,
        built_at=built_at,
    )


def _distinct(sorted_blocks: Iterable[pa.Table], info: TableInfo) -> Iterator[pa.Table]:
    """Yields the items with each key once; the blocks are looked at whole where none repeats."""
    last: Item | None = None
    for block in sorted_blocks:
        keys, values = (block.column(name).chunk(0) for name in (runs.KEY, _VALUE))
        kept = np.concatenate([[True], ~runs.repeated(keys)])
        if last is not None and keys[0].as_py() == last[0]:
            kept[0] = False
        if kept.all():
            yield block
        else:
            for row in np.flatnonzero(~kept).tolist():
                key, value = keys[row].as_py(), values[row].as_py()
                before = last[1] if row == 0 and last is not None else values[row - 1].as_py()
                if value != before:
                    raise _contradiction(key, before, value, info)
            if kept.any():
                yield block.filter(pa.array(kept)).combine_chunks()
        last = keys[-1].as_py(), values[-1].as_py()


def _contradiction(key: bytes, first: bytes, second: bytes, info: TableInfo) -> InvalidInput:
    shown = keys_of(info.key, dict(info.represent)).show(key)
    one, other = (_shown(value)[:150] for value in (first, second))
    return InvalidInput(
        f"the key ({shown}) has two answers: {one} and {other}",
        remedy="Choose key columns that determine all of the model's inputs.",
    )


def _shown(value: bytes) -> str:
    try:
        return str(decode_answer(value))
    except Corrupted:
        return repr(value)


def _packed(items: Sequence[bytes] | Packed) -> Packed:
    return items if isinstance(items, Packed) else Packed.of(items)


def _last(items: Packed) -> bytes:
    return items.data[len(items.data) - int(items.sizes[-1]) :]


def _block(keys: Packed, values: Packed) -> pa.Table:
    """Returns rows as a table of one chunk."""
    return pa.table({runs.KEY: runs.bytes_array(keys), _VALUE: runs.bytes_array(values)})


def _check_keys(keys: Packed) -> None:
    if not 0 < keys.sizes.min() <= keys.sizes.max() <= MAX_KEY_BYTES:
        raise InvalidInput("a key is empty or longer than 511 bytes", remedy="Use KeyEncoder.")


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, lmdb.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Unavailable(
            f"table {str(path)!r} cannot be written: {reason}",
            remedy="Free space on that disk, or choose another folder, and build again.",
        ) from error


def _try_lock(folder: Path) -> int | None:
    """Locks a folder for as long as the descriptor is open; None if somebody else has."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Waits until nobody else is between making a hidden folder and locking it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(path: Path) -> None:
    for folder in path.parent.iterdir():
        name = folder.name
        if not (name.startswith(f".{path.name}.") and name.endswith(".tmp") and folder.is_dir()):
            continue
        lock = _try_lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
