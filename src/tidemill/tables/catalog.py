"""The catalogue: which tables there are, and their folders on this machine."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tidemill.foundation.durable import make_folder, sync_folder, write_atomic
from tidemill.foundation.errors import Corrupted, InvalidInput, NotFound
from tidemill.foundation.files import fetch_content, put_content
from tidemill.foundation.home import Home
from tidemill.foundation.locks import hold
from tidemill.foundation.logs import log
from tidemill.foundation.store import Store
from tidemill.tables.lmdb import check_data
from tidemill.tables.table import DATA_FILE, INFO_FILE, TableInfo, info_decoder, read_info

TABLES = sa.MetaData()

_table = sa.Table(
    "answer_table",
    TABLES,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("application", sa.String(100), nullable=False, index=True),
    sa.Column("model", sa.String(100), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("file_key", sa.String(300), nullable=False),
    sa.Column("info", sa.Text, nullable=False),
    sa.Column("built_at", sa.Float, nullable=False),
)

_ID = re.compile(r"[0-9a-f]{16}\Z")

_STAMP_FILE = "verified"
"""What the file is called beside a copy that says of which data file the sha256 was compared."""


def register_table(conn: Connection, info: TableInfo, file_key: str) -> TableInfo:
    """Makes a stored table known; one that is known already stays as it is.

    Args:
        conn: an open write transaction on ``TABLES``.
        info: of the finished table.
        file_key: where its data is in the files.

    Returns:
        What the catalogue holds under that id.

    Raises:
        InvalidInput: the record is not one of a finished table.
    """
    if not _ID.match(info.id):
        raise InvalidInput(
            f"a table of {info.application!r} has the id {info.id[:40]!r}",
            remedy="Register what commit() returned.",
        )
    known = conn.execute(sa.select(_table.c.info).where(_table.c.id == info.id)).scalar()
    if known is not None:
        return _read(known)
    conn.execute(
        _table.insert().values(
            id=info.id,
            application=info.application,
            model=info.model,
            version=info.version,
            file_key=file_key,
            info=msgspec.json.encode(info).decode(),
            built_at=info.built_at,
        )
    )
    return info


def store_table(home: Home, folder: Path) -> TableInfo:
    """Puts a table's data into the files, then makes it known; doing so twice does it once.

    What the files hold already is read, and replaced where it is not what was built.

    Args:
        home: the installation.
        folder: as ``TableBuilder`` left it.

    Raises:
        Corrupted: the folder is not what was built.
    """
    info = read_info(folder)
    data = folder / DATA_FILE
    check_data(data, info, verify=True)
    key = put_content(
        home.files, data, folder="tables", suffix="mdb", digest=info.sha256, final=True, verify=True
    )
    with home.store.write(TABLES) as conn:
        if not home.files.exists(key):  # it was removed with a table that had the same content
            home.files.put(key, data)
        return register_table(conn, info, key)


def place_table(home: Home, info: TableInfo, folder: Path) -> None:
    """Puts a table that was just stored where ``fetch_table`` finds it on this machine.

    It was verified when it was stored: a server here need not read it whole once more. What is
    there already is read, and replaced where it is not what was built.

    Args:
        home: the installation.
        info: what ``store_table`` returned.
        folder: as ``TableBuilder`` left it; its data is given another name, if it can be.

    Raises:
        Corrupted: it cannot be placed.
    """
    placed = folder_of(home, info.id)
    if not _is_whole(placed, info, verify=True):
        _place_copy(home, folder / DATA_FILE, info)


def get_table(store: Store, table: str) -> TableInfo:
    """Returns the record of a table.

    Raises:
        NotFound: there is no such table.
    """
    with store.read(TABLES) as conn:
        return read_table(conn, table)


def read_table(conn: Connection, table: str) -> TableInfo:
    """Returns the record of a table, in the caller's transaction.

    Raises:
        NotFound: there is no such table.
    """
    return _find(conn, table)[0]


def list_tables(store: Store, application: str | None = None) -> list[TableInfo]:
    """Returns the tables of answers, of one application if it is given, the newest first."""
    query = sa.select(_table.c.info).order_by(_table.c.built_at.desc(), _table.c.id)
    if application is not None:
        query = query.where(_table.c.application == application)
    with store.read(TABLES) as conn:
        found = [_read(row) for row in conn.execute(query).scalars()]
    return [info for info in found if info.kind == "answers"]


def tables_of(conn: Connection, application: str) -> list[TableInfo]:
    """Returns all tables of an application, of answers and of features, the oldest first."""
    query = sa.select(_table.c.info).where(_table.c.application == application)
    found = conn.execute(query.order_by(_table.c.built_at, _table.c.id)).scalars()
    return [_read(each) for each in found]


def drop_table(conn: Connection, table: str) -> str:
    """Takes a table off the books; returns the key of its data, which stays in the files.

    Args:
        conn: an open write transaction on ``TABLES``.
        table: its id; nothing may name it.

    Raises:
        NotFound: there is no such table.
    """
    _, key = _find(conn, table)
    conn.execute(_table.delete().where(_table.c.id == table))
    return key


def names_file(conn: Connection, key: str) -> bool:
    """Says whether a table has its data under this key."""
    return conn.execute(sa.select(_table.c.id).where(_table.c.file_key == key)).first() is not None


def named_files(conn: Connection) -> set[str]:
    """Returns the keys of all tables' data."""
    return set(conn.execute(sa.select(_table.c.file_key)).scalars())


