from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tidemill.data import ledger_compaction
from tidemill.data.ledger import (
    LabelRecord,
    LedgerWriter,
    PredictionRecord,
    Problem,
    compact,
    read_ledger,
)
from tidemill.foundation.errors import Conflict


def write(path: Path, first: int, count: int, gateway: str = "gw") -> None:
    with LedgerWriter(path, gateway, segment_bytes=1500) as writer:
        for number in range(first, first + count):
            writer.append_predictions(
                [
                    PredictionRecord(
                        request_id=f"{number:032x}",
                        time=float(number),
                        application="flights",
                        version=1,
                        source="model",
                        n=1,
                        inputs={"x": np.array([number])},
                        outputs={"value": np.array([number * 0.5])},
                    )
                ]
            )
            record = LabelRecord(
                prediction_id=f"{number:032x}",
                application="flights",
                label=number,
                observed_at=0.0,
                received_at=float(number),
            )
            writer.append_labels([record], lambda error: None)


def check(path: Path, count: int) -> None:
    found = read_ledger(path)
    assert found.predictions["time"].to_pylist() == list(range(count))
    assert found.predictions["score"].to_pylist() == [k * 0.5 for k in range(count)]
    assert found.labels["label"].to_pylist() == list(range(count))
    assert found.problems == ()


def records(path: Path) -> tuple[pa.Table, pa.Table, tuple[Problem, ...]]:
    found = read_ledger(path)
    return found.predictions, found.labels, found.problems


def names(path: Path, pattern: str) -> set[str]:
    return {file.name for file in path.glob(pattern)}


def test_compaction_keeps_every_record_once(tmp_path: Path) -> None:
    """Before, between and after compactions the ledger reads the same; counts add up."""
    write(tmp_path, 0, 30)
    check(tmp_path, 30)
    before = read_ledger(tmp_path)
    result = compact(tmp_path)
    assert (result.parts, result.predictions, result.labels) == (1, 30, 30)
    assert result.segments > 1
    assert names(tmp_path, "segments/*") == set()
    assert read_ledger(tmp_path) == before
    assert compact(tmp_path).segments == 0
    write(tmp_path, 30, 30)
    check(tmp_path, 60)
    compact(tmp_path)
    check(tmp_path, 60)
    assert len(names(tmp_path, "predictions/*")) == 2


def test_parts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much there is to compact, one part at a time is in memory."""
    monkeypatch.setattr(ledger_compaction, "PART_BYTES", 4000)
    write(tmp_path, 0, 60)
    result = compact(tmp_path)
    assert result.parts > 2
    check(tmp_path, 60)


def test_the_living_are_left_alone_and_the_dead_are_sealed(tmp_path: Path) -> None:
    """An open segment is compacted only when its writer is gone, without its torn tail."""
    with LedgerWriter(tmp_path, "alive") as writer:
        writer.append_labels([], lambda error: None)
        write(tmp_path, 0, 10, gateway="dead")
        sealed = next(iter(sorted((tmp_path / "segments").glob("dead*.seg"))))
        sealed.write_bytes(sealed.read_bytes() + b"\xff" * 7)
        sealed.rename(sealed.with_suffix(".open"))
        result = compact(tmp_path)
        assert result.torn_bytes == 7
        assert len(names(tmp_path, "segments/*")) == 1
        check(tmp_path, 10)
    assert names(tmp_path, "segments/*") == set()


def test_a_damaged_segment_is_kept_and_still_told(tmp_path: Path) -> None:
    """What could not be read is neither forgotten nor thrown away."""
    write(tmp_path, 0, 3)
    segment = next((tmp_path / "segments").glob("*.seg"))
    data = bytearray(segment.read_bytes())
    data[-5] ^= 1  # in the last label
    segment.write_bytes(data)
    result = compact(tmp_path)
    assert (result.predictions, result.labels, len(result.problems)) == (3, 2, 1)
    assert (tmp_path / "damaged" / segment.name).read_bytes() == data
    for _ in range(2):
        found = read_ledger(tmp_path)
        assert found.problems == result.problems
        assert (found.predictions.num_rows, found.labels.num_rows) == (3, 2)
        assert compact(tmp_path).problems == ()


def test_one_compaction_at_a_time(tmp_path: Path) -> None:
    """A second one is told to wait, and does nothing."""
    write(tmp_path, 0, 3)
    with (tmp_path / "compaction.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="another process is compacting"):
            compact(tmp_path)
    assert compact(tmp_path).predictions == 3


# Copies the ledger, compacts the copy in a child and kills the child at its k-th step on the disk,
# for every k, until one lives to its end. (A kill loses nothing that was written, synced or not.)
_KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import pyarrow.parquet
from tidemill.data import ledger_compaction
ledger_compaction.PART_BYTES = 2500
source, target = map(Path, sys.argv[1:])
unlink = os.unlink
for k in range(1000):
    path = target / str(k)
    shutil.copytree(source, path)
    child = os.fork()
    if child == 0:
        left = k
        def counted(function):
            def call(*args, **kwargs):
                global left
                gone = function is unlink and str(args[0]).endswith(".tmp")
                if left == 0 and not gone:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= not gone
                return function(*args, **kwargs)
            return call
        for name in ("rename", "replace", "unlink", "ftruncate"):
            setattr(os, name, counted(getattr(os, name)))
        pyarrow.parquet.write_table = counted(pyarrow.parquet.write_table)
        ledger_compaction.compact(path)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) == 0:
        break
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
print(k)
"""


def test_killed_at_any_step_every_record_is_there_once(tmp_path: Path) -> None:
    """Killed with -9 before each rename, remove and write: read, compacted again, read again.

    The manifest is the commit: before it the segments count, after it the Parquet files do.
    """
    source, target = tmp_path / "source", tmp_path / "target"
    write(source, 0, 25)
    last = max((source / "segments").glob("*.seg"))
    last.write_bytes(last.read_bytes() + b"torn")
    last.rename(last.with_suffix(".open"))
    command = [sys.executable, "-c", _KILLED, str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    steps = int(done.stdout)
    assert steps > 10
    check(source, 25)
    expected = records(source)
    for k in range(steps + 1):
        path = target / str(k)
        assert records(path) == expected
        compact(path)
        assert records(path) == expected
        assert names(path, "segments/*") == set()
        assert names(path, "**/*.tmp") == set()


def test_more_may_arrive_after_a_kill(tmp_path: Path) -> None:
    """Parquet that a killed compaction had not committed is replaced, not doubled."""
    write(tmp_path, 0, 5)
    compact(tmp_path)
    part = next((tmp_path / "predictions").glob("*.parquet"))
    for kind in ("predictions", "labels"):
        shutil.copy(part, tmp_path / kind / ("0" * 32 + ".parquet"))
        (tmp_path / kind / ".0.tmp").touch()
    write(tmp_path, 5, 5)
    check(tmp_path, 10)
    compact(tmp_path)
    check(tmp_path, 10)
    assert len(names(tmp_path, "predictions/*")) == 2
    assert len(names(tmp_path, "labels/*")) == 2
