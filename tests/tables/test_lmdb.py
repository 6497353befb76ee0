from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tidemill.foundation.errors import Corrupted, InvalidInput, NotReady
from tidemill.tables.build import TableBuilder
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.table import TableInfo

KEYS = [b"%06d" % number for number in range(5_000)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table of 5,000 rows; the answer to a key is the key, twice."""
    info = TableInfo(application="a", model="m", version=1, key=(("k", "int64"),))
    with TableBuilder(tmp_path / "table") as builder:
        builder.put(KEYS, [key * 2 for key in KEYS])
        builder.commit(info)
    (tmp_path / "table" / "data.mdb").chmod(0o644)
    return tmp_path / "table"


def test_answers_come_in_the_order_of_the_keys(folder: Path) -> None:
    """Every key has its answer in its place, unknown keys None."""
    with LmdbTable.open(folder) as table:
        assert len(table) == table.info.rows == len(KEYS)
        assert table.get([KEYS[9], b"none", KEYS[3]]) == [KEYS[9] * 2, None, KEYS[3] * 2]
        assert table.get([]) == []


@pytest.mark.parametrize("size", [0, 100, 4096, 8192, -1, -4096])
def test_a_truncated_file_is_refused(folder: Path, size: int) -> None:
    """A file that lost its end is refused unmapped: reading it would kill the process."""
    data = folder / "data.mdb"
    data.write_bytes(data.read_bytes()[:size])
    with pytest.raises(Corrupted, match="bytes"):
        LmdbTable.open(folder)


def test_changed_bytes_are_found_when_asked_for(folder: Path) -> None:
    """A whole file with wrong bytes is found by its sha256."""
    data = folder / "data.mdb"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(Corrupted, match="sha256"):
        LmdbTable.open(folder, verify=True)


def test_a_damaged_page_costs_its_own_keys_alone(folder: Path) -> None:
    """Of a file that is damaged while it is open; the same transaction would fail for good."""
    data, page = folder / "data.mdb", 4096
    with LmdbTable.open(folder) as table:
        assert table.get([KEYS[3_000]]) == [KEYS[3_000] * 2]
        at = data.read_bytes().index(KEYS[3_000] * 3) // page * page
        with data.open("r+b") as file:
            file.seek(at)
            file.write(bytes(page))
        for _ in range(2):
            with pytest.raises(Corrupted):
                table.get([KEYS[3_000]])
            assert table.get([KEYS[0], KEYS[-1]]) == [KEYS[0] * 2, KEYS[-1] * 2]


def test_a_file_of_something_else_is_refused(folder: Path) -> None:
    """A file of the right size that is no LMDB file is refused."""
    data = folder / "data.mdb"
    data.write_bytes(b"x" * data.stat().st_size)
    with pytest.raises(Corrupted, match="cannot be opened"):
        LmdbTable.open(folder)


def test_a_damaged_record_is_refused(folder: Path) -> None:
    """No table.json, one that is not JSON, one from the future: each is named."""
    record = folder / "table.json"
    text = record.read_text()
    record.write_text(text.replace('"format":1', '"format":3'))
    with pytest.raises(Corrupted, match="format 3"):
        LmdbTable.open(folder)
    record.write_text(text[:20])
    with pytest.raises(Corrupted, match="cannot be read"):
        LmdbTable.open(folder)
    record.unlink()
    with pytest.raises(Corrupted, match=r"no table\.json"):
        LmdbTable.open(folder)
    record.write_text(text)
    (folder / "data.mdb").unlink()
    with pytest.raises(Corrupted, match="cannot be read"):
        LmdbTable.open(folder)


def test_a_table_may_be_open_many_times_in_a_process(folder: Path, tmp_path: Path) -> None:
    """Openings share one mapping, under another name too, and live until the last is closed."""
    (tmp_path / "linked").mkdir()
    for name in ("data.mdb", "table.json"):
        (tmp_path / "linked" / name).hardlink_to(folder / name)
    one, other = LmdbTable.open(folder), LmdbTable.open(tmp_path / "linked")
    one.close()
    one.close()
    assert other.get([KEYS[0]]) == [KEYS[0] * 2]
    with pytest.raises(NotReady, match="closed"):
        one.get([KEYS[0]])
    other.close()
    with LmdbTable.open(folder) as again:
        assert again.get([KEYS[1]]) == [KEYS[1] * 2]


def test_keys_that_no_encoder_makes_are_not_found(folder: Path) -> None:
    """A key that is too long is absent like any other; an empty one is an error in words."""
    with LmdbTable.open(folder) as table:
        assert table.get([b"x" * 512]) == [None]
        with pytest.raises(InvalidInput, match="empty"):
            table.get([b""])


READ = """
import sys
from pathlib import Path
from tidemill.tables.lmdb import LmdbTable
with LmdbTable.open(Path(sys.argv[1])) as table:
    keys = [b"%06d" % number for number in range(5_000)]
    assert table.get(keys) == [key * 2 for key in keys]
    print("ready", flush=True)
    sys.stdin.read()
    assert table.get(keys) == [key * 2 for key in keys]
"""


def test_many_processes_read_at_once(folder: Path) -> None:
    """Processes that have the table open at the same time need no lock."""
    command = [sys.executable, "-c", READ, str(folder)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.communicate(timeout=30)
    assert [process.returncode for process in processes] == [0, 0, 0]


FORK = """
import os, sys
from pathlib import Path
from tidemill.tables.lmdb import LmdbTable
folder = Path(sys.argv[1])
table = LmdbTable.open(folder)
child = os.fork()
assert table.get([b"000007"]) == [b"000007000007"]
table.close()
with LmdbTable.open(folder) as again:
    assert again.get([b"000008"]) == [b"000008000008"]
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_reads_on(folder: Path) -> None:
    """A child reads the table that its parent opened, closes it, and disturbs nobody."""
    subprocess.run([sys.executable, "-c", FORK, str(folder)], check=True, timeout=30)


def test_threads_share_a_table(folder: Path) -> None:
    """Threads that read, and others that open and close, do not disturb each other."""
    failures: list[object] = []

    def read(table: LmdbTable) -> None:
        for _ in range(20):
            if table.get(KEYS) != [key * 2 for key in KEYS]:
                failures.append("wrong answer")
            LmdbTable.open(folder).close()

    with LmdbTable.open(folder) as table:
        threads = [threading.Thread(target=read, args=(table,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
