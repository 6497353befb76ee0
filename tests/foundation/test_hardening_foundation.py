"""What the store and the logs do with values that nobody expected."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from tidemill.foundation.errors import InvalidInput
from tidemill.foundation.names import storable
from tidemill.foundation.store import Store

TABLES = sa.MetaData()
notes = sa.Table("notes", TABLES, sa.Column("text", sa.Text), sa.Column("n", sa.Integer))


@pytest.mark.parametrize(("text", "n"), [("a\0b", 1), ("a", 1 << 70)])
def test_a_value_that_postgresql_cannot_hold(postgres_url: str, text: str, n: int) -> None:
    """It is the caller's input that is wrong, not the store that fails."""
    with Store(postgres_url) as store:
        with pytest.raises(InvalidInput, match="cannot hold"), store.write(TABLES) as conn:
            conn.execute(notes.insert().values(text=text, n=n))
        with store.read(TABLES) as conn:
            assert conn.execute(sa.select(notes)).all() == []


@pytest.mark.parametrize("text", ["a\0b", "caf\udce9", "\ud800", "plain é"])
def test_storable_text(postgres_url: str, text: str) -> None:
    """Whatever a file is called, its name can be stored and read again."""
    with Store(postgres_url) as store:
        with store.write(TABLES) as conn:
            conn.execute(notes.insert().values(text=storable(text), n=1))
        with store.read(TABLES) as conn:
            assert conn.execute(sa.select(notes.c.text)).scalar_one() == storable(text)


def test_the_log_of_an_error_holds_no_local_variable(tmp_path: Path) -> None:
    """A traceback in JSON says where, and repeats no password that a variable held."""
    program = tmp_path / "program.py"
    program.write_text(
        "from tidemill.foundation.logs import configure_logs, log\n"
        "configure_logs('info', 'json')\n"
        "def fail(url):\n"
        "    raise RuntimeError('it fails')\n"
        "try:\n"
        "    fail('postgresql://u:' + 'hidden'[::-1] + '@h/d')\n"
        "except RuntimeError:\n"
        "    log('x').exception('failed')\n"
    )
    done = subprocess.run((sys.executable, program), capture_output=True, text=True, check=True)
    line = json.loads(done.stderr)
    assert [frame["name"] for frame in line["exception"][0]["frames"]] == ["<module>", "fail"]
    assert "neddih" not in done.stderr


@pytest.mark.parametrize("target", ["/dev/full", "closed pipe"])
def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, target: str) -> None:
    """The disk of the log is full, or its reader is gone: the work goes on."""
    program = (
        "import sys\n"
        "from tidemill.foundation.logs import log\n"
        "for n in range(3):\n"
        "    log('x').error('it fails', n=n)\n"
        "print('done')\n"
        "sys.stdout.flush()\n"
    )
    out = tmp_path / "out"
    reader, writer = os.pipe()
    os.close(reader)
    with out.open("w") as stdout, open("/dev/full", "w") as full:  # noqa: PTH123
        error = full.fileno() if target == "/dev/full" else writer
        subprocess.run((sys.executable, "-c", program), stdout=stdout, stderr=error, check=False)
    os.close(writer)
    assert out.read_text() == "done\n"
