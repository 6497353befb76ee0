from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tidemill.foundation.clock import FakeClock
from tidemill.foundation.errors import Corrupted, InvalidInput, NotFound
from tidemill.foundation.home import Home, open_home
from tidemill.foundation.settings import FilesSettings, Settings
from tidemill.tables import catalog, lmdb
from tidemill.tables.build import TableBuilder
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.table import TableInfo


def build(folder: Path, *, application: str = "flights", version: int = 1, at: float = 0.0) -> Path:
    info = TableInfo(application=application, model="m", version=version, key=(("k", "int64"),))
    with TableBuilder(folder, clock=FakeClock(at=at)) as builder:
        builder.put([b"a", b"b"], [b"1", b"2"])
        builder.commit(info)
    return folder


def test_a_stored_table_is_fetched_as_it_was_built(home: Home, tmp_path: Path) -> None:
    """Stored, the builder's folder may go; what is fetched answers the same."""
    folder = build(tmp_path / "t")
    info = catalog.store_table(home, folder)
    for path in folder.iterdir():
        path.unlink()
    fetched = catalog.fetch_table(home, info.id)
    with LmdbTable.open(fetched, verify=True) as table:
        assert table.info == info
        assert table.get([b"a", b"c"]) == [b"1", None]
    assert catalog.fetch_table(home, info.id) == fetched


def test_storing_twice_stores_once(home: Home, tmp_path: Path) -> None:
    """The same content of the same version is one table with one file."""
    one = catalog.store_table(home, build(tmp_path / "1", at=1.0))
    again = catalog.store_table(home, build(tmp_path / "2", at=2.0))
    assert one == again
    assert catalog.list_tables(home.store) == [one]
    assert len(list(home.files.scan("tables/"))) == 1


def test_tables_are_listed_the_newest_first(home: Home, tmp_path: Path) -> None:
    """All, or those of one application."""
    first = catalog.store_table(home, build(tmp_path / "1", at=1.0))
    second = catalog.store_table(home, build(tmp_path / "2", version=2, at=2.0))
    other = catalog.store_table(home, build(tmp_path / "3", application="digits", at=3.0))
    assert catalog.list_tables(home.store) == [other, second, first]
    assert catalog.list_tables(home.store, "flights") == [second, first]
    assert catalog.get_table(home.store, second.id) == second


def test_tables_of_equal_content_are_open_side_by_side(home: Home, tmp_path: Path) -> None:
    """Two versions whose answers agree share a file on disk, and both can be served."""
    ids = [
        catalog.store_table(home, build(tmp_path / str(version), version=version)).id
        for version in (1, 2)
    ]
    with (
        LmdbTable.open(catalog.fetch_table(home, ids[0])) as one,
        LmdbTable.open(catalog.fetch_table(home, ids[1])) as other,
    ):
        assert one.get([b"a"]) == other.get([b"a"]) == [b"1"]
        assert (one.info.version, other.info.version) == (1, 2)


def test_an_unknown_table_is_not_found(home: Home) -> None:
    """The id is named."""
    for ask in (lambda: catalog.get_table(home.store, "x"), lambda: catalog.fetch_table(home, "x")):
        with pytest.raises(NotFound, match="'x'"):
            ask()


def test_a_damaged_folder_is_not_stored(home: Home, tmp_path: Path) -> None:
    """A table whose bytes changed after it was built is refused, and nothing is written."""
    folder = build(tmp_path / "t")
    data = folder / "data.mdb"
    data.chmod(0o644)
    data.write_bytes(data.read_bytes()[::-1])
    with pytest.raises(Corrupted, match="sha256"):
        catalog.store_table(home, folder)
    assert catalog.list_tables(home.store) == []
    assert list(home.files.scan("tables/")) == []


