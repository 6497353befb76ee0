from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tidemill.foundation.clock import FakeClock
from tidemill.foundation.durable import sha256_file
from tidemill.foundation.errors import Conflict, InvalidInput, Unavailable
from tidemill.tables.answer import encode_answer
from tidemill.tables.build import TableBuilder
from tidemill.tables.key import KeyEncoder
from tidemill.tables.lmdb import LmdbTable
from tidemill.tables.table import TableInfo, read_info

ENCODER = KeyEncoder([("carrier", "string"), ("hour", "int64")])
INFO = TableInfo(
    application="flights", model="delay", version=3, key=ENCODER.columns, source="ab12"
)
BUILD = """
    import sys
    from pathlib import Path
    from tidemill.tables.build import TableBuilder
    from tidemill.tables.table import TableInfo
    info = TableInfo(application="a", model="m", version=1, key=(("k", "int64"),))
    builder = TableBuilder(Path(sys.argv[1]), buffer_bytes=100_000).start()
    for start in range(0, 100_000, 1000):
        keys = [b"%08d" % (i * 7919 % 100_000) for i in range(start, start + 1000)]
        builder.put(keys, [b"x" * 100] * 1000)
"""


def run(body: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(body), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


@pytest.mark.parametrize("buffer_bytes", [1 << 20, 5_000])
def test_rows_in_any_order_are_all_found(tmp_path: Path, buffer_bytes: int) -> None:
    """Whatever the order, and whether sorted in memory or on disk, each key has its answer."""
    rows = {b"%d" % number: b"answer %d" % number for number in range(5_000)}
    keys = list(rows)
    random.Random(0).shuffle(keys)
    with TableBuilder(tmp_path / "t", buffer_bytes=buffer_bytes) as builder:
        for start in range(0, len(keys), 700):
            part = keys[start : start + 700]
            builder.put(part, [rows[key] for key in part])
        info = builder.commit(INFO)
    assert info.rows == len(rows)
    with LmdbTable.open(tmp_path / "t", verify=True) as table:
        assert table.get(keys) == [rows[key] for key in keys]
        assert table.get([b"5000", b"x"]) == [None, None]
    assert {path.name for path in tmp_path.rglob("*")} == {"t", "data.mdb", "table.json"}


def test_the_file_depends_on_what_it_holds_only(tmp_path: Path) -> None:
    """Not on the order of rows, nor on how they were sorted: the same rows are the same table."""
    rows = {b"%08d" % number: b"x" * (number % 150) for number in range(40_000)}
    keys, found = list(rows), set()
    for number, buffer_bytes in enumerate([64 << 20, 1_000_000, 200_000]):
        with TableBuilder(tmp_path / str(number), buffer_bytes=buffer_bytes) as builder:
            for start in range(0, len(keys), 5_000):
                part = keys[start : start + 5_000]
                builder.put(part, [rows[key] for key in part])
            found.add(builder.commit(INFO).id)
        random.Random(number).shuffle(keys)
    assert len(found) == 1


@pytest.mark.parametrize("disorder", [b"00000000", b"00034999", b"00000005x"])
def test_rows_that_stop_being_in_order_are_the_same_file(tmp_path: Path, disorder: bytes) -> None:
    """A key that comes again, is too small or lies between others sends all rows to be sorted."""
    rows = {b"%08d" % number: b"y" * (number % 90) for number in range(70_000)}
    rows[disorder] = b"once"
    ids = set()
    for number, keys in enumerate([sorted(rows), [*sorted(rows)[::2], *sorted(rows)[1::2]]]):
        with TableBuilder(tmp_path / str(number)) as builder:
            for start in range(0, len(keys), 35_000):
                part = keys[start : start + 35_000]
                builder.put(part, [rows[key] for key in part])
            builder.put([disorder], [b"once"])
            ids.add(builder.commit(INFO).id)
    assert len(ids) == 1
    with LmdbTable.open(tmp_path / "0", verify=True) as table:
        assert table.get(list(rows)) == list(rows.values())


def test_many_large_answers_fit(tmp_path: Path) -> None:
    """However large the file becomes: its bound grows with it, and few rows wait for the rest."""
    keys = [b"%08d" % number for number in range(2_000)]
    with TableBuilder(tmp_path / "t") as builder:
        for start in range(0, len(keys), 100):
            builder.put(keys[start : start + 100], [b"z" * 40_000] * 100)
        assert builder.commit(INFO).bytes > 80_000_000
    with LmdbTable.open(tmp_path / "t") as table:
        assert table.get([keys[0], keys[-1]]) == [b"z" * 40_000] * 2


def test_the_record_describes_the_folder(tmp_path: Path) -> None:
    """What commit returns is in the folder, with the size, hash and time of the data."""
    with TableBuilder(tmp_path / "t", clock=FakeClock(at=12.5)) as builder:
        builder.put([b"a"], [b"1"])
        info = builder.commit(INFO)
    assert read_info(tmp_path / "t") == info
    data = tmp_path / "t" / "data.mdb"
    assert (info.rows, info.built_at, info.bytes) == (1, 12.5, data.stat().st_size)
    assert info.sha256 == sha256_file(data)
    assert (info.application, info.model, info.version) == ("flights", "delay", 3)


def test_the_id_is_of_content_and_origin(tmp_path: Path) -> None:
    """The same rows of the same version are the same table; of another version, another."""
    ids = []
    for number, version in enumerate([1, 1, 2]):
        with TableBuilder(tmp_path / str(number), clock=FakeClock(at=number)) as builder:
            builder.put([b"a", b"b"], [b"1", b"2"])
            info = TableInfo(application="a", model="m", version=version, key=INFO.key)
            ids.append(builder.commit(info).id)
    assert ids[0] == ids[1] != ids[2]


def test_a_table_takes_little_more_than_its_rows(tmp_path: Path) -> None:
    """Pages are filled: nothing would be gained by compacting the file."""
    keys = [b"%08d" % number for number in range(120_000)]
    with TableBuilder(tmp_path / "t") as builder:
        builder.put(keys, [b"x" * 100] * len(keys))
        info = builder.commit(INFO)
    environment = lmdb.open(str(tmp_path / "t/data.mdb"), subdir=False, readonly=True, lock=False)
    environment.copy(str(tmp_path / "compact.mdb"), compact=True)
    environment.close()
    assert info.bytes < 1.01 * (tmp_path / "compact.mdb").stat().st_size


def test_large_answers_fit(tmp_path: Path) -> None:
    """Answers larger than a page are kept like others."""
    values = [bytes([n]) * (n * 3_000) for n in range(1, 200)]
    with TableBuilder(tmp_path / "t") as builder:
        builder.put([b"%d" % n for n in range(1, 200)], values)
        builder.commit(INFO)
    with LmdbTable.open(tmp_path / "t") as table:
        assert table.get([b"%d" % n for n in range(1, 200)]) == values


def test_no_rows_make_an_empty_table(tmp_path: Path) -> None:
    """A table may be empty; it then knows no key."""
    with TableBuilder(tmp_path / "t") as builder:
        assert builder.commit(INFO).rows == 0
    with LmdbTable.open(tmp_path / "t") as table:
        assert table.get([b"a"]) == [None]


@pytest.mark.parametrize("buffer_bytes", [1 << 20, 1])
def test_a_key_with_two_answers_is_refused_in_words(tmp_path: Path, buffer_bytes: int) -> None:
    """The same answer twice is one row; another answer names the key's values and both answers."""
    key = ENCODER.one(["UA", 5])
    early, late = encode_answer({"label": 0}), encode_answer({"label": 1})
    with (
        pytest.raises(InvalidInput, match=r"carrier='UA', hour=5.*'label': 0.*'label': 1"),
        TableBuilder(tmp_path / "t", buffer_bytes=buffer_bytes) as builder,
    ):
        builder.put([key, key], [early, early])
        builder.put([key], [late])
        builder.commit(INFO)
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    """Closing without commit removes everything, an error on the way as well."""
    with TableBuilder(tmp_path / "t", buffer_bytes=1) as builder:
        builder.put([b"a"], [b"1"])
    with pytest.raises(InvalidInput, match="511"), TableBuilder(tmp_path / "t") as builder:
        builder.put([b"x" * 512], [b"1"])
    with pytest.raises(InvalidInput, match="1 keys"), TableBuilder(tmp_path / "t") as builder:
        builder.put([b"x"], [])
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_never_overwritten(tmp_path: Path) -> None:
    """A folder with content is refused and stays; an empty one is filled."""
    (tmp_path / "out").mkdir()
    with TableBuilder(tmp_path / "out") as builder:
        first = builder.commit(INFO)
    with pytest.raises(Conflict, match="exists"):
        TableBuilder(tmp_path / "out").start()
    assert read_info(tmp_path / "out") == first


def test_of_two_builds_at_once_one_wins(tmp_path: Path) -> None:
    """Two builders of one folder do not disturb each other; the slower one is told."""
    with TableBuilder(tmp_path / "t") as one, TableBuilder(tmp_path / "t") as other:
        one.put([b"a"], [b"1"])
        other.put([b"a"], [b"2"])
        other.commit(INFO)
        with pytest.raises(Conflict, match="meanwhile"):
            one.commit(INFO)
    with LmdbTable.open(tmp_path / "t") as table:
        assert table.get([b"a"]) == [b"2"]
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_killed_build_leaves_no_table_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    """After kill -9 there is no table; the next build succeeds and removes what was left."""
    kill = f"{BUILD}\n    import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert run(kill, tmp_path / "t").returncode == -signal.SIGKILL
    assert not (tmp_path / "t").exists()
    assert len(list(tmp_path.iterdir())) == 1
    assert run(f"{BUILD}\n    builder.commit(info)", tmp_path / "t").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
    with LmdbTable.open(tmp_path / "t", verify=True) as table:
        assert table.get([b"00000000", b"00099999"]) == [b"x" * 100] * 2


@pytest.mark.parametrize("limit_bytes", [50_000, 3_000_000])
def test_a_full_disk_is_an_error_in_words_and_leaves_nothing(
    tmp_path: Path, limit_bytes: int
) -> None:
    """Where no more can be written, in sorting or in the table, the error says so."""
    body = textwrap.dedent(BUILD).replace("\nbuilder =", "\ntry:\n  builder =")
    body = body.replace("\nfor start", "\n  for start").replace("\n    keys", "\n      keys")
    body = body.replace("\n    builder.put", "\n      builder.put")
    body += "  builder.commit(info)\nexcept Exception as error:\n"
    body += "  builder.close()\n  print(type(error).__name__, error)\n"

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    done = run(body, tmp_path / "t", preexec_fn=limit)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{Unavailable.__name__} table '{tmp_path / 't'}'")
    assert "Free space" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file where a folder should be is an error in words."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable, match="cannot be written"):
        TableBuilder(tmp_path / "file" / "t").start()
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208