def has_table(conn: Connection, table: str) -> bool:
    """Says whether there is such a table."""
    return conn.execute(sa.select(_table.c.id).where(_table.c.id == table)).first() is not None


def folder_of(home: Home, table: str) -> Path:
    """Returns the folder of a table on this machine, whether it is there or not."""
    return home.cache_path / "tables" / table


def fetch_table(home: Home, table: str, *, damaged: Callable[[], None] | None = None) -> Path:
    """Returns the folder of a table on this machine; what is in it has the sha256 that was stored.

    A copy is read whole the first time, and whenever its data file is another one, or was written
    to, since then. One that is damaged is replaced from the files, and the log says so.

    Args:
        home: the installation.
        table: its id.
        damaged: called where a copy was there, and was damaged.

    Raises:
        NotFound: there is no such table, or its data is gone from the files.
        Corrupted: its data is not what was stored, in the files neither.
    """
    with home.store.read(TABLES) as conn:
        info, key = _find(conn, table)
    folder = folder_of(home, info.id)
    damage = None
    if folder.exists():
        damage = _damage(folder, info)
        if damage is None:
            return folder
        if damaged is not None:
            damaged()
    _place_copy(home, fetch_content(home.files, key), info)
    if damage is not None:
        log("tables.catalog").warning(
            "table.replaced", table=info.id, path=str(folder), reason=str(damage)
        )
    return folder


def _find(conn: Connection, table: str) -> tuple[TableInfo, str]:
    query = sa.select(_table.c.info, _table.c.file_key).where(_table.c.id == table)
    row = conn.execute(query).one_or_none()
    if row is None:
        raise NotFound(
            f"table {table[:100]!r} does not exist",
            remedy="Build it again, or name one that exists.",
        )
    return _read(row.info), row.file_key


def _read(document: str) -> TableInfo:
    return info_decoder.decode(document)


def _is_whole(folder: Path, info: TableInfo, *, verify: bool = False) -> bool:
    return _damage(folder, info, verify=verify) is None


def _damage(folder: Path, info: TableInfo, *, verify: bool = False) -> Corrupted | None:
    """Returns what is wrong with a copy; its data is read where that was not done before."""
    data = folder / DATA_FILE
    try:
        if read_info(folder) != info:
            return Corrupted(f"table {str(folder)!r} has the record of another table")
        check_data(data, info, verify=False)
        seen = _stamp(data)
        if not verify and _read_stamp(folder) == seen:
            return None
        check_data(data, info, verify=True)
        if _stamp(data) == seen:  # nobody wrote to it meanwhile
            _write_stamp(folder, seen)
    except Corrupted as error:
        return error
    except OSError as error:  # another process removes it, or puts a whole one in its place
        return Corrupted(f"table {str(folder)!r} cannot be read: {error.strerror}")
    return None


def _stamp(data: Path) -> bytes:
    """Returns what another file, or one that was written to, does not have in common with this."""
    status = data.stat()
    found = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return " ".join(map(str, found)).encode()


def _read_stamp(folder: Path) -> bytes | None:
    with contextlib.suppress(OSError):
        return (folder / _STAMP_FILE).read_bytes()
    return None


def _write_stamp(folder: Path, stamp: bytes) -> None:
    with contextlib.suppress(OSError):  # without it, the data is read once more
        write_atomic(folder / _STAMP_FILE, stamp)


def _place_copy(home: Home, source: Path, info: TableInfo) -> None:
    """Places data that was just verified; of several processes, one after the other."""
    folder = folder_of(home, info.id)
    make_folder(folder.parent)
    temporary = folder.parent / f".{info.id}.{secrets.token_hex(8)}.tmp"
    try:
        temporary.mkdir()
        data = temporary / DATA_FILE
        if _link(source, data):  # a copy is another file, and not read yet
            _write_stamp(temporary, _stamp(data))
        write_atomic(temporary / INFO_FILE, msgspec.json.encode(info))
        with hold(home.run_path / "tables.lock"):
            _place(temporary, folder, info)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _link(source: Path, target: Path) -> bool:
    """Gives the immutable file a second name, or copies it to another file system: then False."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
        return False
    return True


def _place(temporary: Path, folder: Path, info: TableInfo) -> None:
    if folder.exists() and not _is_whole(folder, info, verify=True):
        # Renamed first: a process that has the damaged folder open keeps what it has.
        folder.rename(temporary.with_suffix(".damaged.tmp"))
        shutil.rmtree(temporary.with_suffix(".damaged.tmp"), ignore_errors=True)
    with contextlib.suppress(OSError):
        temporary.rename(folder)
        sync_folder(folder.parent)
    if not _is_whole(folder, info):  # nobody else was faster: it failed
        raise Corrupted(
            f"table {info.id} cannot be placed in {str(folder)!r}",
            remedy="Free space on that disk and see who else writes there.",
        )