def test_a_damaged_cache_is_made_again(home: Home, tmp_path: Path) -> None:
    """A folder that lost its data is fetched anew."""
    info = catalog.store_table(home, build(tmp_path / "t"))
    fetched = catalog.fetch_table(home, info.id)
    (fetched / "data.mdb").unlink()
    (fetched / "data.mdb").write_bytes(b"short")
    with LmdbTable.open(catalog.fetch_table(home, info.id), verify=True) as table:
        assert table.get([b"b"]) == [b"2"]
    assert [path.name for path in fetched.parent.iterdir()] == [info.id]


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def apart(folder: Path) -> Path:
    """Gives a copy's data a file of its own, as where the files are on another disk."""
    data = folder / "data.mdb"
    own = data.with_name("own")
    shutil.copyfile(data, own)
    own.replace(data)
    return data


def test_a_flipped_bit_in_a_copy_is_found(home: Home, tmp_path: Path) -> None:
    """Its size is right, its bytes are fetched anew, and who asks is told."""
    info = catalog.store_table(home, build(tmp_path / "t"))
    folder = catalog.fetch_table(home, info.id)
    told: list[str] = []

    def fetch() -> None:
        assert catalog.fetch_table(home, info.id, damaged=lambda: told.append("damaged")) == folder
        with LmdbTable.open(folder, verify=True) as table:
            assert table.get([b"a", b"b"]) == [b"1", b"2"]

    fetch()
    apart(folder)
    fetch()
    assert told == []
    flip(folder / "data.mdb")
    fetch()
    assert told == ["damaged"]
    fetch()
    assert told == ["damaged"]
    assert [path.name for path in folder.parent.iterdir()] == [info.id]


def test_a_copy_is_read_whole_only_when_it_may_have_changed(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once verified, it is not read by a later start; another or a touched file is, once."""
    info = catalog.store_table(home, build(tmp_path / "t"))
    folder = catalog.fetch_table(home, info.id)
    read: list[Path] = []
    whole = lmdb.sha256_file

    def counted(path: Path) -> str:
        read.append(path)
        return whole(path)

    monkeypatch.setattr(lmdb, "sha256_file", counted)
    catalog.fetch_table(home, info.id)
    assert read == []
    data = apart(folder)
    for _ in range(2):
        catalog.fetch_table(home, info.id)
        assert read == [data]
    read.clear()
    os.utime(data, (1.0, 1.0))
    for _ in range(2):
        catalog.fetch_table(home, info.id)
        assert read == [data]


def test_a_copy_that_goes_while_it_is_read_is_made_again(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may remove it, or replace it, between any two looks at it."""
    info = catalog.store_table(home, build(tmp_path / "t"))
    folder = catalog.fetch_table(home, info.id)
    real = catalog.check_data
    for looks in (1, 2):  # at its size, at its bytes
        (folder / "verified").unlink()
        left = [looks]

        def going(path: Path, info: TableInfo, *, verify: bool, left: list[int] = left) -> None:
            real(path, info, verify=verify)
            left[0] -= 1
            if left[0] == 0:
                shutil.rmtree(folder)

        with monkeypatch.context() as patched:
            patched.setattr(catalog, "check_data", going)
            assert catalog.fetch_table(home, info.id) == folder
        with LmdbTable.open(folder, verify=True) as table:
            assert table.get([b"a", b"b"]) == [b"1", b"2"]


def test_a_damaged_copy_is_replaced_once(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two who found it damaged at once, the slower one leaves alone what the other placed."""
    info = catalog.store_table(home, build(tmp_path / "t"))
    folder = catalog.fetch_table(home, info.id)
    flip(apart(folder))
    real, seen, go_on = catalog._is_whole, threading.Event(), threading.Event()

    def slow(folder: Path, info: TableInfo, *, verify: bool = False) -> bool:
        whole = real(folder, info, verify=verify)
        if not whole and not seen.is_set():
            seen.set()
            go_on.wait(1.0)
        return whole

    def fetch() -> int:
        return catalog.fetch_table(home, info.id).stat().st_ino

    monkeypatch.setattr(catalog, "_is_whole", slow)
    with ThreadPoolExecutor(1) as pool:
        slower = pool.submit(fetch)
        assert seen.wait(10.0)
        found = fetch()
        go_on.set()
        assert found == slower.result() == folder.stat().st_ino
    with LmdbTable.open(folder, verify=True) as table:
        assert table.get([b"a", b"b"]) == [b"1", b"2"]
    assert [path.name for path in folder.parent.iterdir()] == [info.id]


def test_a_damaged_copy_of_what_is_in_a_bucket_is_downloaded_again(
    tmp_path: Path, s3_url: str
) -> None:
    """Though the files' own copy on this machine is the same file under another name."""
    settings = Settings(home=tmp_path / "home", files=FilesSettings(url=s3_url))
    with open_home(settings) as home:
        info = catalog.store_table(home, build(tmp_path / "t"))
        folder = catalog.fetch_table(home, info.id)
        flip(folder / "data.mdb")
        with LmdbTable.open(catalog.fetch_table(home, info.id), verify=True) as table:
            assert table.get([b"a", b"b"]) == [b"1", b"2"]


def test_damaged_files_are_not_served(home: Home, tmp_path: Path) -> None:
    """Stored bytes that changed are refused, and no folder is left."""
    info = catalog.store_table(home, build(tmp_path / "t"))
    (key,) = home.files.scan("tables/")
    path = home.files.fetch(key)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(Corrupted):
        catalog.fetch_table(home, info.id)
    assert list((home.cache_path / "tables").glob("*")) == []


def test_a_table_that_is_built_again_replaces_a_damaged_file(home: Home, tmp_path: Path) -> None:
    """In the files and in this machine's cache, which are one file; its size tells nobody."""
    folder = build(tmp_path / "t")
    info = catalog.store_table(home, folder)
    catalog.place_table(home, info, folder)
    (key,) = home.files.scan("tables/")
    path = home.files.fetch(key)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1])
    again = build(tmp_path / "again")
    assert catalog.store_table(home, again).id == info.id
    catalog.place_table(home, info, again)
    for _ in ("the copy in the cache", "the file in the files"):
        with LmdbTable.open(catalog.fetch_table(home, info.id), verify=True) as table:
            assert table.get([b"a", b"b"]) == [b"1", b"2"]
        shutil.rmtree(home.cache_path / "tables")


