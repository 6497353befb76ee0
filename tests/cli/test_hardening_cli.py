"""Whatever the command line is given, ``--json`` prints one JSON object and no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SURROGATE = b"o\xff.csv"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((b"ingest", b"x", SURROGATE), 1),
        ((b"ingest", b"a" + SURROGATE, b"x.csv"), 2),
        ((b"push", SURROGATE, b"--name", b"x"), 2),
        ((b"models", SURROGATE), 2),
        ((b"explain", SURROGATE), 2),
        ((b"table", b"list", SURROGATE), 2),
    ],
)
def test_words_that_are_no_text(tmp_path: Path, words: tuple[bytes, ...], code: int) -> None:
    """An argument that is no UTF-8 is told like any other wrong one."""
    command = (sys.executable, "-m", "tidemill", *words, "--json")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == code, done
    assert done.stdout.count(b"\n") == 1
    assert isinstance(json.loads(done.stdout), dict)
    assert b"Traceback" not in done.stderr


def test_a_damaged_store_is_told_at_once(tmp_path: Path) -> None:
    """A server on a store that no waiting can mend ends, and says what is wrong."""
    (tmp_path / ".tidemill").mkdir()
    (tmp_path / ".tidemill" / "store.db").write_bytes(b"no database" * 1000)
    command = (sys.executable, "-m", "tidemill", "serve", "--port=0", "--admin-port=0", "--json")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["kind"]) == (1, "Corrupted")


def test_a_damaged_ledger_is_told_by_every_verb(tmp_path: Path) -> None:
    """Who exports or compacts a damaged ledger hears of it, in text too."""
    segments = tmp_path / ".tidemill" / "ledger" / "segments"
    segments.mkdir(parents=True)
    (segments / "gateway-0-1795179552728561-6d532236.seg").write_bytes(b"junk" * 100)
    for words in (("compact",), ("export", "out")):
        command = (sys.executable, "-m", "tidemill", "ledger", *words)
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "is damaged" in done.stdout
