"""What may not be read is an error that names it; nothing else is taken in its place."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

DROPPED = "-dac_override,-dac_read_search"
"""What lets root read files that are closed to their owner."""


def _ingest(folder: Path, source: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Runs the command as one who has only the rights that files give."""
    drop = ("setpriv", f"--bounding-set={DROPPED}", f"--inh-caps={DROPPED}")
    ask = (sys.executable, "-m", "tidemill", "ingest", "rows", source, "--home", "home", *more)
    command = (*drop, *ask) if os.geteuid() == 0 else ask
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def spans(tmp_path: Path) -> Iterator[Path]:
    """Three spans, of which the newest is closed."""
    for span in (1, 2, 10):
        (tmp_path / f"in/span-{span}").mkdir(parents=True)
        (tmp_path / f"in/span-{span}/a.csv").write_text(f"x\n{span}\n")
    (tmp_path / "in/span-10").chmod(0)
    yield tmp_path
    (tmp_path / "in/span-10").chmod(0o700)


def test_the_newest_span_is_not_passed_over(spans: Path) -> None:
    """An older span never stands for a newest one that is closed."""
    found = _ingest(spans, "in/span-{SPAN}/*.csv")
    assert found.returncode == 2
    assert "in/span-10 cannot be read: Permission denied" in found.stderr
    (spans / "in/span-10").rename(spans / "in/backup")
    found = _ingest(spans, "in/span-{SPAN}/*.csv", "--json")
    assert found.returncode == 0, found.stderr
    assert "is span 2" in found.stdout
    (spans / "in/backup").rename(spans / "in/span-10")


@pytest.mark.parametrize("source", ["in/span-10", "in/span-10/a.csv", "in/span-10/{SPAN}.csv"])
def test_a_closed_folder_is_named(spans: Path, source: str) -> None:
    """A folder, a file in it and a pattern below it."""
    found = _ingest(spans, source)
    assert found.returncode == 2
    assert "cannot be read: Permission denied" in found.stderr
    assert "Check its permissions" in found.stderr


def test_a_closed_database_is_named(spans: Path) -> None:
    """A file of SQLite in a closed folder is no full disk."""
    (spans / "in/span-10").chmod(0o700)
    with sqlite3.connect(spans / "in/span-10/a.db") as conn:
        conn.execute("create table t as select 1 as x")
    (spans / "in/span-10").chmod(0)
    found = _ingest(spans, "sqlite:///in/span-10/a.db", "--table", "t")
    assert found.returncode == 2
    assert "in/span-10/a.db cannot be read: Permission denied" in found.stderr


def test_a_folder_that_is_only_passed_through_need_not_be_listed(spans: Path) -> None:
    """Who may go through a folder needs no list of what is in it."""
    (spans / "in").chmod(0o100)
    found = _ingest(spans, "in/span-2/{SPAN}.csv")
    (spans / "in").chmod(0o700)
    assert "nothing matches" in found.stderr