def test_only_finished_tables_are_registered(home: Home) -> None:
    """A record without the id that commit gives is refused."""
    info = TableInfo(application="a", model="m", version=1, key=(("k", "int64"),))
    with pytest.raises(InvalidInput, match="commit"), home.store.write(catalog.TABLES) as conn:
        catalog.register_table(conn, info, "tables/x")


def test_tables_are_kept_in_a_bucket_and_in_postgresql(
    tmp_path: Path, s3_url: str, postgres_url: str
) -> None:
    """At scale the same calls use a bucket and PostgreSQL."""
    settings = Settings(home=tmp_path / "home")
    settings = type(settings)(
        home=tmp_path / "home",
        store=type(settings.store)(url=postgres_url),
        files=FilesSettings(url=s3_url),
    )
    with open_home(settings) as home:
        info = catalog.store_table(home, build(tmp_path / "t"))
        with LmdbTable.open(catalog.fetch_table(home, info.id), verify=True) as table:
            assert table.get([b"a"]) == [b"1"]
        assert catalog.list_tables(home.store, "flights") == [info]


def test_a_table_that_was_just_stored_is_at_hand(home: Home, tmp_path: Path) -> None:
    """Placed, it is not read whole once more, and does not need the builder's folder."""
    folder = build(tmp_path / "t")
    info = catalog.store_table(home, folder)
    catalog.place_table(home, info, folder)
    catalog.place_table(home, info, folder)
    (key,) = home.files.scan("tables/")
    home.files.delete(key)  # what is fetched from now on is there already
    for path in folder.iterdir():
        path.unlink()
    with LmdbTable.open(catalog.fetch_table(home, info.id), verify=True) as table:
        assert table.info == info
        assert table.get([b"b"]) == [b"2"]
